package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/logging"
	"github.com/ropewalk/ropewalk/internal/natsconn"
	"github.com/ropewalk/ropewalk/internal/queue"
)

// demoPatience is far longer than the demonstration takes on a slow machine.
const demoPatience = time.Minute

func newDemoCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "demo",
		Short: "Show in a few seconds what happens to runs",
		Long: `Start everything on this machine, submit a few runs, show how they go through
their states, and stop again. It needs no cluster, listens on this machine only,
and leaves nothing behind. The exit code is 0 if all went as it should.`,
		Args: arguments(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), demoPatience)
			defer cancel()
			err := a.demo(ctx)
			if errors.Is(err, context.DeadlineExceeded) {
				return fmt.Errorf("the demonstration did not end within %s: %w", demoPatience, err)
			}
			return err
		},
	}
}

// demo is the demonstration with its own server, which it leaves nothing of.
func (a *app) demo(ctx context.Context) (err error) {
	settings, err := config.LoadDev()
	if err != nil {
		return err
	}
	settings.HTTP.Addr = "127.0.0.1:0"
	settings.Queues.More = config.QueueLimits{{Name: demoQueue, Limit: demoLimit, Explicit: true}}
	dir, err := os.MkdirTemp("", "ropewalk-demo-")
	if err != nil {
		return fmt.Errorf("make a folder for the demonstration: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	const quiet = "warn"
	log := logging.New(a.stderr, quiet, settings.Log.Format)
	dev, err := startDev(ctx, settings, devOptions{dataDir: dir, natsAddr: "127.0.0.1:0"}, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, dev.Close()) }()
	conn, js, err := natsconn.Dial(ctx, natsconn.Options{URL: dev.URL, Name: "ropewalk-demo"}, log)
	if err != nil {
		return err
	}
	defer conn.Close()
	return a.demonstrate(ctx, js)
}

// demonstrate submits the runs, shows them until they are over, sums up, and
// returns an error if anything was not as it should be.
func (a *app) demonstrate(ctx context.Context, js jetstream.JetStream) error {
	out, c, runs := newScreen(a.stdout), client.New(js), demoRuns()
	_, _ = fmt.Fprintf(out, "A NATS server, a dispatcher and a queue that runs %d at a time are up. %s are submitted:\n\n", demoLimit, plural(len(runs), "run"))
	for _, wanted := range runs {
		if err := wanted.submit(ctx, js, c); err != nil {
			return err
		}
	}
	records, err := follow(ctx, c, runs, newDemoView(out, runs))
	if err != nil {
		return err
	}
	sumUp(out, runs, records)
	if wrong := judge(runs, records); len(wrong) > 0 {
		return fmt.Errorf("the demonstration did not go as it should: %s", strings.Join(wrong, "; "))
	}
	return nil
}

// submit puts a run on the queue: by the client, or as the bare message that a
// publisher in another language might send.
func (d demoRun) submit(ctx context.Context, js jetstream.JetStream, c *client.Client) error {
	if d.payload == "" {
		request := d.request
		request.ID, request.Queue = d.id, demoQueue
		_, _, err := c.Submit(ctx, request)
		return err
	}
	_, err := js.Publish(ctx, queue.Subject(demoQueue, d.id, 1), []byte(d.payload), jetstream.WithMsgID(d.id))
	if err != nil {
		return fmt.Errorf("publish run %s: %w", d.id, err)
	}
	return nil
}

// follow shows every change of the runs until all are over, and returns their
// final records by id.
func follow(ctx context.Context, c *client.Client, runs []demoRun, view *demoView) (map[string]client.Run, error) {
	watching, together := errgroup.WithContext(ctx)
	changes := make(chan client.Run)
	for _, wanted := range runs {
		watching.Go(func() error {
			return c.Watch(together, wanted.id, func(record client.Run) bool {
				select {
				case changes <- record:
					return !record.State.Final()
				case <-together.Done():
					return false
				}
			})
		})
	}
	go func() {
		_ = watching.Wait() // asked for again below
		close(changes)
	}()
	records := make(map[string]client.Run, len(runs))
	for record := range changes {
		before := records[record.ID]
		records[record.ID] = record
		if record.State != before.State || record.Message != before.Message {
			view.show(record, records)
		}
	}
	if err := watching.Wait(); err != nil {
		return nil, err
	}
	return records, ctx.Err() // a watch that was told to stop has no error
}

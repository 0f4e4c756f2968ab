package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
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
their states and what they write, and stop again. It needs no cluster, listens on this machine only,
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
	// Whatever archive is set is not for these: their ids repeat every time.
	if settings.Logs.Archive, err = devArchive(dir); err != nil {
		return err
	}
	settings.Logs.ShipAge = time.Second
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
	seen, err := follow(ctx, c, runs, newDemoView(out, runs))
	if err != nil {
		return err
	}
	sumUp(out, runs, seen.records)
	if wrong := judge(runs, seen); len(wrong) > 0 {
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

// demoSeen is what was seen of the runs, by id: their records at last, and the
// lines that they wrote.
type demoSeen struct {
	records map[string]client.Run
	lines   map[string][]string
}

// follow shows every change of the runs and every line that they write until
// all are over, and returns what it saw.
func follow(ctx context.Context, c *client.Client, runs []demoRun, view *demoView) (demoSeen, error) {
	watching, together := errgroup.WithContext(ctx)
	changes, written := make(chan client.Run), make(chan client.LogLine)
	for _, wanted := range runs {
		watching.Go(func() error {
			return c.Watch(together, wanted.id, func(record client.Run) bool {
				return send(together, changes, record) == nil && !record.State.Final()
			})
		})
		if wanted.payload != "" {
			continue // it never runs
		}
		watching.Go(func() error {
			return c.Logs(together, wanted.id, client.LogOptions{Follow: true}, func(line client.LogLine) error {
				line.Text = slices.Clone(line.Text) // it is the reader's until this returns
				return send(together, written, line)
			})
		})
	}
	over := make(chan error, 1)
	go func() { over <- watching.Wait() }()
	seen := demoSeen{records: make(map[string]client.Run, len(runs)), lines: make(map[string][]string)}
	for {
		select {
		case record := <-changes:
			before := seen.records[record.ID]
			seen.records[record.ID] = record
			if record.State != before.State || record.Message != before.Message {
				view.show(record, seen.records)
			}
		case line := <-written:
			id, text := line.Log.Run, string(line.Text)
			seen.lines[id] = append(seen.lines[id], text)
			view.wrote(id, text, seen.records)
		case err := <-over:
			return seen, errors.Join(err, ctx.Err()) // a watch that was told to stop has no error
		}
	}
}

// send hands something to whoever shows it.
func send[T any](ctx context.Context, to chan<- T, what T) error {
	select {
	case to <- what:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

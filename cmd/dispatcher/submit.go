package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/run"
)

func newSubmitCommand(a *app) *cobra.Command {
	var (
		wanted submission
		wait   bool
	)
	cmd := &cobra.Command{
		Use:   "submit [-f FILE] [flags] [-- COMMAND ARG...]",
		Short: "Put a run on its queue, and wait for it if asked to",
		Long: `Put a run on its queue and print its id. What flags and COMMAND say overrides
what FILE says. Once the id is printed, the request is stored and will be run.

With --wait, a second line says how the run ended, and the exit code is 0 only
if it succeeded. Stopping to wait does not stop the run.`,
		Example: `  dispatcher submit --wait -- echo hello
  dispatcher submit --image registry.example.com/team/train:1.4 --queue gpu \
    --limit nvidia.com/gpu=1 --timeout 2h --secret-env TOKEN -- python train.py
  dispatcher submit -f request.yaml --id nightly-2030-01-31
  dispatcher submit --dockerfile Dockerfile --context . -- python train.py`,
		Args: commandAfterDashes,
	}
	wanted.flags(cmd.Flags())
	cmd.Flags().BoolVar(&wait, "wait", false, "wait until the run is over")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, command []string) error {
		request, err := wanted.request(cmd.Flags(), command, a.stdin, os.LookupEnv)
		if err != nil {
			return &usageError{err}
		}
		return a.reach(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			if err := wanted.putContext(ctx, c, &request); err != nil {
				return err
			}
			return a.submit(ctx, c, request, wait, *output)
		})
	}
	return cmd
}

// commandAfterDashes refuses arguments that stand before "--": a word that was
// meant as a flag's value would else become a program to run.
func commandAfterDashes(cmd *cobra.Command, args []string) error {
	dashes := cmd.ArgsLenAtDash()
	if dashes < 0 {
		dashes = len(args)
	}
	if dashes > 0 {
		return misused(cmd, "%q is neither a flag nor behind --; the command to run goes behind --, as in: dispatcher submit -- echo hello", args[0])
	}
	return nil
}

// submitted is what submit writes for programs that do not wait.
type submitted struct {
	ID    string `json:"id"`
	Queue string `json:"queue"`
	// Duplicate: a run of this id was there already, and this is that run.
	Duplicate bool `json:"duplicate"`
}

func (a *app) submit(ctx context.Context, c *client.Client, request client.Request, wait bool, output format) error {
	known := a.isKnown(ctx, c, request.ID)
	var (
		id        string
		duplicate bool
	)
	err := soon(ctx, func(ctx context.Context) (err error) {
		id, duplicate, err = c.Submit(ctx, request)
		if errors.Is(err, client.ErrNoQueue) {
			err = noQueue(ctx, c, request.Queue)
		}
		return err
	})
	if err != nil {
		return err
	}
	if duplicate = duplicate || known; duplicate && output == formatText {
		_, _ = fmt.Fprintf(a.stderr, "run %s was submitted before; this is the same run, and nothing new was put on the queue\n", id)
	}
	switch {
	case output == formatText:
		_, _ = fmt.Fprintln(a.stdout, id)
	case !wait:
		queue := request.Queue
		if queue == "" {
			queue = client.DefaultQueue
		}
		return writeJSON(a.stdout, submitted{ID: id, Queue: queue, Duplicate: duplicate})
	}
	if !wait {
		return nil
	}
	return a.await(ctx, c, id, output)
}

// isKnown reports whether there is a run of that id. The server itself knows
// only for a while that it was published; the run's record knows for longer.
// Who may publish need not be allowed to read, so that no answer is none.
func (a *app) isKnown(ctx context.Context, c *client.Client, id string) bool {
	if !run.ValidID(id) {
		return false
	}
	const glance = 2 * time.Second
	ctx, cancel := context.WithTimeout(ctx, glance)
	defer cancel()
	_, err := c.Get(ctx, id)
	return err == nil
}

// await waits until the run is over and says how it ended; [errTold] if it did
// not succeed.
func (a *app) await(ctx context.Context, c *client.Client, id string, output format) error {
	progress := newScreen(a.stderr)
	var last client.Run
	err := c.Watch(ctx, id, func(record client.Run) bool {
		if progress.terminal && !record.State.Final() && (record.State != last.State || record.Message != last.Message) {
			_, _ = fmt.Fprintln(progress, strings.TrimRight(progress.state(record.State)+"  "+printable(record.Message), " "))
		}
		last = record
		return !record.State.Final()
	})
	if errors.Is(err, context.Canceled) {
		_, _ = fmt.Fprintf(a.stderr, "no longer waiting; the run goes on: dispatcher get %s\n", id)
		return errTold
	}
	if err != nil {
		return err
	}
	if output == formatJSON {
		err = writeJSON(a.stdout, last)
	} else {
		_, err = fmt.Fprintln(a.stdout, verdict(newScreen(a.stdout), last))
	}
	if err == nil && last.State != run.Succeeded {
		return errTold
	}
	return err
}

// verdict is one line that says how a run ended, why, and what to do.
func verdict(out screen, record client.Run) string {
	line := out.state(record.State)
	if record.Reason != "" {
		line += " " + printable(string(record.Reason)) + ":"
	}
	if text := explanation(record); text != "" {
		return line + " " + printable(text)
	}
	if record.StartedAt != nil && record.FinishedAt != nil {
		line += " in " + took(record.FinishedAt.Sub(*record.StartedAt))
	}
	return line
}

// explanation is what a record says about its state. For a run that did not
// succeed it ends with what to do, whoever wrote the record.
func explanation(record client.Run) string {
	todo := record.Reason.ToDo()
	if todo == "" || strings.Contains(record.Message, todo) {
		return record.Message
	}
	return run.Explain(record.Reason, record.Message)
}

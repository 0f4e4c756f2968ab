package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/run"
)

func newCancelCommand(a *app) *cobra.Command {
	noWait := false
	cmd := &cobra.Command{
		Use:   "cancel ID...",
		Short: "Stop runs, whatever they are doing",
		Long: `Stop runs, whatever they are doing: one that waits never starts, and the Job of
one that is under way is deleted with all that runs of it. The command returns
when that is done and on record.

A run that is over stays as it is. The exit code is 0 if every run named is
stopped or over.`,
		Example: `  dispatcher cancel nightly-2030-01-31
  dispatcher list -o json --state queued | jq -r '.[].id' | xargs dispatcher cancel`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return misused(cmd, "ID is missing")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return once the wish is stored; it will be fulfilled, even if no dispatcher is up now but within a day")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		return a.reach(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			return a.cancel(ctx, c, ids, !noWait, *output)
		})
	}
	return cmd
}

// cancel asks for all runs to be stopped before it waits for the first, so that
// many stop side by side.
func (a *app) cancel(ctx context.Context, c *client.Client, ids []string, wait bool, output format) error {
	records := make([]client.Run, 0, len(ids))
	failed := false
	for _, id := range ids {
		var record client.Run
		err := soon(ctx, func(ctx context.Context) (err error) {
			record, err = c.Cancel(ctx, id)
			return err
		})
		if err != nil && !errors.Is(err, client.ErrFinished) {
			failed = true
			_, _ = fmt.Fprintf(a.stderr, "dispatcher: %s\n", printable(explainMissing(err, id).Error()))
			continue
		}
		records = append(records, record)
	}
	for i, record := range records {
		wasOver := record.State.Final()
		if wait && !wasOver {
			over, err := c.Wait(ctx, record.ID)
			if err != nil {
				return err
			}
			records[i] = over
		}
		if output == formatText {
			_, _ = fmt.Fprintf(a.stdout, "%s  %s\n", printable(record.ID), cancelled(records[i], wasOver))
		}
	}
	if output == formatJSON {
		if err := writeJSON(a.stdout, records); err != nil {
			return err
		}
	}
	if failed {
		return errTold
	}
	return nil
}

// cancelled says in a few words what became of the wish to stop a run.
func cancelled(record client.Run, wasOver bool) string {
	switch {
	case wasOver:
		return "was over already: " + string(record.State)
	case !record.State.Final():
		return "will be cancelled"
	case record.State == run.Cancelled:
		return "cancelled"
	default:
		return "ended before it could be cancelled: " + string(record.State)
	}
}

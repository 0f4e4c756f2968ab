package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/run"
)

func newListCommand(a *app) *cobra.Command {
	var (
		options client.ListOptions
		state   string
	)
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List runs, the newest first",
		Args:    arguments(),
	}
	cmd.Flags().StringVarP(&options.Queue, "queue", "q", "", "only runs of this `QUEUE`")
	cmd.Flags().StringVarP(&state, "state", "s", "", "only runs in this `STATE`: "+strings.Join(stateNames(), ", "))
	cmd.Flags().IntVarP(&options.Limit, "limit", "n", 20, "at most `N` runs")
	choices(cmd, "state", stateNames()...)
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		options.State = run.State(state)
		switch {
		case state != "" && !options.State.Known():
			return misused(cmd, "%q is not a state; there are %s", state, strings.Join(stateNames(), ", "))
		case options.Limit < 1:
			return misused(cmd, "--limit must be at least 1")
		case options.Queue != "" && !run.ValidQueue(options.Queue):
			return misused(cmd, "%q cannot be the name of a queue", options.Queue)
		}
		return a.reachSoon(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			return a.list(ctx, c, options, *output)
		})
	}
	return cmd
}

func stateNames() []string {
	var names []string
	for _, state := range run.States() {
		names = append(names, string(state))
	}
	return names
}

func (a *app) list(ctx context.Context, c *client.Client, options client.ListOptions, output format) error {
	records, err := c.List(ctx, options)
	if err != nil {
		return err
	}
	if output == formatJSON {
		if records == nil {
			records = []client.Run{} // a list all the same
		}
		return writeJSON(a.stdout, records)
	}
	if len(records) == 0 {
		_, _ = fmt.Fprintln(a.stderr, "there are no such runs; dispatcher submit makes one")
		return nil
	}
	printRuns(newScreen(a.stdout), records, time.Now())
	if notes := newScreen(a.stderr); notes.terminal && len(records) == options.Limit {
		_, _ = fmt.Fprintf(notes, "these are the newest %d; see --limit\n", options.Limit)
	}
	return nil
}

// printRuns writes the table of runs as it is at the given time.
func printRuns(out screen, records []client.Run, now time.Time) {
	rows := make([][]string, len(records))
	for i, record := range records {
		rows[i] = []string{
			record.ID, record.Queue, string(record.State), string(record.Reason), strconv.Itoa(record.Attempt),
			age(now.Sub(record.QueuedAt)), duration(record, now), shortImage(record.Image),
		}
	}
	out.table([]string{"ID", "QUEUE", "STATE", "REASON", "ATTEMPT", "AGE", "DURATION", "IMAGE"}, rows)
}

// duration is how long the container of a run took, or has taken until now.
func duration(record client.Run, now time.Time) string {
	switch {
	case record.StartedAt == nil:
		return ""
	case record.FinishedAt != nil:
		now = *record.FinishedAt
	}
	return took(now.Sub(*record.StartedAt))
}

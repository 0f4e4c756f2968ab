package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/client"
)

func newWatchCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "watch [ID]",
		Short: "Follow the changes of one run, or of all",
		Long: `Write a line for every change of a run, from how it stands now to its end. With
no ID, follow the changes of all runs from now on, until interrupted.

With -o json, each line is the record of the run as it is after the change.`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return nil
			}
			return arguments("ID")(cmd, args)
		},
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		id := strings.Join(args, "")
		return a.reach(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			return a.watch(ctx, c, id, *output)
		})
	}
	return cmd
}

func (a *app) watch(ctx context.Context, c *client.Client, id string, output format) error {
	out := newScreen(a.stdout)
	if id == "" {
		if notes := newScreen(a.stderr); notes.terminal {
			_, _ = fmt.Fprintln(notes, "following all runs until Ctrl-C")
		}
	}
	var write error
	err := c.Watch(ctx, id, func(record client.Run) bool {
		if output == formatJSON {
			write = writeJSONLine(out, record)
		} else {
			_, write = fmt.Fprintln(out, changeLine(out, record, time.Now()))
		}
		return write == nil && (id == "" || !record.State.Final())
	})
	switch {
	case write != nil:
		return write
	case id == "" && errors.Is(err, context.Canceled):
		return nil // that is how it ends
	default:
		return explainMissing(err, id)
	}
}

// idWidth is that of the ids that we make.
const idWidth = 26

// changeLine is a run after a change that was seen at the given time.
func changeLine(out screen, record client.Run, seen time.Time) string {
	const stateWidth = len("preparing")
	pad := strings.Repeat(" ", max(0, stateWidth-len(record.State)))
	line := fmt.Sprintf("%s  %-*s  %s%s", seen.Local().Format("15:04:05"), idWidth, printable(record.ID), out.state(record.State), pad)
	why := record.Message
	if record.Reason != "" {
		why = string(record.Reason) + ": " + explanation(record)
	}
	return strings.TrimRight(line+"  "+printable(why), " ")
}

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/logship"
)

func newVerifyCommand(stdout io.Writer) *cobra.Command {
	var (
		since  time.Duration
		output string
	)
	cmd := &cobra.Command{
		Use: "verify [ID]", Short: "Check that the archive has all lines of a run", Args: cobra.MaximumNArgs(1),
		Long: `Read the logs of a run from the archive, or of all runs of which something was
archived within --since, and say of each whether all of its lines are there, and
what is missing. The exit code is 1 if anything is.`,
	}
	cmd.Flags().DurationVar(&since, "since", 0, "check what was archived within this `TIME`, such as 24h")
	cmd.Flags().StringVarP(&output, "output", "o", "text", "write text for people, or json for programs")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if (len(args) == 1) == (since > 0) {
			return usageError{errors.New("want the ID of a run, or --since TIME")}
		}
		if output != "text" && output != "json" {
			return usageError{errors.New("--output must be text or json")}
		}
		settings, err := config.LoadLogs()
		if err != nil {
			return err
		}
		kept, err := logship.Open(cmd.Context(), settings, nil)
		if err != nil {
			return err
		}
		id := ""
		if len(args) == 1 {
			id = args[0]
		}
		defer func() { _ = kept.Close() }() // it was only read
		begin := time.Time{}
		if since > 0 {
			begin = time.Now().Add(-since)
		}
		stored, err := kept.Logs(cmd.Context(), id, begin)
		if err != nil {
			return err
		}
		if id != "" && len(stored) == 0 {
			return fmt.Errorf("the archive has nothing of run %s", id)
		}
		wrong := false
		for _, s := range stored {
			verdict, err := kept.Check(cmd.Context(), s)
			if err != nil {
				return err
			}
			wrong = wrong || verdict.Problem != ""
			if output == "json" {
				err = json.NewEncoder(stdout).Encode(verdict)
			} else {
				words := "complete"
				if verdict.Problem != "" {
					words = "NOT COMPLETE: " + verdict.Problem
				}
				_, err = fmt.Fprintf(stdout, "%s: %d lines, %d gaps of the cluster's, %s\n", s.Log, verdict.Lines, verdict.Gaps, words)
			}
			if err != nil {
				return fmt.Errorf("write the verdict: %w", err)
			}
		}
		if wrong {
			return errIncomplete
		}
		return nil
	}
	return cmd
}

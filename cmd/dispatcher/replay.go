package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"sigs.k8s.io/yaml"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/run"
)

func newReplayCommand(a *app) *cobra.Command {
	var (
		wanted replayFlags
		output *format
	)
	cmd := &cobra.Command{
		Use:   "replay ID... | replay --failed [--queue Q] [--reason R] [--since D]",
		Short: "Try runs again that did not succeed",
		Long: `Try runs again that did not succeed, each as the next attempt of the same run,
with the same request; its secrets are kept for ROPEWALK_SECRET_RETENTION.

--failed chooses all runs that failed or timed out; with --reason, all that ended
for that reason, those that were cancelled or rejected among them.

With --image, --env, --request and --limit the request is changed; -f replaces
all of it, which is also the way for one that was rejected. What a dispatcher
finds wrong with the result stands in the run's record.`,
		Example: `  dispatcher replay nightly-2030-01-31
  dispatcher replay train-42 --limit memory=16Gi
  dispatcher replay --failed --reason ImagePullFailed --since 6h --dry-run`,
	}
	flags := cmd.Flags()
	flags.BoolVar(&wanted.failed, "failed", false, "replay every run that failed or timed out and that the flags choose")
	flags.StringVar(&wanted.queue, "queue", "", "with --failed: of this queue only")
	flags.StringVar(&wanted.reason, "reason", "", "with --failed: those that ended for this reason")
	flags.DurationVar(&wanted.since, "since", 0, "with --failed: those that ended within this time, such as 6h")
	flags.BoolVar(&wanted.dryRun, "dry-run", false, "with --failed: only show which")
	flags.StringVarP(&wanted.file, "file", "f", "", "a request to run instead, as JSON or YAML; - is the standard input")
	flags.StringVar(&wanted.image, "image", "", "another image")
	flags.StringToStringVar(&wanted.env, "env", nil, "more environment, or other values, as NAME=VALUE")
	flags.StringToStringVar(&wanted.requests, "request", nil, "other resource requests, such as cpu=2")
	flags.StringToStringVar(&wanted.limits, "limit", nil, "other resource limits, such as memory=16Gi")
	choices(cmd, "reason", reasonNames()...)
	output = outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, ids []string) error {
		if err := wanted.check(cmd, ids); err != nil {
			return err
		}
		correction, err := wanted.correction(a.stdin)
		if err != nil {
			return &usageError{err}
		}
		return a.reach(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			if wanted.failed {
				return a.replayFailed(ctx, c, wanted, *output)
			}
			return a.replay(ctx, c, ids, correction, *output)
		})
	}
	return cmd
}

// replayFlags are what replay can be told.
type replayFlags struct {
	failed, dryRun        bool
	queue, reason, file   string
	since                 time.Duration
	image                 string
	env, requests, limits map[string]string
}

// check refuses flags that do not go together.
func (f replayFlags) check(cmd *cobra.Command, ids []string) error {
	changes := f.file != "" || f.image != "" || len(f.env)+len(f.requests)+len(f.limits) > 0
	narrows := f.queue != "" || f.reason != "" || f.since != 0 || f.dryRun
	switch {
	case f.failed && len(ids) > 0:
		return misused(cmd, "--failed chooses the runs; it goes without IDs")
	case !f.failed && len(ids) == 0:
		return misused(cmd, "ID is missing, or --failed")
	case !f.failed && narrows:
		return misused(cmd, "--queue, --reason, --since and --dry-run go with --failed")
	case f.failed && changes:
		return misused(cmd, "what changes a request goes with IDs, not with --failed")
	case f.file != "" && len(ids) > 1:
		return misused(cmd, "-f is one request, for one ID")
	case f.since < 0:
		return misused(cmd, "--since must not be negative; 6h is the last six hours")
	case f.reason != "" && run.Reason(f.reason).ToDo() == "":
		return misused(cmd, "%q is not a reason; there are %v", f.reason, reasonNames())
	}
	return nil
}

func reasonNames() []string {
	var names []string
	for _, reason := range run.Reasons() {
		names = append(names, string(reason))
	}
	return names
}

// correction is what the flags change in a request, nil if nothing.
func (f replayFlags) correction(stdin io.Reader) (*client.Correction, error) {
	correction := client.Correction{Image: f.image, Env: f.env, Resources: client.Resources{Requests: f.requests, Limits: f.limits}}
	if f.file == "" {
		if f.image == "" && len(f.env)+len(f.requests)+len(f.limits) == 0 {
			return nil, nil //nolint:nilnil // no correction is what nil stands for
		}
		return &correction, nil
	}
	text, err := readFile(f.file, stdin)
	if err != nil {
		return nil, err
	}
	if correction.Request, err = yaml.YAMLToJSON(text); err != nil {
		return nil, fmt.Errorf("%s is neither JSON nor YAML: %w", f.file, err)
	}
	if _, err := run.Decode(correction.Request); err != nil {
		return nil, fmt.Errorf("the request in %s: %w", f.file, err)
	}
	return &correction, nil
}

func readFile(name string, stdin io.Reader) ([]byte, error) {
	if name == "-" {
		return io.ReadAll(stdin)
	}
	return os.ReadFile(name)
}

// replayed is what replay writes for programs.
type replayed struct {
	ID      string `json:"id"`
	Attempt int    `json:"attempt"`
}

func (a *app) replay(ctx context.Context, c *client.Client, ids []string, correction *client.Correction, output format) error {
	all := []replayed{}
	var failed error
	for _, id := range ids {
		var attempt int
		err := soon(ctx, func(ctx context.Context) (err error) {
			attempt, err = c.Replay(ctx, id, correction)
			return err
		})
		if err != nil {
			failed = errTold
			_, _ = fmt.Fprintf(a.stderr, "dispatcher: %s\n", printable(explainMissing(err, id).Error()))
			continue
		}
		all = append(all, replayed{id, attempt})
	}
	return errors.Join(a.showReplays(all, output), failed)
}

func (a *app) replayFailed(ctx context.Context, c *client.Client, wanted replayFlags, output format) error {
	options := client.ReplayOptions{Queue: wanted.queue, Reason: run.Reason(wanted.reason), DryRun: wanted.dryRun}
	if wanted.since > 0 {
		options.Since = time.Now().Add(-wanted.since)
	}
	chosen, failed := c.ReplayFailed(ctx, options)
	if failed != nil && chosen == nil {
		return failed
	}
	all := make([]replayed, len(chosen))
	for i, record := range chosen {
		all[i] = replayed{record.ID, record.Attempt + 1}
	}
	if err := a.showReplays(all, output); err != nil || failed != nil || output == formatJSON {
		return errors.Join(err, incomplete(failed))
	}
	verb := "replayed"
	if wanted.dryRun {
		verb = "would be replayed"
	}
	_, err := fmt.Fprintf(a.stderr, "%s %s\n", plural(len(all), "failed run"), verb)
	return err
}

// incomplete says what to do when not every run could be replayed.
func incomplete(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%w; the same command replays the rest", err)
}

func (a *app) showReplays(all []replayed, output format) error {
	if output == formatJSON {
		return writeJSON(a.stdout, all)
	}
	for _, one := range all {
		if _, err := fmt.Fprintf(a.stdout, "%s  attempt %d\n", printable(one.ID), one.Attempt); err != nil {
			return err
		}
	}
	return nil
}

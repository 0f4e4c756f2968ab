package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/k8sjobs"
	"github.com/ropewalk/ropewalk/internal/run"
)

// queueFlags are what can be set for a queue. A flag that is not given leaves
// what it sets as it is.
type queueFlags struct {
	concurrency               int
	startRate                 string
	timeout                   time.Duration
	attempts                  int
	first, most               time.Duration
	reasons                   []string
	exitCodes                 []int
	namespace, account, patch string
	allow, deny, mayOverride  []string
}

func (q *queueFlags) flags(flags *pflag.FlagSet) {
	flags.IntVarP(&q.concurrency, "concurrency", "c", 0, "at most `N` runs at once, over all dispatchers")
	flags.StringVar(&q.startRate, "start-rate", "", "start at most so many runs a second or minute, as `N/s` or N/m, over all dispatchers; none lifts it")
	flags.DurationVar(&q.timeout, "timeout", 0, "stop runs after this `TIME` whose request sets none; 0 is none")
	flags.IntVar(&q.attempts, "retry-attempts", 0, "try runs up to `N` times in all whose request does not say how often; 0 is no retries")
	flags.DurationVar(&q.first, "retry-first", 0, "wait this `TIME` before the second attempt, and twice as long each time (default 10s)")
	flags.DurationVar(&q.most, "retry-most", 0, "wait at most this `TIME` (default 5m)")
	flags.StringSliceVar(&q.reasons, "retry-reason", nil, "try again after these `REASONS` only")
	flags.IntSliceVar(&q.exitCodes, "retry-exit-code", nil, "try again after these exit `CODES` only")
	flags.StringVar(&q.namespace, "namespace", "", "make Jobs in this `NAMESPACE`; empty is the dispatchers'")
	flags.StringVar(&q.account, "service-account", "", "give pods this `ACCOUNT`; empty is the dispatchers'")
	flags.StringVar(&q.patch, "pod-template-patch", "", "lay this strategic merge `PATCH`, YAML or JSON or @FILE, over the pod template last; empty is none")
	flags.StringSliceVar(&q.allow, "image-allow", nil, "allow images of requests from these repositories only, such as registry.example.com/team/**; empty is what the dispatchers allow")
	flags.StringSliceVar(&q.deny, "image-deny", nil, "refuse images of requests from these repositories; empty is none")
	flags.StringSliceVar(&q.mayOverride, "may-override", nil, "let requests set these `FIELDS` only: "+strings.Join(run.Overridable(), ", ")+"; none, or default for what the dispatchers allow")
}

// change makes of a definition what the flags say.
func (q *queueFlags) change(flags *pflag.FlagSet, definition *client.Queue) error {
	policy := &definition.Policy
	for flag, set := range map[string]func() error{
		"concurrency":     func() error { definition.Concurrency = q.concurrency; return nil },
		"start-rate":      func() error { return definition.StartRate.UnmarshalText([]byte(q.startRate)) },
		"timeout":         func() error { policy.Timeout = client.Duration(q.timeout); return nil },
		"retry-attempts":  func() error { policy.Retry.Attempts = q.attempts; return nil },
		"retry-first":     func() error { policy.Retry.First = client.Duration(q.first); return nil },
		"retry-most":      func() error { policy.Retry.Most = client.Duration(q.most); return nil },
		"retry-exit-code": func() error { policy.Retry.ExitCodes = q.exitCodes; return nil },
		"namespace":       func() error { policy.Namespace = q.namespace; return nil },
		"service-account": func() error { policy.ServiceAccount = q.account; return nil },
		"image-allow":     func() error { policy.ImageAllow = q.allow; return nil },
		"image-deny":      func() error { policy.ImageDeny = q.deny; return nil },
		"retry-reason": func() error {
			policy.Retry.Reasons = nil
			for _, reason := range q.reasons {
				policy.Retry.Reasons = append(policy.Retry.Reasons, run.Reason(reason))
			}
			return nil
		},
		"pod-template-patch": func() (err error) {
			policy.PodTemplatePatch, err = readPatch(q.patch)
			return err
		},
		"may-override": func() error {
			switch {
			case slices.Equal(q.mayOverride, []string{"default"}):
				policy.MayOverride = nil
			case slices.Equal(q.mayOverride, []string{"none"}):
				policy.MayOverride = []string{}
			default:
				policy.MayOverride = q.mayOverride
			}
			return nil
		},
	} {
		if !flags.Changed(flag) {
			continue
		}
		if err := set(); err != nil {
			return fmt.Errorf("--%s: %w", flag, err)
		}
	}
	return definition.Validate()
}

// readPatch reads a patch that is given as it is, or as @FILE, and checks it as
// far as that goes without a cluster.
func readPatch(given string) (json.RawMessage, error) {
	if strings.TrimSpace(given) == "" {
		return nil, nil
	}
	text := []byte(given)
	if name, isFile := strings.CutPrefix(given, "@"); isFile {
		var err error
		if text, err = os.ReadFile(name); err != nil {
			return nil, err
		}
	}
	patch, err := yaml.YAMLToJSONStrict(text)
	if err != nil {
		return nil, fmt.Errorf("it is neither JSON nor YAML: %w", err)
	}
	return patch, k8sjobs.CheckPatch(string(patch))
}

func newQueueCreateCommand(a *app) *cobra.Command {
	var wanted queueFlags
	cmd := &cobra.Command{
		Use:   "create NAME --concurrency N [flags]",
		Short: "Make a queue",
		Long: `Make a queue, and say how its runs are run. Dispatchers serve it at once. The
rights that dispatchers need in a namespace are those of deploy/manifests/rbac.yaml.`,
		Example: `  dispatcher queue create gpu --concurrency 4 --start-rate 30/m --timeout 6h
  dispatcher queue create team-a -c 20 --namespace team-a --service-account runner \
    --image-allow 'registry.example.com/team-a/**' --may-override resources,timeout`,
		Args: arguments("NAME"),
	}
	wanted.flags(cmd.Flags())
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("concurrency") {
			return misused(cmd, "--concurrency is missing")
		}
		definition := client.Queue{Name: args[0], Pinned: true}
		if err := wanted.change(cmd.Flags(), &definition); err != nil {
			return &usageError{err}
		}
		return a.reachSoon(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			err := c.CreateQueue(ctx, definition)
			if errors.Is(err, client.ErrQueueExists) {
				return fmt.Errorf("there is a queue %s already; dispatcher queue set changes it", definition.Name)
			}
			if err != nil {
				return err
			}
			return a.showChangedQueue(definition, *output)
		})
	}
	return cmd
}

func newQueueSetCommand(a *app) *cobra.Command {
	var wanted queueFlags
	cmd := &cobra.Command{
		Use:   "set NAME [flags]",
		Short: "Change how the runs of a queue are run; with --concurrency, make it if it is missing",
		Long: `Change how the runs of a queue are run; what no flag sets stays as it is.
Dispatchers follow at once. The runs that are under way stay as they are; what is
set for pods counts for runs that are launched from then on. Once the limit has
been set, the dispatchers' settings do not change it any more.`,
		Example: `  dispatcher queue set gpu --concurrency 8
  dispatcher queue set gpu --start-rate none --retry-attempts 3 --retry-reason Evicted,AppError
  dispatcher queue set batch --pod-template-patch '{spec: {priorityClassName: low}}'`,
		Args: arguments("NAME"),
	}
	wanted.flags(cmd.Flags())
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		changes := false
		cmd.Flags().Visit(func(flag *pflag.Flag) { changes = changes || flag.Name != "output" })
		if !changes {
			return misused(cmd, "there is nothing to set; --concurrency, for one, is missing")
		}
		trial := client.Queue{Name: args[0], Concurrency: 1}
		if err := wanted.change(cmd.Flags(), &trial); err != nil {
			return &usageError{err}
		}
		return a.reachSoon(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			definition, err := c.UpdateQueue(ctx, args[0], cmd.Flags().Changed("concurrency"), func(definition *client.Queue) error {
				return wanted.change(cmd.Flags(), definition)
			})
			if err != nil {
				return knownQueue(ctx, c, args[0], err)
			}
			return a.showChangedQueue(definition, *output)
		})
	}
	return cmd
}

// knownQueue says which queues there are if the error is that there is no such
// one.
func knownQueue(ctx context.Context, c *client.Client, name string, err error) error {
	if !errors.Is(err, client.ErrNoQueue) {
		return err
	}
	definitions, listErr := c.Queues(ctx)
	if listErr != nil {
		return err
	}
	return unknownQueue(name, definitions)
}

func (a *app) showChangedQueue(definition client.Queue, output format) error {
	if output == formatJSON {
		return writeJSON(a.stdout, definition)
	}
	line := fmt.Sprintf("queue %s: at most %s at once", definition.Name, plural(definition.Concurrency, "run"))
	if definition.StartRate != (client.Rate{}) {
		line += ", started at " + definition.StartRate.String()
	}
	if status := queueStatus(definition); status != "open" {
		line += "; it is " + status
	}
	_, err := fmt.Fprintln(a.stdout, line)
	return err
}

// newQueueChangeCommand makes a command that changes one thing of a queue.
func newQueueChangeCommand(a *app, use, short, long string, change func(*client.Queue)) *cobra.Command {
	cmd := &cobra.Command{Use: use + " NAME", Short: short, Long: long, Args: arguments("NAME")}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.reachSoon(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			definition, err := c.UpdateQueue(ctx, args[0], false, func(definition *client.Queue) error {
				change(definition)
				return nil
			})
			if err != nil {
				return knownQueue(ctx, c, args[0], err)
			}
			return a.showChangedQueue(definition, *output)
		})
	}
	return cmd
}

func newQueuePauseCommand(a *app) *cobra.Command {
	return newQueueChangeCommand(a, "pause", "Start no more runs of a queue",
		`Start no more runs of a queue until "resume". Runs that are under way go on, also
when their dispatcher ends; new ones are taken and wait.`,
		func(definition *client.Queue) { definition.Paused = true })
}

func newQueueResumeCommand(a *app) *cobra.Command {
	return newQueueChangeCommand(a, "resume", "Take back pause and drain",
		"Start the runs of a queue again, and take new ones.",
		func(definition *client.Queue) { definition.Paused, definition.Draining = false, false })
}

func newQueueDrainCommand(a *app) *cobra.Command {
	return newQueueChangeCommand(a, "drain", "Take no new runs for a queue, and run those that it has",
		`Take no new runs for a queue: publishers are told that there is no such queue.
Those that it has are run to their end, with their retries, and can be replayed.
"resume" takes it back; once nothing is left, the queue can be deleted.`,
		func(definition *client.Queue) { definition.Draining = true })
}

func newQueueDeleteCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "delete NAME",
		Aliases: []string{"rm"},
		Short:   "Delete a queue that is drained and empty",
		Long: `Delete a queue that is drained and has no runs left. The records of its runs stay.
A dispatcher whose settings name the queue makes it again when it starts.`,
		Args: arguments("NAME"),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.reachSoon(cmd.Context(), func(ctx context.Context, c *client.Client) error {
				if err := c.DeleteQueue(ctx, args[0]); err != nil {
					return knownQueue(ctx, c, args[0], err)
				}
				_, err := fmt.Fprintf(a.stdout, "queue %s deleted\n", args[0])
				return err
			})
		},
	}
}

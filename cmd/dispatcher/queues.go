package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/run"
)

func newQueueCommand(a *app) *cobra.Command {
	group := &cobra.Command{
		Use:     "queue",
		Aliases: []string{"queues"},
		Short:   "Show queues, and set how their runs are run",
	}
	group.AddCommand(
		newQueueListCommand(a), newQueueGetCommand(a), newQueueCreateCommand(a), newQueueSetCommand(a),
		newQueuePauseCommand(a), newQueueResumeCommand(a), newQueueDrainCommand(a), newQueueDeleteCommand(a),
	)
	onlyCommands(group)
	return group
}

// queueState is a queue with how it stands.
type queueState struct {
	client.Queue
	client.Usage
}

func newQueueListCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "List the queues and how they stand",
		Args:    arguments(),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		return a.reachSoon(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			definitions, err := c.Queues(ctx)
			if err != nil {
				return err
			}
			states := []queueState{} // a list also when there is none
			for _, definition := range definitions {
				usage, err := c.Usage(ctx, definition)
				if err != nil {
					return err
				}
				states = append(states, queueState{definition, usage})
			}
			if *output == formatJSON {
				return writeJSON(a.stdout, states)
			}
			printQueues(newScreen(a.stdout), states)
			return nil
		})
	}
	return cmd
}

func printQueues(out screen, states []queueState) {
	rows := make([][]string, len(states))
	for i, state := range states {
		rate := ""
		if state.StartRate != (client.Rate{}) {
			rate = state.StartRate.String()
		}
		rows[i] = []string{
			state.Name, strconv.Itoa(state.Limit), strconv.Itoa(state.InFlight), strconv.FormatUint(state.Waiting, 10),
			rate, queueStatus(state.Queue),
		}
	}
	out.table([]string{"NAME", "LIMIT", "IN FLIGHT", "WAITING", "START RATE", "STATUS"}, rows)
}

// queueStatus says in a word or two what a queue does.
func queueStatus(definition client.Queue) string {
	switch {
	case definition.Paused && definition.Draining:
		return "paused, draining"
	case definition.Paused:
		return "paused"
	case definition.Draining:
		return "draining"
	default:
		return "open"
	}
}

func newQueueGetCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get NAME",
		Short: "Show one queue",
		Args:  arguments("NAME"),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.reachSoon(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			definition, err := findQueue(ctx, c, args[0])
			if err != nil {
				return err
			}
			usage, err := c.Usage(ctx, definition)
			switch {
			case err != nil:
				return err
			case *output == formatJSON:
				return writeJSON(a.stdout, queueState{definition, usage})
			}
			printQueue(newScreen(a.stdout), queueState{definition, usage})
			return nil
		})
	}
	return cmd
}

func printQueue(out screen, state queueState) {
	setBy := "the dispatchers' settings"
	if state.Pinned {
		setBy = "dispatcher queue set, which overrides the dispatchers' settings"
	}
	rate := ""
	if state.StartRate != (client.Rate{}) {
		rate = "at most " + state.StartRate.String()
	}
	out.facts(append([]fact{
		{"Queue", state.Name},
		{"Status", queueStatus(state.Queue)},
		{"Limit", strconv.Itoa(state.Limit)},
		{"Start rate", rate},
		{"Set by", setBy},
		{"In flight", strconv.Itoa(state.InFlight)},
		{"Redelivered", strconv.Itoa(state.Redelivered)},
		{"Waiting", strconv.FormatUint(state.Waiting, 10)},
	}, policyFacts(state.Policy)...))
}

// policyFacts are what is set for the runs of a queue.
func policyFacts(policy client.Policy) []fact {
	timeout, override := "", ""
	if policy.Timeout > 0 {
		timeout = policy.Timeout.String() + ", unless the request says another"
	}
	if policy.MayOverride != nil {
		override = cmp.Or(strings.Join(policy.MayOverride, ", "), "nothing")
	}
	all := []fact{
		{"Namespace", policy.Namespace},
		{"Service account", policy.ServiceAccount},
		{"Pod template patch", string(policy.PodTemplatePatch)},
		{"Timeout", timeout},
		{"Retry", describeRetry(policy.Retry)},
		{"Images allowed", strings.Join(policy.ImageAllow, ", ")},
		{"Images denied", strings.Join(policy.ImageDeny, ", ")},
		{"Requests may set", override},
	}
	// Most queues have none of it, whose names would only widen the rest.
	return slices.DeleteFunc(all, func(fact fact) bool { return fact.value == "" })
}

func describeRetry(retry client.Retry) string {
	if retry.Attempts == 0 {
		return ""
	}
	text := plural(retry.Attempts, "attempt") + " in all"
	if retry.First > 0 {
		text += ", first wait " + retry.First.String()
	}
	if retry.Most > 0 {
		text += ", longest wait " + retry.Most.String()
	}
	var on []string
	for _, reason := range retry.Reasons {
		on = append(on, string(reason))
	}
	for _, code := range retry.ExitCodes {
		on = append(on, "exit code "+strconv.Itoa(code))
	}
	if on != nil {
		text += ", after " + strings.Join(on, ", ")
	}
	return text
}

func findQueue(ctx context.Context, c *client.Client, name string) (client.Queue, error) {
	definitions, err := c.Queues(ctx)
	if err != nil {
		return client.Queue{}, err
	}
	for _, definition := range definitions {
		if definition.Name == name {
			return definition, nil
		}
	}
	return client.Queue{}, unknownQueue(name, definitions)
}

// noQueue says why a run could not be put on a queue that nobody listens to.
func noQueue(ctx context.Context, c *client.Client, name string) error {
	if name == "" {
		name = client.DefaultQueue
	}
	definitions, err := c.Queues(ctx)
	switch {
	case errors.Is(err, context.DeadlineExceeded): // who may publish need not be allowed to ask
		return fmt.Errorf("%s: %w", name, client.ErrNoQueue)
	case err != nil:
		return err // such as that there is no queue at all
	default:
		for _, definition := range definitions {
			switch {
			case definition.Name != name:
			case definition.Draining:
				return fmt.Errorf("queue %s is being drained and takes no new runs; dispatcher queue resume %s opens it again", name, name)
			default:
				return fmt.Errorf("queue %s was made just now, and not every NATS server knows it yet; try again", name)
			}
		}
		return unknownQueue(name, definitions)
	}
}

func unknownQueue(name string, definitions []client.Queue) error {
	var names []string
	for _, definition := range definitions {
		names = append(names, definition.Name)
	}
	hint := "it can be made: dispatcher queue create " + name + " --concurrency N"
	if !run.ValidQueue(name) {
		hint = "nor can there be one of that name"
	}
	return fmt.Errorf("there is no queue %s, only %s; %s", name, strings.Join(names, ", "), hint)
}

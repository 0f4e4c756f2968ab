package main

import (
	"context"
	"errors"
	"fmt"
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
		Short:   "Show queues, and set their limits",
	}
	group.AddCommand(newQueueListCommand(a), newQueueGetCommand(a), newQueueSetCommand(a))
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
		rows[i] = []string{state.Name, strconv.Itoa(state.Limit), strconv.Itoa(state.InFlight), strconv.FormatUint(state.Waiting, 10)}
	}
	out.table([]string{"NAME", "LIMIT", "IN FLIGHT", "WAITING"}, rows)
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
	out.facts([]fact{
		{"Queue", state.Name},
		{"Limit", strconv.Itoa(state.Limit)},
		{"Set by", setBy},
		{"In flight", strconv.Itoa(state.InFlight)},
		{"Redelivered", strconv.Itoa(state.Redelivered)},
		{"Waiting", strconv.FormatUint(state.Waiting, 10)},
	})
}

func newQueueSetCommand(a *app) *cobra.Command {
	var concurrency int
	cmd := &cobra.Command{
		Use:   "set NAME --concurrency N",
		Short: "Set the limit of a queue, which is made if it is missing",
		Long: `Set how many runs of a queue may be under way at once, over all dispatchers. The
queue is made if it is missing. Dispatchers follow at once; the runs that are
under way stay. From then on the dispatchers' settings do not change the limit.`,
		Args: arguments("NAME"),
	}
	cmd.Flags().IntVarP(&concurrency, "concurrency", "c", 0, "at most `N` runs at once")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !cmd.Flags().Changed("concurrency") {
			return misused(cmd, "--concurrency is missing")
		}
		wanted := client.Queue{Name: args[0], Concurrency: concurrency, Pinned: true}
		if err := wanted.Validate(); err != nil {
			return &usageError{err}
		}
		return a.reachSoon(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			if err := c.SetConcurrency(ctx, wanted.Name, wanted.Concurrency); err != nil {
				return err
			}
			if *output == formatJSON {
				return writeJSON(a.stdout, wanted)
			}
			_, err := fmt.Fprintf(a.stdout, "queue %s: at most %s at once\n", wanted.Name, plural(wanted.Concurrency, "run"))
			return err
		})
	}
	return cmd
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
		return unknownQueue(name, definitions)
	}
}

func unknownQueue(name string, definitions []client.Queue) error {
	var names []string
	for _, definition := range definitions {
		names = append(names, definition.Name)
	}
	hint := "it can be made: dispatcher queue set " + name + " --concurrency N"
	if !run.ValidQueue(name) {
		hint = "nor can there be one of that name"
	}
	return fmt.Errorf("there is no queue %s, only %s; %s", name, strings.Join(names, ", "), hint)
}

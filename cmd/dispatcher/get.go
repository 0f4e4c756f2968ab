package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/run"
)

func newGetCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "get ID",
		Short: "Show all that is known of a run",
		Args:  arguments("ID"),
	}
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		return a.reachSoon(cmd.Context(), func(ctx context.Context, c *client.Client) error {
			record, err := c.Get(ctx, args[0])
			switch {
			case err != nil:
				return explainMissing(err, args[0])
			case *output == formatJSON:
				return writeJSON(a.stdout, record)
			case record.State == run.Queued && record.Message == "":
				record.Message = queuedBecause(ctx, c, record.Queue)
			}
			printRun(newScreen(a.stdout), record, time.Now())
			return nil
		})
	}
	return cmd
}

// queuedBecause says what keeps the runs of a queue waiting; empty when nothing is
// known to, or when we may not ask.
func queuedBecause(ctx context.Context, c *client.Client, name string) string {
	definition, err := findQueue(ctx, c, name)
	if err != nil {
		return ""
	}
	usage, err := c.Usage(ctx, definition)
	switch {
	case err != nil:
		return ""
	case definition.Paused:
		return fmt.Sprintf("Queue %s is paused; dispatcher queue resume %s starts its runs again.", name, name)
	case usage.InFlight >= usage.Limit:
		return fmt.Sprintf("Queue %s is full: of its limit of %d, %d are under way, and %d wait.", name, usage.Limit, usage.InFlight, usage.Waiting)
	case definition.StartRate != (client.Rate{}):
		return fmt.Sprintf("Queue %s starts runs at %s, and %d wait.", name, definition.StartRate, usage.Waiting)
	default:
		return ""
	}
}

// explainMissing says what to do when there is no run of an id.
func explainMissing(err error, id string) error {
	if errors.Is(err, client.ErrNotFound) {
		return fmt.Errorf("there is no run %s, neither waiting nor on record; dispatcher list shows those that there are", id)
	}
	return err
}

// printRun writes all about one run as it is at the given time.
func printRun(out screen, record client.Run, now time.Time) {
	state := string(record.State)
	if record.Reason != "" {
		state += " (" + string(record.Reason) + ")"
	}
	facts := []fact{
		{"Run", record.ID},
		{"Queue", record.Queue},
		{"State", state},
		{"Meaning", record.State.Meaning()},
		{"Message", explanation(record)},
		{"Exit code", exitCode(record)},
		{"Attempt", strconv.Itoa(record.Attempt)},
		{"Image", record.Image},
	}
	facts = append(facts, requestFacts(record.Request)...)
	facts = append(facts, fact{"Labels", assignments(record.Labels)})
	if record.Job != nil {
		facts = append(facts, fact{"Job", record.Job.Namespace + "/" + record.Job.Name}, fact{"Job UID", record.Job.UID})
	}
	facts = append(facts,
		fact{"Dispatcher", record.Owner},
		fact{"Queued", moment(&record.QueuedAt, now)},
		fact{"Started", moment(record.StartedAt, now)},
		fact{"Finished", moment(record.FinishedAt, now)},
		fact{"Duration", duration(record, now)},
	)
	out.facts(facts)
	printEvidence(out, record.Evidence)
	_, _ = fmt.Fprintln(out)
	printAttempts(out, record.Attempts(now))
	_, _ = fmt.Fprintln(out)
	printHistory(out, record.History, now)
}

// requestFacts are what a request adds to what the record says itself.
func requestFacts(request *client.Request) []fact {
	if request == nil {
		return nil
	}
	secrets := slices.Sorted(maps.Keys(request.SecretEnv))
	if request.Image.Build != nil {
		for _, id := range slices.Sorted(maps.Keys(request.Image.Build.Secrets)) {
			secrets = append(secrets, id+" (build)")
		}
	}
	timeout := ""
	if request.Timeout > 0 {
		timeout = request.Timeout.String()
	}
	return []fact{
		{"Command", shellWords(slices.Concat(request.Command, request.Args))},
		{"Directory", request.WorkingDir},
		{"Environment", assignments(request.Env)},
		{"Secrets", strings.Join(secrets, " ")},
		{"Requests", assignments(request.Pod.Resources.Requests)},
		{"Limits", assignments(request.Pod.Resources.Limits)},
		{"Timeout", timeout},
	}
}

func exitCode(record client.Run) string {
	if record.ExitCode == nil {
		return ""
	}
	return strconv.Itoa(*record.ExitCode)
}

// assignments writes NAME=VALUE items in the order of their names.
func assignments(values map[string]string) string {
	var items []string
	for _, name := range slices.Sorted(maps.Keys(values)) {
		items = append(items, name+"="+shellWords([]string{values[name]}))
	}
	return strings.Join(items, " ")
}

// moment writes a time on the reader's clock, and how long ago it was.
func moment(at *time.Time, now time.Time) string {
	if at == nil || at.IsZero() {
		return ""
	}
	return at.Local().Format("2006-01-02 15:04:05") + " (" + age(now.Sub(*at)) + " ago)"
}

// printHistory writes a row for each change of state, with how long the run
// stayed in that state.
func printHistory(out screen, history []run.Change, now time.Time) {
	attempts := len(history) > 0 && history[len(history)-1].Attempt > 1
	columns := []string{"STATE", "SINCE", "FOR"}
	if attempts {
		columns = append(columns, "ATTEMPT")
	}
	rows := make([][]string, len(history))
	for i, change := range history {
		stayed := ""
		switch {
		case i+1 < len(history):
			stayed = took(history[i+1].At.Sub(change.At))
		case !change.State.Final():
			stayed = took(now.Sub(change.At)) + " until now"
		}
		rows[i] = []string{string(change.State), change.At.Local().Format("15:04:05.000"), stayed}
		if attempts {
			rows[i] = append(rows[i], strconv.Itoa(change.Attempt))
		}
	}
	out.table(columns, rows)
}

package main

import (
	"fmt"
	"slices"
	"time"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/run"
)

const (
	demoQueue = "demo"
	demoLimit = 2
)

// demoRun is a run of the demonstration, and how it has to end.
type demoRun struct {
	id string
	// request is what to submit; payload, if it is set, goes to the queue
	// instead, as it stands.
	request client.Request
	payload string

	state    run.State
	reason   run.Reason
	exitCode int
	writes   []string // the lines of its log
}

// demoRuns are the runs in the order in which they are submitted: one for each
// way in which a run commonly ends.
func demoRuns() []demoRun {
	shell := func(script string) client.Request {
		return client.Request{Command: []string{"sh", "-c", script}}
	}
	endless := shell("while true; do sleep 1; done")
	endless.Timeout = client.Duration(2 * time.Second)
	epochs := func(pause string) client.Request {
		return shell("for epoch in 1 2 3; do sleep " + pause + "; echo epoch $epoch of 3; done")
	}
	trained := []string{"epoch 1 of 3", "epoch 2 of 3", "epoch 3 of 3"}
	return []demoRun{
		{id: "prepare-data", request: shell("echo 1200 rows; sleep 1"), state: run.Succeeded, writes: []string{"1200 rows"}},
		{id: "train-small", request: epochs("0.5"), state: run.Succeeded, writes: trained},
		{id: "endless-loop", request: endless, state: run.TimedOut, reason: run.DeadlineExceeded},
		{
			id: "broken-script", request: shell("sleep 1; echo 'no such table: orders' >&2; exit 3"),
			state: run.Failed, reason: run.AppError, exitCode: 3, writes: []string{"no such table: orders"},
		},
		{id: "bad-request", payload: `{"version": 1, "command": ["true"], "env": {"NOT A NAME": "1"}, "timeout": "-1s"}`, state: run.Rejected, reason: run.InvalidRequest},
		{id: "train-large", request: epochs("0.7"), state: run.Succeeded, writes: trained},
		{id: "write-report", request: shell("echo the report is written"), state: run.Succeeded, writes: []string{"the report is written"}},
	}
}

// judge says what was not as it should be.
func judge(runs []demoRun, seen demoSeen) (wrong []string) {
	for _, wanted := range runs {
		record := seen.records[wanted.id]
		if record.State != wanted.state || record.Reason != wanted.reason {
			wrong = append(wrong, fmt.Sprintf("%s is %s %s and should be %s %s (%s)",
				wanted.id, record.State, record.Reason, wanted.state, wanted.reason, record.Message))
		}
		if wanted.exitCode != 0 && (record.ExitCode == nil || *record.ExitCode != wanted.exitCode) {
			wrong = append(wrong, fmt.Sprintf("%s should have ended with exit code %d", wanted.id, wanted.exitCode))
		}
		if lines := seen.lines[wanted.id]; !slices.Equal(lines, wanted.writes) {
			wrong = append(wrong, fmt.Sprintf("%s wrote %q and should have written %q", wanted.id, lines, wanted.writes))
		}
	}
	if most := mostAtOnce(seen.records); most > demoLimit {
		wrong = append(wrong, fmt.Sprintf("%d runs were under way at once, and the limit is %d", most, demoLimit))
	}
	return wrong
}

// mostAtOnce returns how many runs were under way at the same time at most, by
// their histories.
func mostAtOnce(records map[string]client.Run) int {
	type step struct {
		at    time.Time
		delta int
	}
	var steps []step
	for _, record := range records {
		if record.State == run.Rejected {
			continue // it never was under way
		}
		for _, change := range record.History {
			switch {
			case change.State == run.Preparing:
				steps = append(steps, step{change.At, 1})
			case change.State.Final():
				steps = append(steps, step{change.At, -1})
			}
		}
	}
	slices.SortFunc(steps, func(a, b step) int {
		if order := a.at.Compare(b.at); order != 0 {
			return order
		}
		return a.delta - b.delta // one ends before the next begins
	})
	now, most := 0, 0
	for _, s := range steps {
		now += s.delta
		most = max(most, now)
	}
	return most
}

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
}

// demoRuns are the runs in the order in which they are submitted: one for each
// way in which a run commonly ends.
func demoRuns() []demoRun {
	shell := func(script string) client.Request {
		return client.Request{Command: []string{"sh", "-c", script}}
	}
	endless := shell("while true; do sleep 1; done")
	endless.Timeout = client.Duration(2 * time.Second)
	return []demoRun{
		{id: "prepare-data", request: shell("sleep 1"), state: run.Succeeded},
		{id: "train-small", request: shell("sleep 2"), state: run.Succeeded},
		{id: "endless-loop", request: endless, state: run.TimedOut, reason: run.DeadlineExceeded},
		{id: "broken-script", request: shell("sleep 1; echo 'no such table' >&2; exit 3"), state: run.Failed, reason: run.AppError, exitCode: 3},
		{id: "bad-request", payload: `{"version": 1, "command": ["true"], "env": {"NOT A NAME": "1"}, "timeout": "-1s"}`, state: run.Rejected, reason: run.InvalidRequest},
		{id: "train-large", request: shell("sleep 2"), state: run.Succeeded},
		{id: "write-report", request: shell("echo done"), state: run.Succeeded},
	}
}

// judge says what was not as it should be.
func judge(runs []demoRun, records map[string]client.Run) (wrong []string) {
	for _, wanted := range runs {
		record := records[wanted.id]
		if record.State != wanted.state || record.Reason != wanted.reason {
			wrong = append(wrong, fmt.Sprintf("%s is %s %s and should be %s %s (%s)",
				wanted.id, record.State, record.Reason, wanted.state, wanted.reason, record.Message))
		}
		if wanted.exitCode != 0 && (record.ExitCode == nil || *record.ExitCode != wanted.exitCode) {
			wrong = append(wrong, fmt.Sprintf("%s should have ended with exit code %d", wanted.id, wanted.exitCode))
		}
	}
	if most := mostAtOnce(records); most > demoLimit {
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

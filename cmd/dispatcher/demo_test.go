package main

import (
	"strings"
	"testing"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/run"
)

// asPlanned is what should be seen of the demonstration's runs, one after the
// other.
func asPlanned(t *testing.T) demoSeen {
	t.Helper()
	records, lines, now := map[string]client.Run{}, map[string][]string{}, at(t, "10:00:00.000")
	for _, wanted := range demoRuns() {
		record := run.New(run.Delivery{ID: wanted.id, Queue: demoQueue, Attempt: 1, PublishedAt: now})
		for _, state := range []run.State{run.Preparing, wanted.state} {
			if err := record.Become(state, now); err != nil {
				t.Fatal(err)
			}
		}
		record.Reason, record.ExitCode = wanted.reason, &wanted.exitCode
		records[wanted.id], lines[wanted.id] = record, wanted.writes
	}
	return demoSeen{records, lines}
}

func TestJudge(t *testing.T) {
	if wrong := judge(demoRuns(), asPlanned(t)); wrong != nil {
		t.Errorf("runs as planned are judged %q", wrong)
	}
	for name, c := range map[string]struct {
		change func(demoSeen)
		want   string
	}{
		"a run is missing":      {func(seen demoSeen) { delete(seen.records, "train-small") }, "train-small is"},
		"a run ended otherwise": {change("train-small", func(r *client.Run) { r.State, r.Reason = run.Failed, run.NodeLost }), "train-small is failed NodeLost and should be succeeded"},
		"another reason":        {change("broken-script", func(r *client.Run) { r.Reason = run.OOMKilled }), "broken-script is failed OOMKilled and should be failed AppError"},
		"another exit code":     {change("broken-script", func(r *client.Run) { r.ExitCode = nil }), "broken-script should have ended with exit code 3"},
		"a line is missing":     {func(seen demoSeen) { seen.lines["train-large"] = seen.lines["train-large"][1:] }, `train-large wrote ["epoch 2 of 3" "epoch 3 of 3"] and should`},
		"too many at once": {func(seen demoSeen) {
			for _, id := range []string{"prepare-data", "train-small", "train-large"} {
				change(id, func(r *client.Run) {
					last := &r.History[len(r.History)-1]
					last.At = last.At.Add(1e9)
				})(seen)
			}
		}, "3 runs were under way at once, and the limit is 2"},
	} {
		t.Run(name, func(t *testing.T) {
			seen := asPlanned(t)
			c.change(seen)
			wrong := judge(demoRuns(), seen)
			if len(wrong) != 1 || !strings.Contains(wrong[0], c.want) {
				t.Errorf("got %q, want %q", wrong, c.want)
			}
		})
	}
}

func change(id string, how func(*client.Run)) func(demoSeen) {
	return func(seen demoSeen) {
		record := seen.records[id]
		how(&record)
		seen.records[id] = record
	}
}

func TestDemoViewDrawsAgain(t *testing.T) {
	var out strings.Builder
	runs := demoRuns()[:2]
	view := newDemoView(screen{Writer: &out, terminal: true, width: 80}, runs)
	view.show(client.Run{}, nil)
	first := out.String()
	if strings.Contains(first, "\x1b") || strings.Count(first, "queued") != 2 {
		t.Errorf("at first there is nothing to draw over: %q", first)
	}
	out.Reset()
	view.show(client.Run{}, map[string]client.Run{runs[1].id: {State: run.Running}})
	if second := out.String(); !strings.HasPrefix(second, "\x1b[3A\x1b[J") || !strings.Contains(second, "running") {
		t.Errorf("then it goes up three lines and draws over them: %q", second)
	}
	out.Reset()
	view.wrote(runs[1].id, "a\x1b[2Jline", nil)
	third := strings.TrimPrefix(out.String(), "\x1b[3A\x1b[J")
	if line, _, _ := strings.Cut(third, "\n"); !strings.Contains(line, `│ a\x1b[2Jline`) || strings.Contains(third, "\x1b[2J") {
		t.Errorf("a line stays above the table, and orders nothing: %q", third)
	}
}

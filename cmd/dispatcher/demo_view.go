package main

import (
	"fmt"
	"strings"
	"time"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/run"
)

// demoView shows runs as they change and what they write: on a terminal, lines
// that go by above a table that is drawn again with each change; elsewhere a line
// for each.
type demoView struct {
	out  screen
	runs []demoRun
	// drawn is the number of lines of the table that stands there.
	drawn int
}

func newDemoView(out screen, runs []demoRun) *demoView { return &demoView{out: out, runs: runs} }

// show shows the change of one run among all that are known.
func (v *demoView) show(changed client.Run, records map[string]client.Run) {
	if v.out.terminal {
		v.draw("", records)
		return
	}
	_, _ = fmt.Fprintln(v.out, changeLine(v.out, changed, time.Now()))
}

// wrote shows a line that a run has written.
func (v *demoView) wrote(id, text string, records map[string]client.Run) {
	line := fmt.Sprintf("%s  %-*s  │ %s\n", time.Now().Format(time.TimeOnly), idWidth, id, printable(text))
	if v.out.terminal {
		v.draw(line, records)
		return
	}
	_, _ = fmt.Fprint(v.out, line)
}

// draw draws the table anew, below a line that stays.
func (v *demoView) draw(above string, records map[string]client.Run) {
	rows := make([][]string, len(v.runs))
	for i, wanted := range v.runs {
		record, known := records[wanted.id]
		if !known {
			record.State = run.Queued
		}
		rows[i] = []string{wanted.id, string(record.State), string(record.Reason), record.Message}
	}
	table := v.out.tableText([]string{"RUN", "STATE", "REASON", "MESSAGE"}, rows)
	var up string
	if v.drawn > 0 {
		up = fmt.Sprintf("\x1b[%dA\x1b[J", v.drawn) // that many lines up, and clear from there
	}
	_, _ = fmt.Fprintln(v.out, up+above+table)
	v.drawn = strings.Count(table, "\n") + 1
}

// sumUp writes how the runs ended, why, and what to do.
func sumUp(out screen, runs []demoRun, records map[string]client.Run) {
	var (
		rows    [][]string
		reasons []fact
	)
	for _, wanted := range runs {
		record := records[wanted.id]
		waited := ""
		if record.StartedAt != nil {
			waited = took(record.StartedAt.Sub(record.QueuedAt))
		}
		rows = append(rows, []string{record.ID, string(record.State), string(record.Reason), waited, duration(record, time.Now())})
		if record.Reason != "" {
			reasons = append(reasons, fact{record.ID, explanation(record)})
		}
	}
	_, _ = fmt.Fprintln(out, "\n"+out.heading("All runs are over"))
	out.table([]string{"RUN", "STATE", "REASON", "WAITED", "RAN FOR"}, rows)
	_, _ = fmt.Fprintln(out, "\n"+out.heading("Why some did not succeed, and what to do"))
	out.facts(reasons)
	_, _ = fmt.Fprintf(out, "\nNever more than %d were under way at once; the others waited in the queue.\n", mostAtOnce(records))
	_, _ = fmt.Fprint(out, `
To go on: "make run" starts a dispatcher that stays up (dispatcher dev). Then, in another terminal:
  dispatcher submit --wait -- echo hello
  dispatcher list
`)
}

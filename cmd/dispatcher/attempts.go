package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
)

// printAttempts writes a row for each attempt, with where its time went. Parts
// that no attempt had are left out.
func printAttempts(out screen, attempts []run.Attempt) {
	var parts []run.Part
	columns := []string{"ATTEMPT"}
	for _, part := range run.Parts() {
		for _, attempt := range attempts {
			if _, had := attempt.Spent[part]; had {
				parts, columns = append(parts, part), append(columns, strings.ToUpper(string(part)))
				break
			}
		}
	}
	columns = append(columns, "TOTAL", "STATE", "REASON")
	rows := make([][]string, len(attempts))
	for i, attempt := range attempts {
		row := []string{strconv.Itoa(attempt.Number)}
		var total time.Duration
		for _, part := range parts {
			spent, had := attempt.Spent[part]
			if total += spent; had {
				row = append(row, took(spent))
			} else {
				row = append(row, "")
			}
		}
		reason := string(attempt.Reason)
		if attempt.Reason == run.AppError && attempt.ExitCode != nil {
			reason += fmt.Sprintf(" (exit code %d)", *attempt.ExitCode)
		}
		rows[i] = append(row, took(total), string(attempt.State), reason)
	}
	out.table(columns, rows)
}

// printEvidence writes what went with the end of an attempt that did not
// succeed. The lines are the program's own: they are made harmless, and left as
// long as they are.
func printEvidence(out screen, evidence *run.Evidence) {
	if evidence == nil {
		return
	}
	section := func(title string) {
		_, _ = fmt.Fprintf(out, "\n%s\n", out.heading(fmt.Sprintf("%s of attempt %d", title, evidence.Attempt)))
	}
	if len(evidence.Events) > 0 {
		section("Warning events")
		for _, event := range evidence.Events {
			times := ""
			if event.Count > 1 {
				times = fmt.Sprintf(" (%d times)", event.Count)
			}
			_, _ = fmt.Fprintf(out, "  %s %s%s: %s\n", event.At.Local().Format("15:04:05"), printable(event.Reason), times, printable(event.Message))
		}
	}
	if len(evidence.LastLines) > 0 {
		section("Last lines of the log")
		for _, line := range evidence.LastLines {
			_, _ = fmt.Fprintf(out, "%s\n", strings.TrimRight("  "+printable(strings.ReplaceAll(line, "\t", "    ")), " "))
		}
	}
	if evidence.Missing != "" {
		_, _ = fmt.Fprintf(out, "\n%s\n", printable(evidence.Missing))
	}
}

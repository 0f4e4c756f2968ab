package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/ropewalk/ropewalk/internal/run"
)

func TestStateMachinePageHasTheWholeTable(t *testing.T) {
	var page bytes.Buffer
	if err := writeStateMachine(&page); err != nil {
		t.Fatal(err)
	}
	drawn := map[[2]run.State]bool{}
	for line := range strings.Lines(page.String()) {
		if from, to, arrow := strings.Cut(strings.TrimSpace(line), " --> "); arrow {
			drawn[[2]run.State{run.State(from), run.State(to)}] = true
		}
	}
	const outside = run.State("[*]")
	for _, from := range run.States() {
		for _, to := range run.States() {
			if drawn[[2]run.State{from, to}] != from.CanBecome(to) {
				t.Errorf("%s to %s: drawn %v, allowed %v", from, to, drawn[[2]run.State{from, to}], from.CanBecome(to))
			}
		}
		if drawn[[2]run.State{from, outside}] != from.Final() {
			t.Errorf("%s: final %v, drawn otherwise", from, from.Final())
		}
		if !strings.Contains(page.String(), "| `"+string(from)+"` | "+from.Meaning()) {
			t.Errorf("%s has no row", from)
		}
	}
	for _, reason := range run.Reasons() {
		if !strings.Contains(page.String(), "| `"+string(reason)+"` | "+reason.Happened()+" | "+reason.ToDo()) {
			t.Errorf("%s has no row", reason)
		}
	}
}

//go:build e2e

package e2e

import (
	"syscall"
	"testing"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// TestDeathBetweenAnyTwoSteps has a dispatcher kill itself right after each
// step of a run's way. Another one must bring the run to its end as if nothing
// had happened.
func TestDeathBetweenAnyTwoSteps(t *testing.T) {
	for _, point := range []string{"claimed", "resolved", "launched", "recorded", "finished", "final-recorded", "acked"} {
		t.Run(point, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, limitedTo("1").With(rig.Settings{"ROPEWALK_ACK_WAIT": "2s"}))
			doomed := w.start(parts.faulty, rig.Settings{"FAULT_POINT": point})
			must(t, doomed.Ready(wait.Context(t, "the doomed dispatcher to be ready")))
			w.watchRecords()

			runs := load{ids: []string{"first", "second"}, code: map[string]int{"first": failing, "second": 0}}
			w.publish("default", "first", script("sleep 0.5; exit 3"))
			w.publish("default", "second", script("exit 0"))
			_, err := doomed.Exit(wait.Context(t, "the doomed dispatcher to die"))
			must(t, err)
			if signal := doomed.KilledBy(); signal != syscall.SIGKILL {
				t.Fatalf("the dispatcher should have killed itself, but ended by signal %d", signal)
			}
			w.serve(1)
			w.awaitFinal(runs.ids)
			w.check(runs)
			w.checkLimit("", 1)
		})
	}
}

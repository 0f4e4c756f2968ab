//go:build e2e

package e2e

import (
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/test/rig"
)

// limit is that of the default queue in the tests under load: a prime, so that
// no replica's share of it comes out even.
const limit = 7

func limitedTo(limit string) rig.Settings {
	return rig.Settings{"ZENML_SERVER_MAX_CONCURRENT_TEMPLATE_RUNS": limit}
}

func TestEveryRunEndsOnceWithinTheLimit(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("7"))
	replicas := w.serve(3)
	runs := w.publishLoad("default", 200, 100*time.Millisecond, 2*time.Second)
	w.awaitFinal(8*time.Minute, runs.ids)
	w.check(runs)
	w.checkLimit("", limit)
	for _, d := range replicas {
		// The Role that ships is all that this account has.
		log, err := os.ReadFile(d.Log)
		must(t, err)
		if strings.Contains(strings.ToLower(string(log)), "forbidden") {
			t.Errorf("a dispatcher needs more than the Role that ships: %s", log)
		}
	}
}

func TestQueuesHaveLimitsOfTheirOwn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("3").With(rig.Settings{"ROPEWALK_QUEUES": "gpu=1,batch=4"}))
	w.serve(2)
	runs := load{code: map[string]int{}}
	for _, queue := range []string{"default", "gpu", "batch"} {
		more := w.publishLoad(queue, 12, time.Second, 2*time.Second)
		runs.ids = append(runs.ids, more.ids...)
		maps.Copy(runs.code, more.code)
	}
	w.awaitFinal(6*time.Minute, runs.ids)
	w.check(runs)
	w.checkLimit("default", 3)
	w.checkLimit("gpu", 1)
	w.checkLimit("batch", 4)
}

func TestLimitChangesWhileRunsGoOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("2"))
	w.serve(2)
	runs := w.publishLoad("default", 40, time.Second, 2*time.Second)
	active := func(n int) func(rig.Counts) bool {
		return func(counts rig.Counts) bool { return counts.Active == n }
	}
	must(t, w.observer.Await(w.within(2*time.Minute), "", active(2)))

	w.setLimit("6")
	must(t, w.observer.Await(w.within(2*time.Minute), "", active(6)))
	w.checkLimit("", 6)

	w.setLimit("1")
	// What was launched before goes on to its end.
	must(t, w.observer.Await(w.within(2*time.Minute), "", func(c rig.Counts) bool { return c.Active <= 1 }))
	w.observer.ResetMost()
	created := w.observer.Counts("").Created
	must(t, w.observer.Await(w.within(3*time.Minute), "", func(c rig.Counts) bool { return c.Created >= created+3 }))
	w.checkLimit("", 1)

	w.setLimit("5")
	w.awaitFinal(6*time.Minute, runs.ids)
	w.check(runs)
	w.checkLimit("", 5)
}

// setLimit changes the limit of the default queue as a user would.
func (w *world) setLimit(limit string) {
	w.t.Helper()
	if a := w.command("queue", "set", "default", "--concurrency", limit); a.code != 0 {
		w.t.Fatalf("queue set: exit code %d: %s", a.code, a.stderr)
	}
}

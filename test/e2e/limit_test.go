//go:build e2e

package e2e

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
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
	w := newWorld(t, limitedTo("7").With(gated()))
	replicas := w.serve(3)
	runs := w.publishLoad("default", 100, 100*time.Millisecond, 2*time.Second, span(0, limit)...)
	w.fill("", limit, runs.ids)
	w.awaitFinal(runs.ids)
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
	w := newWorld(t, limitedTo("3").With(gated()).With(rig.Settings{"ROPEWALK_QUEUES": "gpu=1,batch=4"}))
	w.serve(2)
	limits := map[string]int{"default": 3, "gpu": 1, "batch": 4}
	runs := load{code: map[string]int{}}
	first := map[string][]string{}
	for queue, limit := range limits {
		more := w.publishLoad(queue, 12, 500*time.Millisecond, 2*time.Second, span(0, limit)...)
		first[queue] = more.ids
		runs.ids = append(runs.ids, more.ids...)
		maps.Copy(runs.code, more.code)
	}
	// All are full at the same time: none takes from another's limit.
	for queue, limit := range limits {
		w.awaitJobs(queue, "as many Jobs as the limit allows", func(c rig.Counts) bool { return c.Active >= limit })
	}
	for queue, limit := range limits {
		w.letGo(first[queue][:limit]...)
	}
	w.awaitFinal(runs.ids)
	w.check(runs)
	for queue, limit := range limits {
		w.checkLimit(queue, limit)
	}
}

// What takes up a limit is held until the next limit is in force, so that the
// numbers say which limit was kept, and not how fast runs come and go.
func TestLimitChangesWhileRunsGoOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("2").With(gated()))
	w.serve(2)
	runs := w.publishLoad("default", 24, 500*time.Millisecond, 2*time.Second, slices.Concat(span(0, 6), span(14, 19))...)
	active := func(n int) {
		t.Helper()
		w.awaitJobs("", fmt.Sprintf("%d active Jobs", n), func(counts rig.Counts) bool { return counts.Active >= n })
		w.checkLimit("", n)
	}
	active(2)
	w.setLimit(6)
	active(6)

	w.setLimit(1)
	w.letGo(runs.ids[:6]...)
	// What was launched before goes on to its end.
	w.awaitJobs("", "the Jobs under the old limit to end", func(c rig.Counts) bool { return c.Active <= 1 })
	w.observer.ResetMost()
	created := w.observer.Counts("").Created
	w.awaitJobs("", "three more Jobs", func(c rig.Counts) bool { return c.Created >= created+3 })
	w.checkLimit("", 1)

	w.setLimit(5)
	active(5)
	w.letGo(runs.ids[14:19]...)
	w.awaitFinal(runs.ids)
	w.check(runs)
	w.checkLimit("", 5)
}

// setLimit changes the limit of the default queue as a user would, and waits
// until the dispatchers have heard of it.
func (w *world) setLimit(limit int) {
	w.t.Helper()
	if a := w.command("queue", "set", "default", "--concurrency", strconv.Itoa(limit)); a.code != 0 {
		w.t.Fatalf("queue set: exit code %d: %s", a.code, a.stderr)
	}
	ctx := wait.Context(w.t, "the new limit to be in force")
	must(w.t, rig.Poll(ctx, 20*time.Millisecond, func() error {
		consumer, err := w.js.Consumer(ctx, "RUNS", "dispatch-default")
		if err == nil && consumer.CachedInfo().Config.MaxAckPending != limit {
			err = fmt.Errorf("the server lets %d be under way", consumer.CachedInfo().Config.MaxAckPending)
		}
		return err
	}))
}

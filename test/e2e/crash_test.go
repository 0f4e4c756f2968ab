//go:build e2e

package e2e

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/test/rig"
)

// ackWait is shorter than its default in the tests that kill dispatchers, so
// that orphans do not wait most of the test's time to be adopted. What is
// demanded is relative to it.
const ackWait = 5 * time.Second

// slack is how much longer than the AckWait an adoption may take.
const slack = 2 * time.Second

// kill is the sudden end of a dispatcher.
type kill struct {
	at   time.Time
	dead *rig.Dispatcher
	// orphans are the runs that it held.
	orphans []string
}

func TestRandomDispatcherKilledEveryThreeSeconds(t *testing.T) {
	w := newWorld(t, limitedTo("7").With(rig.Settings{"ROPEWALK_ACK_WAIT": ackWait.String()}))
	replicas := w.serve(3)
	runs := w.publishLoad("default", 200, 100*time.Millisecond, 2*time.Second)

	over, finished := context.WithCancel(t.Context())
	var kills []kill
	var killer sync.WaitGroup
	killer.Go(func() { kills = w.killUntil(over, replicas) })
	stop := func() {
		finished()
		killer.Wait()
	}
	t.Cleanup(stop)
	w.awaitFinal(8*time.Minute, runs.ids)
	stop()

	w.check(runs)
	w.checkLimit("", limit)
	w.checkAdoptions(kills)
}

// killUntil kills one of the replicas every three seconds, and starts another
// in its place, until the context ends. The replicas are changed in place.
func (w *world) killUntil(ctx context.Context, replicas []*rig.Dispatcher) (kills []kill) {
	ticker := time.NewTicker(3 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return kills
		}
		victim := rand.IntN(len(replicas))
		dead := replicas[victim]
		dead.Kill()
		kills = append(kills, kill{at: time.Now(), dead: dead, orphans: w.owned(dead)})
		next, err := w.start(parts.dispatcher, nil)
		if err != nil {
			w.t.Error(err)
			return kills
		}
		replicas[victim] = next
	}
}

// checkAdoptions demands that every orphan had another owner, or was over, soon
// enough after its dispatcher's death.
//
// Whoever takes an orphan may be killed in the moment between being given the
// message and putting its name on the record; then the wait begins anew. That
// is excused where a kill did fall into the wait, but it must stay rare.
func (w *world) checkAdoptions(kills []kill) {
	w.t.Helper()
	var waits []time.Duration
	excused := 0
	for i, k := range kills {
		for _, id := range k.orphans {
			wait, ok := w.adopted(id, k)
			if !ok {
				w.t.Errorf("run %s was never adopted from process %d", id, k.dead.Pid())
				continue
			}
			waits = append(waits, wait)
			if wait <= ackWait+slack {
				continue
			}
			again := slices.ContainsFunc(kills[i+1:], func(later kill) bool {
				since := later.at.Sub(k.at)
				return since <= ackWait+slack && wait-since <= ackWait+slack
			})
			if excused++; !again || excused > 2 {
				w.t.Errorf("run %s was adopted from process %d after %s, want at most %s", id, k.dead.Pid(), wait, ackWait+slack)
			}
		}
	}
	if len(waits) == 0 {
		w.t.Fatalf("of %d kills none left an orphan, so nothing is shown", len(kills))
	}
	slices.Sort(waits)
	w.t.Logf("%d kills left %d orphans, adopted within %s at the median and %s at most; %d waited twice",
		len(kills), len(waits), waits[len(waits)/2], waits[len(waits)-1], excused)
}

// adopted tells how long after the kill the record had another owner.
func (w *world) adopted(id string, k kill) (time.Duration, bool) {
	for _, update := range w.records.Updates(id) {
		if update.At.After(k.at) && !owns(k.dead, update.Record.Owner) {
			return update.At.Sub(k.at), true
		}
	}
	return 0, false
}

func TestNATSServerKilledTwice(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("7"))
	w.serve(3)
	runs := w.publishLoad("default", 60, 100*time.Millisecond, 2*time.Second)
	for _, done := range []int{15, 35} {
		must(t, w.records.Await(w.within(2*time.Minute), func(records map[string]rig.Record) bool {
			final := 0
			for _, record := range records {
				if record.Final() {
					final++
				}
			}
			return final >= done
		}))
		w.nats.Kill()
		// Runs end meanwhile, which the dispatchers must remember.
		ended := w.ended()
		must(t, w.observer.Await(w.within(time.Minute), "", func(rig.Counts) bool { return w.ended() >= ended+3 }))
		must(t, w.nats.Start(w.within(time.Minute)))
	}
	w.awaitFinal(3*time.Minute, runs.ids)
	w.check(runs)
	w.checkLimit("", limit)
}

func TestAPIServerStoppedForTenSeconds(t *testing.T) {
	pid := apiServer(t)
	w := newWorld(t, limitedTo("7"))
	w.serve(3)
	runs := w.publishLoad("default", 60, 100*time.Millisecond, 2*time.Second)
	must(t, w.records.Await(w.within(time.Minute), func(records map[string]rig.Record) bool {
		return len(records) >= 20
	}))
	pause(t, pid, 10*time.Second)
	w.awaitFinal(3*time.Minute, runs.ids)
	w.check(runs)
	w.checkLimit("", limit)
}

func TestStoppedReplicaHandsOverAtOnce(t *testing.T) {
	w := newWorld(t, limitedTo("9"))
	replicas := w.serve(3)
	runs := w.publishLoad("default", 45, 3*time.Second, 6*time.Second)
	for i, d := range replicas {
		// Every replica shall have something to hand over.
		must(t, w.records.Await(w.within(time.Minute), func(map[string]rig.Record) bool { return len(w.owned(d)) > 0 }))
		stopped := kill{at: time.Now(), dead: d, orphans: w.owned(d)}
		must(t, d.Signal(syscall.SIGTERM))
		code, err := d.Exit(w.within(10 * time.Second))
		must(t, err)
		if code != 0 {
			t.Errorf("replica %d ended with exit code %d", i, code)
		}
		must(t, w.records.Await(w.within(2*time.Minute), func(map[string]rig.Record) bool { return len(w.owned(d)) == 0 }))
		w.checkHandOver(stopped)
		replicas[i] = w.serve(1)[0]
	}
	w.awaitFinal(6*time.Minute, runs.ids)
	w.check(runs)
	w.checkLimit("", 9)
}

// checkHandOver demands that every run that the stopped replica held had
// another owner within two seconds, or was over.
func (w *world) checkHandOver(stopped kill) {
	w.t.Helper()
	for _, id := range stopped.orphans {
		wait, ok := w.adopted(id, stopped)
		switch record := w.records.Now()[id]; {
		case ok && wait > slack:
			w.t.Errorf("run %s was handed over after %s, want at most %s", id, wait, slack)
		case ok:
			w.t.Logf("run %s was handed over after %s", id, wait)
		case !record.Final():
			w.t.Errorf("run %s was not handed over", id)
		}
	}
}

// ended counts the Jobs that are over.
func (w *world) ended() int {
	counts := w.observer.Counts("")
	return counts.Created - counts.Active
}

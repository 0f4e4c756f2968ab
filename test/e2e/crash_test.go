//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// ackWait is shorter than its default in the tests that kill dispatchers, so
// that orphans do not wait most of the test's time to be adopted. A sign of life
// that comes late has the run delivered twice, which every test must bear.
const ackWait = 5 * time.Second

// kill is the sudden end of a dispatcher.
type kill struct {
	at   time.Time
	dead *rig.Dispatcher
	// orphans are the runs that it held.
	orphans []string
}

// A dispatcher is killed at random whenever five more runs are over: about every
// three seconds, and seldom enough on every machine that the others get on.
func TestRandomDispatcherIsKilledAgainAndAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("7").With(gated()).With(rig.Settings{"ROPEWALK_ACK_WAIT": ackWait.String()}))
	replicas := w.serve(3)
	runs := w.publishLoad("default", 200, 100*time.Millisecond, 2*time.Second, span(0, limit)...)
	w.fill("", limit, runs.ids)
	var kills []kill
	for w.awaitMore(runs.ids, 5) {
		victim := rand.IntN(len(replicas))
		dead := replicas[victim]
		dead.Kill()
		kills = append(kills, kill{at: time.Now(), dead: dead, orphans: w.owned(dead)})
		replicas[victim] = w.start(parts.dispatcher, nil)
	}
	w.awaitFinal(runs.ids)

	w.check(runs)
	w.checkLimit("", limit)
	w.checkAdoptions(kills)
}

// checkAdoptions demands that every orphan had another owner after its
// dispatcher's death, and that the server waits for AckWait and no longer. How long
// it took is for people to read: the machine adds to it.
func (w *world) checkAdoptions(kills []kill) {
	w.t.Helper()
	consumer, err := w.js.Consumer(w.call(), "RUNS", "dispatch-default")
	must(w.t, err)
	if got := consumer.CachedInfo().Config.AckWait; got != ackWait {
		w.t.Errorf("the server waits %s for a sign of a dispatcher, want %s", got, ackWait)
	}
	var waits []time.Duration
	for _, k := range kills {
		for _, id := range k.orphans {
			switch wait, adopted := w.adopted(id, k); {
			case adopted:
				waits = append(waits, wait)
			case w.records.Now()[id].Final():
				// The dead one wrote the end before it died, and only the
				// news of it came after.
			default:
				w.t.Errorf("run %s was never adopted from process %d", id, k.dead.Pid())
			}
		}
	}
	if len(waits) == 0 {
		w.t.Fatalf("of %d kills none left an orphan, so nothing is shown", len(kills))
	}
	slices.Sort(waits)
	w.t.Logf("%d kills left %d orphans, adopted within %s at the median and %s at most",
		len(kills), len(waits), waits[len(waits)/2], waits[len(waits)-1])
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
	w := newWorld(t, limitedTo("7").With(gated()))
	w.serve(3)
	runs := w.publishLoad("default", 60, 100*time.Millisecond, 2*time.Second, slices.Concat(span(0, limit), span(30, 33))...)
	w.awaitJobs("", "as many Jobs as the limit allows", func(c rig.Counts) bool { return c.Active >= limit })
	w.letGo(runs.ids[3:limit]...)
	for _, death := range []struct {
		after int
		held  []string
	}{{15, runs.ids[:3]}, {35, runs.ids[30:33]}} {
		w.awaitRecords(fmt.Sprintf("%d runs to be over, and three that are held to run", death.after), func(records map[string]rig.Record) bool {
			run := func(id string) bool { return records[id].State == "running" }
			return ended(records, runs.ids) >= death.after && run(death.held[0]) && run(death.held[1]) && run(death.held[2])
		})
		w.nats.Kill()
		// Runs end meanwhile, which the dispatchers must remember.
		w.letGo(death.held...)
		w.awaitJobs("", "runs to end while NATS is away", func(rig.Counts) bool { return w.jobsEnded(death.held) })
		must(t, w.nats.Start(wait.Context(t, "nats-server to be back")))
	}
	w.awaitFinal(runs.ids)
	w.check(runs)
	w.checkLimit("", limit)
}

// jobsEnded reports whether each of the runs had a Job that is over.
func (w *world) jobsEnded(ids []string) bool {
	over := map[string]bool{}
	for _, job := range w.observer.Jobs() {
		over[job.RunID] = !job.EndedAt.IsZero()
	}
	return !slices.ContainsFunc(ids, func(id string) bool { return !over[id] })
}

// It is alone: it stops the API server.
func TestAPIServerStoppedForTenSeconds(t *testing.T) {
	pid := apiServer(t)
	w := newWorld(t, limitedTo("7").With(gated()))
	w.serve(3)
	runs := w.publishLoad("default", 60, 100*time.Millisecond, 2*time.Second, span(0, limit)...)
	w.fill("", limit, runs.ids)
	w.awaitRecords("20 runs to have begun", func(records map[string]rig.Record) bool { return len(records) >= 20 })
	pause(t, pid, 10*time.Second)
	w.awaitFinal(runs.ids)
	w.check(runs)
	w.checkLimit("", limit)
}

// The AckWait is longer than anything is waited for here, so that another
// dispatcher can have a run only because it was handed over.
func TestStoppedReplicaHandsOverAtOnce(t *testing.T) {
	t.Parallel()
	const limit, all = 9, 27
	w := newWorld(t, limitedTo(fmt.Sprint(limit)).With(gated()).With(rig.Settings{"ROPEWALK_ACK_WAIT": (2 * wait.Limit).String()}))
	replicas := w.serve(3)
	runs := w.publishLoad("default", all, 0, 0, span(0, all)...)
	w.awaitJobs("", "as many Jobs as the limit allows", func(c rig.Counts) bool { return c.Active >= limit })
	gone := 0
	for i, d := range replicas {
		// Every replica shall have something to hand over. Which one takes a
		// run is chance: a place is made until this one has taken some.
		for ; len(w.owned(d)) == 0; gone++ {
			if gone+limit == all {
				t.Fatalf("of %d runs, replica %d took none", all, i)
			}
			w.letGo(runs.ids[gone])
			w.over(runs.ids[gone])
			w.awaitRun(runs.ids[gone+limit], "the next run's Job", func(r rig.Record) bool { return r.Job != nil })
		}
		stopped := kill{at: time.Now(), dead: d, orphans: w.owned(d)}
		must(t, d.Signal(syscall.SIGTERM))
		code, err := d.Exit(wait.Context(t, "a dispatcher to end that was asked to"))
		must(t, err)
		if code != 0 {
			t.Errorf("replica %d ended with exit code %d", i, code)
		}
		w.awaitRecords("all runs of a stopped replica to be handed over", func(map[string]rig.Record) bool { return len(w.owned(d)) == 0 })
		w.checkHandOver(stopped)
		replicas[i] = w.serve(1)[0]
	}
	w.letGo(runs.ids[gone:]...)
	w.awaitFinal(runs.ids)
	w.check(runs)
	w.checkLimit("", limit)
}

// checkHandOver demands that every run that the stopped replica held had another
// owner: none can have ended, since they are held.
func (w *world) checkHandOver(stopped kill) {
	w.t.Helper()
	for _, id := range stopped.orphans {
		if wait, ok := w.adopted(id, stopped); ok {
			w.t.Logf("run %s was handed over after %s", id, wait)
		} else {
			w.t.Errorf("run %s was not handed over", id)
		}
	}
}

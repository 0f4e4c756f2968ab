package dispatch_test

import (
	"context"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/dispatch"
	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/run"
)

func cancellation(id string) run.Cancellation {
	return run.Cancellation{Queue: "default", ID: id, Attempt: 1, RequestedAt: time.Now()}
}

func (w *world) jobs() int {
	w.cluster.mu.Lock()
	defer w.cluster.mu.Unlock()
	return len(w.cluster.jobs)
}

func (w *world) isCancelled(id string) {
	w.t.Helper()
	record := w.record(id)
	if record.State != run.Cancelled || record.Reason != run.CancelledByUser || !strings.Contains(record.Message, "cancelled") || record.FinishedAt == nil {
		w.t.Errorf("the record is %+v", record)
	}
	if w.jobs() != 0 {
		w.t.Errorf("%d Jobs are left", w.jobs())
	}
}

func TestARunUnderWayIsStoppedAndThenCancelled(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dispatcher := w.dispatcher("one")
	decision := begin(t.Context(), dispatcher, delivery(t, "r", nil))
	w.until("r", inState(run.Pending))
	w.cluster.show(t, "r", run.Observation{State: run.Running, StartedAt: time.Now().UTC()})
	w.until("r", inState(run.Running))
	if err := dispatcher.Cancel(t.Context(), cancellation("r")); err != nil {
		t.Fatal(err)
	}
	decided(t, decision, run.Done)
	w.isCancelled("r")
	// Once more, and a late delivery, change nothing.
	if err := dispatcher.Cancel(t.Context(), cancellation("r")); err != nil {
		t.Error(err)
	}
	decided(t, begin(t.Context(), dispatcher, delivery(t, "r", nil)), run.Done)
	w.isCancelled("r")
}

func TestARunCancelledWhileItWaitsNeverStarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := queue.Publish(t.Context(), w.js, run.Request{Version: 1, ID: "r", Queue: "default", Command: []string{"true"}, SecretEnv: map[string]run.Secret{"A": "b"}}); err != nil {
		t.Fatal(err)
	}
	dispatcher := w.dispatcher("one")
	if err := dispatcher.Cancel(t.Context(), cancellation("r")); err != nil {
		t.Fatal(err)
	}
	w.isCancelled("r")
	if _, err := w.queue.Find(t.Context(), "default", "r", 1); err == nil {
		t.Error("the message is still in the queue")
	}
	// Whoever was handed the message all the same finds the run over.
	decided(t, begin(t.Context(), w.dispatcher("two"), delivery(t, "r", nil)), run.Done)
	if w.cluster.launches("r") != 0 {
		t.Error("the run was launched")
	}
	if w.record("r").Request == nil {
		t.Error("the request is not on record for a replay")
	}
}

func TestARunCancelledBeforeItIsTakenUpIsNotLaunched(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dispatcher := w.dispatcher("one")
	// No message is found: a dispatcher has just been handed it.
	if err := dispatcher.Cancel(t.Context(), cancellation("r")); err != nil {
		t.Fatal(err)
	}
	decided(t, begin(t.Context(), dispatcher, delivery(t, "r", nil)), run.Done)
	w.isCancelled("r")
	if w.cluster.launches("r") != 0 {
		t.Error("the run was launched")
	}
}

func TestALaterAttemptIsNotCancelledByAnOldWish(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dispatcher := w.dispatcher("one")
	if err := dispatcher.Cancel(t.Context(), cancellation("r")); err != nil {
		t.Fatal(err)
	}
	decided(t, begin(t.Context(), dispatcher, delivery(t, "r", nil)), run.Done)
	next := delivery(t, "r", nil)
	next.Attempt, next.Sequence = 2, 2
	decision := begin(t.Context(), dispatcher, next)
	w.until("r", func(record run.Run) bool { return record.State == run.Pending && record.Attempt == 2 })
	w.cluster.jobs[run.JobName("r", 2)].changes <- run.Observation{State: run.Succeeded}
	decided(t, decision, run.Done)
}

// The message of a cancelled attempt comes again, because its dispatcher died
// before it had acknowledged it, when the run is wanted again.
func TestAReplayIsNotCancelledByTheWishBefore(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dispatcher := w.dispatcher("one")
	if err := dispatcher.Cancel(t.Context(), cancellation("r")); err != nil {
		t.Fatal(err)
	}
	first := delivery(t, "r", nil)
	decided(t, begin(t.Context(), dispatcher, first), run.Done)
	if err := dispatcher.Due(t.Context(), run.Due{Queue: "default", ID: "r", Attempt: 2}); err != nil {
		t.Fatal(err)
	}
	first.Redelivered = 1
	decided(t, begin(t.Context(), dispatcher, first), run.Done)
	if record := w.record("r"); record.State != run.Queued || record.Attempt != 2 {
		t.Errorf("the record is %+v", record)
	}
}

// The dispatcher that holds the run is killed at each step; the one that comes
// after it brings the cancellation to its end, and no Job is left.
func TestACancellationOutlivesTheDispatcher(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"claimed", "resolved", "launched", "recorded", "unlaunched"} {
		t.Run("killed after "+point, func(t *testing.T) {
			w := newWorld(t)
			w.config = func(config *dispatch.Config) {
				if config.Owner == "one" {
					config.Fault = func(passed string) {
						if passed == point {
							runtime.Goexit()
						}
					}
				}
			}
			first := w.dispatcher("one")
			crashed := begin(t.Context(), first, delivery(t, "r", nil))
			if point == "unlaunched" {
				w.until("r", inState(run.Pending))
				if err := first.Cancel(t.Context(), cancellation("r")); err != nil {
					t.Fatal(err)
				}
			}
			decided(t, crashed, "")
			second := w.dispatcher("two")
			if err := second.Cancel(t.Context(), cancellation("r")); err != nil {
				t.Fatal(err)
			}
			decided(t, begin(t.Context(), second, delivery(t, "r", nil)), run.Done)
			w.isCancelled("r")
		})
	}
}

// lateWish is where attempts wait; once one does, and before its dispatcher has
// let go of the run, somebody wishes the run stopped.
type lateWish struct {
	*queue.Due
	wish func()
}

func (l *lateWish) Schedule(ctx context.Context, due run.Due, at time.Time) error {
	err := l.Due.Schedule(ctx, due, at)
	l.wish()
	return err
}

func TestARunCancelledJustAsItsRetryIsScheduledDoesNotWaitForIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	late := &lateWish{Due: w.later}
	w.config = func(config *dispatch.Config) { config.Later = late }
	dispatcher := w.dispatcher("one")
	late.wish = func() {
		if err := dispatcher.Cancel(t.Context(), cancellation("r")); err != nil {
			t.Error(err)
		}
	}
	decision := begin(t.Context(), dispatcher, delivery(t, "r", func(r *run.Request) { r.Retry = run.Retry{Attempts: 2, First: run.Duration(time.Hour)} }))
	w.until("r", inState(run.Pending))
	w.cluster.show(t, "r", failing(run.AppError, 3))
	decided(t, decision, run.Done)
	if record := w.record("r"); record.State != run.Cancelled || record.Attempt != 2 {
		t.Errorf("the record is %+v", record)
	}
}

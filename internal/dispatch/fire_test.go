package dispatch_test

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/dispatch"
	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

// noon is a time of a schedule, and hour what lies between two.
var (
	noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	hour = time.Hour
)

// scheduling is a schedule on a real server, and a dispatcher that runs it.
type scheduling struct {
	*world
	schedules  *queue.Schedules
	dispatcher *dispatch.Dispatcher
	late       atomic.Int64 // how long after noon it is
}

func newScheduling(t *testing.T, change func(*run.Schedule)) *scheduling {
	t.Helper()
	w := newWorld(t)
	schedules, err := queue.CreateSchedules(t.Context(), w.js, 1)
	if err != nil {
		t.Fatal(err)
	}
	s := &scheduling{world: w, schedules: schedules}
	w.config = func(config *dispatch.Config) {
		config.Now = func() time.Time { return noon.Add(time.Duration(s.late.Load())) }
		config.Schedules = struct {
			*queue.Schedules
			*queue.Cancellations
		}{schedules, w.queue}
	}
	s.dispatcher = w.dispatcher("one")
	schedule := run.Schedule{
		Name: "s", Cron: "@yearly", Overlap: run.SkipOverlap,
		Request: run.Request{Version: 1, Queue: "default", Command: []string{"true"}, SecretEnv: map[string]run.Secret{"TOKEN": "hunter2"}},
	}
	change(&schedule)
	if _, err := schedules.Create(t.Context(), schedule); err != nil {
		t.Fatal(err)
	}
	return s
}

// fire lets a time come, as the schedule stands, and returns it as it is then.
func (s *scheduling) fire(at time.Time) run.Schedule {
	s.t.Helper()
	before := s.schedule()
	if err := s.dispatcher.Fire(s.t.Context(), before, at); err != nil {
		s.t.Fatal(err)
	}
	return s.schedule()
}

func (s *scheduling) schedule() run.Schedule {
	s.t.Helper()
	schedule, err := s.schedules.Get(s.t.Context(), "s")
	if err != nil {
		s.t.Fatal(err)
	}
	return schedule
}

// waiting counts the messages on the queue.
func (s *scheduling) waiting() uint64 {
	s.t.Helper()
	stream, err := s.js.Stream(s.t.Context(), queue.Stream)
	if err != nil {
		s.t.Fatal(err)
	}
	return stream.CachedInfo().State.Msgs
}

func TestATimeThatComesTwiceIsOneRun(t *testing.T) {
	t.Parallel()
	s := newScheduling(t, func(*run.Schedule) {})
	stale := s.schedule()
	first := s.fire(noon)
	if first.Run != "s-20260131t120000z" || first.Started != 1 || first.Last.Outcome != run.FiringStarted {
		t.Errorf("the schedule is %+v", first)
	}
	if message := s.queued("s-20260131t120000z", 1); !strings.Contains(string(message.Data), "hunter2") {
		t.Error("the run has lost its secrets")
	}
	s.fire(noon)
	// As it is after a crash between the queue and the note: nobody knows yet.
	if err := s.dispatcher.Fire(t.Context(), stale, noon); err != nil {
		t.Fatal(err)
	}
	if after := s.schedule(); after.Started != 1 || s.waiting() != 1 {
		t.Errorf("it ran %d times, and %d runs wait", after.Started, s.waiting())
	}
}

func TestTheRunBeforeDecidesWhatBecomesOfATime(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		overlap run.Overlap
		before  run.State // of the run before
		want    run.Outcome
		cancels bool
	}{
		"skip, it waits":     {run.SkipOverlap, run.Queued, run.FiringSkipped, false},
		"skip, it runs":      {run.SkipOverlap, run.Running, run.FiringSkipped, false},
		"skip, it is over":   {run.SkipOverlap, run.Succeeded, run.FiringStarted, false},
		"allow, it runs":     {run.AllowOverlap, run.Running, run.FiringStarted, false},
		"replace, it waits":  {run.ReplaceOverlap, run.Queued, run.FiringStarted, true},
		"replace, it runs":   {run.ReplaceOverlap, run.Running, run.FiringStarted, true},
		"replace, it failed": {run.ReplaceOverlap, run.Failed, run.FiringStarted, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScheduling(t, func(schedule *run.Schedule) { schedule.Overlap = test.overlap })
			before := s.fire(noon).Run
			if test.before != run.Queued {
				decision := begin(t.Context(), s.dispatcher, s.queued(before, 1))
				s.until(before, inState(run.Pending))
				s.cluster.show(t, before, run.Observation{State: test.before, Reason: map[bool]run.Reason{true: run.AppError}[test.before == run.Failed]})
				s.until(before, inState(test.before))
				if test.before.Final() {
					decided(t, decision, run.Done)
				}
			}
			s.late.Store(int64(hour))
			after := s.fire(noon.Add(hour))
			if after.Last.Outcome != test.want || !after.Last.At.Equal(noon.Add(hour)) {
				t.Errorf("the second time came to %+v; want %s", after.Last, test.want)
			}
			if test.want == run.FiringSkipped && (after.Run != before || after.Last.Run != before || !strings.Contains(after.Last.Message, before)) {
				t.Errorf("skipped, the schedule is %+v", after)
			}
			if got := s.cancelled(before); got != test.cancels {
				t.Errorf("the run before was asked to stop: %v; want %v", got, test.cancels)
			}
		})
	}
}

// cancelled reports whether somebody has asked for a run to be stopped.
func (s *scheduling) cancelled(id string) bool {
	s.t.Helper()
	bucket, err := s.js.KeyValue(s.t.Context(), queue.CancellationBucket)
	if err != nil {
		s.t.Fatal(err)
	}
	_, err = bucket.Get(s.t.Context(), "default."+id)
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		s.t.Fatal(err)
	}
	return err == nil
}

func TestATimeThatIsTooLateIsPassedOver(t *testing.T) {
	t.Parallel()
	s := newScheduling(t, func(schedule *run.Schedule) { schedule.Within = run.Duration(10 * time.Minute) })
	s.late.Store(int64(11 * time.Minute))
	if late := s.fire(noon); late.Last.Outcome != run.FiringMissed || !strings.Contains(late.Last.Message, "11m0s late") || late.Run != "" || s.waiting() != 0 {
		t.Errorf("11 minutes late, the schedule is %+v", late.Last)
	}
	s.late.Store(int64(hour + 9*time.Minute))
	if late := s.fire(noon.Add(hour)); late.Last.Outcome != run.FiringStarted || late.Passed != 1 {
		t.Errorf("9 minutes late, the schedule is %+v", late)
	}
}

func TestAScheduleSaysWhyItsQueueTakesNoRun(t *testing.T) {
	t.Parallel()
	s := newScheduling(t, func(schedule *run.Schedule) { schedule.Request.Queue = "gone" })
	if after := s.fire(noon); after.Last.Outcome != run.FiringRefused || !strings.Contains(after.Last.Message, "no such queue") {
		t.Errorf("the schedule is %+v", after.Last)
	}
}

func TestAQueuesPolicyIsThatOfItsRuns(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config = func(config *dispatch.Config) { config.Images = asked{w} }
	launches := make(chan run.Launch, 10)
	w.cluster.check = func(launch run.Launch) error { launches <- launch; return nil }
	policy := run.Policy{
		Namespace: "team", Timeout: run.Duration(time.Hour), ImageAllow: []string{"a/**"}, ImageDeny: []string{"b"},
		Retry: run.Retry{Attempts: 2, First: run.Duration(time.Second)}, MayOverride: []string{"retry"},
	}
	message := delivery(t, "r", nil)
	message.Policy = &policy
	decision := begin(t.Context(), w.dispatcher("one"), message)
	w.until("r", inState(run.Pending))
	launch := wait.Receive(t, "launch", launches)
	if launch.Timeout() != run.Duration(time.Hour) || launch.Policy.Namespace != "team" || launch.Request.Timeout != 0 {
		t.Errorf("the launch is %+v", launch)
	}
	if got := w.record("r"); got.Namespace != "team" || got.Image != "busybox@a/** b" {
		t.Errorf("the record is %+v", got)
	}
	w.cluster.show(t, "r", failing(run.AppError, 3))
	decided(t, decision, run.Done)
	if waits := w.record("r"); waits.State != run.Queued || waits.Spent.Retries != 1 {
		t.Errorf("without a retry of its own the run is %+v", waits)
	}
	strict := delivery(t, "strict", func(r *run.Request) { r.Timeout = run.Duration(time.Minute) })
	strict.Policy = &policy
	decided(t, begin(t.Context(), w.dispatcher("one"), strict), run.Reject)
	if refused := w.record("strict"); refused.Reason != run.PolicyRefused || !strings.Contains(refused.Message, "sets timeout") {
		t.Errorf("the record is %+v", refused)
	}
}

// asked resolves to what it was asked.
type asked struct{ *world }

func (asked) Resolve(_ context.Context, wanted run.ImageRequest, _ func(string)) (string, error) {
	return wanted.Request.Image.Reference + "@" + strings.Join(append(wanted.Allow, wanted.Deny...), " "), nil
}

// The queue's namespace changes while a run is between its claim and its Job.
// Whoever takes the run over looks for the Job where it was to be made.
func TestAnAttemptStaysInItsNamespace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	launches := make(chan run.Launch, 10)
	w.cluster.check = func(launch run.Launch) error { launches <- launch; return nil }
	w.config = func(config *dispatch.Config) {
		if config.Owner == "one" {
			config.Fault = func(point string) {
				if point == "resolved" {
					runtime.Goexit()
				}
			}
		}
	}
	message := delivery(t, "r", nil)
	message.Policy = &run.Policy{Namespace: "before"}
	decided(t, begin(t.Context(), w.dispatcher("one"), message), "")
	message.Policy.Namespace, message.Redelivered = "after", 1
	second := w.dispatcher("two")
	if !second.UnderWay(t.Context(), message) {
		t.Error("a run that was claimed is not said to be under way")
	}
	decision := begin(t.Context(), second, message)
	w.until("r", inState(run.Pending))
	if launch := wait.Receive(t, "launch", launches); launch.Policy.Namespace != "before" {
		t.Errorf("taken over, the attempt goes to namespace %s", launch.Policy.Namespace)
	}
	w.cluster.show(t, "r", run.Observation{State: run.Succeeded})
	decided(t, decision, run.Done)
	if unknown := delivery(t, "unknown", nil); second.UnderWay(t.Context(), unknown) {
		t.Error("a run that nobody has seen is said to be under way")
	}
}

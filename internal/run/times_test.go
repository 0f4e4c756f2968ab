package run

import (
	"reflect"
	"testing"
	"time"
)

// after is so many milliseconds after the run was queued.
func after(ms int) time.Time {
	return time.Unix(1000, 0).UTC().Add(time.Duration(ms) * time.Millisecond)
}

// spent is where the time of an attempt went, in milliseconds.
func spent(milliseconds map[string]int) map[Part]time.Duration {
	all := make(map[Part]time.Duration)
	for part, ms := range milliseconds {
		all[Part(part)] = time.Duration(ms) * time.Millisecond
	}
	return all
}

func TestAttemptsTellWhereTheTimeWent(t *testing.T) {
	r := New(Delivery{ID: "a", Queue: "q", Attempt: 1, PublishedAt: after(0)})
	step := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	step(r.Become(Preparing, after(100)))
	r.Enter(Building, after(300), after(300))
	step(r.Become(Pending, after(2300)))
	r.Job = &Job{Name: "run-a-1"}
	r.Observe(Observation{State: Running, ScheduledAt: after(2500), StartedAt: after(3000)}, after(3500))
	r.Observe(Observation{State: Failed, Reason: AppError, ExitCode: new(3), FinishedAt: after(9000)}, after(9500))
	step(r.Again(after(20_000), after(9600)))
	step(r.Become(Preparing, after(20_000)))
	step(r.Become(Pending, after(20_100)))

	want := []Attempt{
		{
			Number: 1, State: Failed, Reason: AppError, ExitCode: new(3), Job: "run-a-1", Began: after(0), Ended: after(9500),
			Spent: spent(map[string]int{"waiting": 100, "preparing": 200, "building": 2000, "scheduling": 200, "pulling": 1000, "running": 6000}),
		},
		{
			Number: 2, State: Pending, Began: after(9600),
			Spent: spent(map[string]int{"waiting": 10_400, "preparing": 100, "scheduling": 4900}),
		},
	}
	if got := r.Attempts(after(25_000)); !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestARunThatWasOverBeforeItWasSeenToRunTellsHowLongItRan(t *testing.T) {
	r := Run{State: Pending, Attempt: 1, History: []Change{{State: Pending, Attempt: 1, At: after(0)}}}
	r.Observe(Observation{State: Succeeded, ScheduledAt: after(1000), StartedAt: after(2000)}, after(3000))
	want := spent(map[string]int{"scheduling": 1000, "pulling": 1000, "running": 1000})
	if got := r.Attempts(after(9000)); !reflect.DeepEqual(got[0].Spent, want) {
		t.Errorf("got %v, want %v", got[0].Spent, want)
	}
}

func TestAPhaseStaysWithinItsState(t *testing.T) {
	r := Run{State: Pending, Attempt: 1, History: []Change{{State: Pending, Attempt: 1, At: after(1500)}}}
	shared := r.History
	if !r.Enter(Pulling, after(1000), after(2000)) || !r.Enter(Executing, after(9000), after(2000)) || r.Enter(Pulling, after(1700), after(2000)) {
		t.Error("a phase begins once")
	}
	want := []Phase{{Pulling, after(1500)}, {Executing, after(2000)}}
	if got := r.History[0].Phases; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if shared[0].Phases != nil {
		t.Error("a copy of the record was changed too")
	}
}

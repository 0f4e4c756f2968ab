package run

import (
	"errors"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	anyState    = rapid.SampledFrom(append(States(), "", "paused")) // known and unknown ones
	anyObserved = rapid.SampledFrom([]State{Pending, Running, Succeeded, Failed, Cancelled, TimedOut})
	anyTime     = rapid.Custom(func(t *rapid.T) time.Time {
		return time.Unix(rapid.Int64Range(1, 1<<32).Draw(t, "seconds"), 0).UTC()
	})
	anyRun = rapid.Custom(func(t *rapid.T) Run {
		r := New(Delivery{ID: "a", Queue: "q", Attempt: rapid.IntRange(1, 3).Draw(t, "attempt"), PublishedAt: anyTime.Draw(t, "published")})
		for range rapid.IntRange(0, 6).Draw(t, "steps") {
			if next := r.State.Next(); len(next) > 0 {
				if err := r.Become(rapid.SampledFrom(next).Draw(t, "next"), anyTime.Draw(t, "at")); err != nil {
					t.Fatalf("Next names a state that Become refuses: %v", err)
				}
			}
		}
		return r
	})
	anyObservation = rapid.Custom(func(t *rapid.T) Observation {
		seen := Observation{State: anyObserved.Draw(t, "state"), Message: rapid.SampledFrom([]string{"", "pulling"}).Draw(t, "message")}
		if seen.State.Final() && seen.State != Succeeded {
			seen.Reason = rapid.SampledFrom(Reasons()).Draw(t, "reason")
		}
		if rapid.Bool().Draw(t, "started") {
			seen.StartedAt = anyTime.Draw(t, "startedAt")
		}
		if seen.State.Final() && rapid.Bool().Draw(t, "ended") {
			code := rapid.IntRange(0, 255).Draw(t, "exitCode")
			seen.ExitCode, seen.FinishedAt = &code, anyTime.Draw(t, "finishedAt")
		}
		return seen
	})
)

func TestTheTableIsWhole(t *testing.T) {
	if len(transitions) != len(States()) {
		t.Errorf("the table has %d states, want %d", len(transitions), len(States()))
	}
	for _, state := range States() {
		if !state.Known() || state.Meaning() == "" {
			t.Errorf("%s: known %v, meaning %q", state, state.Known(), state.Meaning())
		}
		for _, next := range state.Next() {
			if !next.Known() || !state.CanBecome(next) {
				t.Errorf("%s leads to %q", state, next)
			}
			if state.Final() && next != Queued {
				t.Errorf("%s is final and leads to %s", state, next)
			}
			if order := States(); !state.Final() && slices.Index(order, next) <= slices.Index(order, state) {
				t.Errorf("%s goes back to %s", state, next)
			}
		}
		if !state.Final() && !state.CanBecome(Cancelled) {
			t.Errorf("%s cannot be cancelled", state)
		}
	}
	if len(Succeeded.Next()) != 0 {
		t.Errorf("what has succeeded is over, but leads to %v", Succeeded.Next())
	}
	if State("paused").Known() || State("").Known() || State("").Final() {
		t.Error("a state that does not exist is known")
	}
}

func TestNextCannotChangeTheTable(t *testing.T) {
	for i := range Queued.Next() {
		Queued.Next()[i] = "paused"
	}
	if Queued.CanBecome("paused") || !Queued.CanBecome(Preparing) {
		t.Error("a caller has changed the table")
	}
}

func TestBecomeNeverLeavesTheTable(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRun.Draw(t, "run")
		r.Owner, r.Message, r.Reason = "me", "of the state before", Evicted
		before, next, at := copyOf(r), anyState.Draw(t, "next"), anyTime.Draw(t, "at")
		err := r.Become(next, at)
		if before.State.CanBecome(next) != (err == nil) {
			t.Fatalf("from %s to %s: %v", before.State, next, err)
		}
		if err != nil {
			var refused *TransitionError
			if !errors.As(err, &refused) || refused.From != before.State || refused.To != next {
				t.Errorf("the error is %v", err)
			}
			if !reflect.DeepEqual(r, before) {
				t.Errorf("a refused change has changed the run from %+v to %+v", before, r)
			}
			return
		}
		if r.State != next || r.Message != "" || r.Reason != "" {
			t.Errorf("became %s with message %q and reason %q", r.State, r.Message, r.Reason)
		}
		grown(t, before, r)
		if last := r.History[len(r.History)-1]; !reflect.DeepEqual(last, Change{State: next, Attempt: r.Attempt, At: at, Owner: "me"}) {
			t.Errorf("the last change is %+v", last)
		}
		if next.Final() && (r.FinishedAt == nil || !r.FinishedAt.Equal(at)) {
			t.Errorf("final at %v, want %v", r.FinishedAt, at)
		}
	})
}

// Two changes of copies of one record must not write into each other's history.
func TestCopiesOfARunDoNotShareTheirGrowth(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one := anyRun.Filter(func(r Run) bool { return len(r.State.Next()) > 1 }).Draw(t, "run")
		two := one
		next := one.State.Next()
		if err := errors.Join(one.Become(next[0], time.Unix(1, 0)), two.Become(next[1], time.Unix(2, 0))); err != nil {
			t.Fatal(err)
		}
		if last := one.History[len(one.History)-1]; last.State != next[0] {
			t.Errorf("the history of one ends with the change of the other: %+v", last)
		}
	})
}

func TestObserveNeverGoesBack(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		r := anyRun.Draw(t, "run")
		for range rapid.IntRange(1, 8).Draw(t, "observations") {
			before, seen := copyOf(r), anyObservation.Draw(t, "seen")
			at := anyTime.Draw(t, "at")
			changed := r.Observe(seen, at)
			grown(t, before, r)
			switch {
			case before.State == seen.State:
				if len(r.History) != len(before.History) {
					t.Errorf("seeing %s again is a change of state", seen.State)
				}
			case before.State.CanBecome(seen.State):
				if !changed || r.State != seen.State {
					t.Errorf("%s was seen, and the run is %s (changed: %v)", seen.State, r.State, changed)
				}
			default:
				if changed || !reflect.DeepEqual(r, before) {
					t.Errorf("an observation of %s has changed a run that is %s: %+v", seen.State, before.State, r)
				}
				continue
			}
			if r.Reason != seen.Reason || r.Message != seen.Message {
				t.Errorf("reason %q and message %q were seen; the run has %q and %q", seen.Reason, seen.Message, r.Reason, r.Message)
			}
			if !seen.StartedAt.IsZero() && (r.StartedAt == nil || !r.StartedAt.Equal(seen.StartedAt)) {
				t.Errorf("started at %v, want %v", r.StartedAt, seen.StartedAt)
			}
			if r.State.Final() && r.FinishedAt == nil {
				t.Error("final without a time")
			}
			if before.State.Final() && before.State != r.State {
				t.Errorf("what was %s became %s", before.State, r.State)
			}
			if again := r.Observe(seen, at.Add(time.Hour)); again {
				t.Error("the same observation again is a change")
			}
		}
	})
}

func TestObserveKeepsTheFirstExitCodeAndTheJobsOwnTimes(t *testing.T) {
	zero, three := 0, 3
	started, ended := time.Unix(10, 0), time.Unix(20, 0)
	r := New(Delivery{ID: "a", Queue: "q", Attempt: 1})
	if err := r.Become(Preparing, time.Unix(5, 0)); err != nil {
		t.Fatal(err)
	}
	if !r.Observe(Observation{State: Failed, Reason: AppError, Message: "m", ExitCode: &three, StartedAt: started, FinishedAt: ended}, time.Unix(30, 0)) {
		t.Fatal("nothing changed")
	}
	r.Observe(Observation{State: Failed, Reason: AppError, Message: "m", ExitCode: &zero}, time.Unix(40, 0))
	if *r.ExitCode != 3 || !r.StartedAt.Equal(started) || !r.FinishedAt.Equal(ended) {
		t.Errorf("exit code %d, from %v to %v", *r.ExitCode, r.StartedAt, r.FinishedAt)
	}
}

// grown demands that a history has only been added to, be it a phase of the
// last state.
func grown(t *rapid.T, before, after Run) {
	t.Helper()
	same := func(a, b Change) bool {
		a.Phases, b.Phases = nil, nil
		return reflect.DeepEqual(a, b)
	}
	if len(after.History) < len(before.History) || len(after.History) > len(before.History)+1 ||
		!slices.EqualFunc(before.History, after.History[:len(before.History)], same) {
		t.Errorf("the history went from %+v to %+v", before.History, after.History)
	}
	if last := after.History[len(after.History)-1].State; last != after.State {
		t.Errorf("the run is %s, and its history ends with %s", after.State, last)
	}
}

func copyOf(r Run) Run {
	r.History = slices.Clone(r.History)
	return r
}

func TestEveryReasonExplainsItself(t *testing.T) {
	seen := make(map[string]Reason)
	for _, reason := range Reasons() {
		happened, todo := reason.Happened(), reason.ToDo()
		for _, sentence := range []string{happened, todo} {
			if !strings.HasSuffix(sentence, ".") || strings.TrimSpace(sentence) != sentence {
				t.Errorf("%s: %q is no sentence", reason, sentence)
			}
		}
		if other, taken := seen[happened]; taken {
			t.Errorf("%s and %s mean the same", reason, other)
		}
		seen[happened] = reason
		if got := Explain(reason, ""); got != happened+" "+todo {
			t.Errorf("Explain(%s) = %q", reason, got)
		}
		if got := Explain(reason, "It broke."); got != "It broke. "+todo {
			t.Errorf("Explain(%s) = %q", reason, got)
		}
	}
	if len(explanations) != len(Reasons()) {
		t.Errorf("%d reasons are explained, and there are %d", len(explanations), len(Reasons()))
	}
}

func TestInfrastructureFailuresAreNotTheRunsOwn(t *testing.T) {
	var got []Reason
	for _, reason := range Reasons() {
		if reason.Infrastructure() {
			got = append(got, reason)
		}
	}
	if want := []Reason{Evicted, Preempted, NodeLost, JobDeleted}; !slices.Equal(got, want) {
		t.Errorf("infrastructure: %v, want %v", got, want)
	}
}

package queue

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/run"
)

func eventually(t *testing.T, what string, holds func() bool) {
	t.Helper()
	deadline := time.After(20 * time.Second)
	for !holds() {
		select {
		case <-deadline:
			t.Fatalf("not within 20s: %s", what)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// begun is a handler that holds every run until it is told to stop, and knows
// which have been begun, by whomever.
type begun struct {
	runs  *sync.Map
	began chan run.Delivery
}

func newBegun() begun { return begun{new(sync.Map), make(chan run.Delivery, 100)} }

func (b begun) Handle(ctx context.Context, delivery run.Delivery, turn run.Turn) run.Decision {
	turn.Done()
	b.runs.Store(delivery.ID, true)
	tell(ctx, b.began, delivery)
	<-ctx.Done()
	return run.HandBack
}

func (b begun) UnderWay(_ context.Context, delivery run.Delivery) bool {
	_, ok := b.runs.Load(delivery.ID)
	return ok
}

func TestAPausedQueueStartsNothingAndStillAdopts(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "default", Concurrency: 2})
	handler := newBegun()
	publish(t, js, "default", "r0")
	publish(t, js, "default", "r1")
	stop := consumeBy(t, js, definitions, handler)
	receive(t, handler.began, "first run")
	receive(t, handler.began, "second run")
	publish(t, js, "default", "r2")
	pausing := func(paused bool) {
		t.Helper()
		if _, err := definitions.Update(t.Context(), "default", false, func(d *Definition) error { d.Paused = paused; return nil }); err != nil {
			t.Fatal(err)
		}
	}
	pausing(true)
	// Its dispatcher goes, and another one takes up what is under way; what
	// waits stays where it is, with room for it.
	stop()
	consumeBy(t, js, definitions, handler)
	adopted := map[string]bool{receive(t, handler.began, "adopted run").ID: true, receive(t, handler.began, "adopted run").ID: true}
	if !adopted["r0"] || !adopted["r1"] {
		t.Errorf("adopted are %v", adopted)
	}
	if use, err := Use(t.Context(), js, Definition{Name: "default", Concurrency: 2, Paused: true}); err != nil || use.Waiting != 1 || use.InFlight != 2 || use.Limit != 2 {
		t.Errorf("Use = %+v, %v", use, err)
	}
	pausing(false)
	if _, err := definitions.Update(t.Context(), "default", false, func(d *Definition) error { d.Concurrency = 3; return nil }); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, handler.began, "run after resuming"); got.ID != "r2" {
		t.Errorf("after resuming began %s", got.ID)
	}
}

// Under a paused queue the last run under way ends. No other takes its place,
// however many replicas look for what to adopt.
func TestAPausedQueueStaysEmpty(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "default", Concurrency: 1})
	started, end := make(chan string, 10), make(chan struct{})
	handler := func(ctx context.Context, delivery run.Delivery, launched func()) run.Decision {
		launched()
		tell(ctx, started, delivery.ID)
		select {
		case <-end:
			return run.Done
		case <-ctx.Done():
			return run.HandBack
		}
	}
	for i := range 3 {
		publish(t, js, "default", fmt.Sprintf("r%d", i))
	}
	consumeBy(t, js, definitions, neverBegun{handlerFunc(handler)})
	consumeBy(t, js, definitions, neverBegun{handlerFunc(handler)})
	receive(t, started, "run")
	pulls := func(enough func(int) bool) func() bool {
		return func() bool {
			consumer, err := js.Consumer(t.Context(), Stream, ConsumerPrefix+"default")
			return err == nil && enough(consumer.CachedInfo().NumWaiting)
		}
	}
	eventually(t, "both replicas pull", pulls(func(waiting int) bool { return waiting >= 2 }))
	paused := Definition{Name: "default", Concurrency: 1, Paused: true}
	if _, err := definitions.Update(t.Context(), "default", false, func(d *Definition) error { d.Paused = true; return nil }); err != nil {
		t.Fatal(err)
	}
	eventually(t, "both replicas have ceased to pull", pulls(func(waiting int) bool { return waiting == 0 }))
	end <- struct{}{}
	eventually(t, "the run under way is over, and the others are still there", func() bool {
		// Whoever looked just before may have been given one and handed it back:
		// that one counts as in flight, though nobody holds it.
		use, err := Use(t.Context(), js, paused)
		return err == nil && use.InFlight+int(use.Waiting) == 2
	})
	<-time.After(3 * time.Second) // three looks of each replica, on the server's clock
	if len(started) != 0 {
		t.Errorf("run %s was started on a paused queue", <-started)
	}
}

// neverBegun is a handler none of whose runs was begun before.
type neverBegun struct{ handlerFunc }

func (neverBegun) UnderWay(context.Context, run.Delivery) bool { return false }

func TestAStartRateHoldsOverAllReplicas(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	rate := Rate{20, time.Second}
	definitions := define(t, js)
	if err := definitions.Create(t.Context(), Definition{Name: "default", Concurrency: 50, StartRate: rate}); err != nil {
		t.Fatal(err)
	}
	const runs = 30
	for i := range runs {
		publish(t, js, "default", fmt.Sprintf("r%d", i))
	}
	starts := make(chan time.Time, runs)
	for range 3 {
		consume(t, js, definitions, func(context.Context, run.Delivery, func()) run.Decision {
			starts <- time.Now()
			return run.Done
		})
	}
	first := receive(t, starts, "start")
	last := first
	for range runs - 1 {
		last = receive(t, starts, "start")
	}
	// A start may be seen late, which shortens the distance to the next, but
	// no late start shortens the whole by more than itself.
	least := (runs - 1) * rate.Interval()
	if took := last.Sub(first); took < least-200*time.Millisecond || took > 10*least {
		t.Errorf("%d starts took %s; at %s they take %s", runs, took, rate, least)
	}
}

func TestARunThatWasStartedNeedsNoLeave(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "default", Concurrency: 5})
	if _, err := definitions.Update(t.Context(), "default", false, func(d *Definition) error { d.StartRate = Rate{1, time.Minute}; return nil }); err != nil {
		t.Fatal(err)
	}
	publish(t, js, "default", "r")
	handler := newBegun()
	stop := consumeBy(t, js, definitions, handler)
	receive(t, handler.began, "start")
	stop()
	consumeBy(t, js, definitions, handler)
	if again := receive(t, handler.began, "adoption"); again.Redelivered == 0 {
		t.Errorf("the second delivery is %+v", again)
	}
	// The next start is a minute away, and changing the rate ends the wait.
	publish(t, js, "default", "next")
	if _, err := definitions.Update(t.Context(), "default", false, func(d *Definition) error { d.StartRate = Rate{}; return nil }); err != nil {
		t.Fatal(err)
	}
	if next := receive(t, handler.began, "start without a rate"); next.ID != "next" {
		t.Errorf("began %s", next.ID)
	}
}

func TestAClockThatIsAheadDoesNotStopTheQueue(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	opened := starts(t, js)
	if _, err := opened.take(t.Context(), "q", time.Now().Add(time.Hour), 0); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := opened.Await(t.Context(), "q", Rate{10, time.Second}, zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 100*time.Millisecond || took > 5*time.Second {
		t.Errorf("it waited %s; want one interval of 100ms", took)
	}
}

// One queue has many runs waiting, and as many as it may are busy being launched
// for as long as it takes. Another queue does not notice.
func TestAQueueDoesNotWaitForAnothersBurst(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "burst", Concurrency: 100}, Definition{Name: "quiet", Concurrency: 1})
	for i := range 500 {
		publish(t, js, "burst", fmt.Sprintf("b%d", i))
	}
	busy, quiet := make(chan struct{}, 500), make(chan string, 10)
	consume(t, js, definitions, func(ctx context.Context, delivery run.Delivery, _ func()) run.Decision {
		if delivery.Queue == "quiet" {
			tell(ctx, quiet, delivery.ID)
			return run.Done
		}
		tell(ctx, busy, struct{}{})
		<-ctx.Done() // its worker is never free
		return run.HandBack
	})
	for range 24 { // all places that a queue has here
		receive(t, busy, "run of the burst")
	}
	for i := range 10 {
		publish(t, js, "quiet", fmt.Sprintf("q%d", i))
	}
	for i := range 10 {
		if got := receive(t, quiet, "run of the other queue"); got != fmt.Sprintf("q%d", i) {
			t.Errorf("run %d of the other queue is %s", i, got)
		}
	}
}

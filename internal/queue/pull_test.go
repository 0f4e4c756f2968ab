package queue

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

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
	wait.Receive(t, "first run", handler.began)
	wait.Receive(t, "second run", handler.began)
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
	adopted := map[string]bool{wait.Receive(t, "adopted run", handler.began).ID: true, wait.Receive(t, "adopted run", handler.began).ID: true}
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
	if got := wait.Receive(t, "run after resuming", handler.began); got.ID != "r2" {
		t.Errorf("after resuming began %s", got.ID)
	}
}

// Under a paused queue the last run under way ends. No other takes its place,
// however many replicas look for what to adopt.
func TestAPausedQueueStaysEmpty(t *testing.T) {
	t.Parallel()
	conn, js := natstest.Start(t)
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
	wait.Receive(t, "run", started)
	wait.Until(t, "both replicas to pull", pulls(t, js, func(waiting int) bool { return waiting >= 2 }))
	paused := Definition{Name: "default", Concurrency: 1, Paused: true}
	if _, err := definitions.Update(t.Context(), "default", false, func(d *Definition) error { d.Paused = true; return nil }); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "both replicas to cease to pull", pulls(t, js, func(waiting int) bool { return waiting == 0 }))
	end <- struct{}{}
	wait.Until(t, "the run under way to be over, with the others still there", func() bool {
		// Whoever looked just before may have been given one and handed it back:
		// that one counts as in flight, though nobody holds it.
		use, err := Use(t.Context(), js, paused)
		return err == nil && use.InFlight+int(use.Waiting) == 2
	})
	looks := requests(t, conn, "$JS.API.CONSUMER.INFO."+Stream+"."+ConsumerPrefix+"default")
	for range 3 * 2 { // of two replicas
		wait.Receive(t, "look for what is to be adopted", looks)
	}
	if len(started) != 0 {
		t.Errorf("run %s was started on a paused queue", <-started)
	}
}

// pulls tells whether the pull requests that wait for runs are enough.
func pulls(t *testing.T, js jetstream.JetStream, enough func(waiting int) bool) func() bool {
	t.Helper()
	return func() bool {
		consumer, err := js.Consumer(t.Context(), Stream, ConsumerPrefix+"default")
		return err == nil && enough(consumer.CachedInfo().NumWaiting)
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
	kept := starts(t, js)
	watcher, err := kept.bucket.Watch(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	started := make(chan time.Time, runs)
	begin := time.Now()
	for range 3 {
		consume(t, js, definitions, func(context.Context, run.Delivery, func()) run.Decision {
			started <- time.Now()
			return run.Done
		})
	}
	var last time.Time
	for range runs {
		last = wait.Receive(t, "start", started)
	}
	// The first may come at once, and each further one an interval after the one
	// before it. To see a start late only lengthens the whole.
	if took, least := last.Sub(begin), (runs-1)*rate.Interval(); took < least {
		t.Errorf("%d starts took %s; at %s they take at least %s", runs, took, rate, least)
	}
	// On record, each start is a revision. The watch may pass over some.
	_, all, err := kept.last(t.Context(), "default")
	if err != nil || all != runs {
		t.Fatalf("%d starts are on record, %v; want %d", all, err, runs)
	}
	var (
		before time.Time
		count  uint64
	)
	for count < all {
		entry := wait.Receive(t, "start on record", watcher.Updates())
		if entry == nil { // what was there has been sent
			continue
		}
		at := at(t, string(entry.Value()))
		if least := time.Duration(entry.Revision()-count) * rate.Interval(); count > 0 && at.Sub(before) < least {
			t.Errorf("from start %d to start %d it took %s; at %s it takes at least %s", count, entry.Revision(), at.Sub(before), rate, least)
		}
		before, count = at, entry.Revision()
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
	wait.Receive(t, "start", handler.began)
	_, started, err := starts(t, js).last(t.Context(), "default")
	if err != nil || started == 0 {
		t.Fatalf("the first start is not on record: %d, %v", started, err)
	}
	noOther := func(what string) {
		t.Helper()
		if _, now, err := starts(t, js).last(t.Context(), "default"); err != nil || now != started {
			t.Errorf("%s took a start of the rate, %d after %d, %v", what, now, started, err)
		}
	}
	stop()
	consumeBy(t, js, definitions, handler)
	if again := wait.Receive(t, "adoption", handler.began); again.Redelivered == 0 {
		t.Errorf("the second delivery is %+v", again)
	}
	noOther("the adoption")
	// The next start is a minute away, and changing the rate ends the wait.
	publish(t, js, "default", "next")
	wait.Until(t, "the next run to wait for its start", func() bool {
		use, err := Use(t.Context(), js, Definition{Name: "default"})
		return err == nil && use.InFlight == 2
	})
	if _, err := definitions.Update(t.Context(), "default", false, func(d *Definition) error { d.StartRate = Rate{}; return nil }); err != nil {
		t.Fatal(err)
	}
	if next := wait.Receive(t, "start without a rate", handler.began); next.ID != "next" {
		t.Errorf("began %s", next.ID)
	}
	noOther("the next run")
}

func TestAClockThatIsAheadDoesNotStopTheQueue(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	opened := starts(t, js)
	if _, err := opened.take(t.Context(), "q", time.Now().Add(time.Hour), 0); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	// The other clock's hour is longer than we wait.
	if err := opened.Await(wait.Context(t, "start under a clock that is ahead"), "q", Rate{10, time.Second}, zerolog.Nop()); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(begin); took < 100*time.Millisecond {
		t.Errorf("it waited %s; want one interval of 100ms", took)
	}
	if last, _, err := opened.last(t.Context(), "q"); err != nil || last.Before(begin) || last.After(time.Now()) {
		t.Errorf("the next start is reckoned from %s, %v", last, err)
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
		wait.Receive(t, "run of the burst", busy)
	}
	for i := range 10 {
		publish(t, js, "quiet", fmt.Sprintf("q%d", i))
	}
	for i := range 10 {
		if got := wait.Receive(t, "run of the other queue", quiet); got != fmt.Sprintf("q%d", i) {
			t.Errorf("run %d of the other queue is %s", i, got)
		}
	}
}

package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestChangesAtOnceAreAllKept(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "q", Concurrency: 1})
	changes := map[string]func(*Definition){
		"pause":   func(d *Definition) { d.Paused = true },
		"rate":    func(d *Definition) { d.StartRate = Rate{5, time.Second} },
		"limit":   func(d *Definition) { d.Concurrency = 7 },
		"timeout": func(d *Definition) { d.Policy.Timeout = run.Duration(time.Hour) },
		"fields":  func(d *Definition) { d.Policy.MayOverride = []string{} },
	}
	var all sync.WaitGroup
	for name, change := range changes {
		all.Go(func() {
			if _, err := definitions.Update(t.Context(), "q", false, func(d *Definition) error { change(d); return nil }); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	all.Wait()
	got, err := definitions.Get(t.Context(), "q")
	if err != nil || !got.Paused || got.StartRate.String() != "5/s" || got.Concurrency != 7 || !got.Pinned || got.Policy.Timeout != run.Duration(time.Hour) || got.Policy.MayOverride == nil {
		t.Errorf("after all changes the queue is %+v, %v", got, err)
	}
}

func TestSettingsChangeTheLimitAlone(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "q", Concurrency: 1})
	if _, err := definitions.Update(t.Context(), "q", false, func(d *Definition) error { d.Draining = true; return nil }); err != nil {
		t.Fatal(err)
	}
	// The person has not set the limit, so that the settings go on to; a
	// dispatcher that starts does not open what is drained.
	if err := definitions.Seed(t.Context(), Definition{Name: "q", Concurrency: 5}, true); err != nil {
		t.Fatal(err)
	}
	got, err := definitions.Get(t.Context(), "q")
	if err != nil || got.Concurrency != 5 || !got.Draining || got.Pinned {
		t.Errorf("the queue is %+v, %v", got, err)
	}
	if _, err := Publish(t.Context(), js, requestFor("q", "r")); !errors.Is(err, ErrNoQueue) {
		t.Errorf("publishing to a drained queue: %v", err)
	}
}

func requestFor(queue, id string) run.Request {
	return run.Request{Version: 1, ID: id, Queue: queue, Command: []string{"true"}}
}

func TestADrainedQueueTakesFurtherAttemptsOnlyAndIsDeletedWhenItIsEmpty(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "q", Concurrency: 1}, Definition{Name: "q-2", Concurrency: 1})
	due, err := CreateDue(t.Context(), js, 1)
	if err != nil {
		t.Fatal(err)
	}
	refused := func(why string) {
		t.Helper()
		var inUse *InUseError
		if err := definitions.Delete(t.Context(), "q"); !errors.As(err, &inUse) || !strings.Contains(err.Error(), why) {
			t.Fatalf("deleting: %v; want that %q", err, why)
		}
	}
	refused("it takes new runs")
	publish(t, js, "q", "first")
	setTo := func(change func(*Definition)) {
		t.Helper()
		if _, err := definitions.Update(t.Context(), "q", false, func(d *Definition) error { change(d); return nil }); err != nil {
			t.Fatal(err)
		}
	}
	setTo(func(d *Definition) { d.Draining = true })
	if _, err := Publish(t.Context(), js, requestFor("q", "new")); !errors.Is(err, ErrNoQueue) {
		t.Fatalf("a new run is answered by %v", err)
	}
	publish(t, js, "q-2", "new") // its name begins alike
	if err := due.Queue(t.Context(), requestFor("q", "first"), 2); err != nil {
		t.Fatalf("a further attempt: %v", err)
	}
	// What it has is served, also by a dispatcher that has just started.
	handled := make(chan string, 2)
	consumeBy(t, js, definitions, handlerFunc(func(_ context.Context, delivery run.Delivery, _ func()) run.Decision {
		if delivery.Queue == "q" {
			handled <- fmt.Sprint(delivery.ID, delivery.Attempt)
		}
		return run.Done
	}))
	if got := wait.Receive(t, "run", handled) + wait.Receive(t, "run", handled); got != "first1first2" {
		t.Errorf("the drained queue ran %s", got)
	}
	stream, err := js.Stream(t.Context(), Stream)
	if err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "its messages to be gone", func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	})
	if err := due.Schedule(t.Context(), run.Due{Queue: "q", ID: "first", Attempt: 3}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	refused("that wait for their next attempt: 1")
	setTo(func(d *Definition) { d.Draining = false })
	publish(t, js, "q", "open-again")
	wait.Receive(t, "run", handled)
	setTo(func(d *Definition) { d.Draining = true })
	scheduled, err := js.Stream(t.Context(), DueStream)
	if err != nil {
		t.Fatal(err)
	}
	if err := scheduled.Purge(t.Context(), jetstream.WithPurgeSubject(ScheduleSubjects+"q.>")); err != nil {
		t.Fatal(err)
	}
	wait.Success(t, "the queue to be deleted", func() error { return definitions.Delete(t.Context(), "q") })
	if _, err := definitions.Get(t.Context(), "q"); !errors.Is(err, ErrNoQueue) {
		t.Errorf("the deleted queue is %v", err)
	}
	if _, err := js.Consumer(t.Context(), Stream, ConsumerPrefix+"q"); !errors.Is(err, jetstream.ErrConsumerNotFound) {
		t.Errorf("its consumer: %v", err)
	}
	// The same name may be used again, and is served.
	if err := definitions.Create(t.Context(), Definition{Name: "q", Concurrency: 1}); err != nil {
		t.Fatal(err)
	}
	publish(t, js, "q", "anew")
	if got := wait.Receive(t, "run", handled); got != "anew1" {
		t.Errorf("the queue that was made anew ran %s", got)
	}
}

// lateReplay is a server on which somebody replays a run at the last moment, just
// before the subjects of the stream change.
type lateReplay struct {
	jetstream.JetStream
	replay func()
}

func (l *lateReplay) UpdateStream(ctx context.Context, config jetstream.StreamConfig) (jetstream.Stream, error) {
	l.replay()
	return l.JetStream.UpdateStream(ctx, config)
}

func TestAQueueThatIsReplayedToWhileItIsDeletedStays(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "q", Concurrency: 1})
	if _, err := definitions.Update(t.Context(), "q", false, func(d *Definition) error { d.Draining = true; return nil }); err != nil {
		t.Fatal(err)
	}
	late := sync.OnceFunc(func() {
		if err := NewDue(js).Queue(t.Context(), requestFor("q", "r"), 2); err != nil {
			t.Error(err)
		}
	})
	deleting := &Definitions{js: &lateReplay{js, late}, bucket: definitions.bucket}
	var inUse *InUseError
	if err := deleting.Delete(t.Context(), "q"); !errors.As(err, &inUse) {
		t.Fatalf("Delete = %v", err)
	}
	handled := make(chan string, 1)
	consumeBy(t, js, definitions, handlerFunc(func(_ context.Context, delivery run.Delivery, _ func()) run.Decision {
		handled <- fmt.Sprint(delivery.ID, delivery.Attempt)
		return run.Done
	}))
	if got := wait.Receive(t, "run", handled); got != "r2" {
		t.Errorf("the queue ran %s", got)
	}
	if after, err := definitions.Get(t.Context(), "q"); err != nil || !after.Draining {
		t.Errorf("the queue is %+v, %v", after, err)
	}
}

func TestADefinitionThatIsWrongCanBePutRight(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "default", Concurrency: 1})
	for _, wrong := range []string{`{`, `{"name":"other","concurrency":1}`, `{"name":"q","concurrency":0,"paused":true}`} {
		if _, err := definitions.bucket.Put(t.Context(), "q", []byte(wrong)); err != nil {
			t.Fatal(err)
		}
		if _, err := definitions.Update(t.Context(), "q", false, func(*Definition) error { return nil }); err == nil {
			t.Errorf("%s is taken for right", wrong)
		}
		got, err := definitions.Update(t.Context(), "q", false, func(d *Definition) error { d.Concurrency = 3; return nil })
		if err != nil || got.Name != "q" || got.Concurrency != 3 {
			t.Errorf("put right, %s is %+v, %v", wrong, got, err)
		}
	}
}

func TestARateIsReadAndWrittenAlike(t *testing.T) {
	t.Parallel()
	for text, interval := range map[string]time.Duration{
		"10/s": 100 * time.Millisecond, "30/m": 2 * time.Second, "1/m": time.Minute, "100/s": 10 * time.Millisecond, "none": 0,
	} {
		rate, err := ParseRate(text)
		if err != nil || rate.Interval() != interval || rate.String() != text {
			t.Errorf("ParseRate(%q) = %v every %s, %v; want every %s", text, rate, rate.Interval(), err, interval)
		}
		value, err := json.Marshal(Definition{Name: "q", StartRate: rate})
		var back Definition
		if err != nil || json.Unmarshal(value, &back) != nil || back.StartRate != rate {
			t.Errorf("%s comes back from %s as %v, %v", text, value, back.StartRate, err)
		}
	}
	for _, text := range []string{"", "10", "0/s", "-1/s", "1/h", "101/s", "x/s", "10/s/s"} {
		if rate, err := ParseRate(text); err == nil {
			t.Errorf("ParseRate(%q) = %v", text, rate)
		}
	}
}

package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/run"
)

func TestMain(m *testing.M) {
	// The server's own background work outlives its shutdown for a moment.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startGoRoutine.func1"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}

// handlerFunc is a [Handler] made of a function.
type handlerFunc func(ctx context.Context, delivery run.Delivery, launched func()) run.Decision

func (f handlerFunc) Handle(ctx context.Context, delivery run.Delivery, turn run.Turn) run.Decision {
	return f(ctx, delivery, turn.Done)
}

func (handlerFunc) UnderWay(context.Context, run.Delivery) bool { return true }

// starts opens what holds start rates.
func starts(t *testing.T, js jetstream.JetStream) *Starts {
	t.Helper()
	opened, err := CreateStarts(t.Context(), js, 1)
	if err != nil {
		t.Fatal(err)
	}
	return opened
}

func define(t *testing.T, js jetstream.JetStream, queues ...Definition) *Definitions {
	t.Helper()
	definitions, err := CreateDefinitions(t.Context(), js, 1)
	if err != nil {
		t.Fatal(err)
	}
	for _, queue := range queues {
		if err := definitions.Seed(t.Context(), queue, true); err != nil {
			t.Fatal(err)
		}
	}
	return definitions
}

// tell sends, unless the handler that does so has to stop.
func tell[T any](ctx context.Context, to chan<- T, value T) {
	select {
	case to <- value:
	case <-ctx.Done():
	}
}

// consume runs a consumer until the returned function is called.
func consume(t *testing.T, js jetstream.JetStream, definitions *Definitions, handler handlerFunc) (stop func()) {
	t.Helper()
	return consumeBy(t, js, definitions, handler)
}

func consumeBy(t *testing.T, js jetstream.JetStream, definitions *Definitions, handler Handler) (stop func()) {
	t.Helper()
	consumer, err := New(Config{
		JetStream: js, Definitions: definitions, Handler: handler, AckWait: 2 * time.Second, Starts: starts(t, js),
		LaunchWorkers: 16, Log: zerolog.New(zerolog.NewTestWriter(t)),
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- consumer.Run(ctx) }()
	var once sync.Once
	stop = func() {
		once.Do(func() {
			cancel()
			select {
			case err := <-ended:
				if err != nil {
					t.Errorf("Run = %v", err)
				}
			case <-time.After(time.Minute):
				t.Error("the consumer does not stop")
			}
		})
	}
	t.Cleanup(stop)
	return stop
}

func publish(t *testing.T, js jetstream.JetStream, queue, id string) {
	t.Helper()
	request := run.Request{Version: 1, ID: id, Queue: queue, Command: []string{"true"}}
	if duplicate, err := Publish(t.Context(), js, request); err != nil || duplicate {
		t.Fatalf("Publish(%s) = %v, %v", id, duplicate, err)
	}
}

func receive[T any](t *testing.T, from <-chan T, what string) T {
	t.Helper()
	select {
	case value := <-from:
		return value
	case <-time.After(20 * time.Second):
		t.Fatalf("no %s within 20s", what)
		panic("unreachable")
	}
}

func TestTwoConsumersKeepOneLimit(t *testing.T) {
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "default", Concurrency: 3})
	const runs = 60
	for i := range runs {
		publish(t, js, "default", fmt.Sprintf("r%d", i))
	}
	var active, most atomic.Int64
	finished := make(chan string, runs)
	handler := func(_ context.Context, delivery run.Delivery, launched func()) run.Decision {
		now := active.Add(1)
		for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
		}
		launched()
		defer active.Add(-1)
		finished <- delivery.ID
		return run.Done
	}
	for range 2 {
		consume(t, js, definitions, handler)
	}
	seen := map[string]int{}
	for range runs {
		seen[receive(t, finished, "run")]++
	}
	if len(seen) != runs {
		t.Errorf("%d different runs were handled; want %d, each once", len(seen), runs)
	}
	if most.Load() > 3 {
		t.Errorf("%d runs were under way at once; the limit is 3", most.Load())
	}
}

func TestACleanStopHandsBackAtOnce(t *testing.T) {
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "default", Concurrency: 1})
	publish(t, js, "default", "r")
	begun := make(chan run.Delivery, 1)
	stop := consume(t, js, definitions, func(ctx context.Context, delivery run.Delivery, _ func()) run.Decision {
		tell(ctx, begun, delivery)
		<-ctx.Done()
		return run.HandBack
	})
	if first := receive(t, begun, "delivery"); first.Redelivered != 0 {
		t.Errorf("the first delivery counts %d before it", first.Redelivered)
	}
	again := make(chan run.Delivery, 1)
	consume(t, js, definitions, func(_ context.Context, delivery run.Delivery, _ func()) run.Decision {
		again <- delivery
		return run.Done
	})
	stopped := time.Now()
	stop()
	second := receive(t, again, "second delivery")
	// AckWait is 2 s: without the hand-back it would take that long.
	if took := time.Since(stopped); took > 1500*time.Millisecond {
		t.Errorf("the run came back after %s", took)
	}
	// The one that stops may have been given it again before it ceased to pull.
	if second.ID != "r" || second.Redelivered < 1 {
		t.Errorf("the second delivery is %+v", second)
	}
}

func TestARunHeldForLongStaysWithItsDispatcher(t *testing.T) {
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "default", Concurrency: 2})
	publish(t, js, "default", "r")
	var deliveries atomic.Int64
	release, ended := make(chan struct{}), make(chan struct{})
	handler := func(ctx context.Context, _ run.Delivery, launched func()) run.Decision {
		deliveries.Add(1)
		launched()
		defer close(ended)
		select {
		case <-release:
		case <-ctx.Done():
		}
		return run.Done
	}
	consume(t, js, definitions, handler)
	consume(t, js, definitions, handler)
	// Two and a half times AckWait, on the clock that the server keeps.
	<-time.After(5 * time.Second)
	close(release)
	receive(t, ended, "end")
	if deliveries.Load() != 1 {
		t.Errorf("the run was delivered %d times", deliveries.Load())
	}
}

func TestTheLimitChangesWhileRunning(t *testing.T) {
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "default", Concurrency: 1})
	for i := range 4 {
		publish(t, js, "default", fmt.Sprintf("r%d", i))
	}
	begun := make(chan string, 10)
	consume(t, js, definitions, func(ctx context.Context, delivery run.Delivery, launched func()) run.Decision {
		launched()
		tell(ctx, begun, delivery.ID)
		<-ctx.Done()
		return run.HandBack
	})
	receive(t, begun, "first run")
	if err := definitions.Set(t.Context(), Definition{Name: "default", Concurrency: 3}); err != nil {
		t.Fatal(err)
	}
	receive(t, begun, "second run")
	receive(t, begun, "third run")
	use, err := Use(t.Context(), js, Definition{Name: "default"})
	if err != nil || use.InFlight != 3 || use.Waiting != 1 || use.Limit != 3 {
		t.Errorf("Use = %+v, %v; want 3 of 3 in flight and 1 waiting", use, err)
	}
	// What a person has set, settings no longer change.
	if err := definitions.Seed(t.Context(), Definition{Name: "default", Concurrency: 9}, true); err != nil {
		t.Fatal(err)
	}
	if now, err := definitions.Get(t.Context(), "default"); err != nil || now.Concurrency != 3 {
		t.Errorf("after seeding, the definition is %+v, %v", now, err)
	}
}

func TestAQueueThatAppearsIsServed(t *testing.T) {
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "default", Concurrency: 1})
	begun := make(chan run.Delivery, 1)
	consume(t, js, definitions, func(_ context.Context, delivery run.Delivery, _ func()) run.Decision {
		begun <- delivery
		return run.Done
	})
	// nats-server races with itself, harmlessly, when a stream is changed while
	// a consumer is made on it; the race detector would blame us.
	for served := false; !served; {
		_, err := js.Consumer(t.Context(), Stream, ConsumerPrefix+"default")
		served = err == nil
	}
	if err := definitions.Set(t.Context(), Definition{Name: "gpu", Concurrency: 1}); err != nil {
		t.Fatal(err)
	}
	publish(t, js, "gpu", "r")
	if got := receive(t, begun, "delivery"); got.Queue != "gpu" || got.ID != "r" || got.Attempt != 1 {
		t.Errorf("delivered %+v", got)
	}
}

func TestQueuesThatAppearAtOnceAllOpen(t *testing.T) {
	_, js := natstest.Start(t)
	definitions := define(t, js)
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			if err := definitions.Set(t.Context(), Definition{Name: fmt.Sprintf("q%d", i), Concurrency: 1}); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for i := range 8 {
		publish(t, js, fmt.Sprintf("q%d", i), "r"+fmt.Sprint(i))
	}
}

func TestASecondMessageForARunIsRefused(t *testing.T) {
	_, js := natstest.Start(t)
	define(t, js, Definition{Name: "default", Concurrency: 1})
	publish(t, js, "default", "r")
	request := run.Request{Version: 1, ID: "r", Queue: "default", Command: []string{"true"}}
	if duplicate, err := Publish(t.Context(), js, request); err != nil || !duplicate {
		t.Errorf("inside the duplicate window: %v, %v", duplicate, err)
	}
	// Outside the window the server no longer knows the id. Without the
	// header it never did.
	_, err := js.Publish(t.Context(), Subject("default", "r", 1), []byte("{}"))
	var api *jetstream.APIError
	if !errors.As(err, &api) || api.ErrorCode != streamStoreFailed || !strings.Contains(api.Description, "per subject") {
		t.Errorf("outside the duplicate window: %v", err)
	}
}

// As while a cluster of servers has no leader for the stream: nobody answers for
// a queue that there is.
func TestAPublisherWaitsForTheQueueToAnswer(t *testing.T) {
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "q", Concurrency: 1})
	stream, err := js.Stream(t.Context(), Stream)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.Subjects = []string{Subjects + "other.>"}
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	interrupted, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	time.AfterFunc(time.Second, interrupt)
	if _, err := Publish(interrupted, js, requestFor("q", "early")); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNoQueue) {
		t.Errorf("interrupted while nobody answers: %v", err)
	}
	settled := make(chan error, 1)
	time.AfterFunc(2*time.Second, func() {
		settled <- definitions.settleSubjects(t.Context(), func(map[string]string) {})
	})
	if _, err := Publish(t.Context(), js, requestFor("q", "patient")); err != nil {
		t.Errorf("to a queue that answers again: %v", err)
	}
	if err := <-settled; err != nil {
		t.Error(err)
	}
}

func TestAPublisherIsToldWhatIsWrong(t *testing.T) {
	_, js := natstest.Start(t, func(options *server.Options) { options.MaxPayload = 2000 })
	define(t, js, Definition{Name: "default", Concurrency: 1})
	stream, err := js.Stream(t.Context(), Stream)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.MaxMsgs = 1
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	request := run.Request{Version: 1, ID: "big", Queue: "default", Command: []string{"true"}, Env: map[string]string{"A": strings.Repeat("x", 2000)}}
	if _, err := Publish(t.Context(), js, request); !errors.Is(err, ErrTooLarge) || !strings.Contains(err.Error(), "max_payload") {
		t.Errorf("a large request: %v", err)
	}
	request.Env, request.Queue = nil, "nowhere"
	if _, err := Publish(t.Context(), js, request); !errors.Is(err, ErrNoQueue) {
		t.Errorf("an unknown queue: %v", err)
	}
	publish(t, js, "default", "one")
	request.Queue, request.ID = "default", "two"
	if duplicate, err := Publish(t.Context(), js, request); !errors.Is(err, ErrFull) || duplicate {
		t.Errorf("a full queue: %v, %v", duplicate, err)
	}
}

func TestWaitingRunsAreSeenInTheStream(t *testing.T) {
	_, js := natstest.Start(t)
	define(t, js, Definition{Name: "default", Concurrency: 1}, Definition{Name: "gpu", Concurrency: 1})
	for i := range 300 {
		queue := "default"
		if i%3 == 0 {
			queue = "gpu"
		}
		publish(t, js, queue, fmt.Sprintf("r%d", i))
	}
	got, err := Waiting(t.Context(), js, "r9")
	if err != nil || got.Queue != "gpu" || got.State != run.Queued || got.QueuedAt.IsZero() {
		t.Errorf("Waiting = %+v, %v", got, err)
	}
	if _, err := Waiting(t.Context(), js, "r"); !errors.Is(err, run.ErrNotFound) {
		t.Errorf("Waiting for an unknown id = %v", err)
	}
	if use, err := Use(t.Context(), js, Definition{Name: "gpu", Concurrency: 4}); err != nil || use.Waiting != 100 || use.InFlight != 0 || use.Limit != 4 {
		t.Errorf("Use of a queue that nobody serves = %+v, %v; want 100 waiting and a limit of 4", use, err)
	}
	var ids []string
	err = ListWaiting(t.Context(), js, "gpu", func(record run.Run) bool {
		ids = append(ids, record.ID)
		return len(ids) < 3
	})
	if err != nil || fmt.Sprint(ids) != "[r297 r294 r291]" {
		t.Errorf("ListWaiting = %v, %v", ids, err)
	}
}

func TestASubjectThatSaysItWronglyIsStillDelivered(t *testing.T) {
	for subject, want := range map[string]run.Delivery{
		"ropewalk.runs.q.a":     {Queue: "q", ID: "a", Attempt: 1},
		"ropewalk.runs.q.a.2":   {Queue: "q", ID: "a", Attempt: 2},
		"ropewalk.runs.q.a.1":   {Queue: "q", Attempt: 1, Malformed: "x"},
		"ropewalk.runs.q.a.02":  {Queue: "q", Attempt: 1, Malformed: "x"},
		"ropewalk.runs.q.a.b":   {Queue: "q", Attempt: 1, Malformed: "x"},
		"ropewalk.runs.q.a.2.c": {Queue: "q", Attempt: 1, Malformed: "x"},
		"ropewalk.runs.q.ä":     {Queue: "q", Attempt: 1, Malformed: "x"},
	} {
		got := address(subject)
		if (got.Malformed != "") != (want.Malformed != "") || got.Queue != want.Queue || got.Attempt != want.Attempt || want.ID != "" && got.ID != want.ID {
			t.Errorf("address(%q) = %+v", subject, got)
		}
		if !run.ValidID(got.ID) {
			t.Errorf("address(%q) gives the id %q, under which nothing can be recorded", subject, got.ID)
		}
		if got.Malformed == "" && Subject(got.Queue, got.ID, got.Attempt) != subject {
			t.Errorf("address(%q) does not lead back to the subject", subject)
		}
	}
}

// A server that was restarted may deliver a message again while its run is
// still followed: the run is not begun a second time, and the newest delivery
// is the one that is acknowledged.
func TestAMessageThatComesAgainReplacesTheOneThatIsHeld(t *testing.T) {
	_, js := natstest.Start(t)
	define(t, js, Definition{Name: "default", Concurrency: 5})
	publish(t, js, "default", "r")
	durable, err := js.CreateConsumer(t.Context(), Stream, jetstream.ConsumerConfig{
		Durable: "again", FilterSubject: Subjects + "default.>", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	next := func() jetstream.Msg {
		message, err := durable.Next(jetstream.FetchMaxWait(10 * time.Second))
		if err != nil {
			t.Fatal(err)
		}
		return message
	}
	begun, release := make(chan struct{}, 2), make(chan struct{})
	consumer, err := New(Config{
		JetStream: js, Definitions: &Definitions{}, AckWait: 10 * time.Second, LaunchWorkers: 1, Starts: starts(t, js), Log: zerolog.Nop(),
		Handler: handlerFunc(func(context.Context, run.Delivery, func()) run.Decision {
			begun <- struct{}{}
			<-release
			return run.Done
		}),
	})
	if err != nil {
		t.Fatal(err)
	}
	var handlers sync.WaitGroup
	nop := zerolog.Nop()
	first := next()
	handlers.Go(func() { consumer.handle(t.Context(), first, &run.Policy{}, place(newWorkers(1)), &nop) })
	receive(t, begun, "begin")
	second := next() // after AckWait, since nothing shows life here
	consumer.handle(t.Context(), second, &run.Policy{}, place(newWorkers(1)), &nop)
	if held := consumer.message(1); held.Reply() != second.Reply() {
		t.Errorf("the message held is %s; want the newer %s", held.Reply(), second.Reply())
	}
	close(release)
	handlers.Wait()
	if len(begun) != 0 {
		t.Error("the run was begun twice")
	}
	if consumer.Held() != 0 {
		t.Errorf("%d runs are still held", consumer.Held())
	}
	stream, err := js.Stream(t.Context(), Stream)
	if err != nil {
		t.Fatal(err)
	}
	if left := stream.CachedInfo().State.Msgs; left != 0 {
		t.Errorf("%d messages are left; the acknowledgement did not count", left)
	}
}

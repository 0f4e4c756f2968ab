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
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestMain(m *testing.M) {
	if err := wait.Together(8); err != nil { // they wait for the clock of a server most of the time
		panic(err)
	}
	natstest.VerifyTestMain(m)
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

// lateAckWait is longer than a sign of life is late on a busy machine, so that a
// message comes again only when it was handed back. It is shorter than tests wait:
// a replica that stops may miss a message that is on its way to it.
const lateAckWait = time.Minute

func consumeBy(t *testing.T, js jetstream.JetStream, definitions *Definitions, handler Handler) (stop func()) {
	t.Helper()
	return consumeWithin(t, lateAckWait, js, definitions, handler)
}

// consumeWithin is [consumeBy] with another time between signs of life.
func consumeWithin(t *testing.T, ackWait time.Duration, js jetstream.JetStream, definitions *Definitions, handler Handler) (stop func()) {
	t.Helper()
	consumer, err := New(Config{
		JetStream: js, Definitions: definitions, Handler: handler, AckWait: ackWait, Starts: starts(t, js),
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
			if err := wait.Receive(t, "end of the consumer", ended); err != nil {
				t.Errorf("Run = %v", err)
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

// requests are those that somebody sends to the server on a subject, from now on.
func requests(t *testing.T, conn *nats.Conn, subject string) <-chan *nats.Msg {
	t.Helper()
	seen := make(chan *nats.Msg, 1000)
	subscription, err := conn.ChanSubscribe(subject, seen)
	if err == nil {
		err = conn.FlushWithContext(wait.Context(t, "subscription to "+subject))
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = subscription.Unsubscribe() }) // the connection may be closed already
	return seen
}

func TestTwoConsumersKeepOneLimit(t *testing.T) {
	t.Parallel()
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
		seen[wait.Receive(t, "run", finished)]++
	}
	if len(seen) != runs {
		t.Errorf("%d different runs were handled; want %d, each once", len(seen), runs)
	}
	if most.Load() > 3 {
		t.Errorf("%d runs were under way at once; the limit is 3", most.Load())
	}
}

func TestACleanStopHandsBackAtOnce(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "default", Concurrency: 1})
	publish(t, js, "default", "r")
	begun := make(chan run.Delivery, 1)
	// Only a run that is handed back comes again in time.
	const never = time.Hour
	stop := consumeWithin(t, never, js, definitions, handlerFunc(func(ctx context.Context, delivery run.Delivery, _ func()) run.Decision {
		tell(ctx, begun, delivery)
		<-ctx.Done()
		return run.HandBack
	}))
	if first := wait.Receive(t, "delivery", begun); first.Redelivered != 0 {
		t.Errorf("the first delivery counts %d before it", first.Redelivered)
	}
	again := make(chan run.Delivery, 1)
	consumeWithin(t, never, js, definitions, handlerFunc(func(_ context.Context, delivery run.Delivery, _ func()) run.Decision {
		again <- delivery
		return run.Done
	}))
	stop()
	second := wait.Receive(t, "second delivery", again)
	// The one that stops may have been given it again before it ceased to pull.
	if second.ID != "r" || second.Redelivered < 1 {
		t.Errorf("the second delivery is %+v", second)
	}
}

// signsOfLife are those that dispatchers give of the runs that they hold.
type signsOfLife struct {
	within time.Duration // how soon each must follow the one before
	mu     sync.Mutex
	last   time.Time
	late   bool
}

// watchSigns watches for the signs of life on a server, each of which is in time
// if it is there half of AckWait after the one before: dispatchers give one in
// every third.
func watchSigns(t *testing.T, conn *nats.Conn, ackWait time.Duration) *signsOfLife {
	t.Helper()
	signs := &signsOfLife{within: ackWait / 2, last: time.Now()}
	_, err := conn.Subscribe("$JS.ACK.>", func(message *nats.Msg) {
		if string(message.Data) == "+WPI" {
			signs.note()
		}
	})
	if err == nil {
		err = conn.FlushWithContext(wait.Context(t, "subscription to signs of life"))
	}
	if err != nil {
		t.Fatal(err)
	}
	return signs
}

// note notes that there is a sign now.
func (s *signsOfLife) note() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.late = s.late || time.Since(s.last) > s.within
	s.last = time.Now()
}

// wereLate reports whether any was late since this was last asked, or is now.
func (s *signsOfLife) wereLate() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	late := s.late || time.Since(s.last) > s.within
	s.late = false
	return late
}

// unattended is a message that somebody was given and nobody gives a sign of
// life of; each call returns once the server has given it away twice more.
func unattended(t *testing.T, js jetstream.JetStream, ackWait time.Duration) (twiceMore func()) {
	t.Helper()
	stream, err := js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "UNATTENDED", Subjects: []string{"unattended"}})
	if err != nil {
		t.Fatal(err)
	}
	consumer, err := stream.CreateConsumer(t.Context(), jetstream.ConsumerConfig{AckPolicy: jetstream.AckExplicitPolicy, AckWait: ackWait})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := js.Publish(t.Context(), "unattended", nil); err != nil {
		t.Fatal(err)
	}
	given := func() {
		t.Helper()
		if _, err := consumer.Next(jetstream.FetchContext(wait.Context(t, "message that nobody attends to"))); err != nil {
			t.Fatal(err)
		}
	}
	given()
	return func() { t.Helper(); given(); given() }
}

func TestARunHeldForLongStaysWithItsDispatcher(t *testing.T) {
	t.Parallel()
	conn, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "default", Concurrency: 2})
	var deliveries atomic.Int64
	begun, release, ended := make(chan struct{}, 100), make(chan struct{}), make(chan struct{}, 100)
	handler := handlerFunc(func(ctx context.Context, _ run.Delivery, launched func()) run.Decision {
		deliveries.Add(1)
		tell(ctx, begun, struct{}{})
		launched()
		select {
		case <-release:
		case <-ctx.Done():
		}
		ended <- struct{}{}
		return run.Done
	})
	const ackWait = time.Second
	consumeWithin(t, ackWait, js, definitions, handler)
	consumeWithin(t, ackWait, js, definitions, handler)
	wait.Until(t, "both replicas to pull", pulls(t, js, func(waiting int) bool { return waiting >= 2 }))
	twiceMore := unattended(t, js, ackWait)
	signs := watchSigns(t, conn, ackWait)
	publish(t, js, "default", "r")
	wait.Receive(t, "begin", begun)
	// Where this process does not come to give its signs in time, the server
	// rightly gives the run away, if only a moment later. What counts is a run
	// that is not given away while another one is, whose signs were in time until
	// then.
	inTime := wait.Context(t, "signs of life that are all in time")
	for lateBefore := false; ; {
		before := deliveries.Load()
		twiceMore()
		late := signs.wereLate()
		if !late && !lateBefore {
			if got := deliveries.Load(); got != before {
				t.Errorf("the run was delivered %d times more", got-before)
			}
			break
		}
		if lateBefore = late; inTime.Err() != nil {
			t.Fatal(context.Cause(inTime))
		}
	}
	close(release)
	wait.Receive(t, "end", ended)
}

func TestTheLimitChangesWhileRunning(t *testing.T) {
	t.Parallel()
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
	wait.Receive(t, "first run", begun)
	if err := definitions.Set(t.Context(), Definition{Name: "default", Concurrency: 3}); err != nil {
		t.Fatal(err)
	}
	wait.Receive(t, "second run", begun)
	wait.Receive(t, "third run", begun)
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
	t.Parallel()
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "default", Concurrency: 1})
	begun := make(chan run.Delivery, 1)
	consume(t, js, definitions, func(_ context.Context, delivery run.Delivery, _ func()) run.Decision {
		begun <- delivery
		return run.Done
	})
	// nats-server races with itself, harmlessly, when a stream is changed while
	// a consumer is made on it; the race detector would blame us.
	wait.Success(t, "consumer of the first queue", func() error {
		_, err := js.Consumer(t.Context(), Stream, ConsumerPrefix+"default")
		return err
	})
	if err := definitions.Set(t.Context(), Definition{Name: "gpu", Concurrency: 1}); err != nil {
		t.Fatal(err)
	}
	publish(t, js, "gpu", "r")
	if got := wait.Receive(t, "delivery", begun); got.Queue != "gpu" || got.ID != "r" || got.Attempt != 1 {
		t.Errorf("delivered %+v", got)
	}
}

func TestQueuesThatAppearAtOnceAllOpen(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
	conn, js := natstest.Start(t)
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
	publishing := func(ctx context.Context, id string) (asks <-chan *nats.Msg, published <-chan error) {
		// Before each try but the first it asks whether there is such a queue.
		asks = requests(t, conn, "$JS.API.DIRECT.GET.KV_"+DefinitionBucket+".>")
		result := make(chan error, 1)
		go func() {
			_, err := Publish(ctx, js, requestFor("q", id))
			result <- err
		}()
		return asks, result
	}
	interrupted, interrupt := context.WithCancel(t.Context())
	defer interrupt()
	asks, published := publishing(interrupted, "early")
	wait.Receive(t, "question after the first try", asks)
	wait.Receive(t, "question after another try", asks)
	interrupt()
	if err := wait.Receive(t, "end of the interrupted publisher", published); !errors.Is(err, context.Canceled) || errors.Is(err, ErrNoQueue) {
		t.Errorf("interrupted while nobody answers: %v", err)
	}
	asks, published = publishing(t.Context(), "patient")
	wait.Receive(t, "question of the patient publisher", asks)
	if err := definitions.settleSubjects(t.Context(), func(map[string]string) {}); err != nil {
		t.Fatal(err)
	}
	if err := wait.Receive(t, "end of the patient publisher", published); err != nil {
		t.Errorf("to a queue that answers again: %v", err)
	}
}

func TestAPublisherIsToldWhatIsWrong(t *testing.T) {
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
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
	t.Parallel()
	conn, js := natstest.Start(t)
	define(t, js, Definition{Name: "default", Concurrency: 5})
	publish(t, js, "default", "r")
	durable, err := js.CreateConsumer(t.Context(), Stream, jetstream.ConsumerConfig{
		Durable: "again", FilterSubject: Subjects + "default.>", AckPolicy: jetstream.AckExplicitPolicy, AckWait: time.Hour,
	})
	if err != nil {
		t.Fatal(err)
	}
	next := func() jetstream.Msg {
		message, err := durable.Next(jetstream.FetchContext(wait.Context(t, "delivery")))
		if err != nil {
			t.Fatal(err)
		}
		return message
	}
	begun, release := make(chan struct{}, 2), make(chan struct{})
	consumer, err := New(Config{
		JetStream: js, Definitions: &Definitions{}, AckWait: lateAckWait, LaunchWorkers: 1, Starts: starts(t, js), Log: zerolog.Nop(),
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
	wait.Receive(t, "begin", begun)
	// Somebody else has the server deliver it again: to us, it is still held.
	if err := conn.Publish(first.Reply(), []byte("-NAK")); err != nil {
		t.Fatal(err)
	}
	second := next()
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

package queue

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/batchget"
	"github.com/ropewalk/ropewalk/internal/run"
)

// Waiting reads the record of a run that nobody has taken up yet from its
// message; [run.ErrNotFound] when there is no message for it. The run's queue
// need not be known. A run that is under way has a message too: ask the run
// store first.
func Waiting(ctx context.Context, js jetstream.JetStream, id string) (run.Run, error) {
	if !run.ValidID(id) {
		return run.Run{}, fmt.Errorf("run %q: %w", id, run.ErrNotFound)
	}
	messages, err := batchget.Get(ctx, js, Stream, batchget.Request{LastFor: []string{Subjects + "*." + id, Subjects + "*." + id + ".*"}})
	if err != nil {
		return run.Run{}, fmt.Errorf("look up run %s: %w", id, err)
	}
	if len(messages) == 0 {
		return run.Run{}, fmt.Errorf("run %s: %w", id, run.ErrNotFound)
	}
	return waitingRun(messages[len(messages)-1]), nil
}

// WaitingIn is [Waiting] of a run whose queue is known, in its first attempt;
// later ones have a record. It reads that one message by its own subject, so
// that permissions can be given for a queue.
func WaitingIn(ctx context.Context, js jetstream.JetStream, queue, id string) (run.Run, error) {
	if !run.ValidQueue(queue) || !run.ValidID(id) {
		return run.Run{}, fmt.Errorf("run %q of queue %q: %w", id, queue, run.ErrNotFound)
	}
	message, found, err := batchget.Last(ctx, js, Stream, Subject(queue, id, 1))
	if err != nil {
		return run.Run{}, fmt.Errorf("look up run %s: %w", id, err)
	}
	if !found {
		return run.Run{}, fmt.Errorf("run %s: %w", id, run.ErrNotFound)
	}
	return waitingRun(message), nil
}

// ListWaiting gives the records of runs in the stream to take, the newest
// first, until take returns false; of one queue, or of all if it is empty.
// Among them are runs that are under way.
func ListWaiting(ctx context.Context, js jetstream.JetStream, queue string, take func(run.Run) bool) error {
	subject := Subjects + ">"
	if queue != "" {
		subject = Subjects + queue + ".>"
	}
	err := batchget.NewestFirst(ctx, js, Stream, subject, func(message batchget.Message) bool {
		return take(waitingRun(message))
	})
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return ErrNotSetUp
	}
	return err
}

func waitingRun(message batchget.Message) run.Run {
	delivery := address(message.Subject)
	delivery.Sequence, delivery.PublishedAt = message.Sequence, message.Time
	record := run.New(delivery)
	if request, err := run.Decode(message.Data); err == nil {
		record.Labels, record.Image = request.Labels, request.Image.Reference
		record.Request = &request
	}
	return record
}

// Usage is how a queue stands, as the server counts it.
type Usage struct {
	// Waiting is the number of runs that no dispatcher has been given,
	// InFlight of those that hold a slot, Limit of the slots there are.
	Waiting  uint64 `json:"waiting"`
	InFlight int    `json:"inFlight"`
	Limit    int    `json:"limit"`
	// Redelivered counts runs in flight that were delivered more than once.
	Redelivered int `json:"redelivered"`
}

// Use asks the server how a queue stands. A queue that no dispatcher has
// served yet has no consumer: everything in it waits.
func Use(ctx context.Context, js jetstream.JetStream, definition Definition) (Usage, error) {
	consumer, err := js.Consumer(ctx, Stream, ConsumerPrefix+definition.Name)
	if errors.Is(err, jetstream.ErrConsumerNotFound) {
		waiting, err := countMessages(ctx, js, Stream, Subjects+definition.Name+".>")
		return Usage{Waiting: waiting, Limit: definition.Concurrency}, err
	}
	if err != nil {
		return Usage{}, fmt.Errorf("look up queue %s: %w", definition.Name, err)
	}
	info := consumer.CachedInfo()
	usage := Usage{
		Waiting: info.NumPending, InFlight: info.NumAckPending,
		Limit: info.Config.MaxAckPending, Redelivered: info.NumRedelivered,
	}
	if definition.Paused { // the consumer lets nothing through; see served.configure
		usage.Limit = definition.Concurrency
	}
	return usage, nil
}

// countMessages counts the messages of a stream that match a subject.
func countMessages(ctx context.Context, js jetstream.JetStream, name, subject string) (uint64, error) {
	stream, err := js.Stream(ctx, name)
	if err != nil {
		return 0, fmt.Errorf("look up stream %s: %w", name, err)
	}
	info, err := stream.Info(ctx, jetstream.WithSubjectFilter(subject))
	if err != nil {
		return 0, fmt.Errorf("count what stream %s has of %s: %w", name, subject, err)
	}
	var count uint64
	for _, messages := range info.State.Subjects {
		count += messages
	}
	return count, nil
}

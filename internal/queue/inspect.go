package queue

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Inspect tells in what the stream of requests and the consumers of queues are
// other than dispatchers make them: somebody has changed them by hand, or
// another release has. [ErrNotSetUp] when there is no stream.
func Inspect(ctx context.Context, js jetstream.JetStream, replicas int, ackWait time.Duration) (queues []Definition, wrong []string, err error) {
	stream, err := js.Stream(ctx, Stream)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, nil, ErrNotSetUp
	}
	if err != nil {
		return nil, nil, fmt.Errorf("look up stream %s: %w", Stream, err)
	}
	wrong = inspectStream(stream.CachedInfo().Config, streamConfig(replicas, nil))
	definitions, err := OpenDefinitions(ctx, js)
	if err != nil {
		return nil, nil, err
	}
	if queues, err = definitions.List(ctx); err != nil {
		return nil, nil, err
	}
	for _, queue := range queues {
		if !slices.Contains(stream.CachedInfo().Config.Subjects, queue.subject()) {
			wrong = append(wrong, fmt.Sprintf("%s takes no requests for queue %s", Stream, queue.Name))
		}
		consumer, err := stream.Consumer(ctx, ConsumerPrefix+queue.Name)
		switch {
		case errors.Is(err, jetstream.ErrConsumerNotFound):
			wrong = append(wrong, fmt.Sprintf("queue %s has no consumer", queue.Name))
		case err != nil:
			return nil, nil, fmt.Errorf("look up the consumer of queue %s: %w", queue.Name, err)
		default:
			wrong = append(wrong, inspectConsumer(consumer.CachedInfo().Config, queue, ackWait)...)
		}
	}
	return queues, wrong, nil
}

// inspectStream compares what keeps requests from being lost, or run twice.
func inspectStream(have, want jetstream.StreamConfig) (wrong []string) {
	differs := func(different bool, format string, args ...any) {
		if different {
			wrong = append(wrong, Stream+" "+fmt.Sprintf(format, args...))
		}
	}
	differs(have.Retention != want.Retention, "keeps messages by %s, not as a %s", strings.ToLower(have.Retention.String()), strings.ToLower(want.Retention.String()))
	differs(have.Discard != want.Discard || have.DiscardNewPerSubject != want.DiscardNewPerSubject, "drops old messages when it is full, instead of refusing new ones")
	differs(have.MaxMsgsPerSubject != want.MaxMsgsPerSubject, "takes %d messages of one run, not %d", have.MaxMsgsPerSubject, want.MaxMsgsPerSubject)
	differs(have.MaxAge != 0, "forgets requests after %s", have.MaxAge)
	differs(have.Storage != want.Storage, "is kept in memory")
	differs(have.Replicas != want.Replicas, "is kept by %d servers, not by %d", have.Replicas, want.Replicas)
	differs(!have.AllowDirect, "does not allow direct reads")
	differs(have.Sealed, "is sealed")
	return wrong
}

// inspectConsumer compares what the limit and the hand-over of runs rest on.
func inspectConsumer(have jetstream.ConsumerConfig, queue Definition, ackWait time.Duration) (wrong []string) {
	differs := func(different bool, format string, args ...any) {
		if different {
			wrong = append(wrong, "the consumer of queue "+queue.Name+" "+fmt.Sprintf(format, args...))
		}
	}
	differs(have.MaxAckPending != queue.maxAckPending(), "lets %d runs be under way, not %d", have.MaxAckPending, queue.maxAckPending())
	differs(have.AckWait != ackWait, "waits %s for a sign of life, not %s", have.AckWait, ackWait)
	differs(len(have.BackOff) > 0, "has a back-off, which replaces that wait")
	differs(have.MaxDeliver > 0, "gives a run up after %d deliveries", have.MaxDeliver)
	differs(have.AckPolicy != jetstream.AckExplicitPolicy, "acknowledges by %s", have.AckPolicy)
	differs(have.FilterSubject != Subjects+queue.Name+".>", "takes %q", have.FilterSubject)
	return wrong
}

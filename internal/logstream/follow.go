package logstream

import (
	"context"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/pullnext"
)

// Arrival is a batch as it comes from the stream.
type Arrival struct {
	Log   logevent.Log
	Batch logevent.Batch
	// Live: the stream held nothing newer of what is read when it gave this.
	Live bool
}

// Read gives every batch of a run that the stream holds, and then each new one,
// to take, until take returns false or ctx ends. What is purged while it reads
// is left out: take sees a jump in the sequence. It survives reconnections.
// idle is called once the batches that were there have been given, if there was
// none that could say so.
func (s *Stream) Read(ctx context.Context, runID string, idle func() bool, take func(Arrival) bool) error {
	consumer, err := s.js.OrderedConsumer(ctx, Name, jetstream.OrderedConsumerConfig{
		FilterSubjects: []string{RunSubject("*", runID) + ">"}, DeliverPolicy: jetstream.DeliverAllPolicy,
	})
	if err != nil {
		return fmt.Errorf("read the logs of run %s: %w", runID, err)
	}
	if consumer.CachedInfo().NumPending == 0 && !idle() {
		return nil
	}
	messages, err := consumer.Messages(jetstream.PullMaxMessagesWithBytesLimit(readAhead, readAheadBytes))
	if err != nil {
		return fmt.Errorf("read the logs of run %s: %w", runID, err)
	}
	defer messages.Stop()
	for {
		message, err := pullnext.Next(ctx, messages)
		if err != nil {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			return fmt.Errorf("read the logs of run %s: %w", runID, err)
		}
		metadata, err := message.Metadata()
		if err != nil {
			return fmt.Errorf("read the logs of run %s: %w", runID, err)
		}
		arrival, err := arrivalOf(message)
		if err != nil {
			// Who ships logs counts it. That nothing follows has to be said.
			if metadata.NumPending == 0 && !idle() {
				return nil
			}
			continue
		}
		arrival.Live = metadata.NumPending == 0
		if !take(arrival) {
			return nil
		}
	}
}

// What a reader asks for ahead: the client holds it in memory.
const (
	readAhead      = 500
	readAheadBytes = 8 << 20
)

// strayError tells of a message that does not belong on the stream.
type strayError struct {
	reason string
	err    error
}

func (e *strayError) Error() string { return e.err.Error() }
func (e *strayError) Unwrap() error { return e.err }

// The reasons why a message does not belong on the stream.
const (
	// StraySubject: its subject is not one of a log.
	StraySubject = "subject"
	// StrayEncoding: it is no batch of lines.
	StrayEncoding = "encoding"
	// StrayUnlinked: it does not say which batch it follows, so that whoever
	// sent it could not be kept from writing beside the log's follower.
	StrayUnlinked = "unlinked"
)

func arrivalOf(message jetstream.Msg) (Arrival, error) {
	log, err := ParseSubject(message.Subject())
	if err != nil {
		return Arrival{}, &strayError{StraySubject, err}
	}
	batch, err := logevent.Decode(message.Data())
	if err != nil {
		return Arrival{}, &strayError{StrayEncoding, fmt.Errorf("read a batch of log %s: %w", log, err)}
	}
	return Arrival{Log: log, Batch: batch}, nil
}

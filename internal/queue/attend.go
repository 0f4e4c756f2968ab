package queue

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/ropewalk/ropewalk/internal/pullnext"
	"github.com/ropewalk/ropewalk/internal/retry"
)

// attendant deals with what is due: each message of one consumer of [DueStream],
// until it has succeeded, and then the message goes for good.
type attendant struct {
	js                             jetstream.JetStream
	durable, description, subjects string
	log                            zerolog.Logger
	// handle deals with one message. After an error the message comes again,
	// unless it is a [senselessError].
	handle func(context.Context, jetstream.Msg) error
	// hopeless, if set, chooses the errors that a message is given up for when it
	// has come very often; unset, it is any. All others are tried again for as
	// long as it takes.
	hopeless func(error) bool
	// givenUp, if set, is told of a message that will not come again, and of
	// the last error.
	givenUp func(context.Context, jetstream.Msg, error)
	// again is how long after an error the message comes again; left out, 2 s.
	again time.Duration
}

// senselessError tells of a message that no later try can make sense of.
type senselessError struct{ error }

const (
	// dueAtOnce bounds the messages that all dispatchers deal with side by
	// side, and dueHere those of one. Each waits for one write after the other to
	// be on disk, and the server makes those of many in one go.
	dueAtOnce = 512
	dueHere   = 64
)

// run attends until ctx ends.
func (a *attendant) run(ctx context.Context) error {
	for ctx.Err() == nil {
		var (
			stream   jetstream.Stream
			consumer jetstream.Consumer
		)
		err := retry.Do(ctx, retry.Network, func() (err error) {
			if stream, err = a.js.Stream(ctx, DueStream); err != nil {
				return err
			}
			consumer, err = stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
				Durable: a.durable, Description: a.description,
				FilterSubject: a.subjects, AckPolicy: jetstream.AckExplicitPolicy,
				AckWait: 30 * time.Second, MaxDeliver: -1, MaxAckPending: dueAtOnce,
			})
			return err
		}, func(err error, _ time.Duration) {
			a.log.Warn().Err(err).Msg("cannot configure the consumer of what is due, trying again")
		})
		if err == nil {
			a.pull(ctx, stream, consumer)
			pause(ctx, time.Second) // it ended by itself, which must not go on at full speed
		}
	}
	return nil
}

func (a *attendant) pull(ctx context.Context, stream jetstream.Stream, consumer jetstream.Consumer) {
	messages, err := consumer.Messages(jetstream.PullMaxMessages(dueHere), jetstream.PullHeartbeat(5*time.Second), jetstream.WithMessagesErrOnMissingHeartbeat(false))
	if err != nil {
		a.log.Warn().Err(err).Msg("cannot pull what is due, trying again")
		return
	}
	defer messages.Stop()
	var work errgroup.Group
	work.SetLimit(dueHere)
	defer func() { _ = work.Wait() }() // nothing in it returns an error
	for {
		message, err := pullnext.Next(ctx, messages)
		if err != nil {
			if ctx.Err() == nil {
				a.log.Warn().Err(err).Msg("the pull of what is due ended, beginning it anew")
			}
			return
		}
		work.Go(func() error {
			a.attend(ctx, stream, message)
			return nil
		})
	}
}

// enough is how many times a message comes before it is given up: over three
// minutes' worth.
const enough = 100

// tryAgain has a message come again after an error, unless it is one to give up.
func (a *attendant) tryAgain(ctx context.Context, message jetstream.Msg, err error) bool {
	metadata, unknown := message.Metadata()
	if unknown == nil && metadata.NumDelivered > enough && (a.hopeless == nil || a.hopeless(err)) {
		return false
	}
	// Many may wait for the same thing, for hours: each says so now and then.
	if ctx.Err() == nil && (unknown != nil || metadata.NumDelivered%enough == 1) {
		a.log.Warn().Err(err).Str("subject", message.Subject()).Msg("cannot deal with what is due, trying until it works")
	}
	_ = message.NakWithDelay(cmp.Or(a.again, 2*time.Second)) // should it fail, AckWait brings it back
	return true
}

// attend deals with one message, and removes it for good: it may hold a
// corrected request, and the stream has no age limit.
func (a *attendant) attend(ctx context.Context, stream jetstream.Stream, message jetstream.Msg) {
	err := a.handle(ctx, message)
	var senseless senselessError
	switch {
	case err == nil:
	case errors.As(err, &senseless):
		a.log.Warn().Err(err).Str("subject", message.Subject()).Msg("dropping a message that cannot be understood")
	case a.tryAgain(ctx, message, err):
		return
	default:
		a.log.Error().Err(err).Str("subject", message.Subject()).Msg("giving up what is due")
		if a.givenUp != nil {
			a.givenUp(ctx, message, err)
		}
	}
	// The message goes before its acknowledgement: should we end between the
	// two, it is not left behind.
	metadata, err := message.Metadata()
	if err == nil {
		err = stream.DeleteMsg(ctx, metadata.Sequence.Stream)
	}
	if err == nil || errors.Is(err, jetstream.ErrMsgNotFound) {
		err = message.Ack()
	}
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && ctx.Err() == nil {
		a.log.Warn().Err(err).Str("subject", message.Subject()).Msg("cannot remove what was dealt with")
	}
}

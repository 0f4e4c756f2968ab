package queue

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

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
	// givenUp, if set, is told of a message that will not come again, and of
	// the last error.
	givenUp func(context.Context, jetstream.Msg, error)
}

// senselessError tells of a message that no later try can make sense of.
type senselessError struct{ error }

const (
	// dueAtOnce bounds the messages that all dispatchers deal with side by
	// side, and dueHere those of one.
	dueAtOnce = 128
	dueHere   = 16
)

// run attends until ctx ends.
func (a *attendant) run(ctx context.Context) error {
	for ctx.Err() == nil {
		var consumer jetstream.Consumer
		err := retry.Do(ctx, retry.Network, func() (err error) {
			consumer, err = a.js.CreateOrUpdateConsumer(ctx, DueStream, jetstream.ConsumerConfig{
				Durable: a.durable, Description: a.description,
				FilterSubject: a.subjects, AckPolicy: jetstream.AckExplicitPolicy,
				AckWait: 30 * time.Second, MaxDeliver: -1, MaxAckPending: dueAtOnce,
			})
			return err
		}, func(err error, _ time.Duration) {
			a.log.Warn().Err(err).Msg("cannot configure the consumer of what is due, trying again")
		})
		if err == nil {
			a.pull(ctx, consumer)
			pause(ctx, time.Second) // it ended by itself, which must not go on at full speed
		}
	}
	return nil
}

func (a *attendant) pull(ctx context.Context, consumer jetstream.Consumer) {
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
		message, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			if ctx.Err() == nil {
				a.log.Warn().Err(err).Msg("the pull of what is due ended, beginning it anew")
			}
			return
		}
		work.Go(func() error {
			a.attend(ctx, message)
			return nil
		})
	}
}

// tooOften reports whether a message has come so often that what it waits for
// will not come to pass.
func tooOften(message jetstream.Msg) bool {
	const most = 100 // over three minutes
	metadata, err := message.Metadata()
	return err == nil && metadata.NumDelivered > most
}

// attend deals with one message, and removes it for good: it may hold a
// corrected request, and the stream has no age limit.
func (a *attendant) attend(ctx context.Context, message jetstream.Msg) {
	err := a.handle(ctx, message)
	var senseless senselessError
	switch {
	case err == nil:
	case errors.As(err, &senseless):
		a.log.Warn().Err(err).Str("subject", message.Subject()).Msg("dropping a message that cannot be understood")
	case !tooOften(message):
		if ctx.Err() == nil {
			a.log.Warn().Err(err).Str("subject", message.Subject()).Msg("cannot deal with what is due, trying again")
		}
		const again = 2 * time.Second
		_ = message.NakWithDelay(again) // should it fail, AckWait brings it back
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
		var stream jetstream.Stream
		if stream, err = a.js.Stream(ctx, DueStream); err == nil {
			err = stream.DeleteMsg(ctx, metadata.Sequence.Stream)
		}
	}
	if err == nil || errors.Is(err, jetstream.ErrMsgNotFound) {
		err = message.Ack()
	}
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && ctx.Err() == nil {
		a.log.Warn().Err(err).Str("subject", message.Subject()).Msg("cannot remove what was dealt with")
	}
}

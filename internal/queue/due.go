package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/ropewalk/ropewalk/internal/retry"
	"github.com/ropewalk/ropewalk/internal/run"
)

// The names of what holds the attempts that wait for their time. They have a
// stream of their own: the server refuses schedules in a stream that discards
// new messages, and lets a schedule fire only into its own stream.
const (
	DueStream = "RUN_DUE"
	// ScheduleSubjects precede <queue>.<run id>.<attempt> while it waits, and
	// DueSubjects once it is due. Whoever may publish to the second may replay.
	ScheduleSubjects = "ropewalk.schedules.retry."
	DueSubjects      = "ropewalk.due."

	dueConsumer = "due"
	// dueAtOnce bounds the attempts that all dispatchers queue side by side.
	dueAtOnce = 128
)

// Due holds attempts until they are due, without holding a slot, and hands
// them over then. It is safe for concurrent use.
type Due struct{ js jetstream.JetStream }

// CreateDue makes the stream where it is missing.
func CreateDue(ctx context.Context, js jetstream.JetStream, replicas int) (*Due, error) {
	_, err := js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: DueStream, Description: "Ropewalk: attempts that wait for their time, and those that are due",
		Subjects: []string{"ropewalk.schedules.>", DueSubjects + ">"}, Replicas: replicas,
		AllowMsgSchedules: true, AllowMsgTTL: true, AllowDirect: true, MaxMsgsPerSubject: 1,
	})
	if err != nil {
		return nil, fmt.Errorf("create stream %s: %w", DueStream, err)
	}
	return &Due{js}, nil
}

// NewDue returns what a client needs to ask for replays.
func NewDue(js jetstream.JetStream) *Due { return &Due{js} }

func dueName(due run.Due) string { return fmt.Sprintf("%s.%s.%d", due.Queue, due.ID, due.Attempt) }

// Schedule lets an attempt be due at a time, to the second. It is safe to
// repeat: the same attempt has one schedule, the last.
func (d *Due) Schedule(ctx context.Context, due run.Due, at time.Time) error {
	// The schedule is told in whole seconds; rounded down it would be early.
	return d.publish(ctx, ScheduleSubjects+dueName(due), due,
		jetstream.WithScheduleAt(at.Add(time.Second-time.Nanosecond)), jetstream.WithScheduleTarget(DueSubjects+dueName(due)))
}

// Now lets an attempt be due at once. It is safe to repeat.
func (d *Due) Now(ctx context.Context, due run.Due) error {
	return d.publish(ctx, DueSubjects+dueName(due), due)
}

func (d *Due) publish(ctx context.Context, subject string, due run.Due, options ...jetstream.PublishOpt) error {
	value, err := json.Marshal(due)
	if err != nil {
		return fmt.Errorf("encode attempt %d of run %s: %w", due.Attempt, due.ID, err)
	}
	if _, err := d.js.Publish(ctx, subject, value, options...); err != nil {
		if errors.Is(err, jetstream.ErrNoStreamResponse) {
			err = ErrNotSetUp
		}
		return fmt.Errorf("schedule attempt %d of run %s: %w", due.Attempt, due.ID, err)
	}
	return nil
}

// Queue puts an attempt on its queue; see [Publish]. What no later try can mend
// is a [*run.InvalidError].
func (d *Due) Queue(ctx context.Context, request run.Request, attempt int) error {
	_, err := publishAttempt(ctx, d.js, request, attempt)
	if errors.Is(err, ErrTooLarge) || errors.Is(err, ErrNoQueue) {
		return &run.InvalidError{Problems: []run.Problem{{Message: err.Error()}}}
	}
	return err
}

// Consume hands every attempt that is due to handle, until ctx ends. One that
// handle cannot deal with now comes again.
func (d *Due) Consume(ctx context.Context, log zerolog.Logger, handle func(context.Context, run.Due) error) error {
	for ctx.Err() == nil {
		var consumer jetstream.Consumer
		err := retry.Do(ctx, retry.Network, func() (err error) {
			consumer, err = d.js.CreateOrUpdateConsumer(ctx, DueStream, jetstream.ConsumerConfig{
				Durable: dueConsumer, Description: "Ropewalk: attempts that are due",
				FilterSubject: DueSubjects + ">", AckPolicy: jetstream.AckExplicitPolicy,
				AckWait: 30 * time.Second, MaxDeliver: -1, MaxAckPending: dueAtOnce,
			})
			return err
		}, func(err error, _ time.Duration) {
			log.Warn().Err(err).Msg("cannot configure the consumer of attempts that are due, trying again")
		})
		if err == nil {
			d.pull(ctx, consumer, log, handle)
			pause(ctx, time.Second) // it ended by itself, which must not go on at full speed
		}
	}
	return nil
}

func (d *Due) pull(ctx context.Context, consumer jetstream.Consumer, log zerolog.Logger, handle func(context.Context, run.Due) error) {
	const atOnce = 16
	messages, err := consumer.Messages(jetstream.PullMaxMessages(atOnce), jetstream.PullHeartbeat(5*time.Second), jetstream.WithMessagesErrOnMissingHeartbeat(false))
	if err != nil {
		log.Warn().Err(err).Msg("cannot pull the attempts that are due, trying again")
		return
	}
	defer messages.Stop()
	var work errgroup.Group
	work.SetLimit(atOnce)
	defer func() { _ = work.Wait() }() // nothing in it returns an error
	for {
		message, err := messages.Next(jetstream.NextContext(ctx))
		if err != nil {
			if ctx.Err() == nil {
				log.Warn().Err(err).Msg("the pull of attempts that are due ended, beginning it anew")
			}
			return
		}
		work.Go(func() error {
			d.handle(ctx, message, log, handle)
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

// handle deals with one attempt, and removes its message for good: it may hold
// a corrected request, and the stream has no age limit.
func (d *Due) handle(ctx context.Context, message jetstream.Msg, log zerolog.Logger, handle func(context.Context, run.Due) error) {
	var due run.Due
	err := json.Unmarshal(message.Data(), &due)
	if err == nil && message.Subject() != DueSubjects+dueName(due) {
		// Permissions are enforced on subjects: a message that names another
		// run counts for nothing.
		err = errors.New("the message names another run than its subject")
	}
	if err != nil {
		log.Warn().Err(err).Str("subject", message.Subject()).Msg("dropping an attempt that cannot be understood")
	} else if err := handle(ctx, due); err != nil && !tooOften(message) {
		log.Warn().Err(err).Str("run_id", due.ID).Msg("cannot queue an attempt that is due, trying again")
		const again = 2 * time.Second
		_ = message.NakWithDelay(again) // should it fail, AckWait brings it back
		return
	}
	// The message goes before its acknowledgement: should we end between the
	// two, it is not left behind.
	metadata, err := message.Metadata()
	if err == nil {
		var stream jetstream.Stream
		if stream, err = d.js.Stream(ctx, DueStream); err == nil {
			err = stream.DeleteMsg(ctx, metadata.Sequence.Stream)
		}
	}
	if err == nil || errors.Is(err, jetstream.ErrMsgNotFound) {
		err = message.Ack()
	}
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) && ctx.Err() == nil {
		log.Warn().Err(err).Str("run_id", due.ID).Msg("cannot remove an attempt that was queued")
	}
}

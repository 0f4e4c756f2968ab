package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/ensure"
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
)

// Due holds attempts until they are due, without holding a slot, and hands
// them over then. It is safe for concurrent use.
type Due struct{ js jetstream.JetStream }

// CreateDue makes the stream where it is missing.
func CreateDue(ctx context.Context, js jetstream.JetStream, replicas int) (*Due, error) {
	_, err := ensure.Stream(ctx, js, jetstream.StreamConfig{
		Name: DueStream, Description: "Ropewalk: attempts and schedules that wait for their time, and those that are due",
		Subjects: []string{"ropewalk.schedules.>", DueSubjects + ">", FiredSubjects + ">"}, Replicas: replicas,
		AllowMsgSchedules: true, AllowMsgTTL: true, AllowDirect: true, MaxMsgsPerSubject: 1,
	})
	if err != nil {
		return nil, err
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
			err = fmt.Errorf("nobody answers for it, as while the NATS servers start or choose a leader; try again in a few seconds: %w", err)
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
// handle cannot deal with now comes again, until it can: a run waits for it. Only
// one that keeps contradicting the run's record ([run.ErrContradicted]) is dropped in
// the end.
func (d *Due) Consume(ctx context.Context, log zerolog.Logger, handle func(context.Context, run.Due) error) error {
	return d.attendant(log, handle).run(ctx)
}

func (d *Due) attendant(log zerolog.Logger, handle func(context.Context, run.Due) error) *attendant {
	return &attendant{
		js: d.js, durable: dueConsumer, description: "Ropewalk: attempts that are due", subjects: DueSubjects + ">", log: log,
		hopeless: func(err error) bool { return errors.Is(err, run.ErrContradicted) },
		handle: func(ctx context.Context, message jetstream.Msg) error {
			var due run.Due
			err := json.Unmarshal(message.Data(), &due)
			if err == nil && message.Subject() != DueSubjects+dueName(due) {
				// Permissions are enforced on subjects: a message that names
				// another run counts for nothing.
				err = errors.New("the message names another run than its subject")
			}
			if err != nil {
				return senselessError{err}
			}
			return handle(ctx, due)
		},
	}
}

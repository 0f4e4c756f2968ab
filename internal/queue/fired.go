package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/retry"
	"github.com/ropewalk/ropewalk/internal/run"
)

// Run has the server keep the times of every schedule that there is and will be,
// and hands each time that comes to handle, until ctx ends. A time that handle
// cannot deal with comes again.
func (s *Schedules) Run(ctx context.Context, log zerolog.Logger, handle func(ctx context.Context, schedule run.Schedule, at time.Time) error) error {
	keeping := make(chan struct{})
	go func() {
		defer close(keeping)
		s.keep(ctx, log)
	}()
	defer func() { <-keeping }()
	return (&attendant{
		js: s.js, durable: firedConsumer, description: "Ropewalk: times of schedules that have come", subjects: FiredSubjects + ">", log: log,
		handle: func(ctx context.Context, message jetstream.Msg) error {
			schedule, at, err := s.fired(ctx, message)
			if errors.Is(err, errOutdated) {
				return nil
			}
			if err != nil {
				return err
			}
			return handle(ctx, schedule, at)
		},
		givenUp: func(ctx context.Context, message jetstream.Msg, why error) {
			schedule, at, err := s.fired(ctx, message)
			if err == nil {
				err = s.Note(ctx, schedule.Name, run.Firing{At: at, Outcome: run.FiringRefused, Message: why.Error()})
			}
			if err != nil {
				log.Warn().Err(err).Msg("cannot write down what became of a schedule")
			}
		},
	}).run(ctx)
}

// keep mends what a client left undone that ended between storing a schedule and
// having its times kept.
func (s *Schedules) keep(ctx context.Context, log zerolog.Logger) {
	_ = retry.Do(ctx, retry.Network, func() error { // its error is the context's
		watcher, err := s.bucket.WatchAll(ctx, jetstream.IgnoreDeletes())
		if err != nil {
			return fmt.Errorf("watch schedules: %w", err)
		}
		defer func() { _ = watcher.Stop() }() // fails only when it has stopped already
		for {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case entry, open := <-watcher.Updates():
				if !open {
					return errors.New("watch schedules: the connection to NATS was closed")
				}
				if entry == nil { // what was there has been sent
					continue
				}
				// What is told may be older than what there is.
				schedule, err := s.Get(ctx, entry.Key())
				if errors.Is(err, ErrNoSchedule) || err != nil && ctx.Err() != nil {
					continue
				}
				if err != nil {
					log.Error().Err(err).Msg("a schedule is wrong and is not followed; delete it and create it anew")
					continue
				}
				if err := s.arrange(ctx, schedule); err != nil && ctx.Err() == nil {
					log.Warn().Err(err).Msg("cannot have the times of a schedule kept")
				}
			}
		}
	}, func(err error, _ time.Duration) {
		log.Warn().Err(err).Msg("cannot watch the schedules, trying again")
	})
}

// errOutdated: a time has come of a schedule that is no longer what it was.
var errOutdated = errors.New("the schedule was changed or deleted")

// fired finds the schedule of a message, and the time by the schedule. However
// late the server is, and however often it tells of one time, that time is the
// last before the one that it announces as next.
func (s *Schedules) fired(ctx context.Context, message jetstream.Msg) (run.Schedule, time.Time, error) {
	name := strings.TrimPrefix(message.Subject(), FiredSubjects)
	schedule, err := s.Get(ctx, name)
	if errors.Is(err, ErrNoSchedule) {
		gone, unknown := s.deleted(ctx, name)
		if unknown == nil && gone {
			unknown = s.disarrange(ctx, name)
			err = errOutdated
		}
		if unknown != nil {
			err = unknown
		}
	}
	if err != nil {
		return run.Schedule{}, time.Time{}, err
	}
	var of arranged
	if err := json.Unmarshal(message.Data(), &of); err != nil || !of.ChangedAt.Equal(schedule.ChangedAt) {
		return run.Schedule{}, time.Time{}, errOutdated
	}
	times, err := newCalendar(schedule)
	if err != nil {
		return run.Schedule{}, time.Time{}, senselessError{err}
	}
	if schedule.At != nil {
		return schedule, *schedule.At, nil
	}
	next, err := time.Parse(time.RFC3339Nano, message.Headers().Get("Nats-Schedule-Next"))
	if err != nil {
		return run.Schedule{}, time.Time{}, senselessError{errors.New("the server does not say when the schedule runs next")}
	}
	return schedule, times.before(next), nil
}

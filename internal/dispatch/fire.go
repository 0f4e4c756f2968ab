package dispatch

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Schedules are what becomes of the times of schedules.
type Schedules interface {
	// Note writes down what became of a time, unless that of a later one is
	// known. It may be repeated.
	Note(ctx context.Context, name string, firing run.Firing) error
	// Request asks all dispatchers to stop a run. It may be repeated.
	Request(ctx context.Context, cancellation run.Cancellation) error
}

// Fire runs the request of a schedule for one of its times, or passes the time
// over, as the schedule says. It may be repeated: a time is one run, whose id
// follows from it, and a time whose outcome is known is left alone.
func (d *Dispatcher) Fire(ctx context.Context, schedule run.Schedule, at time.Time) error {
	if schedule.Paused || schedule.Last != nil && !at.After(schedule.Last.At) {
		return nil
	}
	note := func(outcome run.Outcome, id, message string) error {
		d.config.Log.Info().Str("schedule", schedule.Name).Time("at", at).Str("outcome", string(outcome)).Str("run_id", id).Msg("a time of a schedule has come")
		return d.config.Schedules.Note(ctx, schedule.Name, run.Firing{At: at, Outcome: outcome, Run: id, Message: message})
	}
	if late := d.config.Now().Sub(at); schedule.Within > 0 && late > time.Duration(schedule.Within) {
		return note(run.FiringMissed, "", fmt.Sprintf("It was %s late; the schedule allows %s.", late.Round(time.Second), schedule.Within))
	}
	id := schedule.RunID(at)
	if schedule.Overlap != run.AllowOverlap && schedule.Run != "" && schedule.Run != id {
		before, err := d.goingOn(ctx, schedule)
		switch {
		case err != nil:
			return err
		case before == nil:
		case schedule.Overlap == run.SkipOverlap:
			return note(run.FiringSkipped, before.ID, fmt.Sprintf("Run %s still goes on (%s).", before.ID, before.State))
		default:
			err := d.config.Schedules.Request(ctx, run.Cancellation{
				Queue: before.Queue, ID: before.ID, Attempt: before.Attempt, RequestedAt: d.config.Now().UTC(),
			})
			if err != nil {
				return err
			}
		}
	}
	request := schedule.Request.Clone()
	request.ID, request.SubmittedAt = id, at.UTC()
	err := d.config.Later.Queue(ctx, request, 1)
	if refused, ok := errors.AsType[*run.InvalidError](err); ok {
		return note(run.FiringRefused, "", refused.Error())
	}
	if err != nil {
		return err
	}
	return note(run.FiringStarted, id, "")
}

// goingOn returns the newest run of a schedule if it waits or is under way.
func (d *Dispatcher) goingOn(ctx context.Context, schedule run.Schedule) (*run.Run, error) {
	record, _, err := d.config.Store.Lookup(ctx, schedule.Run)
	if err == nil {
		if record.State.Final() {
			return nil, nil //nolint:nilnil // nothing goes on
		}
		return &record, nil
	}
	if !errors.Is(err, run.ErrNotFound) {
		return nil, err
	}
	waiting, err := d.config.Waiting.Find(ctx, schedule.Request.Queue, schedule.Run, 1)
	if errors.Is(err, run.ErrNotFound) {
		return nil, nil //nolint:nilnil // it is over, and its record no longer kept
	}
	if err != nil {
		return nil, err
	}
	record = run.New(waiting)
	return &record, nil
}

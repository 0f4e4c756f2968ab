package client

import (
	"cmp"
	"context"
	"time"

	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/run"
)

// Errors of schedules, for errors.Is.
var (
	// ErrNoSchedule: there is no schedule of that name.
	ErrNoSchedule = queue.ErrNoSchedule
	// ErrScheduleExists: there is one already.
	ErrScheduleExists = queue.ErrScheduleExists
	// ErrNoCron: the NATS server keeps single times only.
	ErrNoCron = queue.ErrNoCron
)

// CreateSchedule has a request run at the times that the schedule says, and
// returns the schedule as it is kept. The request's version, its queue and the
// overlap (skip) are filled in where they are empty; its id must be.
func (c *Client) CreateSchedule(ctx context.Context, schedule Schedule) (Schedule, error) {
	schedule.Overlap = cmp.Or(schedule.Overlap, run.SkipOverlap)
	schedule.Request.Version = cmp.Or(schedule.Request.Version, run.Version)
	schedule.Request.Queue = cmp.Or(schedule.Request.Queue, DefaultQueue)
	definitions, err := queue.OpenDefinitions(ctx, c.js)
	if err != nil {
		return Schedule{}, err
	}
	schedules, err := queue.OpenSchedules(ctx, c.js)
	if err != nil {
		return Schedule{}, err
	}
	if _, err := definitions.Get(ctx, schedule.Request.Queue); err != nil {
		return Schedule{}, err
	}
	return schedules.Create(ctx, schedule)
}

// Schedules returns every schedule, by name.
func (c *Client) Schedules(ctx context.Context) ([]Schedule, error) {
	schedules, err := queue.OpenSchedules(ctx, c.js)
	if err != nil {
		return nil, err
	}
	return schedules.List(ctx)
}

// Schedule returns one schedule, or [ErrNoSchedule].
func (c *Client) Schedule(ctx context.Context, name string) (Schedule, error) {
	schedules, err := queue.OpenSchedules(ctx, c.js)
	if err != nil {
		return Schedule{}, err
	}
	return schedules.Get(ctx, name)
}

// PauseSchedule stops a schedule; what it would have run meanwhile is not made
// up for. It may be repeated.
func (c *Client) PauseSchedule(ctx context.Context, name string) error {
	schedules, err := queue.OpenSchedules(ctx, c.js)
	if err != nil {
		return err
	}
	return schedules.Pause(ctx, name)
}

// ResumeSchedule sets a schedule going again, from now on. It may be repeated.
func (c *Client) ResumeSchedule(ctx context.Context, name string) error {
	schedules, err := queue.OpenSchedules(ctx, c.js)
	if err != nil {
		return err
	}
	return schedules.Resume(ctx, name)
}

// DeleteSchedule deletes a schedule. Its runs stay what they are.
func (c *Client) DeleteSchedule(ctx context.Context, name string) error {
	schedules, err := queue.OpenSchedules(ctx, c.js)
	if err != nil {
		return err
	}
	return schedules.Delete(ctx, name)
}

// NextTime is when a schedule runs next after a moment; zero when it does not.
func NextTime(schedule Schedule, moment time.Time) time.Time {
	return queue.NextTime(schedule, moment)
}

package queue

import (
	"fmt"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"github.com/ropewalk/ropewalk/internal/run"
)

// calendar tells the times of a schedule. The server, which keeps them, reckons
// by the same rules: its parser descends from the one that is used here.
type calendar struct {
	schedule run.Schedule
	cron     cron.Schedule // nil for a schedule with one time
	zone     *time.Location
}

// newCalendar returns an [*run.InvalidError] for times that are none.
func newCalendar(schedule run.Schedule) (calendar, error) {
	c := calendar{schedule: schedule, zone: time.UTC}
	if schedule.Cron == "" {
		return c, nil
	}
	wrong := func(field, format string, args ...any) (calendar, error) {
		return calendar{}, &run.InvalidError{Problems: []run.Problem{{Field: field, Message: fmt.Sprintf(format, args...)}}}
	}
	if zone := schedule.TimeZone; zone != "" {
		var err error
		if c.zone, err = time.LoadLocation(zone); err != nil || zone == "Local" {
			return wrong("timeZone", "%.80q is not a time zone such as Europe/Berlin", zone)
		}
	}
	const fields = cron.Second | cron.Minute | cron.Hour | cron.Dom | cron.Month | cron.Dow
	pattern := cronPattern(schedule.Cron)
	if strings.HasPrefix(pattern, "@every") || strings.Contains(pattern, "TZ=") {
		return wrong("cron", "%.80q is not a time by the calendar", schedule.Cron)
	}
	parsed, err := cron.NewParser(fields | cron.Descriptor).Parse(pattern)
	if err != nil {
		return wrong("cron", "%.80q is not a time such as \"30 2 * * 1-5\" (minute, hour, day, month, weekday) or @daily: %s", schedule.Cron, err)
	}
	c.cron = parsed
	if c.after(time.Now()).IsZero() {
		return wrong("cron", "%.80q is a time that never comes", schedule.Cron)
	}
	return c, nil
}

// cronPattern writes a pattern as the server wants it, with seconds.
func cronPattern(pattern string) string {
	pattern = strings.Join(strings.Fields(pattern), " ")
	if strings.Count(pattern, " ") == 4 {
		return "0 " + pattern
	}
	return pattern
}

// after is the next time after a moment; zero when there is none.
func (c calendar) after(moment time.Time) time.Time {
	if c.cron != nil {
		return c.cron.Next(moment.In(c.zone))
	}
	if at := *c.schedule.At; at.After(moment) {
		return at
	}
	return time.Time{}
}

// before is the last time before a moment; zero when there has been none for
// years.
func (c calendar) before(moment time.Time) time.Time {
	if c.cron == nil {
		return *c.schedule.At
	}
	const longest = 6 * 366 * 24 * time.Hour // 29 February, and some more
	for window := time.Minute; window < 2*longest; window *= 4 {
		var last time.Time
		for next := c.after(moment.Add(-window)); !next.IsZero() && next.Before(moment); next = c.after(next) {
			last = next
		}
		if !last.IsZero() {
			return last
		}
	}
	return time.Time{}
}

// NextTime is when a schedule runs next after a moment; zero when it does not.
func NextTime(schedule run.Schedule, moment time.Time) time.Time {
	calendar, err := newCalendar(schedule)
	if err != nil || schedule.Paused || schedule.Done() {
		return time.Time{}
	}
	return calendar.after(moment)
}

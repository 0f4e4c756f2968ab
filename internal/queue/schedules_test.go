package queue

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func at(t *testing.T, text string) time.Time {
	t.Helper()
	moment, err := time.Parse(time.RFC3339, text)
	if err != nil {
		t.Fatal(err)
	}
	return moment
}

func TestTimesByTheCalendar(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ cron, zone, moment, before, after string }{
		"five fields":               {"30 2 * * *", "", "2026-01-31T02:30:00Z", "2026-01-30T02:30:00Z", "2026-02-01T02:30:00Z"},
		"six fields":                {"*/10 * * * * *", "", "2026-01-31T02:30:05Z", "2026-01-31T02:30:00Z", "2026-01-31T02:30:10Z"},
		"a word":                    {"@monthly", "", "2026-01-31T02:30:05Z", "2026-01-01T00:00:00Z", "2026-02-01T00:00:00Z"},
		"a zone":                    {"0 9 * * 1-5", "America/New_York", "2026-01-31T02:30:00Z", "2026-01-30T14:00:00Z", "2026-02-02T14:00:00Z"},
		"clocks that go forward":    {"30 2 * * *", "Europe/Berlin", "2026-03-29T12:00:00Z", "2026-03-28T01:30:00Z", "2026-03-30T00:30:00Z"},
		"the day after they did":    {"0 12 * * *", "Europe/Berlin", "2026-03-29T00:00:00Z", "2026-03-28T11:00:00Z", "2026-03-29T10:00:00Z"},
		"a day in every four years": {"0 0 29 2 *", "", "2027-01-01T00:00:00Z", "2024-02-29T00:00:00Z", "2028-02-29T00:00:00Z"},
	} {
		t.Run(name, func(t *testing.T) {
			calendar, err := newCalendar(run.Schedule{Cron: test.cron, TimeZone: test.zone})
			if err != nil {
				t.Fatal(err)
			}
			moment := at(t, test.moment)
			if got := calendar.before(moment); !got.Equal(at(t, test.before)) {
				t.Errorf("before %s it is %s; want %s", moment, got, test.before)
			}
			if got := calendar.after(moment); !got.Equal(at(t, test.after)) {
				t.Errorf("after %s it is %s; want %s", moment, got, test.after)
			}
		})
	}
}

// What the server announces as next leads back to the time that it tells of.
func TestTheTimeBeforeTheNextIsTheTime(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.SampledFrom([]string{"* * * * * *", "7 * * * *", "0 */5 * * *", "30 2 * * *", "15 3 1,15 * *", "0 0 * * 0", "0 12 29 2 *"}).Draw(t, "pattern")
		zone := rapid.SampledFrom([]string{"", "Europe/Berlin", "Australia/Lord_Howe", "America/Sao_Paulo"}).Draw(t, "zone")
		calendar, err := newCalendar(run.Schedule{Cron: pattern, TimeZone: zone})
		if err != nil {
			t.Fatal(err)
		}
		time1 := calendar.after(time.Unix(rapid.Int64Range(1_500_000_000, 2_500_000_000).Draw(t, "moment"), 0))
		if got := calendar.before(calendar.after(time1)); !got.Equal(time1) {
			t.Fatalf("the time before the one after %s is %s", time1, got)
		}
	})
}

// arrangements is a server with a queue and what schedules need.
func arrangements(t *testing.T, js jetstream.JetStream) *Schedules {
	t.Helper()
	define(t, js, Definition{Name: "default", Concurrency: 1})
	if _, err := CreateDue(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	schedules, err := CreateSchedules(t.Context(), js, 1)
	if err != nil {
		t.Fatal(err)
	}
	return schedules
}

func scheduled(name string, change func(*run.Schedule)) run.Schedule {
	schedule := run.Schedule{Name: name, Overlap: run.SkipOverlap, Request: run.Request{Version: 1, Queue: "default", Command: []string{"true"}}}
	change(&schedule)
	return schedule
}

// firing is a time that came, and of which schedule.
type firing struct {
	schedule run.Schedule
	at       time.Time
}

// attend runs the schedules until the test ends or stop is called, and notes
// each time as started before it hands it on.
func attend(t *testing.T, schedules *Schedules) (fired chan firing, stop func()) {
	t.Helper()
	fired = make(chan firing, 100)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- schedules.Run(ctx, zerolog.New(zerolog.NewTestWriter(t)), func(ctx context.Context, schedule run.Schedule, at time.Time) error {
			if err := schedules.Note(ctx, schedule.Name, run.Firing{At: at, Outcome: run.FiringStarted, Run: schedule.RunID(at)}); err != nil {
				return err
			}
			fired <- firing{schedule, at}
			return nil
		})
	}()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := wait.Receive(t, "end of the schedules", ended); err != nil {
			t.Errorf("Run = %v", err)
		}
	}
	t.Cleanup(stop)
	return fired, stop
}

func create(t *testing.T, schedules *Schedules, schedule run.Schedule) run.Schedule {
	t.Helper()
	kept, err := schedules.Create(t.Context(), schedule)
	if err != nil {
		t.Fatal(err)
	}
	return kept
}

// leaveUndone stores a schedule as a client does that ends before it has the
// schedule's time kept, which is past.
func leaveUndone(t *testing.T, schedules *Schedules, name string) {
	t.Helper()
	past := time.Now().UTC().Truncate(time.Second).Add(-time.Hour)
	value, err := scheduled(name, func(s *run.Schedule) { s.At, s.ChangedAt = &past, time.Now().UTC() }).Encode()
	if err == nil {
		_, err = schedules.bucket.Create(t.Context(), name, value)
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestATimeComesOnceAndIsDone(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	schedules := arrangements(t, js)
	soon := time.Now() // the next second, as schedules go
	kept := create(t, schedules, scheduled("once", func(s *run.Schedule) {
		s.At = &soon
		s.Request.SecretEnv = map[string]run.Secret{"TOKEN": "hunter2"}
	}))
	fired, stop := attend(t, schedules)
	got := wait.Receive(t, "time", fired)
	if !got.at.Equal(*kept.At) || got.at.Before(soon.Truncate(time.Second)) || got.schedule.Request.SecretEnv["TOKEN"].Reveal() != "hunter2" {
		t.Errorf("fired %+v; want the time %s, with its secret", got, kept.At)
	}
	if now := time.Now(); now.Before(got.at) {
		t.Errorf("at %s, the time %s has not come", now, got.at)
	}
	wait.Until(t, "nothing of it to be left in the stream", func() bool {
		stream, err := js.Stream(t.Context(), DueStream)
		return err == nil && stream.CachedInfo().State.Msgs == 0
	})
	if after, err := schedules.Get(t.Context(), "once"); err != nil || !after.Done() || after.Started != 1 || after.Run != kept.RunID(got.at) {
		t.Errorf("afterwards it is %+v, %v", after, err)
	}
	// A dispatcher that starts now leaves it at that. It has looked at it when it
	// looks at another one, which was written later and which it must mend.
	stop()
	leaveUndone(t, schedules, "mark")
	again, stop := attend(t, schedules)
	if mark := wait.Receive(t, "time in the past, of another schedule", again); mark.schedule.Name != "mark" {
		t.Errorf("%s ran again", mark.schedule.Name)
	}
	stop()
	for len(again) > 0 {
		t.Errorf("%s ran again", (<-again).schedule.Name)
	}
}

func TestTheCalendarsTimesComeOneByOne(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	schedules := arrangements(t, js)
	create(t, schedules, scheduled("tick", func(s *run.Schedule) { s.Cron, s.TimeZone = "*/2 * * * * *", "Europe/Berlin" }))
	fired, _ := attend(t, schedules)
	var before time.Time
	for range 3 {
		next := wait.Receive(t, "time", fired).at
		if !next.After(before) || next.Unix()%2 != 0 || next.Nanosecond() != 0 || time.Until(next) > 0 {
			t.Fatalf("after %s came %s, at %s", before, next, time.Now())
		}
		before = next
	}
}

func TestOfTimesThatWereMissedTheLatestIsMadeUpFor(t *testing.T) {
	t.Parallel()
	store := t.TempDir()
	options := func(options *server.Options) { options.StoreDir = store }
	// The server is away for the first time, and dispatchers are for the second,
	// too. The third is some way off.
	first := time.Now().Add(1700 * time.Millisecond).Truncate(time.Second)
	second, third := first.Add(time.Second), first.Add(3*time.Second)
	tick := scheduled("tick", func(s *run.Schedule) {
		s.Cron = fmt.Sprintf("%d,%d,%d * * * * *", first.Second(), second.Second(), third.Second())
	})
	calendar, err := newCalendar(tick)
	if err != nil {
		t.Fatal(err)
	}
	t.Run("before", func(t *testing.T) {
		_, js := natstest.Start(t, options)
		create(t, arrangements(t, js), tick)
	})
	wait.Until(t, "the first time to be past", func() bool { return time.Now().After(first) })
	_, js := natstest.Start(t, options)
	schedules := arrangements(t, js)
	var latest time.Time
	wait.Until(t, "the second time to have come, to nobody", func() bool {
		stream, err := js.Stream(t.Context(), DueStream)
		if err != nil {
			return false
		}
		message, err := stream.GetLastMsgForSubject(t.Context(), FiredSubjects+"tick")
		if err != nil {
			return false
		}
		latest = calendar.before(at(t, message.Header.Get("Nats-Schedule-Next")))
		return !latest.Before(second)
	})
	fired, _ := attend(t, schedules)
	// On a machine that is slow, still later ones may have come by now.
	got := wait.Receive(t, "time that was missed", fired).at
	if got.Before(latest) || got.After(time.Now()) {
		t.Errorf("first came %s; of those that were missed, the latest was %s", got, latest)
	}
	if next := wait.Receive(t, "time after it", fired).at; !next.After(got) {
		t.Errorf("then came %s, after %s", next, got)
	}
}

func TestAPausedScheduleIsSilentAndGoesOnWhenResumed(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	schedules := arrangements(t, js)
	create(t, schedules, scheduled("tick", func(s *run.Schedule) { s.Cron = "* * * * * *" }))
	fired, _ := attend(t, schedules)
	wait.Receive(t, "time", fired)
	for range 2 {
		if err := schedules.Pause(t.Context(), "tick"); err != nil {
			t.Fatal(err)
		}
	}
	paused := time.Now()
	// Another one shows how far the server has come. When its second time comes,
	// those of the paused one would have, from its first.
	create(t, schedules, scheduled("mark", func(s *run.Schedule) { s.Cron = "* * * * * *" }))
	for marks := 0; marks < 2; {
		got := wait.Receive(t, "time of the other schedule", fired)
		switch {
		case got.schedule.Name == "mark":
			marks++
		case got.at.After(paused): // what was before may have been on its way
			t.Fatalf("paused at %s, it ran at %s", paused, got.at)
		}
	}
	resumed := time.Now()
	if err := schedules.Resume(t.Context(), "tick"); err != nil {
		t.Fatal(err)
	}
	got := wait.Receive(t, "time after resuming", fired)
	for got.schedule.Name != "tick" {
		got = wait.Receive(t, "time after resuming", fired)
	}
	if !got.at.After(resumed.Truncate(time.Second)) {
		t.Errorf("resumed at %s, it made up for %s", resumed, got.at)
	}
	if err := schedules.Delete(t.Context(), "tick"); err != nil {
		t.Fatal(err)
	}
	if _, err := schedules.Get(t.Context(), "tick"); !errors.Is(err, ErrNoSchedule) {
		t.Errorf("deleted, it is %v", err)
	}
	// A dispatcher may have been about to arrange them, and removes them then.
	wait.Until(t, "its times to be gone", func() bool {
		_, sequence, err := schedules.arrangedNow(t.Context(), "tick")
		return err == nil && sequence == 0
	})
}

// Whoever creates a schedule may end between storing it and having its times
// kept. A dispatcher mends that; what is in order it leaves alone.
func TestADispatcherArrangesWhatAClientLeftUndone(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	schedules := arrangements(t, js)
	whole := create(t, schedules, scheduled("whole", func(s *run.Schedule) { s.Cron = "@yearly" }))
	_, sequence, err := schedules.arrangedNow(t.Context(), "whole")
	if err != nil || sequence == 0 {
		t.Fatalf("message %d, %v", sequence, err)
	}
	leaveUndone(t, schedules, "half")
	fired, _ := attend(t, schedules)
	if got := wait.Receive(t, "time", fired); got.schedule.Name != "half" {
		t.Errorf("%s ran", got.schedule.Name)
	}
	if _, now, err := schedules.arrangedNow(t.Context(), whole.Name); err != nil || now != sequence {
		t.Errorf("what was in order was arranged anew: message %d, now %d, %v", sequence, now, err)
	}
}

func TestAMessageOfAnEarlierArrangementCountsForNothing(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	schedules := arrangements(t, js)
	far := time.Now().Add(time.Hour)
	create(t, schedules, scheduled("far", func(s *run.Schedule) { s.At = &far }))
	fired, stop := attend(t, schedules)
	for _, forged := range []string{`{"changedAt":"2020-01-01T00:00:00Z"}`, `{`, ``} {
		if _, err := js.Publish(t.Context(), FiredSubjects+"far", []byte(forged)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := js.Publish(t.Context(), FiredSubjects+"nobody", []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	past := time.Now().Add(-time.Hour)
	create(t, schedules, scheduled("mark", func(s *run.Schedule) { s.At = &past }))
	if got := wait.Receive(t, "time", fired); got.schedule.Name != "mark" {
		t.Errorf("%s ran", got.schedule.Name)
	}
	stop()
	for len(fired) > 0 {
		t.Errorf("%s ran", (<-fired).schedule.Name)
	}
}

func TestWhatIsNotedIsTheLatest(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	schedules := arrangements(t, js)
	create(t, schedules, scheduled("tick", func(s *run.Schedule) { s.Cron = "@yearly" }))
	second := at(t, "2026-01-31T02:00:02Z")
	for _, firing := range []run.Firing{
		{At: second, Outcome: run.FiringStarted, Run: "tick-2"},
		{At: second, Outcome: run.FiringSkipped, Message: "again"},
		{At: second.Add(-time.Second), Outcome: run.FiringStarted, Run: "tick-1"},
	} {
		if err := schedules.Note(t.Context(), "tick", firing); err != nil {
			t.Fatal(err)
		}
	}
	got, err := schedules.Get(t.Context(), "tick")
	if err != nil || got.Run != "tick-2" || got.Last.Outcome != run.FiringStarted || got.Started != 1 || got.Passed != 0 {
		t.Errorf("noted is %+v, %v", got, err)
	}
}

func TestWhatIsWrongWithAScheduleIsSaidAtOnce(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	schedules := arrangements(t, js)
	for want, change := range map[string]func(*run.Schedule){
		"say when":                         func(*run.Schedule) {},
		"cron \"* *\" is not a time":       func(s *run.Schedule) { s.Cron = "* *" },
		"is not a time by the calendar":    func(s *run.Schedule) { s.Cron = "@every 1s" },
		"is not a time zone":               func(s *run.Schedule) { s.Cron, s.TimeZone = "@daily", "Local" },
		"request.id must be left out":      func(s *run.Schedule) { s.Cron, s.Request.ID = "@daily", "mine" },
		"secretEnv[A B]":                   func(s *run.Schedule) { s.Cron, s.Request.SecretEnv = "@daily", map[string]run.Secret{"A B": "x"} },
		"goes with cron":                   func(s *run.Schedule) { now := time.Now(); s.At, s.TimeZone = &now, "UTC" },
		"within must not be negative":      func(s *run.Schedule) { s.Cron, s.Within = "@daily", -1 },
		"overlap \"\" is not one of allow": func(s *run.Schedule) { s.Cron, s.Overlap = "@daily", "" },
	} {
		_, err := schedules.Create(t.Context(), scheduled("x", change))
		var invalid *run.InvalidError
		if !errors.As(err, &invalid) || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	if all, err := schedules.List(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("kept are %v, %v", all, err)
	}
	for version, want := range map[string]bool{"2.12.3": false, "2.13.0": false, "2.14.0": true, "2.15.2": true, "3.0.0-dev": true, "": false} {
		if CronSupported(version) != want {
			t.Errorf("CronSupported(%q) = %v", version, !want)
		}
	}
}

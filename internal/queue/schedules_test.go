package queue

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"pgregory.net/rapid"

	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/run"
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
		if err := <-ended; err != nil {
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

func TestATimeComesOnceAndIsDone(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	schedules := arrangements(t, js)
	soon := time.Now().Add(time.Second)
	kept := create(t, schedules, scheduled("once", func(s *run.Schedule) {
		s.At = &soon
		s.Request.SecretEnv = map[string]run.Secret{"TOKEN": "hunter2"}
	}))
	fired, stop := attend(t, schedules)
	got := receive(t, fired, "time")
	if !got.at.Equal(*kept.At) || got.at.Before(soon.Truncate(time.Second)) || got.schedule.Request.SecretEnv["TOKEN"].Reveal() != "hunter2" {
		t.Errorf("fired %+v; want the time %s, with its secret", got, kept.At)
	}
	eventually(t, "nothing of it is left in the stream", func() bool {
		stream, err := js.Stream(t.Context(), DueStream)
		return err == nil && stream.CachedInfo().State.Msgs == 0
	})
	if after, err := schedules.Get(t.Context(), "once"); err != nil || !after.Done() || after.Started != 1 || after.Run != kept.RunID(got.at) {
		t.Errorf("afterwards it is %+v, %v", after, err)
	}
	// A dispatcher that starts now leaves it at that.
	stop()
	again, _ := attend(t, schedules)
	past := soon.Add(-time.Hour)
	create(t, schedules, scheduled("mark", func(s *run.Schedule) { s.At = &past }))
	if mark := receive(t, again, "time in the past, of another schedule"); mark.schedule.Name != "mark" {
		t.Errorf("%s ran again", mark.schedule.Name)
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
		next := receive(t, fired, "time").at
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
	var created time.Time
	t.Run("before", func(t *testing.T) {
		_, js := natstest.Start(t, options)
		created = create(t, arrangements(t, js), scheduled("tick", func(s *run.Schedule) { s.Cron = "* * * * * *" })).ChangedAt
	})
	// The server is away for some of its times, and dispatchers are for more.
	<-time.After(2500 * time.Millisecond)
	_, js := natstest.Start(t, options)
	schedules := arrangements(t, js)
	<-time.After(2500 * time.Millisecond)
	asked := time.Now()
	fired, _ := attend(t, schedules)
	first := receive(t, fired, "time").at
	if missed := first.Sub(created); missed < 3*time.Second || first.After(asked.Add(time.Second)) {
		t.Errorf("first came %s; created at %s and asked at %s, the latest was to be made up for", first, created, asked)
	}
	if second := receive(t, fired, "time").at; !second.After(first) {
		t.Errorf("then came %s, after %s", second, first)
	}
}

func TestAPausedScheduleIsSilentAndGoesOnWhenResumed(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	schedules := arrangements(t, js)
	create(t, schedules, scheduled("tick", func(s *run.Schedule) { s.Cron = "* * * * * *" }))
	fired, _ := attend(t, schedules)
	receive(t, fired, "time")
	for range 2 {
		if err := schedules.Pause(t.Context(), "tick"); err != nil {
			t.Fatal(err)
		}
	}
	<-time.After(1500 * time.Millisecond) // what was on its way arrives
	for len(fired) > 0 {
		<-fired
	}
	<-time.After(2500 * time.Millisecond)
	if len(fired) != 0 {
		t.Fatalf("paused, it ran at %s", (<-fired).at)
	}
	resumed := time.Now()
	if err := schedules.Resume(t.Context(), "tick"); err != nil {
		t.Fatal(err)
	}
	if got := receive(t, fired, "time after resuming").at; !got.After(resumed.Truncate(time.Second)) {
		t.Errorf("resumed at %s, it made up for %s", resumed, got)
	}
	if err := schedules.Delete(t.Context(), "tick"); err != nil {
		t.Fatal(err)
	}
	if _, err := schedules.Get(t.Context(), "tick"); !errors.Is(err, ErrNoSchedule) {
		t.Errorf("deleted, it is %v", err)
	}
	// A dispatcher may have been about to arrange them, and removes them then.
	for deadline := time.Now().Add(30 * time.Second); ; <-time.After(10 * time.Millisecond) {
		_, sequence, err := schedules.arrangedNow(t.Context(), "tick")
		if err == nil && sequence == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("deleted, message %d keeps its times, %v", sequence, err)
		}
	}
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
	soon := time.Now().Add(time.Second)
	half := create(t, schedules, scheduled("half", func(s *run.Schedule) { s.At = &soon }))
	if err := schedules.disarrange(t.Context(), "half"); err != nil {
		t.Fatal(err)
	}
	fired, _ := attend(t, schedules)
	if got := receive(t, fired, "time"); got.schedule.Name != half.Name {
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
	fired, _ := attend(t, schedules)
	for _, forged := range []string{`{"changedAt":"2020-01-01T00:00:00Z"}`, `{`, ``} {
		if _, err := js.Publish(t.Context(), FiredSubjects+"far", []byte(forged)); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := js.Publish(t.Context(), FiredSubjects+"nobody", []byte(`{}`)); err != nil {
		t.Fatal(err)
	}
	soon := time.Now()
	create(t, schedules, scheduled("mark", func(s *run.Schedule) { s.At = &soon }))
	if got := receive(t, fired, "time"); got.schedule.Name != "mark" {
		t.Errorf("%s ran", got.schedule.Name)
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

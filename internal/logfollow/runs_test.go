package logfollow_test

import (
	"context"
	"errors"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logfollow"
	"github.com/ropewalk/ropewalk/internal/run"
)

// cluster has one Job with one log, or nothing any more.
type cluster struct {
	source *source
	gone   atomic.Bool
	// looking is how many look for the Job's logs.
	looking atomic.Int64
}

func (c *cluster) Logs(ctx context.Context, _ run.Job, over <-chan struct{}, found func(logevent.Log, logfollow.Source)) error {
	if c.looking.Add(1) > 1 {
		return errors.New("somebody looks already")
	}
	defer c.looking.Add(-1)
	found(theLog, c.source)
	select {
	case <-over:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (c *cluster) Ended(_ context.Context, found func(logevent.Log, logfollow.Source)) error {
	if c.source.Ended() && !c.gone.Load() {
		found(theLog, c.source)
	}
	return nil
}

func (c *cluster) Gone(context.Context, logevent.Log) (bool, error) { return c.gone.Load(), nil }

// following runs a follower of runs until the returned function is called.
func following(t *testing.T, to *stream, counts *counter, jobs logfollow.Jobs) (runs *logfollow.Runs, stop func()) {
	t.Helper()
	runs = logfollow.NewRuns(follower(t, to, counts), jobs, zerolog.Nop())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- runs.Run(ctx) }()
	return runs, func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

// A dispatcher dies while it follows, and the pod is deleted before the next
// one comes.
func TestALogWhosePodWentAwayUnfollowedComesToItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		jobs, to, counts := &cluster{source: newSource()}, &stream{}, &counter{}
		first, kill := following(t, to, counts, jobs)
		jobs.source.write(line(1, "a"))
		first.Follow(t.Context(), run.Job{Name: "j", UID: "u"})
		<-time.After(time.Second)
		kill()
		_, stop := following(t, to, counts, jobs)
		defer stop()
		<-time.After(time.Hour)
		if len(counts.gaps()) != 0 {
			t.Errorf("a pod that is there was given up: %v", counts.gaps())
		}
		// Whoever waits for room in the stream may have lines of it.
		jobs.gone.Store(true)
		to.mu.Lock()
		to.full = true
		to.mu.Unlock()
		<-time.After(time.Hour)
		to.mu.Lock()
		to.full = false
		to.mu.Unlock()
		<-time.After(3 * time.Minute)
		if len(counts.gaps()) != 0 {
			t.Errorf("it was given up when there had just been no room: %v", counts.gaps())
		}
		<-time.After(7 * time.Minute)
		if text, gaps := to.text(t); text != "a\n" || gaps != 1 || !slices.Equal(counts.gaps(), []string{logfollow.LostGone}) {
			t.Errorf("%q with %d gaps, counted %v", text, gaps, counts.gaps())
		}
		if place, err := to.Place(t.Context(), theLog); err != nil || !place.Ended {
			t.Errorf("%+v, %v", place, err)
		}
	})
}

// A dispatcher that has handed a run over writes one batch more. The one that
// follows now is told that it was overtaken, and comes back once the other is
// gone, from where that one ended.
func TestAFollowerThatWasOvertakenComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		jobs, to, counts := &cluster{source: newSource()}, &stream{}, &counter{}
		runs, stop := following(t, to, counts, jobs)
		defer stop()
		jobs.source.write(line(1, "a"), line(2, "b"))
		release := runs.Follow(t.Context(), run.Job{Name: "j", UID: "u"})
		<-time.After(time.Second)
		// The other one has read further than this one, and publishes first.
		place, err := to.Place(t.Context(), theLog)
		if err != nil || place.Next != 3 {
			t.Fatalf("%+v, %v", place, err)
		}
		c := line(3, "c")
		batch := logevent.Batch{First: 3, Reached: logevent.Position{Time: c.at, Ordinal: 1}, Lines: []logevent.Line{{Seq: 3, Time: c.at, Text: []byte("c")}}}
		overtaken := 0
		to.mu.Lock()
		to.refuse = func() error {
			if overtaken++; overtaken == 1 {
				to.batches = append(to.batches, batch)
			}
			return nil
		}
		to.mu.Unlock()
		jobs.source.write(c, line(4, "d"))
		<-time.After(time.Second)
		if place, err := to.Place(t.Context(), theLog); err != nil || place.Next != 4 {
			t.Errorf("the other one is left no time: %+v, %v", place, err)
		}
		<-time.After(10 * time.Second)
		jobs.source.end()
		release(true)
		<-time.After(10 * time.Second)
		if text, gaps := to.text(t); text != "a\nb\nc\nd\n" || gaps != 0 || len(counts.gaps()) != 0 {
			t.Errorf("%q with %d gaps, counted %v", text, gaps, counts.gaps())
		}
		if place, err := to.Place(t.Context(), theLog); err != nil || !place.Ended || overtaken < 2 {
			t.Errorf("%+v, %v", place, err)
		}
	})
}

// A dispatcher finds the log of a run that is over, which another one is still
// reading. It leaves it alone, until the other one is gone.
func TestALogThatIsWrittenIsLeftToWhoWritesIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		jobs, to, counts := &cluster{source: newSource()}, &stream{}, &counter{}
		var want strings.Builder
		var all []record
		for i := range 300 {
			all = append(all, line(i, strconv.Itoa(i)))
			want.WriteString(all[i].text)
		}
		jobs.source.write(all...)
		jobs.source.end()
		_, stop := following(t, to, counts, jobs)
		defer stop()
		for i := range 200 {
			to.mu.Lock()
			to.batches, to.last = append(to.batches, logevent.Batch{
				First: uint64(i + 1), Reached: logevent.Position{Time: all[i].at, Ordinal: 1},
				Lines: []logevent.Line{{Seq: uint64(i + 1), Time: all[i].at, Text: []byte(strconv.Itoa(i))}},
			}), time.Now()
			to.mu.Unlock()
			<-time.After(time.Second)
		}
		opened := func() int {
			jobs.source.mu.Lock()
			defer jobs.source.mu.Unlock()
			return jobs.source.opened
		}
		if n := opened(); n != 0 {
			t.Errorf("the log was opened %d times while another one wrote it", n)
		}
		<-time.After(2 * time.Minute)
		if text, gaps := to.text(t); text != want.String() || gaps != 0 {
			t.Errorf("%q with %d gaps", text, gaps)
		}
		taken := opened()
		<-time.After(time.Hour)
		if n := opened(); n != taken {
			t.Errorf("a log that has its end was opened %d times more", n-taken)
		}
	})
}

// A dispatcher that loses a run to another one stops following its logs after a
// while, and does it again when it gets the run back.
func TestTheLogsOfARunThatWasLostAreLeftToOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		jobs, to, counts := &cluster{source: newSource()}, &stream{}, &counter{}
		runs, stop := following(t, to, counts, jobs)
		defer stop()
		job := run.Job{Name: "j", UID: "u"}
		jobs.source.write(line(1, "a"))
		runs.Follow(t.Context(), job)(false)
		<-time.After(10 * time.Second)
		release := runs.Follow(t.Context(), job) // it was lost for a moment only
		<-time.After(time.Hour)
		if n := jobs.looking.Load(); n != 1 {
			t.Errorf("%d look for the logs of a run that is held", n)
		}
		release(false)
		<-time.After(2 * time.Minute)
		jobs.source.write(line(2, "b"))
		<-time.After(2 * time.Minute)
		if place, err := to.Place(t.Context(), theLog); err != nil || place.Next != 2 || jobs.looking.Load() != 0 {
			t.Errorf("the logs of a run that was lost are followed on, to %+v, %v", place, err)
		}
		release = runs.Follow(t.Context(), job)
		<-time.After(time.Minute)
		jobs.source.end()
		release(true)
		<-time.After(time.Minute)
		if text, gaps := to.text(t); text != "a\nb\n" || gaps != 0 || jobs.looking.Load() != 0 {
			t.Errorf("%q with %d gaps", text, gaps)
		}
	})
}

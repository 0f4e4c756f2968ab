package k8sjobs

import (
	"cmp"
	"context"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/ropewalk/ropewalk/internal/offstack"
	"github.com/ropewalk/ropewalk/internal/retry"
	"github.com/ropewalk/ropewalk/internal/run"
)

// lag is how long the watch may not know a Job that exists before the API is
// asked, once, whether it does.
const lag = 15 * time.Second

// Follow calls report with each new observation of a Job that is not final, and
// returns the final one. It blocks; its only error is the context's. It makes no
// request of its own while the watch works, but for deleting a Job that is given
// up. It waits for Run to have filled the watch.
func (l *Launcher) Follow(ctx context.Context, job run.Job, report func(run.Observation)) (run.Observation, error) {
	if err := l.watch.awaitSynced(ctx); err != nil {
		return run.Observation{}, err
	}
	f := new(follower)
	f.launcher, f.job, f.view, f.report = l, job, l.watch.follow(uid(job)), report
	defer l.watch.unfollow(f.view)
	err := f.run(ctx)
	return f.final, err
}

// run returns once the Job is over, which final tells then. The goroutine waits
// here for as long as that takes.
func (f *follower) run(ctx context.Context) error {
	for {
		var (
			over  bool
			again time.Time
			err   error
		)
		offstack.Do(func() { over, again, err = f.step(ctx) })
		if over || err != nil {
			return err
		}
		if err := f.view.wait(ctx, again); err != nil {
			return err
		}
	}
}

// follower is one call of Follow.
type follower struct {
	launcher *Launcher
	job      run.Job
	view     *view
	report   func(run.Observation)

	told       run.Observation
	final      run.Observation
	sight      Sight // the newest
	stuckSince time.Time
	// scheduledAt is when the pod got its node.
	scheduled   types.UID
	scheduledAt time.Time
	missing     absence
	orphans     orphans
}

// conclude ends the following. What tells of an end without success is read
// while it is still there: before the Job is deleted, if it is given up.
func (f *follower) conclude(ctx context.Context, verdict Verdict) (run.Observation, error) {
	seen := verdict.Seen
	if seen.State != run.Succeeded {
		var err error
		if seen.Evidence, err = f.launcher.evidence(ctx, f.sight, seen); err != nil {
			return run.Observation{}, err
		}
	}
	if verdict.GiveUp {
		if err := f.giveUp(ctx, seen); err != nil {
			return run.Observation{}, err
		}
	}
	return seen, nil
}

// step looks at the Job once. It reports whether the Job is over, or when to
// look again by the clock.
func (f *follower) step(ctx context.Context) (over bool, again time.Time, err error) {
	verdict, again, err := f.judge(ctx)
	if err != nil {
		return false, time.Time{}, err
	}
	if verdict.Seen.State.Final() {
		f.final, err = f.conclude(ctx, verdict)
		return err == nil, time.Time{}, err
	}
	f.tell(verdict.Seen)
	return false, again, nil
}

// judge looks at the Job once, and says when to look again by the clock.
func (f *follower) judge(ctx context.Context) (Verdict, time.Time, error) {
	now := time.Now()
	sight, absent := f.launcher.watch.look(f.view, f.job)
	ask := f.missing.since(absent, now)
	if absent && !now.Before(ask) {
		var err error
		if ask, sight.Gone, err = f.missing.ask(ctx, f.launcher, f.job); err != nil {
			return Verdict{}, time.Time{}, err
		}
		if sight.Gone {
			f.launcher.watch.lost(f.view)
		}
	}
	switch {
	case !Stuck(sight.Pods):
		f.stuckSince = time.Time{}
	case f.stuckSince.IsZero():
		f.stuckSince = now
	}
	sight.StuckSince, sight.Now = f.stuckSince, now
	f.sight = sight
	verdict := Classify(sight, f.launcher.template.settings.Patience)
	verdict.Seen.ScheduledAt = f.schedule(sight)
	again := earliest(verdict.Again, ask)
	if sight.Gone && !verdict.Seen.State.Final() {
		again = earliest(again, f.orphans.end(ctx, f.launcher, sight))
	}
	return verdict, again, nil
}

// tell reports an observation that is new.
func (f *follower) tell(seen run.Observation) {
	if seen.State != f.told.State || seen.Message != f.told.Message || !seen.StartedAt.Equal(f.told.StartedAt) {
		f.told = seen
		f.report(seen)
	}
}

// wait returns when something of the view's Job has changed, or at a time
// unless that is zero.
func (v *view) wait(ctx context.Context, again time.Time) error {
	var alarm <-chan time.Time
	if !again.IsZero() {
		timer := time.NewTimer(time.Until(again))
		defer timer.Stop()
		alarm = timer.C
	}
	select {
	case <-v.kick:
		return nil
	case <-alarm:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// giveUp deletes the Job of a run that has waited too long, however long that
// takes: as long as it exists it holds what others wait for, or may yet start.
func (f *follower) giveUp(ctx context.Context, final run.Observation) error {
	err := retry.Do(ctx, retry.Network, func() error {
		return f.launcher.Delete(ctx, f.job)
	}, func(err error, _ time.Duration) {
		seen := f.told
		seen.State = cmp.Or(seen.State, run.Pending)
		seen.Message = sentence(final.Message+" The Job cannot be deleted yet", err.Error())
		f.tell(seen)
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// absence tells a Job that is gone from one that the watch has yet to see.
type absence struct{ asking time.Time }

// since notes whether the Job is absent, and returns when to ask the API.
func (a *absence) since(absent bool, now time.Time) time.Time {
	switch {
	case !absent:
		a.asking = time.Time{}
	case a.asking.IsZero():
		a.asking = now.Add(lag)
	}
	return a.asking
}

// ask asks the API for the Job. Without an answer, or with one against what the
// watch says, it is asked again later.
func (a *absence) ask(ctx context.Context, l *Launcher, job run.Job) (next time.Time, gone bool, err error) {
	there, err := l.exists(ctx, job)
	if ctx.Err() != nil {
		return time.Time{}, false, ctx.Err()
	}
	if err == nil && !there {
		return time.Time{}, true, nil
	}
	a.asking = time.Now().Add(lag)
	return a.asking, false, nil
}

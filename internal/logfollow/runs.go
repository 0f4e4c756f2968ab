package logfollow

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/run"
)

// Jobs finds the logs of Jobs.
type Jobs interface {
	// Logs calls found once with each log of the Job, as its containers come,
	// until over is closed and all there will ever be were found, or ctx
	// ends.
	Logs(ctx context.Context, job run.Job, over <-chan struct{}, found func(logevent.Log, Source)) error
	// Ended calls found with each log there is that will not grow any more.
	Ended(ctx context.Context, found func(logevent.Log, Source)) error
	// Gone tells whether the run's attempt is over and what wrote the log is
	// no longer there. It asks where that is decided, not what it remembers.
	Gone(ctx context.Context, log logevent.Log) (bool, error)
}

// sweepInterval is how often logs are looked for whose follower died after the
// run had ended. While a run is under way, whoever adopts it follows its logs.
const sweepInterval = 30 * time.Second

const (
	// sweepSpread is over how long a sweep begins with what it finds, in no
	// order, so that the sweeps of several dispatchers share the work.
	sweepSpread = 10 * time.Second
	// busy is how long ago the last batch of a log must have come, or whoever
	// published it goes on.
	busy = 10 * time.Second
)

// Runs follows the logs of the runs that this process holds, and brings to
// their end the logs that somebody has left unfinished.
type Runs struct {
	follower *Follower
	jobs     Jobs
	log      zerolog.Logger

	// begin takes what to follow to Run, whose context it is followed under.
	begin chan *task

	mu sync.Mutex
	// tasks are the Jobs whose logs are looked for, by their UIDs.
	tasks map[string]*task
	// active are the logs that are followed, and whether a run wants that which
	// this process holds.
	active map[logevent.Log]bool
	// drained has the logs that are known to have their end on the stream
	// and are still in the cluster.
	drained map[logevent.Log]struct{}
}

// task is a Job to follow until it is over. Several may wait for one: a build
// serves many runs.
type task struct {
	job     run.Job
	over    chan struct{}
	waiters int
	// said: somebody who waited has said that it is over.
	said bool
	// left is since when nobody waits for it, although it is not over: the
	// run went to another dispatcher. After some time it is stopped.
	left    time.Time
	stop    context.CancelFunc
	stopped bool
	// done is closed when nothing goes on for it any more. before, if it is not
	// nil, is that of a task for the same Job which was stopped.
	done, before chan struct{}
}

// leaveAfter is how long a Job is looked at for whose run this process does not
// hold any more. It may get it back.
const leaveAfter = time.Minute

// NewRuns returns a follower of runs; nothing happens until [Runs.Run].
func NewRuns(follower *Follower, jobs Jobs, log zerolog.Logger) *Runs {
	return &Runs{
		follower: follower, jobs: jobs, log: log, begin: make(chan *task),
		tasks:  make(map[string]*task),
		active: make(map[logevent.Log]bool), drained: make(map[logevent.Log]struct{}),
	}
}

// Follow has the logs of a Job followed as long as [Runs.Run] runs, and their
// ends published once every caller of the same Job has called release, and one of
// them with over. Those who call it without have lost the run to another
// dispatcher: if all have, its logs are left to that one after a while. It does
// not wait for any of it.
func (r *Runs) Follow(ctx context.Context, job run.Job) (release func(over bool)) {
	r.mu.Lock()
	t, known := r.tasks[job.UID]
	var before chan struct{}
	if known && t.stopped {
		known, before = false, t.done
	}
	if !known {
		t = &task{job: job, over: make(chan struct{}), done: make(chan struct{}), before: before}
		r.tasks[job.UID] = t
	}
	t.waiters++
	r.mu.Unlock()
	if !known {
		select {
		case r.begin <- t:
		case <-ctx.Done():
			r.forget(t)
		}
	}
	return func(over bool) {
		r.mu.Lock()
		defer r.mu.Unlock()
		t.said = t.said || over
		if t.waiters--; t.waiters > 0 {
			return
		}
		if t.left = time.Now(); t.said && r.tasks[job.UID] == t {
			select {
			case <-t.over: // it was over before, for others
			default:
				close(t.over)
			}
		}
	}
}

func (r *Runs) forget(t *task) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.tasks[t.job.UID] == t {
		delete(r.tasks, t.job.UID)
	}
}

// leave stops what looks for logs of runs that went to other dispatchers, and
// what follows those.
func (r *Runs) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.tasks {
		if t.waiters == 0 && !t.said && !t.stopped && t.stop != nil && time.Since(t.left) >= leaveAfter {
			t.stopped = true
			t.stop()
		}
	}
}

// Run follows until ctx ends. What it leaves then, another process goes on with.
func (r *Runs) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	ticker := time.NewTicker(sweepInterval)
	defer ticker.Stop()
	all.Go(func() { r.lookForAbandoned(ctx, &all) })
	for {
		select {
		case t := <-r.begin:
			all.Go(func() { r.run(ctx, t) })
		case <-ticker.C:
			r.leave()
			r.sweep(ctx, &all)
		case <-ctx.Done():
			return nil
		}
	}
}

func (r *Runs) run(ctx context.Context, t *task) {
	ctx, stop := context.WithCancel(ctx)
	var logs sync.WaitGroup
	defer stop()
	defer r.forget(t)
	defer close(t.done)
	defer logs.Wait()
	r.mu.Lock()
	t.stop = stop
	r.mu.Unlock()
	if t.before != nil {
		select {
		case <-t.before:
		case <-ctx.Done():
			return
		}
	}
	err := r.jobs.Logs(ctx, t.job, t.over, func(log logevent.Log, source Source) { r.start(ctx, log, source, &logs, true) })
	r.mu.Lock()
	if !t.stopped && r.tasks[t.job.UID] == t { // or its followers end first, before others begin with the same logs
		delete(r.tasks, t.job.UID)
	}
	r.mu.Unlock()
	if err != nil && ctx.Err() == nil {
		r.log.Error().Err(err).Str("job", t.job.Name).Msg("cannot find all logs of a run; the next sweep tries again")
	}
}

// sweep follows what nobody here follows.
func (r *Runs) sweep(ctx context.Context, all *sync.WaitGroup) {
	there := make(map[logevent.Log]struct{})
	err := r.jobs.Ended(ctx, func(log logevent.Log, source Source) {
		there[log] = struct{}{}
		r.mu.Lock()
		_, drained := r.drained[log]
		r.mu.Unlock()
		if !drained && !r.following(log) {
			all.Go(func() { r.takeUp(ctx, log, source, all) })
		}
	})
	if err != nil {
		if ctx.Err() == nil {
			r.log.Warn().Err(err).Msg("cannot look for logs that were left unfinished")
		}
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for log := range r.drained {
		if _, ok := there[log]; !ok {
			delete(r.drained, log)
		}
	}
}

// takeUp follows a log of a run that is over, unless it has its end, or somebody
// else writes it: each reads all of it to find the place, and only one publishes.
func (r *Runs) takeUp(ctx context.Context, log logevent.Log, source Source, all *sync.WaitGroup) {
	select {
	case <-time.After(rand.N(sweepSpread)): //nolint:gosec // a spread is no secret
	case <-ctx.Done():
		return
	}
	limited, cancel := context.WithTimeout(ctx, sweepInterval-sweepSpread)
	defer cancel()
	place, err := r.follower.config.Stream.Place(limited, log)
	switch {
	case err != nil: // the follower tells what is wrong with the stream
	case place.Ended:
		r.mu.Lock()
		r.drained[log] = struct{}{}
		r.mu.Unlock()
		return
	case time.Since(place.At) < busy:
		return
	}
	r.start(ctx, log, source, all, false)
}

// start follows one log, unless that is under way. It is held if its run is.
func (r *Runs) start(ctx context.Context, log logevent.Log, source Source, all *sync.WaitGroup, held bool) {
	r.mu.Lock()
	before, active := r.active[log]
	r.active[log] = before || held
	r.mu.Unlock()
	if active {
		return
	}
	all.Go(func() {
		err := r.follow(ctx, log, source)
		r.mu.Lock()
		delete(r.active, log)
		if err == nil {
			r.drained[log] = struct{}{}
		}
		r.mu.Unlock()
		switch {
		case err == nil || ctx.Err() != nil:
		case errors.Is(err, logevent.ErrOvertaken):
			r.log.Debug().Str("log", log.String()).Msg("another dispatcher writes this log, which is left to it")
		default:
			r.log.Error().Err(err).Str("log", log.String()).Msg("a log is no longer followed; the next sweep goes on with it")
		}
	})
}

// overtakenPause is how long another follower is left alone.
const overtakenPause = 3 * time.Second

// follow follows one log to its end. When another one writes that of a run that is
// held here, that may be the dispatcher that has just handed the run over and is
// about to end: then nobody would go on.
func (r *Runs) follow(ctx context.Context, log logevent.Log, source Source) error {
	for {
		err := r.follower.Follow(ctx, log, source)
		if !errors.Is(err, logevent.ErrOvertaken) || !r.held(log) {
			return err
		}
		r.log.Info().Str("log", log.String()).Msg("another dispatcher writes this log; seeing again soon whether it goes on")
		timer := time.NewTimer(overtakenPause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return ctx.Err()
		}
	}
}

func (r *Runs) held(log logevent.Log) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.active[log]
}

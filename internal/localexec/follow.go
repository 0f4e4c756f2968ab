package localexec

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
)

// troubleDelay is how long a follower waits before it looks again when it
// could not: the machine is short of something.
const troubleDelay = time.Second

// Follow reports that the command runs, waits for its end and returns that.
func (l *Launcher) Follow(ctx context.Context, job run.Job, report func(run.Observation)) (run.Observation, error) {
	f := l.folder(job.Name)
	reported, troubled := false, false
	for {
		now, err := l.settle(ctx, f, job.UID)
		if err == nil && !now.State.Final() {
			if now.State == run.Running && !reported {
				reported = true
				report(now.observation())
			}
			err = l.awaitEnd(ctx, f, job.UID)
		}
		switch {
		case ctx.Err() != nil:
			return run.Observation{}, ctx.Err()
		case errors.Is(err, errGone):
			return run.Observation{
				State: run.Failed, Reason: run.JobDeleted, FinishedAt: time.Now().UTC(),
				Message: run.Explain(run.JobDeleted, "The job's folder was deleted."),
			}, nil
		case now.State.Final():
			seen := now.observation()
			if seen.State != run.Succeeded {
				seen.Evidence = lastWords(ctx, f)
			}
			return seen, nil
		case err != nil:
			if !troubled {
				troubled = true
				l.settings.Log.Warn().Str("job", job.Name).Err(err).Msg("cannot look at a job; trying again until it works")
			}
			select {
			case <-ctx.Done():
			case <-time.After(troubleDelay):
			}
		}
	}
}

// settle returns where a job stands. If its supervisor is gone without having
// recorded an end, it ends what was left and records that first.
func (l *Launcher) settle(ctx context.Context, f folder, uid string) (status, error) {
	start, err := f.lockStart(ctx)
	if err != nil {
		return status{}, err
	}
	defer func() { _ = start.Close() }()
	job, err := f.spec()
	if errors.Is(err, errDamaged) || err == nil && uid != job.UID {
		return status{}, errGone // what is there now is not the job that was followed
	}
	if err != nil {
		return status{}, err
	}
	deleting, err := f.deleting()
	if err != nil {
		return status{}, err
	}
	if deleting {
		return status{}, errGone
	}
	// In this order: a supervisor records the end before it goes.
	alive, err := f.alive()
	if err != nil {
		return status{}, err
	}
	now, err := f.status()
	if err != nil || alive || now.State.Final() {
		return now, err
	}
	return l.lost(ctx, f, job, now)
}

// lost ends and records a job whose supervisor is gone. The caller holds the
// start lock.
func (l *Launcher) lost(ctx context.Context, f folder, job spec, last status) (status, error) {
	if last.Session != 0 {
		if err := endSession(ctx, last.Session, job.UID); err != nil {
			return status{}, fmt.Errorf("stop what a lost supervisor has left: %w", err)
		}
	}
	last.State, last.Reason, last.FinishedAt = run.Failed, run.NodeLost, time.Now().UTC()
	last.Message = run.Explain(run.NodeLost, "The supervisor of the process is gone and has recorded no end: it was killed, or the machine restarted. Whatever it had left running was stopped.")
	if err := writeJSON(f.file(statusFile), last); err != nil {
		return status{}, fmt.Errorf("record that a job is lost: %w", err)
	}
	return last, nil
}

// ending is the end of a supervisor, once done is closed.
type ending struct {
	done chan struct{}
	err  error
}

// awaitEnd waits until the job's supervisor is gone, or for ctx.
func (l *Launcher) awaitEnd(ctx context.Context, f folder, uid string) error {
	end, err := l.end(f, uid)
	if err != nil {
		return err
	}
	select {
	case <-end.done:
		return end.err
	case <-ctx.Done():
		return ctx.Err()
	}
}

// end returns the end of the job's supervisor, to be waited for. The wait is
// one for a lock, which nothing can interrupt: it takes a thread, and goes on
// when the follower does not. That is why there is one for each job and not
// one for each follower, and why the launcher owns it.
func (l *Launcher) end(f folder, uid string) (*ending, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if end, ok := l.ends[uid]; ok {
		return end, nil
	}
	lock, err := os.Open(f.file(lifeLock))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, errGone
	}
	if err != nil {
		return nil, err
	}
	// Another job may have taken the place of this one: look after opening.
	if job, err := f.spec(); err != nil || job.UID != uid {
		return nil, errors.Join(errGone, err, lock.Close())
	}
	end := &ending{done: make(chan struct{})}
	l.ends[uid] = end
	go func() {
		defer close(end.done)
		end.err = errors.Join(flock(lock, false), lock.Close())
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.ends, uid)
	}()
	return end, nil
}

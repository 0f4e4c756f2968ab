package localexec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
)

// stubborn is how long after its grace a supervisor may take to end before it
// is killed like its command.
const stubborn = 5 * time.Second

// Delete stops the command and all that belongs to it and removes the job's
// folder. It returns when nothing of it runs any more. A job that is gone, or
// has made room for another of the same name, is none to delete.
func (l *Launcher) Delete(ctx context.Context, job run.Job) error {
	f := l.folder(job.Name)
	start, err := f.lockStart(ctx)
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = start.Close() }()
	was, err := f.spec()
	if err != nil && !errors.Is(err, errGone) {
		return fmt.Errorf("delete job %s: %w", job.Name, err)
	}
	if job.UID != "" && was.UID != job.UID {
		return nil
	}
	if err := l.remove(ctx, f, was); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return fmt.Errorf("delete job %s: %w", job.Name, err)
	}
	return nil
}

// remove stops and removes a job. The caller holds the start lock.
func (l *Launcher) remove(ctx context.Context, f folder, job spec) error {
	now, err := f.status()
	if err != nil {
		return err
	}
	if now.State != "" {
		if err := l.stop(ctx, f, job, now); err != nil {
			return err
		}
	}
	// Out of the way first, in one step: nobody shall find half a job.
	away := filepath.Join(l.trash, filepath.Base(string(f))+"."+newUID())
	if err := os.Rename(string(f), away); err != nil {
		return err
	}
	return os.RemoveAll(away)
}

// stop ends a job's processes, those of a supervisor that is gone too.
func (l *Launcher) stop(ctx context.Context, f folder, job spec, now status) error {
	if now.State.Final() {
		// Everything has ended but, maybe, the supervisor itself.
		return l.awaitEnd(ctx, f, job.UID)
	}
	// From here on a follower takes the end of the supervisor for what it is.
	mark, err := os.OpenFile(f.file(deletingMark), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	if err := mark.Close(); err != nil {
		return err
	}
	end, err := l.end(f, job.UID)
	if err != nil {
		return err
	}
	if err := signalSupervisor(f, now.Session, syscall.SIGTERM); err != nil {
		return err
	}
	patience := time.NewTimer(time.Duration(job.Grace) + stubborn)
	defer patience.Stop()
	for ended := false; !ended; {
		select {
		case <-end.done:
			if end.err != nil {
				return end.err
			}
			ended = true
		case <-patience.C:
			if err := signalSupervisor(f, now.Session, syscall.SIGKILL); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return endSession(ctx, now.Session, job.UID)
}

// signalSupervisor sends a signal to the supervisor of a job, if it lives.
func signalSupervisor(f folder, pid int, signal os.Signal) error {
	process, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer func() { _ = process.Release() }()
	// The process is held before we look at the lock: if the lock is held
	// after that, then what we hold is the supervisor, and no other process
	// that got its id.
	alive, err := f.alive()
	if err != nil || !alive || sessionOf(pid) != pid {
		return err
	}
	if err := process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal the supervisor: %w", err)
	}
	return nil
}

// Run removes the folders of jobs that ended longer ago than the time to live,
// and what was left half deleted or half made, until ctx ends. Any number of
// dispatchers may do so on one directory.
func (l *Launcher) Run(ctx context.Context) error {
	interval := min(max(l.settings.TTL/10, time.Second), time.Hour)
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		if err := l.sweep(ctx, time.Now()); err != nil && ctx.Err() == nil {
			// Nothing of a run depends on it, and the next sweep tries again.
			l.settings.Log.Warn().Err(err).Msg("cannot remove all finished jobs")
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
	}
}

// sweep goes through all jobs once.
func (l *Launcher) sweep(ctx context.Context, now time.Time) error {
	var problems []error
	jobs, err := os.ReadDir(l.jobs)
	problems = append(problems, err)
	for _, entry := range jobs {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if entry.IsDir() {
			if err := l.tidy(ctx, l.folder(entry.Name()), now); err != nil {
				problems = append(problems, fmt.Errorf("tidy job %s: %w", entry.Name(), err))
			}
		}
	}
	trash, err := os.ReadDir(l.trash)
	problems = append(problems, err)
	for _, entry := range trash {
		problems = append(problems, os.RemoveAll(filepath.Join(l.trash, entry.Name())))
	}
	return errors.Join(problems...)
}

// tidy removes a job if it is time to, and settles it if nobody has.
func (l *Launcher) tidy(ctx context.Context, f folder, now time.Time) error {
	deleting, err := f.deleting()
	if err != nil {
		return err
	}
	running, err := f.alive()
	if err != nil || running && !deleting {
		return err
	}
	start, err := f.lockStart(ctx)
	if errors.Is(err, errGone) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = start.Close() }()
	job, err := f.spec()
	if err != nil && !errors.Is(err, errGone) {
		return err
	}
	last, err := f.status()
	if err != nil {
		return err
	}
	since := last.FinishedAt
	switch {
	case deleting: // by a dispatcher that did not live to finish it
		return l.remove(ctx, f, job)
	case last.State == "": // never started: nobody has come back for it
		made, err := os.Stat(string(f))
		if err != nil {
			return err
		}
		since = made.ModTime()
	case !last.State.Final():
		if last, err = l.lost(ctx, f, job, last); err != nil {
			return err
		}
		since = last.FinishedAt
	}
	if now.Sub(since) < l.settings.TTL {
		return nil
	}
	return l.remove(ctx, f, job)
}

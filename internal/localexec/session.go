package localexec

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"
)

// endSession kills every process of a job's session but the caller, and
// returns when none runs any more. Ids are used again, by the kernel and after
// a restart of the machine: a session of which no process carries the job's
// mark is somebody else's and is left alone.
//
// The processes are not our children, and no system can tell when such a
// process has gone without being asked: this is the one place that asks again.
// A killed process goes within moments.
func endSession(ctx context.Context, session int, uid string) error {
	owned := session == os.Getpid() // then we lead it
	for delay := time.Millisecond; ; delay = min(2*delay, 100*time.Millisecond) {
		members, err := sessionMembers(session)
		if err != nil {
			return fmt.Errorf("list the processes of session %d: %w", session, err)
		}
		members = slices.DeleteFunc(members, func(pid int) bool { return pid == os.Getpid() })
		if len(members) == 0 {
			return nil
		}
		// One marked process proves whose the session is: it has one owner,
		// and its id is not used again while a process is left in it.
		owned = owned || slices.ContainsFunc(members, func(pid int) bool { return marked(pid, uid) })
		if !owned {
			return nil
		}
		for _, pid := range members {
			if err := kill(pid, session); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(delay):
		}
	}
}

// sessionMembers lists the processes of a session that run.
func sessionMembers(session int) ([]int, error) {
	pids, err := processes()
	return slices.DeleteFunc(pids, func(pid int) bool { return sessionOf(pid) != session || !runs(pid) }), err
}

// kill kills a process if it is, still, of the session.
func kill(pid, session int) error {
	process, err := os.FindProcess(pid)
	if err != nil {
		return err
	}
	defer func() { _ = process.Release() }()
	if sessionOf(pid) != session { // asked while the process is held
		return nil
	}
	if err := process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill process %d of the job: %w", pid, err)
	}
	return nil
}

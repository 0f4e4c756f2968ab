package localexec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
)

// What lies in a job's folder; the package comment tells what each is for.
const (
	specFile      = "job.json"
	statusFile    = "status.json"
	outputFile    = "output.log"
	scratchFolder = "work"
	supervisorLog = "supervisor.log"
	lifeLock      = "lock"
	startLock     = "start.lock"
	deletingMark  = "deleting"
)

var (
	// errGone tells that there is no such job (any more).
	errGone = errors.New("the job is gone")
	// errDamaged tells of a file that holds something else than we write.
	errDamaged = errors.New("the file is damaged")
)

// folder is the folder of one job, which may not exist.
type folder string

func (f folder) file(name string) string { return filepath.Join(string(f), name) }

// spec is what the supervisor needs to know and what identifies the job. The
// environment is not in it, because secrets may not lie on the disk.
type spec struct {
	UID         string       `json:"uid"`
	RunID       string       `json:"runId"`
	Queue       string       `json:"queue,omitempty"`
	Attempt     int          `json:"attempt"`
	RequestHash string       `json:"requestHash"`
	Command     []string     `json:"command"`
	WorkingDir  string       `json:"workingDir,omitempty"`
	Timeout     run.Duration `json:"timeout,omitempty"`
	Grace       run.Duration `json:"grace"`
	CreatedAt   time.Time    `json:"createdAt"`
}

// status is where the command stands.
type status struct {
	// State is pending from just before the command is started, then
	// running, then final. It is empty in a status that was never written.
	State run.State `json:"state"`
	// Session is the process id of the supervisor, and with that the id of
	// the session that everything of the job runs in.
	Session int `json:"session"`
	// Group is the process id of the command, which leads its group.
	Group int `json:"group,omitempty"`

	Reason     run.Reason `json:"reason,omitempty"`
	Message    string     `json:"message,omitempty"`
	ExitCode   *int       `json:"exitCode,omitempty"`
	StartedAt  time.Time  `json:"startedAt,omitzero"`
	FinishedAt time.Time  `json:"finishedAt,omitzero"`
}

func (s status) observation() run.Observation {
	return run.Observation{
		State: s.State, Reason: s.Reason, Message: s.Message, ExitCode: s.ExitCode,
		StartedAt: s.StartedAt, FinishedAt: s.FinishedAt,
	}
}

// spec reads the job's spec; [errGone] when there is none.
func (f folder) spec() (spec, error) {
	var s spec
	err := readJSON(f.file(specFile), &s)
	if errors.Is(err, fs.ErrNotExist) {
		return spec{}, errGone
	}
	return s, err
}

// status reads the job's status. When there is none, or none that can be
// understood, it is the zero status: the state is unknown either way.
func (f folder) status() (status, error) {
	var s status
	err := readJSON(f.file(statusFile), &s)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errDamaged) {
		return status{}, nil
	}
	return s, err
}

// started reports whether the command was started or about to be, ever.
func (f folder) started() (bool, error) { return exists(f.file(statusFile)) }

// deleting reports whether somebody has begun to delete the job.
func (f folder) deleting() (bool, error) { return exists(f.file(deletingMark)) }

func exists(path string) (bool, error) {
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// lockStart waits for the lock under which a job is started, settled and
// deleted; closing the file gives it back. It returns [errGone] when there is
// no such folder, and ctx's error when that ends first.
func (f folder) lockStart(ctx context.Context) (*os.File, error) {
	for {
		lock, err := lockFile(ctx, f.file(startLock))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errGone
		}
		if err != nil {
			return nil, err
		}
		// While we waited, the folder may have been deleted, and another
		// may have been made in its place: then this lock guards nothing.
		held, err := lock.Stat()
		if err != nil {
			return nil, errors.Join(err, lock.Close())
		}
		if there, err := os.Stat(f.file(startLock)); err == nil && os.SameFile(held, there) {
			return lock, nil
		}
		if err := lock.Close(); err != nil {
			return nil, err
		}
	}
}

// alive reports whether the job's supervisor lives. It may say so a moment
// longer than it is true, never shorter.
func (f folder) alive() (bool, error) {
	file, err := os.Open(f.file(lifeLock))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }()
	free, err := tryFlock(file, false)
	return !free, err
}

// lockFile takes the exclusive lock of a file, which it makes if need be, and
// waits for it as long as ctx lasts.
func lockFile(ctx context.Context, path string) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if free, err := tryFlock(file, true); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
	} else if free {
		return file, nil
	}
	// Nothing can interrupt a process that waits for such a lock, so the wait
	// is left to a goroutine, which ends when the lock comes free: these locks
	// are held for moments.
	taken := make(chan error)
	go func() {
		err := flock(file, true)
		select {
		case taken <- err:
		case <-ctx.Done():
			_ = file.Close()
		}
	}()
	select {
	case err := <-taken:
		if err != nil {
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
		}
		return file, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

func readJSON(path string, into any) error {
	text, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("read %s: %w: %w", path, errDamaged, err)
	}
	return nil
}

// writeJSON replaces a file as a whole: a reader sees the old text or the new,
// and so does whoever comes after a crash, of the machine too.
func writeJSON(path string, value any) (err error) {
	text, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	file, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+"-*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(file.Name())
		}
	}()
	_, err = file.Write(append(text, '\n'))
	if err == nil {
		err = file.Sync()
	}
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	if err := os.Rename(file.Name(), path); err != nil {
		return err
	}
	return syncFolder(filepath.Dir(path))
}

// syncFolder puts the names in a folder on disk.
func syncFolder(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

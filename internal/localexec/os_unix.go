//go:build linux || darwin

package localexec

import (
	"errors"
	"os"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

const supported = true

// tryFlock takes the lock of an open file, exclusive or shared, if it is free.
// The lock lasts until the last descriptor of this opening is closed, in
// whichever process: that is what lets it pass on to the supervisor.
func tryFlock(file *os.File, exclusive bool) (bool, error) {
	err := flockHow(file, exclusive, unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		return false, nil
	}
	return err == nil, err
}

// flock waits for the lock. Nothing interrupts it.
func flock(file *os.File, exclusive bool) error { return flockHow(file, exclusive, 0) }

func flockHow(file *os.File, exclusive bool, how int) error {
	if exclusive {
		how |= unix.LOCK_EX
	} else {
		how |= unix.LOCK_SH
	}
	for {
		if err := unix.Flock(int(file.Fd()), how); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// closeAllOnExec keeps every open descriptor but the standard ones from what
// this process starts: those that it was passed, and those that its starter
// had from somebody else and let through.
func closeAllOnExec() error {
	entries, err := os.ReadDir("/dev/fd")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		if descriptor, err := strconv.Atoi(entry.Name()); err == nil && descriptor > 2 {
			unix.CloseOnExec(descriptor)
		}
	}
	return nil
}

// isFile reports whether an open descriptor is the file at the path.
func isFile(descriptor int, path string) bool {
	var open, there unix.Stat_t
	return unix.Fstat(descriptor, &open) == nil && unix.Stat(path, &there) == nil && open.Dev == there.Dev && open.Ino == there.Ino
}

// ownSession keeps the supervisor out of reach of what is meant for the
// dispatcher: a hang-up of the terminal, ^C, a signal to its group.
func ownSession() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setsid: true} }

func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

// signalGroup signals a process group that may have ended.
func signalGroup(group int, signal syscall.Signal) { _ = syscall.Kill(-group, signal) }

// sessionOf is the session of a process, or -1 when there is no such process.
func sessionOf(pid int) int {
	session, err := unix.Getsid(pid)
	if err != nil {
		return -1
	}
	return session
}

// killedBy is the signal that ended a process, if one did.
func killedBy(ended *os.ProcessState) (syscall.Signal, bool) {
	wait, ok := ended.Sys().(syscall.WaitStatus)
	if !ok || !wait.Signaled() {
		return 0, false
	}
	return wait.Signal(), true
}

func signalName(signal syscall.Signal) string {
	if name := unix.SignalName(signal); name != "" {
		return name
	}
	return signal.String()
}

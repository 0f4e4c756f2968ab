package localexec

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/ropewalk/ropewalk/internal/run"
)

// The exit codes that a shell has for a command that could not be started.
const (
	exitNotFound   = 127
	exitNotAllowed = 126
	exitSignal     = 128 // plus the signal's number
)

// notStarted sets the end of a job whose command could not be started.
func (s *supervisor) notStarted(err error) {
	var errno syscall.Errno
	code, happened := exitNotAllowed, fmt.Sprintf("The command could not be started: %v.", err)
	switch {
	case errors.Is(err, exec.ErrNotFound):
		code, happened = exitNotFound, fmt.Sprintf("The command %q was not found in PATH.", s.job.Command[0])
	case errors.Is(err, fs.ErrNotExist):
		code = exitNotFound
	case errors.As(err, &errno) && (errno.Temporary() || errno == syscall.ENOMEM || errno == syscall.ENFILE):
		// Not the request's fault: the machine has no room for a process.
		s.fail(run.NodeLost, happened, nil)
		return
	}
	s.fail(run.InvalidPodSpec, happened, &code)
}

func (s *supervisor) fail(reason run.Reason, happened string, code *int) {
	s.now.State, s.now.Reason, s.now.Message, s.now.ExitCode = run.Failed, reason, run.Explain(reason, happened), code
}

// conclude sets the end of a job whose command has run: what became of the
// process, and whose doing that was.
func (s *supervisor) conclude(cause string, ended *os.ProcessState, lost lostOutput) {
	code := ended.ExitCode()
	killedBy, killed := killedBy(ended)
	lines := lost.String()
	switch {
	case cause == byTimeout:
		s.fail(run.DeadlineExceeded, fmt.Sprintf("The command ran longer than its timeout of %s and was stopped.%s", s.job.Timeout, lines), nil)
		s.now.State = run.TimedOut
	case cause == bySignal:
		s.fail(run.NodeLost, "The supervisor of the process was told to stop, as when the machine shuts down, and has stopped the command."+lines, nil)
	case killed:
		code = exitSignal + int(killedBy)
		happened := fmt.Sprintf("The command was ended by signal %s (exit code %d).", signalName(killedBy), code)
		if killedBy == syscall.SIGKILL {
			happened = fmt.Sprintf("The command was killed with SIGKILL (exit code %d): by the kernel, if the machine ran out of memory, or by somebody.", code)
		}
		s.fail(run.AppError, happened+lines, &code)
	case code != 0:
		s.fail(run.AppError, fmt.Sprintf("The command ended with exit code %d.%s", code, lines), &code)
	default:
		s.now.State, s.now.Message, s.now.ExitCode = run.Succeeded, strings.TrimSpace(lines), &code
	}
}

// lostOutput is output that could not be written.
type lostOutput struct {
	lines int
	err   error
}

// String is a sentence to be put behind others, or nothing.
func (l lostOutput) String() string {
	if l.lines == 0 {
		return ""
	}
	return fmt.Sprintf(" %d lines of its output could not be written (%v).", l.lines, l.err)
}

package localexec

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
)

// The descriptors that the launcher passes, beside standard input.
const (
	lifeDescriptor  = 3
	startDescriptor = 4
	readyDescriptor = 5
)

// drain is how long output may still come once every process of the job is
// gone: longer only if a process that has left the session holds the pipe.
const drain = time.Second

// Supervise is the supervisor of one job: the program that launches calls it
// under [SupervisorCommand] with the arguments that follow, its environment,
// standard input and standard error, and exits with what it returns. It
// returns when the job has ended. Nobody calls it by hand: it needs the locks
// that the launcher holds.
func Supervise(args, environ []string, stdin io.Reader, stderr io.Writer) int {
	return supervise(args, environ, stdin, stderr, func(string) {})
}

func supervise(args, environ []string, stdin io.Reader, stderr io.Writer, at func(step string)) int {
	s := &supervisor{stderr: stderr, at: at}
	if err := s.inherit(args); err != nil {
		s.say(err)
		return 2
	}
	// A launcher that died has closed the other end of the pipe, and started
	// nothing: the next one starts anew.
	var variables map[string]string
	err := json.NewDecoder(stdin).Decode(&variables)
	if err == nil {
		s.environ = environ
		for name, value := range variables {
			s.environ = append(s.environ, name+"="+value)
		}
		s.environ = append(s.environ, jobMark+"="+s.job.UID)
		err = s.prepare()
	}
	if err != nil {
		s.say(err)
		s.answer(answer{Problem: err.Error()})
		return 1
	}
	s.supervise()
	return 0
}

type supervisor struct {
	folder  folder
	job     spec
	now     status
	environ []string
	output  *output
	start   *os.File // the start lock
	ready   *os.File
	stderr  io.Writer
	at      func(step string)
}

func (s *supervisor) say(err error) {
	_, _ = fmt.Fprintf(s.stderr, "%s %v\n", time.Now().UTC().Format(time.RFC3339), err)
}

// answer tells the launcher, which may be gone.
func (s *supervisor) answer(a answer) {
	_ = json.NewEncoder(s.ready).Encode(a)
	_ = s.ready.Close()
}

// inherit takes over what the launcher has passed, and none of it may go on to
// the command: a process that outlived the job would hold its locks.
func (s *supervisor) inherit(args []string) error {
	byHand := errors.New(SupervisorCommand + " is started by the dispatcher itself, never by hand")
	if len(args) != 1 {
		return byHand
	}
	s.folder = folder(args[0])
	for descriptor, name := range map[int]string{lifeDescriptor: lifeLock, startDescriptor: startLock} {
		if !isFile(descriptor, s.folder.file(name)) {
			return byHand
		}
	}
	if err := closeAllOnExec(); err != nil {
		return err
	}
	s.start = os.NewFile(startDescriptor, startLock)
	s.ready = os.NewFile(readyDescriptor, "ready")
	var err error
	s.job, err = s.folder.spec()
	return err
}

// prepare does all that can go wrong without having started anything, and as
// its last step records that the command is about to start.
func (s *supervisor) prepare() error {
	if s.job.WorkingDir == "" {
		s.job.WorkingDir = s.folder.file(scratchFolder)
		if err := os.Mkdir(s.job.WorkingDir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	var err error
	if s.output, err = openOutput(s.folder.file(outputFile)); err != nil {
		return err
	}
	s.now = status{State: run.Pending, Session: os.Getpid()}
	return writeJSON(s.folder.file(statusFile), s.now)
}

// supervise starts the command, sees it through, and records its end.
func (s *supervisor) supervise() {
	s.at("start recorded")
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	cmd, err := s.startCommand()
	if err != nil {
		_ = s.output.close(drain)
		s.now.FinishedAt = time.Now().UTC()
		s.notStarted(err)
		s.record()
	} else {
		s.at("command started")
		s.now.State, s.now.Group, s.now.StartedAt = run.Running, cmd.Process.Pid, time.Now().UTC()
		if err := writeJSON(s.folder.file(statusFile), s.now); err != nil {
			// The command runs, and its end may still be recorded.
			s.say(fmt.Errorf("record that the command runs: %w", err))
		}
		s.at("running recorded")
	}
	_ = s.start.Close()
	s.answer(answer{})
	if err != nil {
		return
	}
	cause := s.await(cmd, signals)
	s.at("command ended")
	// What the command has left in the background goes with it, as in a
	// container. Nothing ends this early: a slot must not come free while
	// something of the job still runs.
	if err := endSession(context.Background(), s.now.Session, s.job.UID); err != nil {
		s.say(err)
	}
	lost := s.output.close(drain)
	s.now.FinishedAt = time.Now().UTC()
	s.conclude(cause, cmd.ProcessState, lost)
	s.record()
}

func (s *supervisor) startCommand() (*exec.Cmd, error) {
	if info, err := os.Stat(s.job.WorkingDir); err != nil || !info.IsDir() {
		return nil, fmt.Errorf("the working directory %s is not there", s.job.WorkingDir)
	}
	path, err := lookPath(s.job.Command[0], s.environ)
	if err != nil {
		return nil, err
	}
	cmd := &exec.Cmd{Path: path, Args: s.job.Command, Env: s.environ, Dir: s.job.WorkingDir, SysProcAttr: ownGroup()}
	stdout, err := s.output.pipe("stdout")
	if err != nil {
		return nil, err
	}
	defer func() { _ = stdout.Close() }()
	stderr, err := s.output.pipe("stderr")
	if err != nil {
		return nil, err
	}
	defer func() { _ = stderr.Close() }()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	return cmd, cmd.Start()
}

// Why a command was stopped; empty when it ended by itself.
const (
	byTimeout = "timeout"
	bySignal  = "signal"
)

// await waits for the command to end. When its time is up, or when the
// supervisor is told to stop, it tells the command's group, and after the
// grace leaves it no choice.
func (s *supervisor) await(cmd *exec.Cmd, signals <-chan os.Signal) (cause string) {
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = cmd.Wait() // the state says it all
	}()
	var timeout, grace <-chan time.Time
	if s.job.Timeout > 0 {
		timer := time.NewTimer(time.Duration(s.job.Timeout))
		defer timer.Stop()
		timeout = timer.C
	}
	stop := func(why string) {
		if cause == "" {
			cause = why
			grace = time.After(time.Duration(s.job.Grace))
			signalGroup(s.now.Group, syscall.SIGTERM)
		}
	}
	for {
		select {
		case <-ended:
			return cause
		case <-timeout:
			stop(byTimeout)
		case <-signals:
			stop(bySignal)
		case <-grace:
			signalGroup(s.now.Group, syscall.SIGKILL)
		}
	}
}

// record writes the end down. It is all that is left to do, and worth trying
// for a while: without it the job counts as lost.
func (s *supervisor) record() {
	const tries = 60
	for try := 1; ; try++ {
		err := writeJSON(s.folder.file(statusFile), s.now)
		if err == nil {
			return
		}
		if try == 1 {
			s.say(fmt.Errorf("record the end: %w", err))
		}
		if try == tries || errors.Is(err, fs.ErrNotExist) { // the folder is gone: nobody wants to know
			return
		}
		<-time.After(time.Second)
	}
}

// lookPath finds a command as a shell with the job's environment would.
func lookPath(name string, environ []string) (string, error) {
	if filepath.Base(name) != name {
		return name, nil // a path, from the working directory if it is relative
	}
	search := "/usr/local/bin:/usr/bin:/bin"
	for _, variable := range environ {
		if value, ok := strings.CutPrefix(variable, "PATH="); ok {
			search = value
		}
	}
	err := &exec.Error{Name: name, Err: exec.ErrNotFound}
	for _, dir := range filepath.SplitList(search) {
		path := filepath.Join(dir, name)
		info, statErr := os.Stat(path)
		switch {
		case statErr != nil || info.IsDir() || !filepath.IsAbs(path):
		case info.Mode()&0o111 == 0:
			err.Err = fs.ErrPermission
		default:
			return path, nil
		}
	}
	return "", err
}

package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// Build compiles main packages of this module, or of those that it requires, as
// they ship: without cgo. The arguments are those of go build: flags, then
// packages. One package goes into the file out, several into the folder out. The
// go command's cache makes a second build cheap, but two at once do the same work
// twice.
func Build(ctx context.Context, out string, args ...string) error {
	command := exec.CommandContext(ctx, "go", append([]string{"build", "-o", out}, args...)...)
	command.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("go build %s: %w\n%s", strings.Join(args, " "), err, text)
	}
	return nil
}

// BuildTool compiles a program of another module, which stands in the folder
// module, into the file out.
func BuildTool(ctx context.Context, out, module, pkg string) error {
	command := exec.CommandContext(ctx, "go", "build", "-o", out, pkg)
	command.Dir = module
	command.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=")
	if text, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("build %s: %w\n%s", pkg, err, text)
	}
	return nil
}

// Process is a running program whose output goes to a file.
type Process struct {
	cmd  *exec.Cmd
	log  *os.File
	done chan struct{}
}

// Start runs a program with exactly the environment env. Its output is
// appended to logPath. The caller ends it by Kill, or by Signal and Exit.
func Start(path string, args, env []string, logPath string) (*Process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, log, log
	cmd.SysProcAttr = ownGroup()
	if err := cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", path, err), log.Close())
	}
	p := &Process{cmd: cmd, log: log, done: make(chan struct{})}
	go func() {
		defer close(p.done)
		// The outcome is in cmd.ProcessState, which Exit reads.
		_ = cmd.Wait()
		_ = log.Close()
	}()
	return p, nil
}

// Pid is the process's id.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Done is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Signal sends a signal. A process that has ended already is no error.
func (p *Process) Signal(signal os.Signal) error {
	if err := p.cmd.Process.Signal(signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal process %d: %w", p.Pid(), err)
	}
	return nil
}

// Exit waits for the end of the process and returns its exit code, which is -1
// when a signal ended it.
func (p *Process) Exit(ctx context.Context) (int, error) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-ctx.Done():
		return 0, fmt.Errorf("wait for process %d to end: %w", p.Pid(), context.Cause(ctx))
	}
}

// State tells in words whether the process runs, and how it ended if it does not.
func (p *Process) State() string {
	select {
	case <-p.done:
		return "ended: " + p.cmd.ProcessState.String()
	default:
		return "runs"
	}
}

// KilledBy tells which signal ended the process, 0 if none did or it still
// runs.
func (p *Process) KilledBy() syscall.Signal {
	select {
	case <-p.done:
	default:
		return 0
	}
	if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return status.Signal()
	}
	return 0
}

// Kill ends the process with SIGKILL, which it cannot prepare for, and waits
// until it is gone.
func (p *Process) Kill() {
	// Killing fails only when the process has ended.
	_ = p.cmd.Process.Kill()
	<-p.done
}

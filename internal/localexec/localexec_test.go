//go:build linux || darwin

package localexec

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"github.com/ropewalk/ropewalk/internal/launchtest"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

// The test binary is its own supervisor, and whatever else must be a process
// that can be killed: the first argument says what.
const (
	dyingSupervisor = "supervisor-that-dies-at" // step, folder
	dyingLauncher   = "launcher-that-dies-at"   // step, data directory; the request on standard input
	sessionLeaver   = "leave-the-session"       // a command that leaves a daemon behind
)

func TestMain(m *testing.M) {
	role := ""
	if len(os.Args) > 1 {
		role = os.Args[1]
	}
	environ := os.Environ() //nolint:forbidigo // this is the main of the processes below
	switch role {
	case SupervisorCommand:
		Supervise(os.Args[2:], environ, os.Stdin, os.Stderr)
		dieAt("end")("end") // under the race detector a process takes a second to end otherwise
	case dyingSupervisor:
		supervise(os.Args[3:], environ, os.Stdin, os.Stderr, dieAt(os.Args[2]))
	case dyingLauncher:
		launchAndDie(os.Args[2], os.Args[3])
	case sessionLeaver:
		leaveSession()
	default:
		goleak.VerifyTestMain(wait.Goroutines(m))
	}
}

// dieAt kills the process at a step, as the kernel would: nothing is closed or
// written any more by its own doing.
func dieAt(fatal string) func(string) {
	return func(step string) {
		if step == fatal {
			self, _ := os.FindProcess(os.Getpid())
			_ = self.Kill()
			select {} // the signal is on its way
		}
	}
}

func launchAndDie(step, dir string) {
	data, err := io.ReadAll(os.Stdin)
	if err != nil {
		panic(err)
	}
	request, err := run.Decode(data)
	if err != nil {
		panic(err)
	}
	launcher, err := New(Settings{Dir: dir, Environ: machine()})
	if err != nil {
		panic(err)
	}
	launcher.at = dieAt(step)
	if _, _, err := launcher.Launch(context.Background(), run.Launch{Request: request, Attempt: 1}); err != nil {
		panic(err)
	}
	launcher.at("launch returned")
}

// leaveSession starts a process in a session of its own that holds on to
// standard output, prints its id, and ends.
func leaveSession() {
	daemon := exec.Command("sleep", "600")
	daemon.SysProcAttr = ownSession()
	daemon.Stdout = os.Stdout
	if err := daemon.Start(); err != nil {
		panic(err)
	}
	_, _ = fmt.Fprintf(os.Stdout, "daemon %d\n", daemon.Process.Pid)
}

// machine is the environment that the launchers of the tests have.
func machine() []string {
	return []string{
		"PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/of-the-dispatcher", "LANG=C.UTF-8",
		"ROPEWALK_NATS_PASSWORD=of-the-dispatcher", "AWS_SECRET_ACCESS_KEY=of-the-dispatcher",
	}
}

func newLauncher(t *testing.T, dir string, edits ...func(*Settings)) *Launcher {
	t.Helper()
	settings := Settings{Dir: dir, Environ: machine()}
	for _, edit := range edits {
		edit(&settings)
	}
	launcher, err := New(settings)
	if err != nil {
		t.Fatal(err)
	}
	return launcher
}

func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// script is a launch of a shell script.
func script(text string, edits ...func(*run.Request)) run.Launch {
	request := run.Request{Version: 1, ID: "a", Queue: "default", Command: []string{"sh", "-c", text}}
	for _, edit := range edits {
		edit(&request)
	}
	return run.Launch{Request: request, Attempt: 1}
}

func launch(t *testing.T, launcher *Launcher, launch run.Launch) run.Job {
	t.Helper()
	job, _, err := launcher.Launch(wait.Context(t, "the launch"), launch)
	if err != nil {
		t.Fatalf("Launch: %v", err)
	}
	t.Cleanup(func() {
		if err := launcher.Delete(wait.Context(t, "the job to be deleted"), job); err != nil {
			t.Errorf("Delete: %v", err)
		}
		if left := left(t, job.UID); len(left) > 0 {
			t.Errorf("processes %v are left", left)
		}
	})
	return job
}

func follow(t *testing.T, launcher *Launcher, job run.Job) run.Observation {
	t.Helper()
	final, err := launcher.Follow(wait.Context(t, "the job's end"), job, func(run.Observation) {})
	if err != nil {
		t.Fatalf("Follow: %v", err)
	}
	return final
}

// ends launches and follows to the end.
func ends(t *testing.T, launcher *Launcher, what run.Launch) (run.Job, run.Observation) {
	t.Helper()
	job := launch(t, launcher, what)
	return job, follow(t, launcher, job)
}

func want(t *testing.T, got run.Observation, state run.State, reason run.Reason, words ...string) {
	t.Helper()
	if got.State != state || got.Reason != reason {
		t.Errorf("the end is %s %s (%s), want %s %s", got.State, got.Reason, got.Message, state, reason)
	}
	for _, word := range words {
		if !strings.Contains(got.Message, word) {
			t.Errorf("message %q does not say %q", got.Message, word)
		}
	}
}

func wantCode(t *testing.T, got run.Observation, code int) {
	t.Helper()
	if got.ExitCode == nil || *got.ExitCode != code {
		t.Errorf("the end is %+v, want exit code %d", got, code)
	}
}

// left lists the processes that carry a job's mark.
func left(t *testing.T, uid string) (pids []int) {
	t.Helper()
	all, err := processes()
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range all {
		if marked(pid, uid) && runs(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// printed waits until the job has printed the text.
func printed(t *testing.T, launcher *Launcher, job run.Job, text string) {
	t.Helper()
	wait.Until(t, "the job to print "+text, func() bool {
		output, err := os.ReadFile(launcher.folder(job.Name).file(outputFile))
		return err == nil && bytes.Contains(output, []byte(text))
	})
}

func statusOf(t *testing.T, launcher *Launcher, job run.Job) status {
	t.Helper()
	now, err := launcher.folder(job.Name).status()
	if err != nil {
		t.Fatal(err)
	}
	return now
}

func TestConformance(t *testing.T) {
	dir := t.TempDir()
	launchtest.Run(t, launchtest.Harness{
		New: func(t *testing.T) launchtest.Launcher {
			t.Helper()
			return newLauncher(t, dir)
		},
		Left: func(t *testing.T, job run.Job) (found []string) {
			t.Helper()
			for _, pid := range left(t, job.UID) {
				found = append(found, fmt.Sprintf("process %d", pid))
			}
			folders, err := filepath.Glob(filepath.Join(dir, "*", job.Name+"*"))
			if err != nil {
				t.Fatal(err)
			}
			return append(found, folders...)
		},
	})
}

func TestNewRefusesWhatCannotWork(t *testing.T) {
	t.Parallel()
	if _, err := New(Settings{}); err == nil {
		t.Error("no directory was taken for one")
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := New(Settings{Dir: file}); err == nil {
		t.Error("a file was taken for a directory")
	}
}

func TestCheckNamesTheField(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t, t.TempDir())
	err := launcher.Check(run.Launch{Request: run.Request{ID: "a", Args: []string{"x"}, WorkingDir: "here"}, Image: "busybox"})
	var invalid *run.InvalidError
	if !errors.As(err, &invalid) || len(invalid.Problems) != 2 || invalid.Problems[0].Field != "command" || invalid.Problems[1].Field != "workingDir" {
		t.Errorf("Check: %v, want command and workingDir named", err)
	}
	_, _, err = launcher.Launch(t.Context(), run.Launch{Request: run.Request{ID: "a"}, Attempt: 1})
	var refused *run.LaunchError
	if !errors.As(err, &refused) || refused.Reason != run.InvalidRequest || refused.Temporary {
		t.Errorf("Launch: %v, want it refused for good", err)
	}
}

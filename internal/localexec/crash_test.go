//go:build linux || darwin

package localexec

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

// counted makes each start of the script leave a line, with the job's UID, in
// a file that is no part of the job.
func counted(t *testing.T) (count func() []string, edit func(*run.Request)) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "starts")
	count = func() []string {
		text, err := os.ReadFile(path)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		return strings.Fields(string(text))
	}
	return count, func(request *run.Request) {
		request.Env = map[string]string{"STARTS": path}
		request.Command[2] = `echo "$` + jobMark + `" >>"$STARTS"; ` + request.Command[2]
	}
}

// dieLaunching runs a launcher in a process of its own that is killed at the
// step.
func dieLaunching(t *testing.T, step, dir string, request run.Request) {
	t.Helper()
	data, err := request.Encode()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(wait.Context(t, "the launcher to be killed"), self(t), dyingLauncher, step, dir)
	cmd.Stdin = bytes.NewReader(data)
	output, err := cmd.CombinedOutput()
	if signal, killed := killedBy(cmd.ProcessState); !killed || signal != syscall.SIGKILL {
		t.Fatalf("the launcher was to be killed at %q, but: %v\n%s", step, err, output)
	}
}

func TestALauncherKilledAtAnyStepLeavesAJobThatStartsOnce(t *testing.T) {
	t.Parallel()
	for _, step := range []string{"folder made", "spec written", "locks taken", "supervisor started", "environment sent", "launch returned"} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			starts, count := counted(t)
			what := script(`test "$TOKEN" = hunter2`, count, func(request *run.Request) {
				request.SecretEnv = map[string]run.Secret{"TOKEN": "hunter2"}
			})
			dieLaunching(t, step, dir, what.Request)
			_, final := ends(t, newLauncher(t, dir), what)
			want(t, final, run.Succeeded, "")
			if starts := starts(); len(starts) != 1 {
				t.Errorf("the command started %d times, want once", len(starts))
			}
		})
	}
}

func TestASupervisorKilledAtAnyStepIsALostNode(t *testing.T) {
	t.Parallel()
	for step, want := range map[string]struct {
		script string
		starts int
	}{
		"start recorded":   {"sleep 600", 0},
		"running recorded": {"sleep 600", 1},
		"command ended":    {"exit 0", 1},
	} {
		t.Run(step, func(t *testing.T) {
			t.Parallel()
			starts, count := counted(t)
			dir := t.TempDir()
			what := script(want.script, count)
			launcher := newLauncher(t, dir, func(settings *Settings) {
				settings.Supervisor = []string{self(t), dyingSupervisor, step}
			})
			job, final := ends(t, launcher, what)
			lostNode(t, final)
			// Nobody may come to another end, or start it again.
			another := newLauncher(t, dir)
			if again, adopted, err := another.Launch(wait.Context(t, "the launch"), what); err != nil || !adopted || again != job {
				t.Errorf("Launch afterwards: %+v, adopted %v, %v; want %+v adopted", again, adopted, err, job)
			}
			if again := follow(t, another, job); again.Message != final.Message || !again.FinishedAt.Equal(final.FinishedAt) {
				t.Errorf("the end was %+v and is now %+v", final, again)
			}
			if starts := starts(); len(starts) > want.starts {
				t.Errorf("the command started %d times, want %d", len(starts), want.starts)
			}
			if left := left(t, job.UID); len(left) > 0 {
				t.Errorf("processes %v are left", left)
			}
		})
	}
}

// The supervisor dies after the command has started and before it could write
// that down: the command is found by its session alone.
func TestACommandWhoseStartWasNotRecordedIsStopped(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t, t.TempDir(), func(settings *Settings) {
		settings.Supervisor = []string{self(t), dyingSupervisor, "command started"}
	})
	job, final := ends(t, launcher, script("sleep 600 & sleep 600 & wait"))
	lostNode(t, final)
	if left := left(t, job.UID); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func lostNode(t *testing.T, final run.Observation) {
	t.Helper()
	want(t, final, run.Failed, run.NodeLost, "supervisor", run.NodeLost.ToDo())
	if final.FinishedAt.IsZero() || final.ExitCode != nil {
		t.Errorf("the end is %+v, want a time and no exit code", final)
	}
}

func TestASupervisorKilledWhileFollowedLeavesNothing(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	launcher := newLauncher(t, dir)
	// In its group, in a group of its own, and without the job's mark.
	job := launch(t, launcher, script(`sleep 600 & set -m; sleep 601 & env -i sleep 602 & echo ready; wait`))
	printed(t, launcher, job, "ready")
	session := statusOf(t, launcher, job).Session
	wait.Until(t, "three sleeps and their shell", func() bool {
		members, err := sessionMembers(session)
		return err == nil && len(members) == 5 // with the supervisor
	})
	if err := syscall.Kill(session, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	var all sync.WaitGroup
	ctx := wait.Context(t, "the job's end")
	for range 3 { // all at once
		another := newLauncher(t, dir)
		all.Go(func() {
			final, err := another.Follow(ctx, job, func(run.Observation) {})
			if err != nil {
				t.Errorf("Follow: %v", err)
			}
			lostNode(t, final)
		})
	}
	all.Wait()
	if members, err := sessionMembers(session); err != nil || len(members) > 0 {
		t.Errorf("processes %v are left (%v)", members, err)
	}
}

// After a restart of the machine, or a long time, another process may have the
// ids that the job had.
func TestAStrangerWithTheJobsIDsIsLeftAlone(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t, t.TempDir())
	job, _ := ends(t, launcher, script("exit 0"))
	stranger := exec.CommandContext(t.Context(), "sleep", "600")
	stranger.SysProcAttr = ownSession()
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = stranger.Process.Kill()
		_ = stranger.Wait()
	}()
	pid := stranger.Process.Pid
	f := launcher.folder(job.Name)
	running := status{State: run.Running, Session: pid, Group: pid, StartedAt: time.Now()}
	if err := writeJSON(f.file(statusFile), running); err != nil {
		t.Fatal(err)
	}
	lostNode(t, follow(t, launcher, job))
	if !runs(pid) {
		t.Fatal("Follow has killed a process that was not the job's")
	}
	if err := writeJSON(f.file(statusFile), running); err != nil {
		t.Fatal(err)
	}
	if err := launcher.Delete(wait.Context(t, "the job to be deleted"), job); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if !runs(pid) {
		t.Fatal("Delete has killed a process that was not the job's")
	}
}

func TestASupervisorThatCannotStartIsTriedAgain(t *testing.T) {
	t.Parallel()
	for sentence, test := range map[string]struct {
		supervisor []string
		words      string
	}{
		"a program that is not there":       {[]string{"/nonexistent/supervisor"}, "no such file"},
		"a program that ends and says why":  {[]string{"sh", "-c", "echo no room >&2; exit 1"}, "no room"},
		"a program that reads and says why": {[]string{"sh", "-c", `cat >/dev/null; echo '{"problem":"disk full"}' >&5`}, "disk full"},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			broken := newLauncher(t, dir, func(settings *Settings) { settings.Supervisor = test.supervisor })
			_, _, err := broken.Launch(wait.Context(t, "the launch"), script("exit 0"))
			var later *run.LaunchError
			if !errors.As(err, &later) || !later.Temporary || !strings.Contains(later.Message, test.words) {
				t.Fatalf("Launch: %v, want a temporary error that says %q", err, test.words)
			}
			_, final := ends(t, newLauncher(t, dir), script("exit 0"))
			want(t, final, run.Succeeded, "")
		})
	}
}

// Several dispatchers launch, follow and delete the same attempt, each at its
// own pace. Whatever they do to each other, no Job is started twice, and in
// the end nothing is left.
func TestDispatchersThatGetInEachOthersWay(t *testing.T) {
	t.Parallel()
	const dispatchers, rounds = 3, 8
	dir := t.TempDir()
	starts, count := counted(t)
	what := script("sleep 600", count)
	ctx := wait.Context(t, "every dispatcher to be done")
	var all sync.WaitGroup
	for i := range dispatchers {
		launcher := newLauncher(t, dir)
		all.Go(func() {
			for round := range rounds {
				job, _, err := launcher.Launch(ctx, what)
				var refused *run.LaunchError
				if errors.As(err, &refused) && refused.Reason == run.JobDeleted {
					continue
				}
				if err != nil {
					t.Errorf("Launch: %v", err)
					return
				}
				// Its pace, not a limit: what it does next it does at any moment.
				short, cancel := context.WithTimeout(ctx, time.Duration(i*round)*10*time.Millisecond)
				if final, err := launcher.Follow(short, job, func(run.Observation) {}); err == nil && final.Reason != run.JobDeleted {
					t.Errorf("Follow: %+v", final)
				}
				cancel()
				if err := launcher.Delete(ctx, job); err != nil {
					t.Errorf("Delete: %v", err)
				}
			}
		})
	}
	all.Wait()
	seen := make(map[string]bool)
	for _, uid := range starts() {
		if seen[uid] {
			t.Errorf("job %s was started twice", uid)
		}
		seen[uid] = true
		if left := left(t, uid); len(left) > 0 {
			t.Errorf("processes %v are left of job %s", left, uid)
		}
	}
	if len(seen) == 0 {
		t.Error("no job was started")
	}
	for _, pattern := range []string{"jobs/*", "trash/*"} {
		if names, err := filepath.Glob(filepath.Join(dir, pattern)); err != nil || len(names) > 0 {
			t.Errorf("%v is left (%v)", names, err)
		}
	}
}

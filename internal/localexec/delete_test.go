//go:build linux || darwin

package localexec

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func commandLine(t *testing.T, pid int) []byte {
	t.Helper()
	text, err := exec.CommandContext(t.Context(), "ps", "-o", "args=", "-p", strconv.Itoa(pid)).Output()
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func gone(t *testing.T, f folder) bool {
	t.Helper()
	there, err := exists(string(f))
	if err != nil {
		t.Fatal(err)
	}
	return !there
}

func TestDeleteOfACommandThatDoesNotListen(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t, t.TempDir(), func(settings *Settings) { settings.Grace = 100 * time.Millisecond })
	job := launch(t, launcher, script("trap '' TERM; sleep 600 & echo ready; wait; wait"))
	printed(t, launcher, job, "ready")
	if err := launcher.Delete(wait.Context(t, "the job to be deleted"), job); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	if left := left(t, job.UID); len(left) > 0 || !gone(t, launcher.folder(job.Name)) {
		t.Errorf("processes %v or the folder are left", left)
	}
}

func TestDeleteOfASupervisorThatDoesNotListen(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t, t.TempDir(), func(settings *Settings) { settings.Grace = time.Millisecond })
	job := launch(t, launcher, script("echo ready; sleep 600"))
	printed(t, launcher, job, "ready")
	if err := syscall.Kill(statusOf(t, launcher, job).Session, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := launcher.Delete(wait.Context(t, "the job to be deleted"), job); err != nil {
		t.Fatalf("Delete: %v", err)
	}
	if left := left(t, job.UID); len(left) > 0 || !gone(t, launcher.folder(job.Name)) {
		t.Errorf("processes %v or the folder are left", left)
	}
}

// The dispatcher that deletes may be killed, or told to stop, while it waits.
func TestADeletionThatWasBegunIsFinishedByAnother(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	one := newLauncher(t, dir, func(settings *Settings) { settings.Grace = time.Hour })
	what := script("trap '' TERM; sleep 600 & echo ready; while :; do wait; done")
	job := launch(t, one, what)
	printed(t, one, job, "ready")
	ctx, cancel := context.WithCancel(t.Context())
	deleted := make(chan error, 1)
	go func() { deleted <- one.Delete(ctx, job) }()
	wait.Until(t, "the deletion to begin", func() bool {
		begun, err := one.folder(job.Name).deleting()
		return err == nil && begun
	})
	cancel()
	if err := wait.Receive(t, "end of the deletion", deleted); !errors.Is(err, context.Canceled) {
		t.Fatalf("Delete: %v, want the context's error", err)
	}
	two := newLauncher(t, dir)
	want(t, follow(t, two, job), run.Failed, run.JobDeleted)
	var refused *run.LaunchError
	if _, _, err := two.Launch(wait.Context(t, "the launch"), what); !errors.As(err, &refused) || refused.Reason != run.JobDeleted {
		t.Errorf("Launch: %v, want %s", err, run.JobDeleted)
	}
	if err := syscall.Kill(statusOf(t, two, job).Session, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "the job to be swept away", func() bool {
		if err := two.sweep(wait.Context(t, "a sweep"), time.Now()); err != nil {
			t.Fatal(err)
		}
		return gone(t, two.folder(job.Name))
	})
	if left := left(t, job.UID); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

func TestASupervisorThatIsToldToStopSaysSo(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t, t.TempDir())
	job := launch(t, launcher, script("trap 'exit 0' TERM; sleep 600 & echo ready; wait"))
	printed(t, launcher, job, "ready")
	if err := syscall.Kill(statusOf(t, launcher, job).Session, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	want(t, follow(t, launcher, job), run.Failed, run.NodeLost, "told to stop")
}

// A person may remove the folder while the command runs.
func TestAFolderRemovedByHand(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t, t.TempDir())
	job := launch(t, launcher, script("echo ready; sleep 600"))
	printed(t, launcher, job, "ready")
	session := statusOf(t, launcher, job).Session
	done := make(chan run.Observation, 1)
	running := make(chan struct{})
	ctx := wait.Context(t, "the job's end")
	go func() {
		final, err := launcher.Follow(ctx, job, func(run.Observation) { close(running) })
		if err != nil {
			t.Errorf("Follow: %v", err)
		}
		done <- final
	}()
	wait.Closed(t, "the job to be seen running", running)
	wait.Until(t, "the follower to wait", func() bool {
		launcher.mu.Lock()
		defer launcher.mu.Unlock()
		return launcher.ends[job.UID] != nil
	})
	if err := os.RemoveAll(string(launcher.folder(job.Name))); err != nil {
		t.Fatal(err)
	}
	if err := launcher.Delete(wait.Context(t, "the job to be deleted"), job); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if err := syscall.Kill(session, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	want(t, wait.Receive(t, "end of the job", done), run.Failed, run.JobDeleted)
}

func TestNamesLeadNowhereElse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	launcher := newLauncher(t, filepath.Join(dir, "data"))
	precious := filepath.Join(dir, "precious")
	if err := os.Mkdir(precious, 0o700); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", ".", "..", "../../precious", precious, "a/b"} {
		job := run.Job{Namespace: namespace, Name: name}
		if err := launcher.Delete(wait.Context(t, "the job to be deleted"), job); err != nil {
			t.Errorf("Delete of %q: %v", name, err)
		}
		want(t, follow(t, launcher, job), run.Failed, run.JobDeleted)
	}
	for _, path := range []string{precious, launcher.jobs, launcher.trash} {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}

func TestDamagedFilesAreNoEndlessWait(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t, t.TempDir())
	job, _ := ends(t, launcher, script("exit 0"))
	f := launcher.folder(job.Name)
	if err := os.WriteFile(f.file(statusFile), []byte(`{"state": 3`), 0o600); err != nil {
		t.Fatal(err)
	}
	lostNode(t, follow(t, launcher, job))
	intact, err := os.ReadFile(f.file(specFile))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(f.file(specFile), []byte("\x00"), 0o600); err != nil {
		t.Fatal(err)
	}
	want(t, follow(t, launcher, job), run.Failed, run.JobDeleted)
	if _, _, err := launcher.Launch(wait.Context(t, "the launch"), script("exit 0")); err == nil || !strings.Contains(err.Error(), specFile) {
		t.Errorf("Launch: %v, want the damaged file named", err)
	}
	if err := os.WriteFile(f.file(specFile), intact, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestALockIsWaitedForAsLongAsTheContextLasts(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "lock")
	held, err := lockFile(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	// However late that is, the lock is held until then.
	short, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := lockFile(short, path); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("lockFile: %v, want the context's error", err)
	}
	got := make(chan error, 1)
	ctx := wait.Context(t, "the lock")
	go func() {
		file, err := lockFile(ctx, path)
		if err == nil {
			err = file.Close()
		}
		got <- err
	}()
	if err := held.Close(); err != nil {
		t.Fatal(err)
	}
	if err := wait.Receive(t, "lock", got); err != nil {
		t.Errorf("lockFile: %v", err)
	}
}

func TestSweepingRemovesWhatIsOldAndNothingElse(t *testing.T) {
	t.Parallel()
	const ttl = time.Hour
	launcher := newLauncher(t, t.TempDir(), func(settings *Settings) { settings.TTL = ttl })
	named := func(id string) func(*run.Request) { return func(request *run.Request) { request.ID = id } }
	ended, final := ends(t, launcher, script("exit 0", named("ended")))
	running := launch(t, launcher, script("sleep 600", named("running")))
	orphan := launch(t, launcher, script("sleep 600", named("orphan")))
	if err := syscall.Kill(statusOf(t, launcher, orphan).Session, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "the orphan's supervisor to go", func() bool {
		alive, err := launcher.folder(orphan.Name).alive()
		return err == nil && !alive
	})
	unstarted := launcher.folder("run-unstarted-1")
	half := filepath.Join(launcher.trash, "half-deleted")
	for _, path := range []string{string(unstarted), filepath.Join(half, "folder")} {
		if err := os.MkdirAll(path, 0o700); err != nil {
			t.Fatal(err)
		}
	}

	sweep := func(now time.Time, remain, go_ []folder) {
		t.Helper()
		if err := launcher.sweep(wait.Context(t, "a sweep"), now); err != nil {
			t.Fatalf("sweep: %v", err)
		}
		for _, f := range remain {
			if gone(t, f) {
				t.Errorf("%s was removed", f)
			}
		}
		for _, f := range go_ {
			if !gone(t, f) {
				t.Errorf("%s was not removed", f)
			}
		}
	}
	endedFolder, runningFolder, orphanFolder := launcher.folder(ended.Name), launcher.folder(running.Name), launcher.folder(orphan.Name)
	sweep(final.FinishedAt.Add(ttl-time.Second), []folder{endedFolder, runningFolder, orphanFolder, unstarted}, []folder{folder(half)})
	if now := statusOf(t, launcher, orphan); now.Reason != run.NodeLost {
		t.Errorf("the orphan is %+v, want it settled", now)
	}
	if left := left(t, orphan.UID); len(left) > 0 {
		t.Errorf("processes %v are left of the orphan", left)
	}
	sweep(time.Now().Add(2*ttl), []folder{runningFolder}, []folder{endedFolder, orphanFolder, unstarted})
}

func TestRunSweepsAndEndsWithItsContext(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t, t.TempDir(), func(settings *Settings) { settings.TTL = time.Nanosecond })
	job, _ := ends(t, launcher, script("exit 0"))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- launcher.Run(ctx) }()
	wait.Until(t, "the finished job to be removed", func() bool { return gone(t, launcher.folder(job.Name)) })
	cancel()
	if err := wait.Receive(t, "end of Run", done); err != nil {
		t.Errorf("Run: %v", err)
	}
}

func TestASupervisorIsNotStartedByHand(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{nil, {t.TempDir()}, {"one", "two"}} {
		var said strings.Builder
		if code := Supervise(args, nil, strings.NewReader("{}"), &said); code == 0 || !strings.Contains(said.String(), "never by hand") {
			t.Errorf("Supervise(%q) = %d, %q", args, code, &said)
		}
	}
}

// Package launchtest says what a launcher is, as tests: the conformance suite
// of the seam between the dispatcher's core and whatever runs its Jobs. Every
// launcher runs it against the real thing it launches on, from a test of its
// own:
//
//	launchtest.Run(t, launchtest.Harness{New: …, Left: …})
//
// It holds what the core relies on and no more. What only one launcher does
// (a pull failure, a process group) is tested beside that launcher.
package launchtest

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

// Launcher is what the suite tests; the core declares the same.
type Launcher interface {
	Check(launch run.Launch) error
	Launch(ctx context.Context, launch run.Launch) (job run.Job, adopted bool, err error)
	Follow(ctx context.Context, job run.Job, report func(run.Observation)) (run.Observation, error)
	Delete(ctx context.Context, job run.Job) error
}

// Harness is what the suite needs of a launcher under test. The cases run in
// parallel, each with ids of its own, so that they may share one cluster.
type Harness struct {
	// New returns a launcher that is ready for use. Each one stands for a
	// dispatcher of its own, and all of one harness share the same backing
	// state: what one has launched, another can adopt. It registers its own
	// clean-up.
	New func(t *testing.T) Launcher
	// Left lists what is still there of a job: processes, pods, secrets,
	// folders. After Delete it must be empty.
	Left func(t *testing.T, job run.Job) []string
	// Image holds a shell at "sh", for launchers that run images.
	Image string
}

// Run runs every case of the suite.
func Run(t *testing.T, harness Harness) {
	t.Helper()
	if harness.New == nil || harness.Left == nil {
		t.Fatal("launchtest: the harness must have New and Left")
	}
	for _, cases := range []map[string]check{endings(), identities(), stops()} {
		for sentence, check := range cases {
			t.Run(sentence, func(t *testing.T) {
				t.Parallel()
				check(wait.Context(t, "the end of this case"), t, &scene{harness: harness, id: "lt-" + strings.ToLower(rand.Text()[:12])})
			})
		}
	}
}

// check is one case.
type check func(ctx context.Context, t *testing.T, s *scene)

// scene is one case's surroundings.
type scene struct {
	harness Harness
	id      string
}

func (s *scene) launcher(t *testing.T) Launcher {
	t.Helper()
	return s.harness.New(t)
}

// waits is a shell snippet that runs for ten minutes unless it is told to
// stop. It stops at once on SIGTERM, also as process 1 of a container, which
// the kernel spares the signals that it does not handle.
const waits = `trap 'exit 143' TERM; sleep 600 & wait $!`

// launch describes attempt 1 of the scene's run: the script in a shell.
func (s *scene) launch(script string, edits ...func(*run.Request)) run.Launch {
	request := run.Request{
		Version: run.Version, ID: s.id, Queue: "default",
		Image:       run.Image{Reference: s.harness.Image},
		Command:     []string{"sh", "-c", script},
		SubmittedAt: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC),
	}
	for _, edit := range edits {
		edit(&request)
	}
	return run.Launch{Request: request, Attempt: 1, Image: s.harness.Image}
}

// whileItRuns has a check look at a command that runs for a while and then ends
// by itself with an exit code. Nothing outside can tell the command of every
// launcher when to end, and how long it must run to be seen running depends on
// the machine. So the check says false if the command ended before it was seen,
// and gets another run, twice as long.
func (s *scene) whileItRuns(code int, check func(launch run.Launch) (seen bool)) {
	for seconds := 2; ; seconds *= 2 {
		launch := s.launch(fmt.Sprintf("sleep %d; exit %d", seconds, code), func(request *run.Request) {
			request.ID = fmt.Sprintf("%s-%d", s.id, seconds)
		})
		if check(launch) {
			return
		}
	}
}

// start launches and demands that it works; what it made is deleted when the
// test ends.
func (s *scene) start(ctx context.Context, t *testing.T, launcher Launcher, launch run.Launch) (run.Job, bool) {
	t.Helper()
	job, adopted, err := launcher.Launch(ctx, launch)
	if err != nil {
		t.Fatalf("Launch: %v", err)
	}
	s.clean(t, launcher, job)
	if want := run.JobName(launch.Request.ID, launch.Attempt); job.Name != want {
		t.Errorf("the Job is called %q, want %q", job.Name, want)
	}
	if job.UID == "" || job.Namespace == "" {
		t.Errorf("Launch returned %+v, want a namespace and a UID", job)
	}
	return job, adopted
}

func (s *scene) clean(t *testing.T, launcher Launcher, job run.Job) {
	t.Helper()
	t.Cleanup(func() {
		if err := launcher.Delete(wait.Context(t, "the job to be deleted"), job); err != nil {
			t.Errorf("delete job %s at the end of the test: %v", job.Name, err)
		}
	})
}

// following is a Follow that goes on in a goroutine of its own.
type following struct {
	cancel  context.CancelFunc
	running chan struct{} // closed at the first observation of Running
	done    chan struct{} // closed when Follow has returned

	mu    sync.Mutex
	seen  []run.Observation
	final run.Observation
	err   error
}

func (s *scene) follow(ctx context.Context, t *testing.T, launcher Launcher, job run.Job) *following {
	t.Helper()
	ctx, cancel := context.WithCancel(ctx)
	f := &following{cancel: cancel, running: make(chan struct{}), done: make(chan struct{})}
	started := sync.OnceFunc(func() { close(f.running) })
	go func() {
		defer close(f.done)
		final, err := launcher.Follow(ctx, job, func(seen run.Observation) {
			f.mu.Lock()
			f.seen = append(f.seen, seen)
			f.mu.Unlock()
			if seen.State == run.Running {
				started()
			}
		})
		f.mu.Lock()
		defer f.mu.Unlock()
		f.final, f.err = final, err
	}()
	t.Cleanup(func() {
		cancel()
		<-f.done
	})
	return f
}

// awaitRunning returns once the job was seen to run.
func (f *following) awaitRunning(t *testing.T) {
	t.Helper()
	if !f.sawItRun(t) {
		t.Fatalf("Follow returned %+v before the job was seen to run", f.final)
	}
}

// sawItRun returns true once the job was seen to run, or false if its end was
// seen first.
func (f *following) sawItRun(t *testing.T) bool {
	t.Helper()
	select {
	case <-f.running:
		return true
	case <-f.done:
	}
	if f.err != nil {
		t.Fatalf("Follow returned %v before the job was seen to run", f.err)
	}
	select {
	case <-f.running:
		return true
	default:
		return false
	}
}

// end waits for Follow to return, demands a final observation, and checks what
// holds for all of them.
func (f *following) end(t *testing.T) run.Observation {
	t.Helper()
	<-f.done
	if f.err != nil {
		t.Fatalf("Follow: %v", f.err)
	}
	if problems := f.problems(); len(problems) > 0 {
		t.Errorf("%s\nall observations: %+v, then %+v", strings.Join(problems, "\n"), f.seen, f.final)
	}
	return f.final
}

// problems lists what is wrong with a whole sequence of observations.
func (f *following) problems() (problems []string) {
	order := []run.State{run.Pending, run.Running}
	at := 0
	for _, seen := range f.seen {
		place := slices.Index(order, seen.State)
		if place < 0 {
			problems = append(problems, fmt.Sprintf("reported %s; only pending and running are reported", seen.State))
			continue
		}
		if place < at {
			problems = append(problems, fmt.Sprintf("went back from %s to %s", order[at], seen.State))
		}
		at = max(at, place)
		if seen.State == run.Running && seen.StartedAt.IsZero() {
			problems = append(problems, "running without a time of its start")
		}
	}
	final := f.final
	switch {
	case !final.State.Final():
		problems = append(problems, fmt.Sprintf("Follow returned %q, which is not final", final.State))
	case final.State == run.Succeeded:
		if final.Reason != "" || final.ExitCode == nil || *final.ExitCode != 0 {
			problems = append(problems, "success must have exit code 0 and no reason")
		}
		if final.StartedAt.IsZero() || final.FinishedAt.Before(final.StartedAt) {
			problems = append(problems, "success must have a start and an end after it")
		}
	default:
		if !slices.Contains(run.Reasons(), final.Reason) {
			problems = append(problems, fmt.Sprintf("reason %q is not on the list", final.Reason))
		}
		if !strings.HasSuffix(final.Message, final.Reason.ToDo()) {
			problems = append(problems, fmt.Sprintf("message %q does not end with what to do", final.Message))
		}
	}
	return problems
}

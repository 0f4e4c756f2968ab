package launchtest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
)

// endings: how a run ends, and how that is told.
func endings() map[string]check {
	return map[string]check{
		"a command that ends well has succeeded": func(ctx context.Context, t *testing.T, s *scene) {
			launcher := s.launcher(t)
			job, adopted := s.start(ctx, t, launcher, s.launch("exit 0"))
			if adopted {
				t.Error("the first launch says that it adopted the Job")
			}
			final := s.follow(ctx, t, launcher, job).end(t)
			want(t, final, run.Succeeded, "")
			if final.Evidence != nil {
				t.Errorf("the evidence is %+v, want none of what went well", final.Evidence)
			}
		},
		"exit code 3 is a failure of the program": func(ctx context.Context, t *testing.T, s *scene) {
			launcher := s.launcher(t)
			job, _ := s.start(ctx, t, launcher, s.launch("echo first; echo last; exit 3"))
			final := s.follow(ctx, t, launcher, job).end(t)
			want(t, final, run.Failed, run.AppError)
			wantExitCode(t, final, 3)
			if !strings.Contains(final.Message, "3") {
				t.Errorf("message %q does not name the exit code", final.Message)
			}
			if final.Evidence == nil || !slices.Equal(final.Evidence.LastLines, []string{"first", "last"}) {
				t.Errorf("the evidence is %+v, want the last lines of the output", final.Evidence)
			}
		},
		"a run over its timeout is stopped and has timed out": func(ctx context.Context, t *testing.T, s *scene) {
			launcher := s.launcher(t)
			job, _ := s.start(ctx, t, launcher, s.launch(waits, func(request *run.Request) {
				request.Timeout = run.Duration(2 * time.Second)
			}))
			want(t, s.follow(ctx, t, launcher, job).end(t), run.TimedOut, run.DeadlineExceeded)
		},
		"environment and secrets reach the program, and nothing is expanded on the way": func(ctx context.Context, t *testing.T, s *scene) {
			// The literals are put together by the shell, so that a launcher
			// that expands $(NAME) could not change both sides alike.
			script := `
			d='$'
			[ "$PLAIN" = "two words" ] || exit 11
			[ "$TOKEN" = "hunter2 $d(PLAIN)" ] || exit 12
			[ "$NESTED" = "$d(PLAIN) $d$d(PLAIN)" ] || exit 13
			[ "$1" = "$d(PLAIN)" ] || exit 14
			[ "$2" = "" ] || exit 15
			[ $# = 2 ] || exit 16`
			launcher := s.launcher(t)
			job, _ := s.start(ctx, t, launcher, s.launch(script, func(request *run.Request) {
				request.Args = []string{"sh", "$(PLAIN)", ""}
				request.Env = map[string]string{"PLAIN": "two words", "NESTED": "$(PLAIN) $$(PLAIN)"}
				request.SecretEnv = map[string]run.Secret{"TOKEN": "hunter2 $(PLAIN)"}
			}))
			want(t, s.follow(ctx, t, launcher, job).end(t), run.Succeeded, "")
		},
		"twenty jobs at once each end in their own way": func(ctx context.Context, t *testing.T, s *scene) {
			launcher := s.launcher(t)
			follows := make([]*following, 20)
			uids := make(map[string]int)
			for i := range follows {
				job, adopted := s.start(ctx, t, launcher, s.launch(fmt.Sprintf("exit %d", i%4), func(request *run.Request) {
					request.ID = fmt.Sprintf("%s-%d", s.id, i)
				}))
				if other, taken := uids[job.UID]; taken || adopted {
					t.Errorf("job %d has the UID of job %d (adopted: %v)", i, other, adopted)
				}
				uids[job.UID] = i
				follows[i] = s.follow(ctx, t, launcher, job)
			}
			for i, f := range follows {
				final := f.end(t)
				wantExitCode(t, final, i%4)
				if (final.State == run.Succeeded) != (i%4 == 0) {
					t.Errorf("job %d with exit code %d is %s", i, i%4, final.State)
				}
			}
		},
	}
}

// identities: one Job per attempt, whoever asks and how often.
func identities() map[string]check {
	return map[string]check{
		"Check accepts a request that can be launched, and makes nothing": func(ctx context.Context, t *testing.T, s *scene) {
			launcher := s.launcher(t)
			launch := s.launch("exit 0")
			if err := launcher.Check(launch); err != nil {
				t.Fatalf("Check: %v", err)
			}
			if _, adopted := s.start(ctx, t, launcher, launch); adopted {
				t.Error("Check has made the Job")
			}
		},
		"launching twice is one Job, adopted the second time": func(ctx context.Context, t *testing.T, s *scene) {
			launcher := s.launcher(t)
			first, _ := s.start(ctx, t, launcher, s.launch(waits))
			second, adopted := s.start(ctx, t, launcher, s.launch(waits))
			if !adopted || first != second {
				t.Errorf("second launch returned %+v, adopted %v; want %+v, adopted", second, adopted, first)
			}
		},
		"four launchers that launch at the same moment make one Job": func(ctx context.Context, t *testing.T, s *scene) {
			const launchers = 4
			var (
				wait  sync.WaitGroup
				jobs  [launchers]run.Job
				found [launchers]bool
				errs  [launchers]error
			)
			for i := range launchers {
				launcher := s.launcher(t)
				wait.Go(func() {
					jobs[i], found[i], errs[i] = launcher.Launch(ctx, s.launch(waits))
				})
			}
			wait.Wait()
			s.clean(t, s.launcher(t), run.Job{Namespace: jobs[0].Namespace, Name: run.JobName(s.id, 1), UID: jobs[0].UID})
			made := 0
			for i := range launchers {
				if errs[i] != nil {
					t.Fatalf("Launch: %v", errs[i])
				}
				if jobs[i] != jobs[0] {
					t.Errorf("launchers see different Jobs: %+v and %+v", jobs[0], jobs[i])
				}
				if !found[i] {
					made++
				}
			}
			if made != 1 {
				t.Errorf("%d of %d launchers say that they made the Job", made, launchers)
			}
		},
		"attempts are Jobs of their own": func(ctx context.Context, t *testing.T, s *scene) {
			launcher := s.launcher(t)
			launch := s.launch("exit 3")
			first, _ := s.start(ctx, t, launcher, launch)
			launch.Attempt = 2
			second, adopted := s.start(ctx, t, launcher, launch)
			if adopted || first.Name == second.Name || first.UID == second.UID {
				t.Errorf("attempt 2 returned %+v, adopted %v; attempt 1 was %+v", second, adopted, first)
			}
		},
		"another launcher adopts what runs and sees how it ends": func(ctx context.Context, t *testing.T, s *scene) {
			one, two := s.launcher(t), s.launcher(t)
			s.whileItRuns(4, func(launch run.Launch) bool {
				job, _ := s.start(ctx, t, one, launch)
				before := s.follow(ctx, t, one, job)
				if !before.sawItRun(t) {
					return false
				}
				before.cancel()
				launch.Known = &job
				again, adopted := s.start(ctx, t, two, launch)
				if !adopted || again != job {
					t.Errorf("the second launcher got %+v, adopted %v; want %+v, adopted", again, adopted, job)
				}
				after := s.follow(ctx, t, two, again)
				if !after.sawItRun(t) {
					return false
				}
				final := after.end(t)
				want(t, final, run.Failed, run.AppError)
				wantExitCode(t, final, 4)
				return true
			})
		},
		"a Job that has ended is adopted with the end it had": func(ctx context.Context, t *testing.T, s *scene) {
			one := s.launcher(t)
			launch := s.launch("exit 5")
			job, _ := s.start(ctx, t, one, launch)
			first := s.follow(ctx, t, one, job).end(t)
			two := s.launcher(t)
			launch.Known = &job
			again, adopted := s.start(ctx, t, two, launch)
			if !adopted || again != job {
				t.Errorf("the second launcher got %+v, adopted %v; want %+v, adopted", again, adopted, job)
			}
			second := s.follow(ctx, t, two, again).end(t)
			wantExitCode(t, second, 5)
			if second.State != first.State || second.Reason != first.Reason || !second.FinishedAt.Equal(first.FinishedAt) {
				t.Errorf("the end was %+v, and is now %+v", first, second)
			}
		},
		"a known Job that is gone is never made again": func(ctx context.Context, t *testing.T, s *scene) {
			launcher := s.launcher(t)
			launch := s.launch("exit 0")
			job, _ := s.start(ctx, t, launcher, launch)
			if err := launcher.Delete(ctx, job); err != nil {
				t.Fatalf("Delete: %v", err)
			}
			launch.Known = &job
			_, _, err := launcher.Launch(ctx, launch)
			wantLaunchError(t, err, run.JobDeleted)
			if left := s.harness.Left(t, job); len(left) > 0 {
				t.Errorf("a launch that may only adopt has made %v", left)
			}
		},
		"a known Job that was replaced by another of its name is gone": func(ctx context.Context, t *testing.T, s *scene) {
			launcher := s.launcher(t)
			launch := s.launch("exit 0")
			job, _ := s.start(ctx, t, launcher, launch)
			other := job
			other.UID = "00000000-0000-4000-8000-000000000000"
			launch.Known = &other
			_, _, err := launcher.Launch(ctx, launch)
			wantLaunchError(t, err, run.JobDeleted)
			want(t, s.follow(ctx, t, launcher, other).end(t), run.Failed, run.JobDeleted)
			if err := launcher.Delete(ctx, other); err != nil {
				t.Errorf("Delete of a Job that is gone: %v", err)
			}
			want(t, s.follow(ctx, t, launcher, job).end(t), run.Succeeded, "")
		},
		"the same name with another request is refused for good": func(ctx context.Context, t *testing.T, s *scene) {
			launcher := s.launcher(t)
			job, _ := s.start(ctx, t, launcher, s.launch("exit 0"))
			_, _, err := launcher.Launch(ctx, s.launch("exit 1"))
			wantLaunchError(t, err, run.InvalidRequest)
			want(t, s.follow(ctx, t, launcher, job).end(t), run.Succeeded, "")
		},
	}
}

// stops: ends that come from outside.
func stops() map[string]check {
	return map[string]check{
		"Delete stops what runs, leaves nothing, and may be repeated": func(ctx context.Context, t *testing.T, s *scene) {
			launcher := s.launcher(t)
			job, _ := s.start(ctx, t, launcher, s.launch(waits, func(request *run.Request) {
				request.SecretEnv = map[string]run.Secret{"TOKEN": "hunter2"}
			}))
			s.follow(ctx, t, launcher, job).awaitRunning(t)
			if len(s.harness.Left(t, job)) == 0 {
				t.Fatal("the harness sees nothing of a Job that runs")
			}
			for range 2 {
				if err := launcher.Delete(ctx, job); err != nil {
					t.Fatalf("Delete: %v", err)
				}
				if left := s.harness.Left(t, job); len(left) > 0 {
					t.Fatalf("Delete has left %v", left)
				}
			}
			want(t, s.follow(ctx, t, launcher, job).end(t), run.Failed, run.JobDeleted)
		},
		"a Job deleted behind the follower's back is told as such": func(ctx context.Context, t *testing.T, s *scene) {
			one, two := s.launcher(t), s.launcher(t)
			job, _ := s.start(ctx, t, one, s.launch(waits))
			follow := s.follow(ctx, t, one, job)
			follow.awaitRunning(t)
			if err := two.Delete(ctx, job); err != nil {
				t.Fatalf("Delete: %v", err)
			}
			want(t, follow.end(t), run.Failed, run.JobDeleted)
		},
		"Follow ends early with the error of its context, and harms nothing": func(ctx context.Context, t *testing.T, s *scene) {
			launcher := s.launcher(t)
			s.whileItRuns(6, func(launch run.Launch) bool {
				job, _ := s.start(ctx, t, launcher, launch)
				follow := s.follow(ctx, t, launcher, job)
				if !follow.sawItRun(t) {
					return false
				}
				follow.cancel()
				<-follow.done
				if follow.err == nil { // it ended first
					return false
				}
				if !errors.Is(follow.err, context.Canceled) {
					t.Fatalf("Follow returned %+v, %v; want the context's error", follow.final, follow.err)
				}
				wantExitCode(t, s.follow(ctx, t, launcher, job).end(t), 6)
				return true
			})
		},
		"Launch with a context that has ended makes nothing": func(ctx context.Context, t *testing.T, s *scene) {
			launcher := s.launcher(t)
			ended, cancel := context.WithCancel(ctx)
			cancel()
			if _, _, err := launcher.Launch(ended, s.launch("exit 0")); !errors.Is(err, context.Canceled) {
				t.Errorf("Launch: %v, want the context's error", err)
			}
			if _, adopted := s.start(ctx, t, launcher, s.launch("exit 0")); adopted {
				t.Error("the Job was there already")
			}
		},
	}
}

func want(t *testing.T, got run.Observation, state run.State, reason run.Reason) {
	t.Helper()
	if got.State != state || got.Reason != reason {
		t.Errorf("the end is %s %s (%s), want %s %s", got.State, got.Reason, got.Message, state, reason)
	}
}

func wantExitCode(t *testing.T, got run.Observation, code int) {
	t.Helper()
	if got.ExitCode == nil || *got.ExitCode != code {
		t.Errorf("the end is %+v, want exit code %d", got, code)
	}
}

func wantLaunchError(t *testing.T, err error, reason run.Reason) {
	t.Helper()
	var refused *run.LaunchError
	if !errors.As(err, &refused) || refused.Reason != reason || refused.Temporary {
		t.Errorf("Launch returned %v, want it refused for good with %s", err, reason)
	}
}

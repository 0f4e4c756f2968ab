//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// says runs a command that must succeed and say something.
func (w *world) says(what string, args ...string) {
	w.t.Helper()
	if a := w.command(args...); a.code != 0 || !strings.Contains(a.stdout, what) {
		w.t.Fatalf("dispatcher %s: exit code %d, %q, %q; want %q", strings.Join(args, " "), a.code, a.stdout, a.stderr, what)
	}
}

// inState waits until a run's record is in a state.
func (w *world) inState(id, state string) rig.Record {
	w.t.Helper()
	return w.awaitRun(id, "the run to be "+state, func(r rig.Record) bool { return r.State == state })
}

func TestWhatWaitsForItsTimeHoldsNoSlot(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("1"))
	w.serve(1)
	w.says("runs next at", "schedule", "create", "far", "--after", "1h", "--image", parts.image, "--", "true")
	w.publish("default", "flaky", script("exit 3").with("retry", map[string]any{"attempts": 2, "first": "10m"}))
	w.awaitRun("flaky", "the second attempt to be put off", func(r rig.Record) bool { return r.State == "queued" && r.Attempt == 2 })
	w.publish("default", "other", script("exit 0"))
	w.inState("other", "succeeded")
	if flaky := w.records.Now()["flaky"]; flaky.State != "queued" || flaky.Attempt != 2 {
		t.Errorf("meanwhile the run that waits became %s at attempt %d", flaky.State, flaky.Attempt)
	}
	w.awaitNoMessages()
}

// A queue is made, given a namespace of its own, paused while its dispatcher is
// killed, drained and deleted, all without a restart.
func TestAQueueIsOperatedLive(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("1").With(gated()))
	team := w.teamNamespace()
	jobs, err := rig.Observe(w.call(), parts.cluster.Client, team, false)
	must(t, err)
	t.Cleanup(jobs.Stop)
	replicas := w.serve(2)
	w.says("at most 2 runs", "queue", "create", "team", "--concurrency", "2", "--namespace", team, "--pod-template-patch", `{metadata: {labels: {team: blue}}}`)
	w.publish("team", "t0", held("exit 0"))
	w.publish("team", "t1", held("exit 0"))
	orphan := w.inState("t0", "running")
	w.inState("t1", "running")
	w.says("it is paused", "queue", "pause", "team")
	w.publish("team", "t2", script("exit 0"))
	dead := replicas[0]
	if !owns(dead, orphan.Owner) {
		dead = replicas[1]
	}
	dead.Kill()
	w.awaitRun("t0", "the other dispatcher to adopt, paused or not", func(r rig.Record) bool { return !owns(dead, r.Owner) })
	w.letGo("t0", "t1")
	w.inState("t0", "succeeded")
	w.inState("t1", "succeeded")
	w.says("paused", "queue", "get", "team")
	// By the time that a run of another queue has come and gone, the same
	// dispatcher would have started the one that waits here.
	w.publish("default", "beside", script("exit 0"))
	w.inState("beside", "succeeded")
	if created := jobs.Counts("team").Created; created != 2 {
		t.Errorf("%d Jobs were made in the queue's namespace; want those of the two runs from before the pause", created)
	}
	w.says("at most 2", "queue", "resume", "team")
	if done := w.inState("t2", "succeeded"); done.Job == nil || done.Job.Namespace != team {
		t.Errorf("the Job of a run in that queue is %+v", done.Job)
	}
	pods, err := parts.cluster.Client.CoreV1().Pods(team).List(w.call(), metav1.ListOptions{LabelSelector: "team=blue"})
	must(t, err)
	if len(pods.Items) != 3 {
		t.Errorf("%d pods have the label that the queue's patch sets; want 3", len(pods.Items))
	}
	w.says("it is draining", "queue", "drain", "team")
	if refused := w.command("submit", "--queue", "team", "--image", parts.image, "--", "true"); refused.code == 0 || !strings.Contains(refused.stderr, "is being drained") {
		t.Errorf("submitting to a drained queue: exit code %d, %q", refused.code, refused.stderr)
	}
	w.awaitNoMessages()
	w.says("deleted", "queue", "delete", "team")
}

// teamNamespace makes a namespace in which the dispatcher has the rights that
// ship.
func (w *world) teamNamespace() string {
	w.t.Helper()
	ctx := wait.Context(w.t, "a namespace for the queue")
	team, err := parts.cluster.NewNamespace(ctx, "e2e-team")
	w.others = append(w.others, team)
	must(w.t, err)
	must(w.t, parts.cluster.ApplyRBAC(ctx, team, manifest))
	bindings := parts.cluster.Client.RbacV1().RoleBindings(team)
	list, err := bindings.List(ctx, metav1.ListOptions{})
	must(w.t, err)
	for _, binding := range list.Items {
		for i := range binding.Subjects {
			binding.Subjects[i].Name, binding.Subjects[i].Namespace = w.account, w.namespace
		}
		_, err := bindings.Update(ctx, &binding, metav1.UpdateOptions{})
		must(w.t, err)
	}
	return team
}

func TestSchedulesAndStartRatesHoldOverReplicas(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("10"))
	w.serve(2)
	// A queue of its own, which no dispatcher has ever known without its rate.
	w.says("started at 30/m", "queue", "create", "steady", "--concurrency", "10", "--start-rate", "30/m")
	begin := time.Now()
	const runs = 5
	for _, id := range []string{"r0", "r1", "r2", "r3", "r4"} {
		w.publish("steady", id, script("exit 0"))
	}
	w.awaitJobs("steady", "all runs to be started", func(c rig.Counts) bool { return c.Created >= runs })
	// The first start is after the publishing began, and each is seen after it
	// was: however late that is, it is never too early.
	for i, job := range w.observer.Jobs() {
		if since, least := job.CreatedAt.Sub(begin), time.Duration(i)*2*time.Second; since < least {
			t.Errorf("run %d was started after %s; at 30/m it may not before %s", i+1, since, least)
		}
	}
	w.says("at most 10", "queue", "set", "steady", "--start-rate", "none")

	w.says("runs next at", "schedule", "create", "tick", "--cron", "*/3 * * * * *", "--time-zone", "Europe/Berlin", "--overlap", "allow", "--image", parts.image, "--", "true")
	var shown struct {
		Started int
		Run     string
	}
	must(t, rig.Poll(wait.Context(t, "the schedule to start two runs"), 500*time.Millisecond, func() error {
		a := w.command("schedule", "get", "tick", "-o", "json")
		if err := json.Unmarshal([]byte(a.stdout), &shown); err != nil {
			return err
		}
		if shown.Started < 2 {
			return fmt.Errorf("it has started %d", shown.Started)
		}
		return nil
	}))
	w.says("deleted", "schedule", "delete", "tick")
	w.inState(shown.Run, "succeeded")
	at, err := time.Parse("20060102t150405z", strings.TrimPrefix(shown.Run, "tick-"))
	if err != nil || at.Second()%3 != 0 {
		t.Errorf("the run of a schedule is called %s, %v", shown.Run, err)
	}
}

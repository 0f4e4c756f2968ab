//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// raced is a run and the moment at which it is cancelled.
type raced struct {
	id      string
	request request
	// state is what the record says before the cancellation, "" for at once;
	// the cancellation follows after.
	state string
	after time.Duration
}

// theRaces are n runs, cancelled at moments of all kinds. Where the cluster has
// nodes that only pretend to run pods, most come there: what is raced against is
// the cluster's bookkeeping, which is real.
func theRaces(n int, pretended bool) []raced {
	random := rand.New(rand.NewPCG(1, 2)) // the same every time; chance comes in by itself
	races := make([]raced, n)
	for i := range races {
		length := time.Duration(random.IntN(900)+100) * time.Millisecond
		r := raced{id: fmt.Sprintf("race-%03d", i), after: time.Duration(random.IntN(150)) * time.Millisecond}
		if i%5 == 1 || i%5 == 2 {
			// These are raced against the launch. They do not end by themselves,
			// so that most runs are cancelled however late that comes.
			length = 10 * time.Minute
		}
		r.request = script(fmt.Sprintf("trap 'exit 143' TERM; sleep %.2f & wait $!", length.Seconds())).
			with("annotations", map[string]string{"fake/run-for": length.String()})
		if pretended && i%8 != 0 {
			r.request = r.request.with("pod", map[string]any{
				"nodeSelector": map[string]string{"type": "kwok"}, "tolerations": []map[string]any{{"operator": "Exists"}},
			})
		}
		switch i % 5 {
		case 0: // while it waits, or is just taken up
		case 1:
			r.state = "preparing"
		case 2:
			r.state = "pending"
		case 3: // about when it ends, which the cluster says a second or two after the program
			r.state, r.after = "running", length+12*r.after
		case 4: // a build that never ends
			r.state = "preparing"
			r.request = built("FROM scratch\n", "exit 0")
		}
		races[i] = r
	}
	return races
}

// TestCancelledAtAnyMoment cancels 500 runs while they wait, are built, launched,
// run and end, and while dispatchers are killed all the time, at random and
// between any two steps.
//
// The AckWait is not the shortest there is: a dispatcher that gets no processor
// for so long, right before it launches, would launch what is cancelled already.
func TestCancelledAtAnyMoment(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("50").With(rig.Settings{
		"ROPEWALK_ACK_WAIT": ackWait.String(), "ROPEWALK_INFRASTRUCTURE_RETRIES": "0",
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE": "true", "ROPEWALK_IMAGE_PLAIN_HTTP": registry(),
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY": registry() + "/e2e-cancel",
		"ROPEWALK_BUILDER_IMAGE":                            parts.image,
		"ROPEWALK_BUILDER_POD_TEMPLATE_PATCH":               `{"spec": {"containers": [{"name": "run", "command": ["sleep", "600"]}]}}`,
	}))
	replicas := w.serve(3)
	nodes, err := parts.cluster.Client.CoreV1().Nodes().List(w.call(), metav1.ListOptions{LabelSelector: "type=kwok"})
	must(t, err)
	races := theRaces(500, len(nodes.Items) > 0)
	deaths := w.race(races, replicas)
	if deaths < 3 {
		t.Errorf("%d dispatchers died, which shows little", deaths)
	}

	ids, ends := make([]string, len(races)), map[string]int{}
	for i, r := range races {
		ids[i] = r.id
	}
	w.awaitMore(ids, len(ids))
	for _, id := range ids {
		ends[w.records.Now()[id].State]++
		w.checkLegal(id)
	}
	w.checkNothingLeft()
	t.Logf("of %d runs %v; %d dispatchers died", len(ids), ends, deaths)
	if ends["cancelled"] < len(ids)/2 || ends["cancelled"]+ends["succeeded"] != len(ids) {
		t.Errorf("the runs are %v, want most cancelled and the others succeeded", ends)
	}
}

// race publishes every run and cancels each at its moment, while dispatchers die.
// It returns when each run is over, demands that the Job of a cancelled one is
// gone by then, and counts the dead dispatchers.
func (w *world) race(races []raced, replicas []*rig.Dispatcher) (deaths int) {
	w.t.Helper()
	ctx, stop := context.WithCancel(w.t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer stop()
	c, over := client.New(w.js), make(chan error, len(races))
	for _, r := range races {
		w.publish("default", r.id, r.request)
		all.Go(func() {
			err := w.cancelAt(ctx, c, r)
			if err != nil {
				err = fmt.Errorf("run %s: %w", r.id, err)
			}
			over <- err
		})
	}
	const often = 20 // runs, about every two seconds
	for n := range races {
		deaths += w.raceOn(over, replicas)
		if n%often == often-1 {
			replicas[rand.IntN(len(replicas))].Kill()
			deaths += w.replaceDead(replicas)
		}
	}
	return deaths
}

// raceOn waits until one more race is over. Should all dispatchers kill
// themselves before that, it replaces them and counts them.
func (w *world) raceOn(over <-chan error, replicas []*rig.Dispatcher) (deaths int) {
	w.t.Helper()
	ctx := wait.Context(w.t, "the end of one more cancelled run")
	for {
		alive := slices.IndexFunc(replicas, func(d *rig.Dispatcher) bool { return d.State() == "runs" })
		if alive < 0 {
			deaths += w.replaceDead(replicas)
			continue
		}
		select {
		case err := <-over:
			if err != nil {
				w.t.Error(err)
			}
			return deaths
		case <-replicas[alive].Done():
		case <-ctx.Done():
			w.t.Fatal(context.Cause(ctx))
		}
	}
}

func (w *world) cancelAt(ctx context.Context, c *client.Client, r raced) error {
	if r.state != "" {
		// By its history: it may have left the state before that is looked at.
		_, err := w.records.AwaitRun(ctx, r.id, func(record rig.Record) bool {
			return record.Final() || slices.ContainsFunc(record.History, func(change rig.Change) bool { return change.State == r.state })
		})
		if err != nil {
			return err
		}
	}
	// The moment is what is tried out; what comes of it does not depend on it.
	select {
	case <-time.After(r.after):
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	asking, done := context.WithTimeoutCause(ctx, wait.Limit, errors.New("NATS does not answer"))
	defer done()
	if _, err := c.Cancel(asking, r.id); err != nil && !errors.Is(err, client.ErrFinished) {
		return err
	}
	record, err := w.records.AwaitRun(ctx, r.id, rig.Record.Final)
	if err != nil || record.State != "cancelled" || record.Job == nil {
		return err
	}
	_, err = parts.cluster.Client.BatchV1().Jobs(w.namespace).Get(ctx, record.Job.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err == nil:
		return errors.New("it is recorded as cancelled while its Job is there")
	default:
		return err
	}
}

// replaceDead starts a dispatcher in the place of each that is dead, and counts
// those. It will kill itself between two steps of some run.
func (w *world) replaceDead(replicas []*rig.Dispatcher) (deaths int) {
	w.t.Helper()
	points := []string{"claimed", "resolved", "launched", "recorded", "finished", "unlaunched", "final-recorded", "acked"}
	for i, d := range replicas {
		if d.State() == "runs" {
			continue
		}
		deaths++
		point := fmt.Sprintf("%s:%d", points[rand.IntN(len(points))], 1+rand.IntN(20))
		replicas[i] = w.start(parts.faulty, rig.Settings{"FAULT_POINT": point})
	}
	return deaths
}

// checkLegal demands that every change of a run was one that the table of
// transitions has, and none came after its end.
func (w *world) checkLegal(id string) {
	w.t.Helper()
	updates := w.records.Updates(id)
	for i, update := range updates {
		if i > 0 && updates[i-1].Record.Final() && update.Record.State != updates[i-1].Record.State {
			w.t.Errorf("run %s was %s and became %s", id, updates[i-1].Record.State, update.Record.State)
		}
	}
	record := updates[len(updates)-1].Record
	if record.State == "cancelled" && record.Reason != string(run.CancelledByUser) {
		w.t.Errorf("run %s is cancelled for %q", id, record.Reason)
	}
	for i, change := range record.History {
		if i == 0 && change.State != "queued" ||
			i > 0 && !run.State(record.History[i-1].State).CanBecome(run.State(change.State)) {
			w.t.Errorf("run %s went %+v", id, record.History)
			return
		}
	}
}

// checkNothingLeft demands that no run has a Job that still does something, that
// no cancelled run has a Job at all, and that JetStream holds no message.
func (w *world) checkNothingLeft() {
	w.t.Helper()
	w.awaitNoMessages()
	ctx := w.call()
	// Dispatchers hold nothing any more: what is there now stays.
	jobs, err := parts.cluster.Client.BatchV1().Jobs(w.namespace).List(ctx, metav1.ListOptions{LabelSelector: "ropewalk.dev/run-id"})
	must(w.t, err)
	records := w.records.Now()
	for _, job := range jobs.Items {
		record := records[job.Labels["ropewalk.dev/run-id"]]
		if job.Status.Active > 0 || record.State == "cancelled" || job.DeletionTimestamp != nil {
			w.t.Errorf("Job %s is left of run %s, which is %s: %+v", job.Name, record.ID, record.State, job.Status)
		}
	}
	pods, err := parts.cluster.Client.CoreV1().Pods(w.namespace).List(ctx, metav1.ListOptions{LabelSelector: "ropewalk.dev/run-id"})
	must(w.t, err)
	for _, pod := range pods.Items {
		if phase := pod.Status.Phase; phase == "Running" || phase == "Pending" {
			w.t.Errorf("pod %s is left, and is %s", pod.Name, phase)
		}
	}
}

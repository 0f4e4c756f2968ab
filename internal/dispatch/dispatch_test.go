package dispatch_test

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/dispatch"
	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/runstore"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestMain(m *testing.M) { natstest.VerifyTestMain(m) }

// world is a run store on a real server, a cluster, and what is watched there.
type world struct {
	t       *testing.T
	js      jetstream.JetStream
	store   *runstore.Store
	cluster *cluster
	queue   *queue.Cancellations
	later   *queue.Due
	config  func(*dispatch.Config)
	mu      sync.Mutex
	claims  []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOn(t)
}

// newWorldOn is newWorld on a NATS server with other options.
func newWorldOn(t *testing.T, options ...func(*server.Options)) *world {
	t.Helper()
	_, js := natstest.Start(t, options...)
	store, err := runstore.Create(t.Context(), js, runstore.Config{Retention: time.Hour, RequestRetention: time.Hour, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	definitions, err := queue.CreateDefinitions(t.Context(), js, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := definitions.Seed(t.Context(), queue.Definition{Name: "default", Concurrency: 1}, true); err != nil {
		t.Fatal(err)
	}
	waiting, err := queue.CreateCancellations(t.Context(), js, 1)
	if err != nil {
		t.Fatal(err)
	}
	later, err := queue.CreateDue(t.Context(), js, 1)
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, js: js, store: store, cluster: newCluster(), queue: waiting, later: later}
}

func (w *world) Claimed(queue string, redelivered, adopted bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.claims = append(w.claims, fmt.Sprintf("%s redelivered=%v adopted=%v", queue, redelivered, adopted))
}
func (*world) Launched(string, time.Duration) {}
func (*world) Retried(string, run.Reason)     {}
func (*world) Finished(run.Run)               {}

// forEver is longer than any machine is slow: what it bounds happens only where a
// test sets the clock or the bound.
const forEver = time.Hour

func (w *world) dispatcher(owner string) *dispatch.Dispatcher {
	w.t.Helper()
	config := dispatch.Config{
		Store: w.store, Images: anyImage{}, Launcher: w.cluster, Waiting: w.queue, Later: w.later, Observer: w, Owner: owner,
		AckWait: forEver, StartTimeout: forEver, Now: time.Now, Log: zerolog.New(zerolog.NewTestWriter(w.t)),
	}
	if w.config != nil {
		w.config(&config)
	}
	dispatcher, err := dispatch.New(config)
	if err != nil {
		w.t.Fatal(err)
	}
	return dispatcher
}

type anyImage struct{}

func (anyImage) Resolve(_ context.Context, wanted run.ImageRequest, _ func(string)) (string, error) {
	return wanted.Request.Image.Reference + "@resolved", nil
}

func (w *world) record(id string) run.Run {
	w.t.Helper()
	record, _, err := w.store.Lookup(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return record
}

// until waits for a run's record to be as wanted.
func (w *world) until(id string, wanted func(run.Run) bool) run.Run {
	w.t.Helper()
	var last run.Run
	if err := w.store.Watch(wait.Context(w.t, "record of run "+id+" as wanted"), id, nil, func(record run.Run) bool { last = record; return !wanted(record) }); err != nil {
		w.t.Fatalf("%v; the record is %+v", err, last)
	}
	return last
}

func inState(state run.State) func(run.Run) bool {
	return func(record run.Run) bool { return record.State == state }
}

func delivery(t *testing.T, id string, change func(*run.Request)) run.Delivery {
	t.Helper()
	request := run.Request{Version: 1, Image: run.Image{Reference: "busybox"}, Command: []string{"true"}}
	if change != nil {
		change(&request)
	}
	data, err := request.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return run.Delivery{Queue: "default", ID: id, Attempt: 1, Data: data, Sequence: 1, PublishedAt: time.Now().UTC()}
}

// turn is a place that there always is.
type turn struct{ done func() }

func (turn) Await(ctx context.Context) error { return ctx.Err() }
func (t turn) Done()                         { t.done() }

// begin handles a delivery in the background; the channel gets the decision.
func begin(ctx context.Context, d *dispatch.Dispatcher, delivery run.Delivery) <-chan run.Decision {
	decision := make(chan run.Decision, 1)
	go func() {
		defer close(decision) // also when a fault ends the goroutine
		decision <- d.Handle(ctx, delivery, turn{done: func() {}})
	}()
	return decision
}

func decided(t *testing.T, decision <-chan run.Decision, want run.Decision) {
	t.Helper()
	ctx := wait.Context(t, fmt.Sprintf("decision %q", want))
	select {
	case got := <-decision: // none at all, if a fault has ended the handling
		if got != want {
			t.Fatalf("decided %q; want %q", got, want)
		}
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
	}
}

func TestARunGoesThroughItsStatesToItsEnd(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	decision := begin(t.Context(), w.dispatcher("one"), delivery(t, "r", func(r *run.Request) { r.Labels = map[string]string{"a": "b"} }))
	pending := w.until("r", inState(run.Pending))
	if pending.Job == nil || pending.Job.UID == "" || pending.Image != "busybox@resolved" || pending.Owner != "one" || pending.Labels["a"] != "b" {
		t.Errorf("the pending record is %+v", pending)
	}
	w.cluster.show(t, "r", run.Observation{State: run.Pending, Message: "waits for a node"})
	w.until("r", func(record run.Run) bool { return record.Message == "waits for a node" })
	started := time.Now().UTC().Truncate(time.Second)
	w.cluster.show(t, "r", run.Observation{State: run.Running, StartedAt: started})
	if running := w.until("r", inState(run.Running)); running.StartedAt == nil || !running.StartedAt.Equal(started) || running.Message != "" {
		t.Errorf("the running record is %+v", running)
	}
	code := 3
	w.cluster.show(t, "r", run.Observation{State: run.Failed, Reason: run.AppError, Message: "It exited with 3.", ExitCode: &code, FinishedAt: started.Add(time.Second)})
	decided(t, decision, run.Done)
	over := w.record("r")
	var states []run.State
	for _, change := range over.History {
		states = append(states, change.State)
	}
	if !slices.Equal(states, []run.State{run.Queued, run.Preparing, run.Pending, run.Running, run.Failed}) {
		t.Errorf("the history is %v", states)
	}
	if over.Reason != run.AppError || over.ExitCode == nil || *over.ExitCode != 3 || over.FinishedAt == nil {
		t.Errorf("the record at the end is %+v", over)
	}
}

// The points are those that the core passes; a crash at each of them leaves
// the run to another dispatcher, and it must be launched exactly once.
func TestACrashBetweenAnyTwoStepsLosesAndDoublesNothing(t *testing.T) {
	t.Parallel()
	for _, point := range []string{"claimed", "resolved", "launched", "recorded", "finished"} {
		t.Run("after "+point, func(t *testing.T) {
			w := newWorld(t)
			w.config = func(config *dispatch.Config) {
				if config.Owner == "one" {
					config.Fault = func(passed string) {
						if passed == point {
							runtime.Goexit()
						}
					}
				}
			}
			crashed := begin(t.Context(), w.dispatcher("one"), delivery(t, "r", nil))
			if point == "finished" {
				w.until("r", inState(run.Pending))
				w.cluster.show(t, "r", run.Observation{State: run.Succeeded})
			}
			decided(t, crashed, "") // closed without a decision
			again := delivery(t, "r", nil)
			again.Redelivered = 1
			decision := begin(t.Context(), w.dispatcher("two"), again)
			if point != "finished" {
				w.until("r", func(record run.Run) bool { return record.State == run.Pending && record.Owner == "two" })
				w.cluster.show(t, "r", run.Observation{State: run.Succeeded})
			}
			decided(t, decision, run.Done)
			if over := w.record("r"); over.State != run.Succeeded || over.Attempt != 1 || w.cluster.launches("r") != 1 {
				t.Errorf("the run is %s at attempt %d and was launched %d times", over.State, over.Attempt, w.cluster.launches("r"))
			}
			if last := w.claims[len(w.claims)-1]; last != "default redelivered=true adopted=true" {
				t.Errorf("the second claim was %q", last)
			}
			// And a delivery that comes after the end changes nothing.
			decided(t, begin(t.Context(), w.dispatcher("three"), again), run.Done)
			if w.cluster.launches("r") != 1 {
				t.Error("a late delivery launched the run again")
			}
		})
	}
}

func TestADispatcherThatLostItsRunStepsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := begin(t.Context(), w.dispatcher("one"), delivery(t, "r", nil))
	w.until("r", inState(run.Pending))
	second := begin(t.Context(), w.dispatcher("two"), delivery(t, "r", nil))
	w.until("r", func(record run.Run) bool { return record.Owner == "two" })
	// Either may see this; only the owner may write it.
	w.cluster.show(t, "r", run.Observation{State: run.Running})
	w.cluster.show(t, "r", run.Observation{State: run.Succeeded})
	decided(t, second, run.Done)
	decided(t, first, run.Abandon)
	if over := w.record("r"); over.Owner != "two" || over.State != run.Succeeded {
		t.Errorf("the record is %+v", over)
	}
}

// A process that slept through AckWait must not launch what another one has
// meanwhile brought to its end, even when nothing is left of its Job.
func TestADispatcherThatSleptDoesNotLaunch(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	asleep, wake := make(chan struct{}), make(chan struct{})
	var late time.Duration
	w.config = func(config *dispatch.Config) {
		if config.Owner != "one" {
			return
		}
		config.Now = func() time.Time { return time.Now().Add(late) }
		config.Fault = func(point string) {
			if point == "resolved" {
				close(asleep)
				<-wake
				late = forEver
			}
		}
	}
	first := begin(t.Context(), w.dispatcher("one"), delivery(t, "r", nil))
	wait.Closed(t, "the first dispatcher to fall asleep", asleep)
	second := begin(t.Context(), w.dispatcher("two"), delivery(t, "r", nil))
	w.until("r", inState(run.Pending))
	w.cluster.show(t, "r", run.Observation{State: run.Succeeded})
	decided(t, second, run.Done)
	w.cluster.delete("r") // its time to live has passed
	close(wake)
	decided(t, first, run.Abandon)
	if w.cluster.launches("r") != 1 {
		t.Errorf("the run was launched %d times", w.cluster.launches("r"))
	}
}

func TestACleanStopHandsTheRunBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, stop := context.WithCancel(t.Context())
	decision := begin(ctx, w.dispatcher("one"), delivery(t, "r", nil))
	w.until("r", inState(run.Pending))
	stop()
	decided(t, decision, run.HandBack)
	if w.record("r").State != run.Pending {
		t.Error("the stop changed the record")
	}
}

func TestAJobThatIsGoneIsNotMadeAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	ctx, stop := context.WithCancel(t.Context())
	decision := begin(ctx, w.dispatcher("one"), delivery(t, "r", nil))
	w.until("r", inState(run.Pending))
	stop()
	decided(t, decision, run.HandBack)
	w.cluster.delete("r")
	decided(t, begin(t.Context(), w.dispatcher("two"), delivery(t, "r", nil)), run.Done)
	if over := w.record("r"); over.State != run.Failed || over.Reason != run.JobDeleted || w.cluster.launches("r") != 1 {
		t.Errorf("the run is %s, %s, launched %d times", over.State, over.Reason, w.cluster.launches("r"))
	}
}

func TestWhatCannotBeAcceptedIsRejectedWithEveryProblem(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*run.Delivery)
		check  func(run.Launch) error
		reason run.Reason
		want   []string
	}{
		"not JSON":              {change: func(d *run.Delivery) { d.Data = []byte(`{"version": 1, "token": "hunter2`) }, reason: run.InvalidRequest, want: []string{"ends in the middle"}},
		"empty":                 {change: func(d *run.Delivery) { d.Data = nil }, reason: run.InvalidRequest, want: []string{"empty"}},
		"unknown major version": {change: func(d *run.Delivery) { d.Data = []byte(`{"version": 2}`) }, reason: run.InvalidRequest, want: []string{"version", "reads version 1 only"}},
		"another id inside":     {change: func(d *run.Delivery) { d.Data = []byte(`{"version": 1, "id": "x", "command": ["a"]}`) }, reason: run.InvalidRequest, want: []string{"id is not the run id of the subject"}},
		"several problems": {change: func(d *run.Delivery) {
			d.Data = []byte(`{"version": 1, "env": {"A=B": "1"}, "pod": {"resources": {"limits": {"cpu": "lots"}}}}`)
		}, reason: run.InvalidRequest, want: []string{"command", "env[A=B]", "pod.resources.limits[cpu]"}},
		"a malformed subject": {change: func(d *run.Delivery) { d.Malformed = "it is odd" }, reason: run.InvalidRequest, want: []string{"it is odd"}},
		"refused by the launcher's policy": {check: func(run.Launch) error {
			return &run.LaunchError{Reason: run.PolicyRefused, Message: "pod.serviceAccount may not be set."}
		}, reason: run.PolicyRefused, want: []string{"pod.serviceAccount"}},
		"invalid to the launcher": {check: func(run.Launch) error {
			return &run.InvalidError{Problems: []run.Problem{{Field: "command", Message: "is needed"}}}
		}, reason: run.InvalidRequest, want: []string{"command is needed"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.cluster.check = test.check
			message := delivery(t, "r", nil)
			if test.change != nil {
				test.change(&message)
			}
			decided(t, begin(t.Context(), w.dispatcher("one"), message), run.Reject)
			record := w.record("r")
			if record.State != run.Rejected || record.Reason != test.reason || w.cluster.launches("r") != 0 {
				t.Errorf("the run is %s, %s, launched %d times", record.State, record.Reason, w.cluster.launches("r"))
			}
			for _, want := range test.want {
				if !strings.Contains(record.Message, want) {
					t.Errorf("the message %q does not say %q", record.Message, want)
				}
			}
			if strings.Contains(record.Message, "hunter2") {
				t.Error("the message quotes the payload")
			}
		})
	}
}

func TestWhatMayWorkLaterIsTriedAgainAndShown(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	refusals := 2
	w.cluster.refuse = func() error {
		if refusals--; refusals >= 0 {
			return &run.LaunchError{Reason: run.StartTimeout, Message: "The cluster cannot be reached.", Temporary: true}
		}
		return nil
	}
	decision := begin(t.Context(), w.dispatcher("one"), delivery(t, "r", nil))
	w.until("r", func(record run.Run) bool {
		return record.State == run.Preparing && record.Message == "The cluster cannot be reached."
	})
	if pending := w.until("r", inState(run.Pending)); pending.Message != "" {
		t.Errorf("the pending run still says %q", pending.Message)
	}
	w.cluster.show(t, "r", run.Observation{State: run.Succeeded})
	decided(t, decision, run.Done)
}

func TestAQuotaThatStaysFullIsGivenUp(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config = func(config *dispatch.Config) { config.StartTimeout = 300 * time.Millisecond }
	w.cluster.refuse = func() error {
		return &run.LaunchError{Reason: run.QuotaExceeded, Message: "No room.", Temporary: true}
	}
	decided(t, begin(t.Context(), w.dispatcher("one"), delivery(t, "r", nil)), run.Done)
	if record := w.record("r"); record.State != run.Failed || record.Reason != run.QuotaExceeded || !strings.HasPrefix(record.Message, "No room. ") {
		t.Errorf("the record is %+v", record)
	}
}

func TestWhatCanNeverWorkFailsTheRunInTheClustersWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.cluster.refuse = func() error {
		return &run.LaunchError{Reason: run.InvalidPodSpec, Message: "spec.x is wrong.", Err: errors.New("422")}
	}
	decided(t, begin(t.Context(), w.dispatcher("one"), delivery(t, "r", nil)), run.Done)
	if record := w.record("r"); record.State != run.Failed || record.Reason != run.InvalidPodSpec || !strings.HasPrefix(record.Message, "spec.x is wrong. ") {
		t.Errorf("the record is %+v", record)
	}
}

func TestTheSameIDInAnotherQueueIsTheSameRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := begin(t.Context(), w.dispatcher("one"), delivery(t, "r", nil))
	w.until("r", inState(run.Pending))
	elsewhere := delivery(t, "r", nil)
	elsewhere.Queue, elsewhere.Sequence = "other", 2
	decided(t, begin(t.Context(), w.dispatcher("two"), elsewhere), run.Done)
	if record := w.record("r"); record.Queue != "default" || record.Owner != "one" {
		t.Errorf("the duplicate moved the run: %+v", record)
	}
	w.cluster.show(t, "r", run.Observation{State: run.Succeeded})
	decided(t, first, run.Done)
}

func TestASecondAttemptIsAnotherJobOfTheSameRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := begin(t.Context(), w.dispatcher("one"), delivery(t, "r", nil))
	w.until("r", inState(run.Pending))
	w.cluster.show(t, "r", run.Observation{State: run.Failed, Reason: run.AppError, Message: "x"})
	decided(t, first, run.Done)
	next := delivery(t, "r", nil)
	next.Attempt, next.Sequence = 2, 2
	second := begin(t.Context(), w.dispatcher("two"), next)
	record := w.until("r", func(record run.Run) bool { return record.State == run.Pending && record.Attempt == 2 })
	if record.Job.Name != run.JobName("r", 2) || record.Reason != "" || record.FinishedAt != nil {
		t.Errorf("the record of the second attempt is %+v", record)
	}
	w.cluster.jobs[run.JobName("r", 2)].changes <- run.Observation{State: run.Succeeded}
	decided(t, second, run.Done)
}

func TestSecretsAreInNoRecord(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	decision := begin(t.Context(), w.dispatcher("one"), delivery(t, "r", func(r *run.Request) {
		r.SecretEnv = map[string]run.Secret{"TOKEN": "hunter2"}
	}))
	w.until("r", inState(run.Pending))
	w.cluster.show(t, "r", run.Observation{State: run.Succeeded})
	decided(t, decision, run.Done)
	records, err := w.js.KeyValue(t.Context(), runstore.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := records.Get(t.Context(), "default.r")
	if err != nil || strings.Contains(string(stored.Value()), "hunter2") || !strings.Contains(string(stored.Value()), "TOKEN") {
		t.Errorf("the record is %s, %v", stored.Value(), err)
	}
	kept, err := w.js.KeyValue(t.Context(), runstore.RequestBucket)
	if err != nil {
		t.Fatal(err)
	}
	entry, err := kept.Get(t.Context(), "default.r")
	if err != nil || !strings.Contains(string(entry.Value()), "hunter2") {
		t.Errorf("the request is not kept for replay: %v", err)
	}
}

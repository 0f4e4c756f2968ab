package dispatch_test

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/dispatch"
	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

// dueFrom hands what is due to a dispatcher, as long as the test lasts.
func (w *world) dueFrom(dispatcher *dispatch.Dispatcher) {
	w.t.Helper()
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- w.later.Consume(ctx, zerolog.New(zerolog.NewTestWriter(w.t)), dispatcher.Due) }()
	w.t.Cleanup(func() {
		stop()
		if err := wait.Receive(w.t, "end of the consumer of what is due", ended); err != nil {
			w.t.Error(err)
		}
	})
}

// queued waits until an attempt is on its queue, and returns it as a delivery.
func (w *world) queued(id string, attempt int) run.Delivery {
	w.t.Helper()
	var found run.Delivery
	// The stream cannot be watched: its one consumer is the dispatcher's.
	wait.Success(w.t, fmt.Sprintf("attempt %d of run %s on its queue", attempt, id), func() (err error) {
		found, err = w.queue.Find(w.t.Context(), "default", id, attempt)
		return err
	})
	return found
}

func failing(reason run.Reason, code int) run.Observation {
	seen := run.Observation{State: run.Failed, Reason: reason, Message: "It failed."}
	if reason == run.AppError {
		seen.ExitCode = &code
	}
	return seen
}

func TestARetryWaitsWithoutASlotAndIsQueuedAgain(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dispatcher := w.dispatcher("one")
	w.dueFrom(dispatcher)
	decision := begin(t.Context(), dispatcher, delivery(t, "r", func(r *run.Request) {
		r.Retry = run.Retry{Attempts: 2, First: run.Duration(time.Second)}
		r.SecretEnv = map[string]run.Secret{"TOKEN": "hunter2"}
		r.Image = run.Image{Mode: run.BuildImage, Build: &run.Build{Dockerfile: "FROM a", Secrets: map[string]run.Secret{"netrc": "hunter3"}}}
	}))
	w.until("r", inState(run.Pending))
	w.cluster.show(t, "r", failing(run.AppError, 3))
	decided(t, decision, run.Done) // the message goes, and the slot with it
	waiting := w.record("r")
	if waiting.State != run.Queued || waiting.Attempt != 2 || waiting.NextAttemptAt == nil || !strings.Contains(waiting.Message, "AppError") {
		t.Fatalf("the record while it waits is %+v", waiting)
	}
	if first := waiting.History[len(waiting.History)-2]; first.State != run.Failed || first.Reason != run.AppError || *first.ExitCode != 3 || first.Job == "" {
		t.Errorf("the history says of the first attempt: %+v", first)
	}
	again := w.queued("r", 2)
	if time.Now().Before(*waiting.NextAttemptAt) {
		t.Error("the attempt was queued before its time")
	}
	if !strings.Contains(string(again.Data), "hunter2") || !strings.Contains(string(again.Data), "hunter3") {
		t.Error("the second attempt has lost its secrets")
	}
	last := begin(t.Context(), dispatcher, again)
	w.until("r", func(record run.Run) bool { return record.State == run.Pending && record.Attempt == 2 })
	w.cluster.jobs[run.JobName("r", 2)].changes <- failing(run.AppError, 3)
	decided(t, last, run.Done)
	if over := w.record("r"); over.State != run.Failed || over.Attempt != 2 || over.Spent.Retries != 1 {
		t.Errorf("the record at the end is %+v", over)
	}
}

func TestWhatIsNotWorthARetryIsOver(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		retry run.Retry
		seen  run.Observation
		state run.State
	}{
		"no policy":                         {run.Retry{}, failing(run.AppError, 3), run.Failed},
		"another exit code":                 {run.Retry{Attempts: 3, ExitCodes: []int{9}}, failing(run.AppError, 3), run.Failed},
		"the exit code":                     {run.Retry{Attempts: 3, ExitCodes: []int{3}}, failing(run.AppError, 3), run.Queued},
		"another reason":                    {run.Retry{Attempts: 3, Reasons: []run.Reason{run.OOMKilled}}, failing(run.AppError, 3), run.Failed},
		"what no attempt cures":             {run.Retry{Attempts: 3}, failing(run.InvalidPodSpec, 0), run.Failed},
		"a cluster that lost it, no policy": {run.Retry{}, failing(run.NodeLost, 0), run.Queued},
		"success":                           {run.Retry{Attempts: 3}, run.Observation{State: run.Succeeded}, run.Succeeded},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.config = func(config *dispatch.Config) { config.InfrastructureRetries = 1 }
			decision := begin(t.Context(), w.dispatcher("one"), delivery(t, "r", func(r *run.Request) { r.Retry = test.retry }))
			w.until("r", inState(run.Pending))
			w.cluster.show(t, "r", test.seen)
			decided(t, decision, run.Done)
			if got := w.record("r").State; got != test.state {
				t.Errorf("the run is %s; want %s", got, test.state)
			}
		})
	}
}

func TestACrashBeforeARetryIsScheduledDoesNotLoseIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.config = func(config *dispatch.Config) {
		if config.Owner == "one" {
			config.Fault = func(point string) {
				if point == "retry-recorded" {
					runtime.Goexit()
				}
			}
		}
	}
	message := delivery(t, "r", func(r *run.Request) { r.Retry = run.Retry{Attempts: 2, First: run.Duration(time.Second)} })
	crashed := begin(t.Context(), w.dispatcher("one"), message)
	w.until("r", inState(run.Pending))
	w.cluster.show(t, "r", failing(run.AppError, 3))
	decided(t, crashed, "")
	second := w.dispatcher("two")
	w.dueFrom(second)
	decided(t, begin(t.Context(), second, message), run.Done)
	w.queued("r", 2)
}

func TestAReplayIsTheNextAttemptWithWhatItCorrects(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dispatcher := w.dispatcher("one")
	w.dueFrom(dispatcher)
	decision := begin(t.Context(), dispatcher, delivery(t, "r", func(r *run.Request) { r.Env = map[string]string{"A": "1", "B": "1"} }))
	w.until("r", inState(run.Pending))
	w.cluster.show(t, "r", failing(run.AppError, 3))
	decided(t, decision, run.Done)
	due := run.Due{Queue: "default", ID: "r", Attempt: 2, Correction: &run.Correction{Image: "fixed", Env: map[string]string{"B": "2"}}}
	for range 2 { // twice is once
		if err := w.later.Now(t.Context(), due); err != nil {
			t.Fatal(err)
		}
	}
	request, err := run.Decode(w.queued("r", 2).Data)
	if err != nil || request.Image.Reference != "fixed" || request.Env["A"] != "1" || request.Env["B"] != "2" {
		t.Errorf("the replayed request is %+v, %v", request, err)
	}
	if record := w.record("r"); record.State != run.Queued || record.Attempt != 2 || record.Image != "fixed" {
		t.Errorf("the record is %+v", record)
	}
	// Nothing of it stays behind.
	stream, err := w.js.Stream(t.Context(), queue.DueStream)
	if err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "the due message to be gone", func() bool {
		info, err := stream.Info(t.Context())
		return err == nil && info.State.Msgs == 0
	})
}

func TestARejectedRequestIsReplayedOnceCorrected(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dispatcher := w.dispatcher("one")
	w.dueFrom(dispatcher)
	broken := delivery(t, "r", nil)
	broken.Data = []byte("{")
	decided(t, begin(t.Context(), dispatcher, broken), run.Reject)
	if err := w.later.Now(t.Context(), run.Due{Queue: "default", ID: "r", Attempt: 2}); err != nil {
		t.Fatal(err)
	}
	record := w.until("r", func(record run.Run) bool { return strings.Contains(record.Message, "cannot be tried again as it is") })
	if record.State != run.Rejected {
		t.Errorf("uncorrected, the record is %+v", record)
	}
	whole := []byte(`{"version": 1, "image": {"reference": "busybox"}, "command": ["true"]}`)
	if err := w.later.Now(t.Context(), run.Due{Queue: "default", ID: "r", Attempt: 2, Correction: &run.Correction{Request: whole}}); err != nil {
		t.Fatal(err)
	}
	request, err := run.Decode(w.queued("r", 2).Data)
	if err != nil || request.ID != "r" || request.Image.Reference != "busybox" {
		t.Errorf("the corrected request is %+v, %v", request, err)
	}
}

func TestACancelledRetryNeverStarts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dispatcher := w.dispatcher("one")
	decision := begin(t.Context(), dispatcher, delivery(t, "r", func(r *run.Request) { r.Retry = run.Retry{Attempts: 2, First: run.Duration(time.Second)} }))
	w.until("r", inState(run.Pending))
	w.cluster.show(t, "r", failing(run.AppError, 3))
	decided(t, decision, run.Done)
	if err := dispatcher.Cancel(t.Context(), run.Cancellation{Queue: "default", ID: "r", Attempt: 2, RequestedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if record := w.record("r"); record.State != run.Cancelled {
		t.Fatalf("the record is %+v", record)
	}
	// When its time comes, nobody waits for it any more.
	if err := dispatcher.Due(t.Context(), run.Due{Queue: "default", ID: "r", Attempt: 2}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.queue.Find(t.Context(), "default", "r", 2); err == nil {
		t.Error("the cancelled attempt was queued")
	}
}

// corrected is a replay whose request replaces the one before, secrets included.
func corrected() run.Due {
	whole := []byte(`{"version": 1, "image": {"reference": "busybox"}, "command": ["true"], "secretEnv": {"TOKEN": "new"}}`)
	return run.Due{Queue: "default", ID: "r", Attempt: 2, Correction: &run.Correction{Request: whole}}
}

// failWithSecret brings a run with a secret to its end.
func (w *world) failWithSecret(dispatcher *dispatch.Dispatcher) {
	w.t.Helper()
	decision := begin(w.t.Context(), dispatcher, delivery(w.t, "r", func(r *run.Request) { r.SecretEnv = map[string]run.Secret{"TOKEN": "old"} }))
	w.until("r", inState(run.Pending))
	w.cluster.show(w.t, "r", failing(run.AppError, 3))
	decided(w.t, decision, run.Done)
}

func (w *world) hasSecret(message run.Delivery, want string) {
	w.t.Helper()
	request, err := run.Decode(message.Data)
	if err != nil || request.SecretEnv["TOKEN"].Reveal() != want {
		w.t.Errorf("attempt %d has the secret %q, %v; want %q", message.Attempt, request.SecretEnv["TOKEN"].Reveal(), err, want)
	}
}

func TestACorrectedSecretSurvivesACancelledReplay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dispatcher := w.dispatcher("one")
	w.failWithSecret(dispatcher)
	if err := dispatcher.Due(t.Context(), corrected()); err != nil {
		t.Fatal(err)
	}
	if err := dispatcher.Cancel(t.Context(), run.Cancellation{Queue: "default", ID: "r", Attempt: 2, RequestedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := dispatcher.Due(t.Context(), run.Due{Queue: "default", ID: "r", Attempt: 3}); err != nil {
		t.Fatal(err)
	}
	w.hasSecret(w.queued("r", 3), "new")
}

// What was kept of the request before has other secrets.
func TestACorrectedSecretOfABuildSurvivesACancelledReplay(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dispatcher := w.dispatcher("one")
	w.failWithSecret(dispatcher)
	due := corrected()
	due.Correction.Request = []byte(`{"version": 1, "image": {"build": {"dockerfile": "FROM a", "secrets": {"netrc": "new"}}}, "command": ["true"]}`)
	if err := dispatcher.Due(t.Context(), due); err != nil {
		t.Fatal(err)
	}
	if err := dispatcher.Cancel(t.Context(), run.Cancellation{Queue: "default", ID: "r", Attempt: 2, RequestedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := dispatcher.Due(t.Context(), run.Due{Queue: "default", ID: "r", Attempt: 3}); err != nil {
		t.Fatal(err)
	}
	request, err := run.Decode(w.queued("r", 3).Data)
	if err != nil || len(request.SecretEnv) != 0 || request.Image.Build == nil || request.Image.Build.Secrets["netrc"].Reveal() != "new" {
		t.Errorf("attempt 3 is to do %+v, %v", request, err)
	}
}

func TestACorrectedSecretSurvivesAFullQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// What is tried again in half a minute is due at once.
	w.config = func(config *dispatch.Config) { config.Now = func() time.Time { return time.Now().Add(-time.Minute) } }
	dispatcher := w.dispatcher("one")
	w.failWithSecret(dispatcher)
	stream, err := w.js.Stream(t.Context(), queue.Stream)
	if err != nil {
		t.Fatal(err)
	}
	full := stream.CachedInfo().Config
	full.MaxMsgs = 1
	if _, err := w.js.UpdateStream(t.Context(), full); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.Publish(t.Context(), w.js, run.Request{Version: 1, ID: "other", Queue: "default", Command: []string{"true"}}); err != nil {
		t.Fatal(err)
	}
	if err := dispatcher.Due(t.Context(), corrected()); err != nil {
		t.Fatal(err)
	}
	if _, err := w.queue.Find(t.Context(), "default", "r", 2); err == nil {
		t.Fatal("the queue was not full")
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.dueFrom(dispatcher)
	w.hasSecret(w.queued("r", 2), "new")
}

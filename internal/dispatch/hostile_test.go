package dispatch_test

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/runstore"
)

// What publishers may send, by mistake or on purpose, and what must not come
// of it.

func TestARequestThatFillsItsMessageRunsAllTheSame(t *testing.T) {
	t.Parallel()
	w := newWorldOn(t, func(options *server.Options) { options.MaxPayload = 4096 })
	big := delivery(t, "r", func(r *run.Request) { r.Env = map[string]string{"A": strings.Repeat("x", 3900)} })
	decision := begin(t.Context(), w.dispatcher("one"), big)
	w.until("r", inState(run.Pending))
	w.cluster.show(t, "r", run.Observation{State: run.Failed, Reason: run.AppError, Message: "It failed."})
	decided(t, decision, run.Done)
	if record := w.record("r"); record.State != run.Failed || record.Request != nil {
		t.Errorf("the record is %+v", record)
	}
	// It is replayed from what was kept beside the record.
	if err := w.dispatcher("two").Due(t.Context(), run.Due{Queue: "default", ID: "r", Attempt: 2}); err != nil {
		t.Fatal(err)
	}
	if again, err := run.Decode(w.queued("r", 2).Data); err != nil || len(again.Env["A"]) != 3900 {
		t.Errorf("the replayed request has lost its environment: %v", err)
	}
}

func TestARunThatWasTriedWithoutEndRunsAllTheSame(t *testing.T) {
	t.Parallel()
	w := newWorldOn(t, func(options *server.Options) { options.MaxPayload = 64 << 10 })
	record := run.New(delivery(t, "r", nil))
	now := time.Now().UTC()
	for data := 0; data < 60<<10; {
		for _, state := range []run.State{run.Preparing, run.Pending, run.Running, run.Failed} {
			if err := record.Become(state, now); err != nil {
				t.Fatal(err)
			}
		}
		if err := record.Again(now, now); err != nil {
			t.Fatal(err)
		}
		encoded, err := json.Marshal(record)
		if err != nil {
			t.Fatal(err)
		}
		data = len(encoded)
	}
	if _, err := w.store.Create(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	next := delivery(t, "r", func(r *run.Request) { r.Env = map[string]string{"A": strings.Repeat("x", 5<<10)} })
	next.Attempt, next.Sequence = record.Attempt, 2
	decision := begin(t.Context(), w.dispatcher("one"), next)
	w.until("r", inState(run.Pending))
	w.cluster.jobs[run.JobName("r", record.Attempt)].changes <- run.Observation{State: run.Succeeded}
	decided(t, decision, run.Done)
	if over := w.record("r"); len(over.History) == 0 || over.History[0].Attempt == 1 || over.Attempt != record.Attempt {
		t.Errorf("the record has %d changes, from attempt %d on", len(over.History), over.History[0].Attempt)
	}
}

func TestAnAttemptThatNobodyWaitsForIsNotLaunched(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := begin(t.Context(), w.dispatcher("one"), delivery(t, "r", nil))
	w.until("r", inState(run.Pending))
	next := delivery(t, "r", nil)
	next.Attempt, next.Sequence = 2, 2
	decided(t, begin(t.Context(), w.dispatcher("two"), next), run.Done) // beside one that runs
	w.cluster.show(t, "r", run.Observation{State: run.Succeeded})
	decided(t, first, run.Done)
	decided(t, begin(t.Context(), w.dispatcher("two"), next), run.Done) // after success
	if record := w.record("r"); record.State != run.Succeeded || record.Attempt != 1 || w.jobs() != 1 {
		t.Errorf("the record is %+v, and there are %d Jobs", record, w.jobs())
	}
}

func TestADuplicateDoesNotReplaceWhatIsKeptOfTheRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	decision := begin(t.Context(), w.dispatcher("one"), delivery(t, "r", func(r *run.Request) {
		r.SecretEnv = map[string]run.Secret{"TOKEN": "right"}
	}))
	w.until("r", inState(run.Pending))
	w.cluster.show(t, "r", run.Observation{State: run.Failed, Reason: run.AppError, Message: "It failed."})
	decided(t, decision, run.Done)
	other := delivery(t, "r", nil)
	other.Data, other.Sequence = []byte("garbage"), 2
	decided(t, begin(t.Context(), w.dispatcher("one"), other), run.Done)
	kept, err := w.store.Request(t.Context(), "default", "r")
	if err != nil || !strings.Contains(string(kept), "right") {
		t.Errorf("what is kept is %q, %v", kept, err)
	}
}

func TestARunCancelledWhileItWaitedIsForgottenInTime(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	if _, err := queue.Publish(t.Context(), w.js, run.Request{Version: 1, ID: "r", Queue: "default", Command: []string{"true"}}); err != nil {
		t.Fatal(err)
	}
	if err := w.dispatcher("one").Cancel(t.Context(), cancellation("r")); err != nil {
		t.Fatal(err)
	}
	stream, err := w.js.Stream(t.Context(), "KV_"+runstore.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	stored, err := stream.GetLastMsgForSubject(t.Context(), "$KV."+runstore.Bucket+".default.r")
	if err != nil || stored.Header.Get("Nats-TTL") == "" {
		t.Errorf("the record has no time to live: %+v, %v", stored, err)
	}
}

func TestACancellationHoldsForTheRetriesOfTheRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	dispatcher := w.dispatcher("one")
	decision := begin(t.Context(), dispatcher, delivery(t, "r", func(r *run.Request) { r.Retry = run.Retry{Attempts: 2} }))
	w.until("r", inState(run.Pending))
	w.cluster.show(t, "r", failing(run.AppError, 3))
	decided(t, decision, run.Done)
	// Whoever wished it had seen the first attempt.
	if err := dispatcher.Cancel(context.WithoutCancel(t.Context()), cancellation("r")); err != nil {
		t.Fatal(err)
	}
	if record := w.record("r"); record.State != run.Cancelled {
		t.Errorf("the record is %+v", record)
	}
}

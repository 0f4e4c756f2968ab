package client

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/runstore"
)

// fail records runs that have failed.
func fail(t *testing.T, js jetstream.JetStream, runs int) {
	t.Helper()
	store, err := runstore.Create(t.Context(), js, runstore.Config{Retention: time.Hour, RequestRetention: time.Hour, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	for i := range runs {
		record := run.New(run.Delivery{Queue: "default", ID: fmt.Sprintf("r%d", i), Attempt: 1, PublishedAt: time.Now().UTC()})
		record.State, record.Reason = run.Failed, run.AppError
		if _, err := store.Create(t.Context(), record); err != nil {
			t.Fatal(err)
		}
	}
}

func TestABulkReplayThatIsCutShortTellsWhatItDid(t *testing.T) {
	_, js := natstest.Start(t)
	const runs, room = 200, 120
	fail(t, js, runs)
	config := jetstream.StreamConfig{Name: queue.DueStream, Subjects: []string{queue.DueSubjects + ">"}, MaxMsgs: room, Discard: jetstream.DiscardNew, MaxMsgsPerSubject: 1}
	if _, err := js.CreateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	asked, err := New(js).ReplayFailed(t.Context(), ReplayOptions{})
	if err == nil || len(asked) != room || !strings.Contains(err.Error(), fmt.Sprintf("%d of %d failed runs were asked to be replayed", room, runs)) {
		t.Fatalf("with room for %d: %d runs, %v", room, len(asked), err)
	}
	stream, err := js.Stream(t.Context(), queue.DueStream)
	if err != nil {
		t.Fatal(err)
	}
	for _, record := range asked {
		if _, err := stream.GetLastMsgForSubject(t.Context(), queue.DueSubjects+"default."+record.ID+".2"); err != nil {
			t.Fatalf("run %s is said to be replayed: %v", record.ID, err)
		}
	}
	// Once there is room, the same call asks for the rest.
	config.MaxMsgs = runs
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	if asked, err = New(js).ReplayFailed(t.Context(), ReplayOptions{}); err != nil || len(asked) != runs {
		t.Errorf("with room for all: %d runs, %v", len(asked), err)
	}
	if now, err := stream.Info(t.Context()); err != nil || now.State.Msgs != runs {
		t.Errorf("asked for are %d runs, %v; want each once", now.State.Msgs, err)
	}
}

func TestABulkReplayChoosesWhatEndedWithoutSuccess(t *testing.T) {
	_, js := natstest.Start(t)
	store, err := runstore.Create(t.Context(), js, runstore.Config{Retention: time.Hour, RequestRetention: time.Hour, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC()
	for i, one := range []struct {
		id, queue string
		state     run.State
		reason    run.Reason
	}{
		{"ok", "default", run.Succeeded, ""},
		{"runs", "default", run.Running, ""},
		{"error", "default", run.Failed, run.AppError},
		{"memory", "gpu", run.Failed, run.OOMKilled},
		{"late", "default", run.TimedOut, run.DeadlineExceeded},
		{"stopped", "default", run.Cancelled, run.CancelledByUser},
		{"policy", "default", run.Rejected, run.PolicyRefused},
	} {
		record := run.New(run.Delivery{Queue: one.queue, ID: one.id, Attempt: 1, PublishedAt: now})
		record.State, record.Reason = one.state, one.reason
		if record.State.Final() {
			ended := now.Add(-time.Duration(i) * time.Hour)
			record.FinishedAt = &ended
		}
		if _, err := store.Create(t.Context(), record); err != nil {
			t.Fatal(err)
		}
	}
	for name, test := range map[string]struct {
		options ReplayOptions
		want    string
	}{
		"all that failed or timed out": {ReplayOptions{}, "late memory error"},
		"of one queue":                 {ReplayOptions{Queue: "gpu"}, "memory"},
		"that ended lately":            {ReplayOptions{Since: now.Add(-150 * time.Minute)}, "error"},
		"that took too long":           {ReplayOptions{Reason: run.DeadlineExceeded}, "late"},
		"that were refused":            {ReplayOptions{Reason: run.PolicyRefused}, "policy"},
		"that were cancelled":          {ReplayOptions{Reason: run.CancelledByUser}, "stopped"},
		"one queue, another's reason":  {ReplayOptions{Queue: "gpu", Reason: run.AppError}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			test.options.DryRun = true
			chosen, err := New(js).ReplayFailed(t.Context(), test.options)
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, record := range chosen {
				ids = append(ids, record.ID)
			}
			if got := strings.Join(ids, " "); got != test.want {
				t.Errorf("chosen are %q; want %q", got, test.want)
			}
		})
	}
}

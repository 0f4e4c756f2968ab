package queue

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

// A run waits for what is due: only what contradicts its record is dropped.
func TestWhatIsDueIsTriedUntilItWorks(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		err     error
		dropped bool
	}{
		"an outage":                         {errors.New("no answer"), false},
		"a record that changed meanwhile":   {run.ErrConflict, false},
		"what contradicts the run's record": {run.ErrContradicted, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, js := natstest.Start(t)
			due, err := CreateDue(t.Context(), js, 1)
			if err != nil {
				t.Fatal(err)
			}
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var tries atomic.Int32
			worked, ended := make(chan struct{}), make(chan error, 1)
			attending := due.attendant(zerolog.Nop(), func(context.Context, run.Due) error {
				if tries.Add(1) <= enough+10 {
					return test.err
				}
				close(worked)
				return nil
			})
			attending.again = time.Millisecond
			go func() { ended <- attending.run(ctx) }()
			if err := due.Now(t.Context(), run.Due{Queue: "default", ID: "r", Attempt: 2}); err != nil {
				t.Fatal(err)
			}
			if !test.dropped {
				wait.Closed(t, "what is due to work", worked)
			}
			stream, err := js.Stream(t.Context(), DueStream)
			if err != nil {
				t.Fatal(err)
			}
			wait.Until(t, "the message to be gone", func() bool {
				info, err := stream.Info(t.Context())
				return err == nil && info.State.Msgs == 0
			})
			stop()
			if err := wait.Receive(t, "end of the attendant", ended); err != nil {
				t.Error(err)
			}
			if got := int(tries.Load()); test.dropped != (got == enough+1) {
				t.Errorf("it was tried %d times", got)
			}
		})
	}
}

// Nobody answers a publisher while servers choose a leader, as if there were no
// such queue. What is due must outlive that.
func TestAQueueThatDoesNotAnswerIsNotOneThatThereIsNot(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	definitions := define(t, js, Definition{Name: "default", Concurrency: 1}, Definition{Name: "gpu", Concurrency: 1}, Definition{Name: "old", Concurrency: 1})
	if _, err := definitions.Update(t.Context(), "old", false, func(d *Definition) error { d.Draining = true; return nil }); err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(t.Context(), Stream)
	if err != nil {
		t.Fatal(err)
	}
	config := stream.CachedInfo().Config
	config.Subjects = []string{Subjects + "default.>"}
	if _, err := js.UpdateStream(t.Context(), config); err != nil {
		t.Fatal(err)
	}
	due := NewDue(js)
	for name, test := range map[string]struct {
		queue   string
		attempt int
		refused bool
	}{
		"one that does not answer":          {"gpu", 1, false},
		"one that there is not":             {"none", 1, true},
		"one that is drained":               {"old", 1, true},
		"one that is drained, next attempt": {"old", 2, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := due.Queue(t.Context(), run.Request{Version: 1, ID: "r", Queue: test.queue, Command: []string{"true"}}, test.attempt)
			_, refused := errors.AsType[*run.InvalidError](err)
			if err == nil || refused != test.refused || !refused && !strings.Contains(err.Error(), "does not answer") {
				t.Errorf("Queue = %v", err)
			}
			if !refused && !errors.Is(err, jetstream.ErrNoStreamResponse) {
				t.Errorf("%v does not tell why", err)
			}
		})
	}
}

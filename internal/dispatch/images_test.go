package dispatch_test

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/ropewalk/ropewalk/internal/dispatch"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

// builtImage is an image that is there once built is closed.
type builtImage struct {
	built  chan struct{}
	wanted chan run.ImageRequest
}

func (b builtImage) Resolve(ctx context.Context, wanted run.ImageRequest, waits func(string)) (string, error) {
	b.wanted <- wanted
	waits("The image is being built.")
	select {
	case <-b.built:
		return "built@sha256:1", nil
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func newBuiltImage() builtImage {
	return builtImage{built: make(chan struct{}), wanted: make(chan run.ImageRequest, 10)}
}

func TestARunThatWaitsForItsImageShowsItAndHoldsUpNobody(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	images := newBuiltImage()
	w.config = func(config *dispatch.Config) { config.Images = images }
	var freed atomic.Bool
	decision := make(chan run.Decision, 1)
	d := w.dispatcher("one")
	go func() {
		decision <- d.Handle(t.Context(), delivery(t, "r", nil), turn{done: func() { freed.Store(true) }})
	}()
	waiting := w.until("r", func(record run.Run) bool { return strings.Contains(record.Message, "being built") })
	if waiting.State != run.Preparing || !freed.Load() {
		t.Errorf("while it waits the run is %s, and the launch worker is free: %t", waiting.State, freed.Load())
	}
	if wanted := wait.Receive(t, "question to the resolver", images.wanted); wanted.Attempt != 1 || wanted.PublishedAt.IsZero() || wanted.Known != "" {
		t.Errorf("the resolver was asked %+v", wanted)
	}
	close(images.built)
	pending := w.until("r", inState(run.Pending))
	if pending.Message != "" || pending.Image != "built@sha256:1" {
		t.Errorf("launched, the record is %+v", pending)
	}
	if preparing := pending.History[1]; preparing.State != run.Preparing || len(preparing.Phases) != 1 || preparing.Phases[0].Part != run.Building {
		t.Errorf("the history says of the build: %+v", preparing)
	}
	w.cluster.show(t, "r", run.Observation{State: run.Failed, Reason: run.AppError, Evidence: &run.Evidence{LastLines: []string{"oh no"}}})
	decided(t, decision, run.Done)
	if evidence := w.record("r").Evidence; evidence == nil || evidence.Attempt != 1 || evidence.LastLines[0] != "oh no" {
		t.Errorf("the record's evidence is %+v", evidence)
	}

	again := delivery(t, "r", nil)
	again.Attempt, again.Sequence = 2, 2
	second := begin(t.Context(), d, again)
	w.until("r", func(record run.Run) bool { return record.State == run.Pending && record.Attempt == 2 })
	if wanted := wait.Receive(t, "question to the resolver", images.wanted); wanted.Attempt != 2 || wanted.Known != "built@sha256:1" {
		t.Errorf("for the next attempt the resolver was asked %+v", wanted)
	}
	w.cluster.jobs[run.JobName("r", 2)].changes <- run.Observation{State: run.Succeeded}
	decided(t, second, run.Done)
}

func TestADispatcherThatLostARunWhileItsImageIsBuiltStepsBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	taken := make(chan struct{})
	w.config = func(config *dispatch.Config) {
		if config.Owner == "one" {
			config.Images = taking{taken}
		}
	}
	decision := begin(t.Context(), w.dispatcher("one"), delivery(t, "r", nil))
	w.until("r", func(record run.Run) bool { return record.Message == "news 1" })
	again := delivery(t, "r", nil)
	again.Redelivered = 1
	other := begin(t.Context(), w.dispatcher("two"), again)
	w.until("r", func(record run.Run) bool { return record.Owner == "two" && record.State == run.Pending })
	close(taken)
	decided(t, decision, run.Abandon)
	w.cluster.show(t, "r", run.Observation{State: run.Succeeded})
	decided(t, other, run.Done)
	if launches := w.cluster.launches("r"); launches != 1 {
		t.Errorf("launched %d times", launches)
	}
}

// taking has news once more when another dispatcher has taken the run, and then
// waits for being told to stop.
type taking struct{ taken chan struct{} }

func (b taking) Resolve(ctx context.Context, _ run.ImageRequest, waits func(string)) (string, error) {
	waits("news 1")
	<-b.taken
	waits("news 2")
	<-ctx.Done()
	return "", ctx.Err()
}

package queue

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/natstest"
)

func TestInspectNamesWhatSomebodyHasChanged(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	ctx := t.Context()
	if _, _, err := Inspect(ctx, js, 1, time.Minute); !errors.Is(err, ErrNotSetUp) {
		t.Fatalf("before there is anything: %v", err)
	}
	definitions, err := CreateDefinitions(ctx, js, 1)
	if err != nil {
		t.Fatal(err)
	}
	if err := definitions.Set(ctx, Definition{Name: "gpu", Concurrency: 3}); err != nil {
		t.Fatal(err)
	}
	inspect := func(want ...string) {
		t.Helper()
		queues, wrong, err := Inspect(ctx, js, 1, time.Minute)
		if err != nil || len(queues) != 1 || !slices.Equal(wrong, want) {
			t.Errorf("%v, %v; found\n%s\nwant\n%s", queues, err, strings.Join(wrong, "\n"), strings.Join(want, "\n"))
		}
	}
	inspect("queue gpu has no consumer")

	config := jetstream.ConsumerConfig{
		Durable: ConsumerPrefix + "gpu", FilterSubject: Subjects + "gpu.>", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: time.Minute, MaxDeliver: -1, MaxAckPending: 3,
	}
	if _, err := js.CreateConsumer(ctx, Stream, config); err != nil {
		t.Fatal(err)
	}
	inspect()

	// A queue that is paused and drained is as it should be, too.
	if _, err := definitions.Update(ctx, "gpu", false, func(d *Definition) error { d.Paused, d.Draining = true, true; return nil }); err != nil {
		t.Fatal(err)
	}
	inspect("the consumer of queue gpu lets 3 runs be under way, not 1")
	if _, err := definitions.Update(ctx, "gpu", false, func(d *Definition) error { d.Paused, d.Draining = false, false; return nil }); err != nil {
		t.Fatal(err)
	}

	config.MaxAckPending, config.AckWait, config.MaxDeliver, config.BackOff = 1000, time.Second, 5, []time.Duration{time.Second}
	if _, err := js.UpdateConsumer(ctx, Stream, config); err != nil {
		t.Fatal(err)
	}
	stream, err := js.Stream(ctx, Stream)
	if err != nil {
		t.Fatal(err)
	}
	changed := stream.CachedInfo().Config
	changed.MaxAge, changed.MaxMsgsPerSubject, changed.AllowDirect, changed.Discard, changed.DiscardNewPerSubject = time.Hour, 2, false, jetstream.DiscardOld, false
	changed.Subjects = []string{"other"}
	if _, err := js.UpdateStream(ctx, changed); err != nil {
		t.Fatal(err)
	}
	inspect(
		"RUNS drops old messages when it is full, instead of refusing new ones",
		"RUNS takes 2 messages of one run, not 1",
		"RUNS forgets requests after 1h0m0s",
		"RUNS does not allow direct reads",
		"RUNS takes no requests for queue gpu",
		"the consumer of queue gpu lets 1000 runs be under way, not 3",
		"the consumer of queue gpu waits 1s for a sign of life, not 1m0s",
		"the consumer of queue gpu has a back-off, which replaces that wait",
		"the consumer of queue gpu gives a run up after 5 deliveries",
	)
}

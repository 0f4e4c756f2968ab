package runstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestMain(m *testing.M) { natstest.VerifyTestMain(m) }

func open(t *testing.T, config Config) (*Store, jetstream.JetStream) {
	t.Helper()
	_, js := natstest.Start(t)
	if config.Retention == 0 {
		config = Config{Retention: time.Hour, RequestRetention: time.Hour, Replicas: 1}
	}
	store, err := Create(t.Context(), js, config)
	if err != nil {
		t.Fatal(err)
	}
	return store, js
}

func record(queue, id string) run.Run {
	return run.New(run.Delivery{Queue: queue, ID: id, Attempt: 1, PublishedAt: time.Unix(1700000000, 0).UTC()})
}

func must[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(value T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return value
	}
}

func TestARecordIsReadBackByItsIDAlone(t *testing.T) {
	t.Parallel()
	store, _ := open(t, Config{})
	want := record("gpu", "abc")
	revision := must[uint64](t)(store.Create(t.Context(), want))
	got, at, err := store.Lookup(t.Context(), "abc")
	if err != nil || at != revision || got.Queue != "gpu" || got.State != run.Queued {
		t.Errorf("Lookup = %+v, %d, %v; want it in queue gpu at revision %d", got, at, err, revision)
	}
	for _, id := range []string{"ab", "abcd", "*", ">", "", "a.b"} {
		if _, _, err := store.Lookup(t.Context(), id); !errors.Is(err, run.ErrNotFound) {
			t.Errorf("Lookup(%q) = %v; want ErrNotFound", id, err)
		}
	}
}

func TestOnlyOneOfTwoWritersWins(t *testing.T) {
	t.Parallel()
	store, _ := open(t, Config{})
	first := record("default", "r")
	first.Owner = "one"
	revision := must[uint64](t)(store.Create(t.Context(), first))
	other := first
	other.Owner = "two"
	if _, err := store.Create(t.Context(), other); !errors.Is(err, run.ErrConflict) {
		t.Errorf("the second Create = %v; want ErrConflict", err)
	}
	first.Message = "moved on"
	moved := must[uint64](t)(store.Update(t.Context(), first, revision))
	if _, err := store.Update(t.Context(), other, revision); !errors.Is(err, run.ErrConflict) {
		t.Errorf("Update at an old revision = %v; want ErrConflict", err)
	}
	if _, err := store.Update(t.Context(), other, moved); err != nil {
		t.Errorf("Update at the newest revision = %v", err)
	}
}

func TestAnIDIsOneRunInAllQueues(t *testing.T) {
	t.Parallel()
	store, _ := open(t, Config{})
	must[uint64](t)(store.Create(t.Context(), record("default", "r")))
	if _, err := store.Create(t.Context(), record("gpu", "r")); !errors.Is(err, run.ErrConflict) {
		t.Errorf("Create in another queue = %v; want ErrConflict", err)
	}
	must[uint64](t)(store.Create(t.Context(), record("gpu", "r2")))
}

// What a record leaves behind when its time is over does not keep its id.
func TestAnIDIsFreeAgainOnceItsRecordIsGone(t *testing.T) {
	t.Parallel()
	store, _ := open(t, Config{})
	for _, queue := range []string{"default", "gpu", "default"} {
		must[uint64](t)(store.Create(t.Context(), record(queue, "r")))
		if err := store.records.Delete(t.Context(), key(queue, "r")); err != nil {
			t.Fatal(err)
		}
	}
}

// A write whose acknowledgement was lost is made again.
func TestRepeatingAWriteIsNoConflict(t *testing.T) {
	t.Parallel()
	store, _ := open(t, Config{})
	mine := record("default", "r")
	revision := must[uint64](t)(store.Create(t.Context(), mine))
	if again := must[uint64](t)(store.Create(t.Context(), mine)); again != revision {
		t.Errorf("creating it again gave revision %d; want %d", again, revision)
	}
	mine.Message = "changed"
	changed := must[uint64](t)(store.Update(t.Context(), mine, revision))
	if again := must[uint64](t)(store.Update(t.Context(), mine, revision)); again != changed {
		t.Errorf("updating it again gave revision %d; want %d", again, changed)
	}
}

func TestAFinishedRecordExpiresAndAnUnfinishedOneDoesNot(t *testing.T) {
	t.Parallel()
	store, _ := open(t, Config{Retention: time.Second, RequestRetention: time.Second, Replicas: 1})
	waiting, over := record("default", "waiting"), record("default", "over")
	must[uint64](t)(store.Create(t.Context(), waiting))
	revision := must[uint64](t)(store.Create(t.Context(), over))
	if err := over.Become(run.Rejected, time.Now()); err != nil {
		t.Fatal(err)
	}
	// What the record leaves behind has its time, too: watched from before, it
	// cannot be missed.
	watcher := must[jetstream.KeyWatcher](t)(store.records.Watch(t.Context(), "default.over"))
	must[uint64](t)(store.Update(t.Context(), over, revision))
	for expired := false; !expired; {
		entry := wait.Receive(t, "end of a finished run's record", watcher.Updates())
		expired = entry != nil && entry.Operation() != jetstream.KeyValuePut
	}
	if err := watcher.Stop(); err != nil {
		t.Error(err)
	}
	if _, _, err := store.Lookup(t.Context(), "over"); !errors.Is(err, run.ErrNotFound) {
		t.Errorf("Lookup of the expired record = %v; want ErrNotFound", err)
	}
	if _, _, err := store.Lookup(t.Context(), "waiting"); err != nil {
		t.Errorf("Lookup of the unfinished record = %v", err)
	}
	// Its id may be used again.
	must[uint64](t)(store.Create(t.Context(), record("default", "over")))
}

func TestListGivesTheNewestFirst(t *testing.T) {
	t.Parallel()
	store, _ := open(t, Config{})
	const count = 700 // more than one window of the index
	for i := range count {
		queue := "default"
		if i%10 == 0 {
			queue = "rare"
		}
		one := record(queue, fmt.Sprintf("r%d", i))
		revision := must[uint64](t)(store.Create(t.Context(), one))
		if i%100 == 0 {
			if err := one.Become(run.Rejected, time.Now()); err != nil {
				t.Fatal(err)
			}
			must[uint64](t)(store.Update(t.Context(), one, revision))
		}
	}
	for name, test := range map[string]struct {
		query       Query
		count       int
		first, last string
	}{
		"all, as many as asked for":     {Query{Limit: 5}, 5, "r699", "r695"},
		"all there are":                 {Query{Limit: 5000}, count, "r699", "r0"},
		"of one queue":                  {Query{Queue: "rare", Limit: 30}, 30, "r690", "r400"},
		"of one state, far back":        {Query{State: run.Rejected, Limit: 10}, 7, "r600", "r0"},
		"what is wanted, far back":      {Query{Want: func(r run.Run) bool { return r.State == run.Rejected }, Limit: 10}, 7, "r600", "r0"},
		"of a queue that has none":      {Query{Queue: "none", Limit: 10}, 0, "", ""},
		"of one queue and one state":    {Query{Queue: "rare", State: run.Rejected, Limit: 3}, 3, "r600", "r400"},
		"of a queue, but in no such st": {Query{Queue: "default", State: run.Running, Limit: 3}, 0, "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got := must[[]run.Run](t)(store.List(t.Context(), test.query))
			if len(got) != test.count {
				t.Fatalf("%d runs; want %d", len(got), test.count)
			}
			if test.count > 0 && (got[0].ID != test.first || got[len(got)-1].ID != test.last) {
				t.Errorf("from %s to %s; want from %s to %s", got[0].ID, got[len(got)-1].ID, test.first, test.last)
			}
		})
	}
}

// An answer ends at a number of bytes, however much was asked for.
func TestAListOfLargeRecordsIsWhole(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	store := must[*Store](t)(Create(t.Context(), js, Config{Retention: time.Hour, RequestRetention: time.Hour, Replicas: 1}))
	const count = 100 // 10 MB
	for i := range count {
		large := record("default", fmt.Sprintf("r%d", i))
		large.Message = strings.Repeat("x", 100<<10)
		must[uint64](t)(store.Create(t.Context(), large))
	}
	if got := must[[]run.Run](t)(store.List(t.Context(), Query{Limit: count})); len(got) != count || got[0].ID != "r99" || got[count-1].ID != "r0" {
		t.Errorf("%d of %d records are listed", len(got), count)
	}
}

func TestListCostsTheSameHoweverManyRunsThereAre(t *testing.T) {
	t.Parallel()
	store, js := open(t, Config{})
	requests := func() uint64 {
		// The messages that the server has sent to us stand for what it read.
		return js.Conn().Stats().InMsgs
	}
	var costs []uint64
	for i := range 2000 {
		must[uint64](t)(store.Create(t.Context(), record("default", fmt.Sprintf("r%d", i))))
		if i == 199 || i == 1999 {
			before := requests()
			must[[]run.Run](t)(store.List(t.Context(), Query{Limit: 20}))
			costs = append(costs, requests()-before)
		}
	}
	if costs[1] > costs[0]+10 {
		t.Errorf("listing 20 of 2000 runs read %d messages, of 200 runs %d", costs[1], costs[0])
	}
}

func TestWatchMissesNothing(t *testing.T) {
	t.Parallel()
	store, _ := open(t, Config{})
	mine := record("default", "r")
	revision := must[uint64](t)(store.Create(t.Context(), mine))
	must[uint64](t)(store.Create(t.Context(), record("default", "other")))
	write := func(message string) {
		mine.Message = message
		revision = must[uint64](t)(store.Update(t.Context(), mine, revision))
	}
	var seen []string
	err := store.Watch(wait.Context(t, "changes of the record"), "r", func() { write("one") }, func(record run.Run) bool {
		seen = append(seen, record.ID+record.Message)
		// One after the other: the bucket keeps only the newest record of a run.
		switch record.Message {
		case "one":
			write("two")
		case "two":
			write("three")
		}
		return record.Message != "three"
	})
	if got := fmt.Sprint(seen); err != nil || got != "[r rone rtwo rthree]" {
		t.Errorf("Watch saw %s, %v; want [r rone rtwo rthree]", got, err)
	}
}

func TestOpeningAServerWithoutRecordsSaysWhatToDo(t *testing.T) {
	t.Parallel()
	_, js := natstest.Start(t)
	if _, err := Open(t.Context(), js); !errors.Is(err, ErrNotSetUp) {
		t.Errorf("Open = %v; want ErrNotSetUp", err)
	}
}

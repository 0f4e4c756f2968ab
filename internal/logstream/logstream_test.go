package logstream_test

import (
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestMain(m *testing.M) { natstest.VerifyTestMain(m) }

var log = logevent.Log{Queue: "default", Run: "r1", Attempt: 1, Pod: "run-r1-1-abcde", Container: "run"}

func create(t *testing.T, maxBytes int64) (*logstream.Stream, jetstream.JetStream) {
	t.Helper()
	_, js := natstest.Start(t)
	stream, err := logstream.Create(t.Context(), js, logstream.Config{MaxBytes: maxBytes, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	return stream, js
}

func batch(first uint64, texts ...string) logevent.Batch {
	b := logevent.Batch{First: first, Reached: logevent.Position{Time: time.Unix(int64(first), 5).UTC(), Ordinal: 2}}
	for i, text := range texts {
		b.Lines = append(b.Lines, logevent.Line{Seq: first + uint64(i), Time: time.Unix(int64(first), 0), Text: []byte(text)})
	}
	return b
}

func TestAFollowerGoesOnFromTheLastMessage(t *testing.T) {
	t.Parallel()
	stream, _ := create(t, -1)
	place, err := stream.Place(t.Context(), log)
	if err != nil || place != (logevent.Place{Next: 1}) {
		t.Fatalf("a new log is at %+v, %v", place, err)
	}
	before := time.Now()
	version, err := stream.Publish(t.Context(), log, batch(1, "a", "b").Encode(), 0, false)
	if err != nil {
		t.Fatal(err)
	}
	after := time.Now()
	place, err = stream.Place(t.Context(), log)
	if place.At.Before(before) || place.At.After(after) {
		t.Errorf("its last batch came at %s; want from %s to %s", place.At, before, after)
	}
	if want := (logevent.Place{Version: version, Next: 3, Reached: batch(1).Reached, At: place.At}); err != nil || place != want {
		t.Errorf("the log is at %+v, %v; want %+v", place, err, want)
	}
}

func TestOfTwoFollowersOnlyOneWrites(t *testing.T) {
	t.Parallel()
	stream, _ := create(t, -1)
	one, two := batch(1, "a"), batch(1, "a", "b")
	version, err := stream.Publish(t.Context(), log, one.Encode(), 0, false)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Publish(t.Context(), log, two.Encode(), 0, false); !errors.Is(err, logevent.ErrOvertaken) {
		t.Errorf("the second follower got %v", err)
	}
	// The first one did not get the answer, and tries again.
	if again, err := stream.Publish(t.Context(), log, one.Encode(), 0, false); err != nil || again != version {
		t.Errorf("the repeated publish got %d, %v; want %d", again, err, version)
	}
}

func TestAFullStreamRefusesAndKeeps(t *testing.T) {
	t.Parallel()
	stream, js := create(t, 64<<10)
	version, next := uint64(0), uint64(1)
	for {
		v, err := stream.Publish(t.Context(), log, batch(next, strings.Repeat("x", 10<<10)).Encode(), version, false)
		if errors.Is(err, logevent.ErrFull) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		version, next = v, next+1
	}
	handle, err := js.Stream(t.Context(), logstream.Name)
	if err != nil {
		t.Fatal(err)
	}
	if first := handle.CachedInfo().State.FirstSeq; first != 1 {
		t.Errorf("the first message is now %d", first)
	}
	if err := stream.Purge(t.Context(), log, version); err != nil {
		t.Fatal(err)
	}
	if place, err := stream.Place(t.Context(), log); err != nil || place.Version != version || place.Next != next {
		t.Errorf("after the purge the log is at %+v, %v", place, err)
	}
	if _, err := stream.Publish(t.Context(), log, batch(next, "room again").Encode(), version, false); err != nil {
		t.Errorf("after the purge: %v", err)
	}
}

func TestAReaderSeesWhatIsThereAndWhatComes(t *testing.T) {
	t.Parallel()
	stream, _ := create(t, -1)
	version, err := stream.Publish(t.Context(), log, batch(1, "a").Encode(), 0, false)
	if err != nil {
		t.Fatal(err)
	}
	var texts []string
	err = stream.Read(t.Context(), log.Run, func() bool { t.Error("it was not idle"); return false }, func(a logstream.Arrival) bool {
		for _, line := range a.Batch.Lines {
			texts = append(texts, a.Log.String()+" "+string(line.Text))
		}
		if len(texts) == 1 {
			if !a.Live {
				t.Error("nothing else is there")
			}
			if _, err := stream.Publish(t.Context(), log, batch(2, "b").Encode(), version, false); err != nil {
				t.Error(err)
			}
		}
		return len(texts) < 2
	})
	if err != nil || strings.Join(texts, ",") != "r1/1/run-r1-1-abcde/run a,r1/1/run-r1-1-abcde/run b" {
		t.Errorf("%q, %v", texts, err)
	}
}

func TestTheEndIsRememberedForItsTime(t *testing.T) {
	t.Parallel()
	stream, js := create(t, -1)
	end := logevent.Batch{First: 1, End: true}
	if _, err := stream.Publish(t.Context(), log, end.Encode(), 0, true); err != nil {
		t.Fatal(err)
	}
	place, err := stream.Place(t.Context(), log)
	if err != nil || !place.Ended {
		t.Errorf("%+v, %v", place, err)
	}
	handle, err := js.Stream(t.Context(), logstream.Name)
	if err != nil {
		t.Fatal(err)
	}
	message, err := handle.GetLastMsgForSubject(t.Context(), logstream.Subject(log))
	if err != nil || message.Header.Get("Nats-TTL") != logstream.EndTTL.String() {
		t.Errorf("%+v, %v", message, err)
	}
	if logs, err := stream.Logs(t.Context(), "r1"); err != nil || len(logs) != 1 || logs[0] != log {
		t.Errorf("%+v, %v", logs, err)
	}
}

func TestALogThatNobodyEndedIsFound(t *testing.T) {
	t.Parallel()
	stream, js := create(t, 1<<20)
	unended := func(quiet time.Duration) (found []string, err error) {
		err = stream.Unended(t.Context(), quiet, func(log logevent.Log) { found = append(found, log.Run) })
		return found, err
	}
	if found, err := unended(0); err != nil || len(found) != 0 {
		t.Errorf("an empty stream has %v, %v", found, err)
	}
	other := log
	other.Run = "r2"
	for _, log := range []logevent.Log{log, other} {
		version, err := stream.Publish(t.Context(), log, batch(1, "a").Encode(), 0, false)
		if err != nil {
			t.Fatal(err)
		}
		if log == other {
			end := logevent.Batch{First: 2, End: true}
			if _, err := stream.Publish(t.Context(), log, end.Encode(), version, true); err != nil {
				t.Fatal(err)
			}
		}
	}
	if found, err := unended(0); err != nil || len(found) != 1 || found[0] != "r1" {
		t.Errorf("%v, %v", found, err)
	}
	if found, err := unended(time.Hour); err != nil || len(found) != 0 {
		t.Errorf("a log of which something has just come: %v, %v", found, err)
	}
	filler := strings.Repeat("x", 950<<10)
	if _, err := js.Publish(t.Context(), logstream.Subjects+"filler", []byte(filler)); err != nil {
		t.Fatal(err)
	}
	if found, err := unended(0); !errors.Is(err, logevent.ErrFull) || len(found) != 0 {
		t.Errorf("of a full stream: %v, %v", found, err)
	}
}

// Each batch names the one before it, and what was confirmed is known to
// whoever reads the partition next.
func TestAPartitionKnowsWhatWasConfirmed(t *testing.T) {
	t.Parallel()
	stream, _ := create(t, -1)
	versions := []uint64{0}
	for first := uint64(1); first <= 3; first++ {
		version, err := stream.Publish(t.Context(), log, batch(first, "x").Encode(), versions[len(versions)-1], false)
		if err != nil {
			t.Fatal(err)
		}
		versions = append(versions, version)
	}
	reader, err := stream.ReadPartition(t.Context(), logstream.Partition(log.Run), noStrays(t))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	confirmed := func(version uint64, want bool) {
		t.Helper()
		wait.Success(t, fmt.Sprintf("batch %d to be confirmed: %v", version, want), func() error {
			got, err := reader.Confirmed(t.Context(), version)
			if err == nil && got != want {
				err = fmt.Errorf("it is confirmed: %v", got)
			}
			return err
		})
	}
	var deliveries []logstream.Delivery
	for i := range 3 {
		d, err := reader.Next(t.Context())
		if err != nil || d.Version != versions[i+1] || d.Before != versions[i] {
			t.Fatalf("%+v, %v; want version %d after %d", d, err, versions[i+1], versions[i])
		}
		deliveries = append(deliveries, d)
	}
	confirmed(versions[1], false)
	kept := func(i int) {
		t.Helper()
		if err := reader.Kept(t.Context(), []uint64{deliveries[i].Version}); err != nil {
			t.Fatal(err)
		}
	}
	kept(0)
	confirmed(versions[1], true)
	kept(2) // what lies before it is still held
	confirmed(versions[3], false)
	kept(1)
	confirmed(versions[3], true)
}

func noStrays(t *testing.T) func(string, error) {
	t.Helper()
	return func(reason string, err error) { t.Errorf("a stray, because of its %s: %v", reason, err) }
}

// What does not belong on the stream hinders neither those who ship nor those
// who read.
func TestStraysAreCountedAndPassedOver(t *testing.T) {
	t.Parallel()
	stream, js := create(t, -1)
	version, err := stream.Publish(t.Context(), log, batch(1, "x").Encode(), 0, false)
	if err != nil {
		t.Fatal(err)
	}
	other := log
	other.Container = "other"
	wrong := strings.Replace(logstream.Subject(log), "."+log.Queue+".", ".", 1)
	for _, stray := range []struct {
		subject string
		data    []byte
	}{
		{logstream.PartitionSubject(logstream.Partition(log.Run)) + "hello", []byte("hello")},
		{wrong, batch(1, "x").Encode()},
		{logstream.RunSubject(log.Queue, log.Run) + "1.p", []byte("hello")},
		{logstream.Subject(other), []byte("hello")},
		{logstream.Subject(other), batch(1, "x").Encode()},
	} {
		if _, err := js.Publish(t.Context(), stray.subject, stray.data); err != nil {
			t.Fatal(err)
		}
	}
	counts := make(map[string]int)
	reader, err := stream.ReadPartition(t.Context(), logstream.Partition(log.Run), func(reason string, _ error) { counts[reason]++ })
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	if d, err := reader.Next(t.Context()); err != nil || d.Version != version {
		t.Fatalf("%+v, %v", d, err)
	}
	end, err := stream.Publish(t.Context(), log, logevent.Batch{First: 2, End: true}.Encode(), version, true)
	if err != nil {
		t.Fatal(err)
	}
	if d, err := reader.Next(t.Context()); err != nil || d.Version != end {
		t.Fatalf("%+v, %v", d, err)
	}
	want := map[string]int{logstream.StraySubject: 3, logstream.StrayEncoding: 1, logstream.StrayUnlinked: 1}
	if !maps.Equal(counts, want) {
		t.Errorf("%v; want %v", counts, want)
	}
	if err := reader.Kept(t.Context(), []uint64{version, end}); err != nil {
		t.Fatal(err)
	}
	if done, err := reader.Confirmed(t.Context(), end); err != nil || !done {
		t.Errorf("strays are waited for: %v, %v", done, err)
	}
	if logs, err := stream.Logs(t.Context(), log.Run); err != nil || len(logs) != 2 {
		t.Errorf("%v, %v", logs, err)
	}
	// A reader that does not follow ends although the last message is one.
	if _, err := js.Publish(t.Context(), logstream.Subject(other), []byte("hello")); err != nil {
		t.Fatal(err)
	}
	read := 0
	err = stream.Read(t.Context(), log.Run, func() bool { return false }, func(a logstream.Arrival) bool {
		read++
		return !a.Live
	})
	if err != nil || read != 3 {
		t.Errorf("%d batches, %v", read, err)
	}
}

// What cannot be kept yet comes again, and holds nothing up meanwhile.
func TestWhatIsGivenBackComesAgain(t *testing.T) {
	t.Parallel()
	stream, _ := create(t, -1)
	version, err := stream.Publish(t.Context(), log, batch(1, "x").Encode(), 0, false)
	if err != nil {
		t.Fatal(err)
	}
	next, err := stream.Publish(t.Context(), log, batch(2, "y").Encode(), version, false)
	if err != nil {
		t.Fatal(err)
	}
	reader, err := stream.ReadPartition(t.Context(), logstream.Partition(log.Run), noStrays(t))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	for i, want := range []uint64{version, next, version} {
		d, err := reader.Next(t.Context())
		if err != nil || d.Version != want || d.Again != (i == 2) {
			t.Fatalf("%+v, %v; want version %d", d, err, want)
		}
		if i == 0 {
			reader.GiveBack([]uint64{version})
		}
	}
}

// A shipper that has lost a partition, to another one or with its consumer,
// leaves nothing running once it gives it up. Goroutines of other tests would be
// in the way here, so that this one is not parallel.
func TestALostPartitionLeavesNothingRunning(t *testing.T) {
	stream, js := create(t, -1)
	partition := logstream.Partition(log.Run)
	name := fmt.Sprintf("%s%02d", logstream.ConsumerPrefix, partition)
	if _, err := stream.Publish(t.Context(), log, batch(1, "x").Encode(), 0, false); err != nil {
		t.Fatal(err)
	}
	handle, err := js.Stream(t.Context(), logstream.Name)
	if err != nil {
		t.Fatal(err)
	}
	running := goleak.IgnoreCurrent()
	first, err := stream.ReadPartition(t.Context(), partition, noStrays(t))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := first.Next(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := handle.UnpinConsumer(t.Context(), name, "ship"); err != nil {
		t.Fatal(err)
	}
	second, err := stream.ReadPartition(t.Context(), partition, noStrays(t))
	if err != nil {
		t.Fatal(err)
	}
	first.Close()
	if err := handle.DeleteConsumer(t.Context(), name); err != nil {
		t.Fatal(err)
	}
	ctx := wait.Context(t, "the reader to find that its consumer is gone")
	if _, err := second.Next(ctx); err == nil || ctx.Err() != nil {
		t.Errorf("without a consumer: %v", err)
	}
	second.Close()
	wait.Success(t, "everything that the readers started to end", func() error { return goleak.Find(running) })
}

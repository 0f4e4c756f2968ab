package logship

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/gcplogtest"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/metrics"
	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/retry"
	"github.com/ropewalk/ropewalk/internal/ship"
	"github.com/ropewalk/ropewalk/internal/sinktest"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

var errDead = errors.New("the shipper is dead")

// life ends before a step of a shipper, counted from 0: what was done by then
// was done, and nothing is any more.
type life struct{ left atomic.Int64 }

func (l *life) step() error {
	if l.left.Add(-1) < 0 {
		return retry.Permanent(errDead)
	}
	return nil
}

func (l *life) over() bool { return l.left.Load() < 0 }

// mortalSink and mortalSource are the steps of a shipper that writes or tells
// something.
type mortalSink struct {
	ship.Sink
	*life
}

func (m mortalSink) Put(ctx context.Context, log logevent.Log, lines []logevent.Line) error {
	if err := m.step(); err != nil {
		return err
	}
	return m.Sink.Put(ctx, log, lines)
}

func (m mortalSink) Finish(ctx context.Context, log logevent.Log, lines []logevent.Line, next uint64) error {
	if err := m.step(); err != nil {
		return err
	}
	return m.Sink.Finish(ctx, log, lines, next)
}

type mortalSource struct {
	source
	*life
}

func (m mortalSource) Next(ctx context.Context) (ship.Delivery, error) {
	if m.over() {
		return ship.Delivery{}, errDead
	}
	return m.source.Next(ctx)
}

func (m mortalSource) Kept(ctx context.Context, versions []uint64) error {
	if err := m.step(); err != nil {
		return err
	}
	return m.source.Kept(ctx, versions)
}

func (m mortalSource) Purge(ctx context.Context, log logevent.Log, version uint64) error {
	if err := m.step(); err != nil {
		return err
	}
	return m.source.Purge(ctx, log, version)
}

// deathSteps is how many steps a shipper takes for the log of the test: it puts
// what is large, says so, makes room; then it finishes the log, says so of what
// precedes the end, makes room, and says so of the end.
const deathSteps = 7

// A shipper dies before each of its steps. The next one leaves every line in
// the archive once, nothing in the stream but the words that logs have ended, and
// nothing that the server still waits for.
func TestADeathBetweenAnyTwoStepsLosesAndRepeatsNothing(t *testing.T) {
	archives := map[string]func(t *testing.T) (where map[string]string, read func(t *testing.T, log logevent.Log) []logevent.Line){
		"a folder": func(t *testing.T) (map[string]string, func(*testing.T, logevent.Log) []logevent.Line) {
			t.Helper()
			root := t.TempDir()
			return map[string]string{"ROPEWALK_LOG_ARCHIVE": "file://" + root}, func(t *testing.T, log logevent.Log) []logevent.Line {
				t.Helper()
				object, err := os.Open(filepath.Join(root, "v1", filepath.FromSlash(log.String())+".ndjson.zst"))
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = object.Close() }()
				return sinktest.Decode(t, object)
			}
		},
		"Cloud Logging": func(t *testing.T) (map[string]string, func(*testing.T, logevent.Log) []logevent.Line) {
			t.Helper()
			server := gcplogtest.Start(t)
			return map[string]string{
				"ROPEWALK_LOG_ARCHIVE": "gcplog://project-1/runs", "ROPEWALK_GCP_LOGGING_ENDPOINT": server.URL(),
				"ROPEWALK_GCP_LOCATION": "europe-west1", "ROPEWALK_GCP_CLUSTER": "c",
			}, nil
		},
	}
	for name, open := range archives {
		where, read := open(t)
		for variable, value := range where {
			t.Setenv(variable, value)
		}
		settings, err := config.LoadLogs()
		if err != nil {
			t.Fatal(err)
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel() // what a dead shipper holds comes again after its time
			dieBeforeEach(t, settings, read)
		})
	}
}

// dieBeforeEach has a shipper die before each step, each in a partition of its
// own, and another one go on with all of them.
func dieBeforeEach(t *testing.T, settings *config.Config, read func(t *testing.T, log logevent.Log) []logevent.Line) {
	t.Helper()
	_, js := natstest.Start(t)
	stream, err := logstream.Create(t.Context(), js, logstream.Config{MaxBytes: -1, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	sink, err := Open(t.Context(), settings, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sink.Close() }()
	var logs []logevent.Log
	for before := range deathSteps {
		log := logevent.Log{Queue: "q", Run: runIn(before), Attempt: 1, Pod: "p", Container: "first"}
		publishLog(t, stream, log)
		doomed := &life{}
		doomed.left.Store(int64(before))
		if err := shipUntil(t, stream, log, sink, doomed); !errors.Is(err, errDead) {
			t.Fatalf("before step %d, it died of %v", before, err)
		}
		// A log of the same run, which is behind in the same partition.
		other := log
		other.Container = "second"
		publishLog(t, stream, other)
		logs = append(logs, log, other)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, js, settings, sink, metrics.New("test"), zerolog.Nop()) }()
	for before := range deathSteps {
		awaitClean(t, js, before)
	}
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	for i, log := range logs {
		if read != nil {
			sinktest.Compare(t, read(t, log), sinktest.Lines(1, 20))
		}
		stored, err := sink.Logs(t.Context(), log.Run, time.Time{})
		if err != nil || len(stored) != 2 {
			t.Fatalf("before step %d: %+v, %v", i/2, stored, err)
		}
		for _, s := range stored {
			if verdict, err := sink.Check(t.Context(), s); err != nil || verdict.Problem != "" || verdict.Lines != 20 || !verdict.Ended {
				t.Errorf("before step %d: %s: %+v, %v", i/2, s.Log, verdict, err)
			}
		}
	}
}

// runIn is a run whose logs are in a partition.
func runIn(partition int) string {
	for i := 0; ; i++ {
		if id := fmt.Sprint("r", i); logstream.Partition(id) == partition {
			return id
		}
	}
}

// publishLog publishes a log of 20 lines and its end.
func publishLog(t *testing.T, stream *logstream.Stream, log logevent.Log) {
	t.Helper()
	version := uint64(0)
	for _, batch := range []logevent.Batch{{First: 1, Lines: sinktest.Lines(1, 15)}, {First: 16, Lines: sinktest.Lines(16, 5)}, {First: 21, End: true}} {
		var err error
		if version, err = stream.Publish(t.Context(), log, batch.Encode(), version, batch.End); err != nil {
			t.Fatal(err)
		}
	}
}

// shipUntil ships the partition of a log until the shipper's life ends.
func shipUntil(t *testing.T, stream *logstream.Stream, log logevent.Log, sink ship.Sink, doomed *life) error {
	t.Helper()
	shipper, err := ship.New(ship.Config{
		Sink: mortalSink{sink, doomed}, Counter: metrics.New("test"), Log: zerolog.Nop(), Bytes: 5000, Age: time.Minute, MostBytes: 1 << 20, Partitions: 1, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	reader, err := stream.ReadPartition(t.Context(), logstream.Partition(log.Run), func(_ string, err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	return shipper.Run(wait.Context(t, "the shipper to die"), mortalSource{source{reader}, doomed})
}

// awaitClean waits until a partition holds nothing but the ends of two logs, and
// nobody owes it anything.
func awaitClean(t *testing.T, js jetstream.JetStream, partition int) {
	t.Helper()
	subjects := logstream.PartitionSubject(partition) + ">"
	stream, err := js.Stream(t.Context(), logstream.Name)
	if err != nil {
		t.Fatal(err)
	}
	wait.Success(t, fmt.Sprintf("nothing but two ends to be left in partition %d", partition), func() error {
		state, err := stream.Info(t.Context(), jetstream.WithSubjectFilter(subjects))
		if err != nil {
			t.Fatal(err)
		}
		left := 0
		for _, n := range state.State.Subjects {
			left += int(n)
		}
		consumer, err := js.Consumer(t.Context(), logstream.Name, fmt.Sprintf("%s%02d", logstream.ConsumerPrefix, partition))
		if err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
			t.Fatal(err)
		}
		var info jetstream.ConsumerInfo
		if err == nil {
			info = *consumer.CachedInfo()
		}
		if err != nil || left != 2 || info.NumPending != 0 || info.NumAckPending != 0 {
			return fmt.Errorf("%d messages are left, %d of them are to come, %d to be confirmed", left, info.NumPending, info.NumAckPending)
		}
		return nil
	})
}

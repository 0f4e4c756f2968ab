package logship_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/gcplogtest"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logship"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/metrics"
	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/ship"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestMain(m *testing.M) { natstest.VerifyTestMain(m) }

var log = logevent.Log{Queue: "default", Run: "r1", Attempt: 1, Pod: "run-r1-1-abcde", Container: "run"}

// Cloud Logging cannot be asked how far a log is. A shipper that is given a log
// from its middle goes on nevertheless, once what precedes is confirmed.
func TestCloudLoggingGetsEachLineOverATakeover(t *testing.T) {
	server := gcplogtest.Start(t)
	t.Setenv("ROPEWALK_LOG_ARCHIVE", "gcplog://project-1/runs")
	t.Setenv("ROPEWALK_GCP_LOGGING_ENDPOINT", server.URL())
	t.Setenv("ROPEWALK_GCP_LOCATION", "europe-west1")
	t.Setenv("ROPEWALK_GCP_CLUSTER", "c")
	t.Setenv("ROPEWALK_SHIP_AGE", "100ms")
	settings, err := config.LoadLogs()
	if err != nil {
		t.Fatal(err)
	}
	_, js := natstest.Start(t)
	stream, err := logstream.Create(t.Context(), js, logstream.Config{MaxBytes: -1, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	shipping := func() (stop func()) {
		sink, err := logship.Open(t.Context(), settings, metrics.New("test"))
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- logship.Run(ctx, js, settings, sink, metrics.New("test"), zerolog.Nop())
		}()
		return func() {
			cancel()
			if err := <-ended; err != nil {
				t.Error(err)
			}
			if err := sink.Close(); err != nil {
				t.Error(err)
			}
		}
	}
	version, next := uint64(0), uint64(1)
	publish := func(n int, end bool) {
		batch := logevent.Batch{First: next, End: end}
		for range n {
			batch.Lines = append(batch.Lines, logevent.Line{Seq: next, Time: time.Unix(int64(next), 0), Text: fmt.Append(nil, "line ", next)})
			next++
		}
		var err error
		if version, err = stream.Publish(t.Context(), log, batch.Encode(), version, end); err != nil {
			t.Fatal(err)
		}
	}
	await := func(n int) {
		wait.Success(t, fmt.Sprintf("%d entries", n), func() error {
			if there := len(server.Entries()); there < n {
				return fmt.Errorf("there are %d", there)
			}
			return nil
		})
	}
	stop := shipping()
	publish(10, false)
	publish(10, false)
	await(20)
	// Until the next shipper is pinned, nothing is confirmed any more.
	stop()
	publish(10, false)
	publish(0, true)
	defer shipping()()
	await(31)
	sink, err := logship.Open(t.Context(), settings, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sink.Close() }()
	stored, err := sink.Logs(t.Context(), "r1", time.Time{})
	if err != nil || len(stored) != 1 {
		t.Fatalf("%+v, %v", stored, err)
	}
	if verdict, err := sink.Check(t.Context(), stored[0]); err != nil || verdict.Lines != 30 || verdict.Problem != "" || len(server.Entries()) != 31 {
		t.Errorf("%+v, %v, %d entries", verdict, err, len(server.Entries()))
	}
}

func TestWhereTheClusterIsTheMetadataServerSays(t *testing.T) {
	facts := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		value, ok := map[string]string{
			"/computeMetadata/v1/project/project-id":                   "project-9",
			"/computeMetadata/v1/instance/attributes/cluster-name":     "far",
			"/computeMetadata/v1/instance/attributes/cluster-location": "europe-north1",
		}[r.URL.Path]
		w.Header().Set("Metadata-Flavor", "Google")
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(value))
	})
	machine := httptest.NewServer(facts)
	defer machine.Close()
	server := gcplogtest.Start(t)
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(machine.URL, "http://"))
	t.Setenv("ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATION_SOURCE", config.FlavourGCP.Source())
	t.Setenv("ROPEWALK_GCP_LOGGING_ENDPOINT", server.URL())
	settings, err := config.LoadLogs()
	if err != nil {
		t.Fatal(err)
	}
	sink, err := logship.Open(t.Context(), settings, metrics.New("test"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sink.Close() }()
	if err := sink.Finish(t.Context(), log, nil, 1); err != nil {
		t.Fatal(err)
	}
	entry := server.Entries()[0]
	place := entry.GetResource().GetLabels()
	if entry.GetLogName() != "projects/project-9/logs/ropewalk" || place["cluster_name"] != "far" || place["location"] != "europe-north1" {
		t.Errorf("%v", entry)
	}
}

// ends counts the logs that a shipper has brought to their ends.
type ends struct {
	ship.Sink
	count *atomic.Int64
	both  chan struct{}
}

func (e ends) Finish(ctx context.Context, log logevent.Log, lines []logevent.Line, next uint64) error {
	err := e.Sink.Finish(ctx, log, lines, next)
	if err == nil {
		e.count.Add(1)
		e.both <- struct{}{}
	}
	return err
}

func TestShippersThatStartTogetherShareTheLoad(t *testing.T) {
	t.Setenv("ROPEWALK_LOG_ARCHIVE", "file://"+t.TempDir())
	settings, err := config.LoadLogs()
	if err != nil {
		t.Fatal(err)
	}
	_, js := natstest.Start(t)
	stream, err := logstream.Create(t.Context(), js, logstream.Config{MaxBytes: -1, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	const logs = 100 // in all partitions
	for i := range logs {
		log := log
		log.Run = fmt.Sprint("r", i)
		if _, err := stream.Publish(t.Context(), log, logevent.Batch{First: 1, End: true}.Encode(), 0, true); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	var counts [2]atomic.Int64
	both := make(chan struct{}, logs)
	for i := range counts {
		sink, err := logship.Open(ctx, settings, nil)
		if err != nil {
			t.Fatal(err)
		}
		running.Go(func() {
			if err := logship.Run(ctx, js, settings, ends{sink, &counts[i], both}, metrics.New("test"), zerolog.Nop()); err != nil {
				t.Error(err)
			}
		})
	}
	for range logs {
		wait.Receive(t, "end of one more log", both)
	}
	t.Logf("%d and %d", counts[0].Load(), counts[1].Load())
	if counts[0].Load() == 0 || counts[1].Load() == 0 {
		t.Error("one of the shippers got nothing")
	}
}

package logship

import (
	"bytes"
	"context"
	"strings"
	"sync"
	"testing"

	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/metrics"
	"github.com/ropewalk/ropewalk/internal/natstest"
)

// strayCounter counts strays, beside what others count.
type strayCounter struct {
	*metrics.Metrics
	mu     sync.Mutex
	counts map[string]int
}

func (s *strayCounter) Stray(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[reason]++
}

// Messages of somebody else's in a partition are counted, said once, removed
// where no log has their subject, and hold up none of the logs.
func TestStraysHoldUpNoLog(t *testing.T) {
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
	sink, err := Open(t.Context(), settings, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = sink.Close() }()
	log := logevent.Log{Queue: "q", Run: "r", Attempt: 1, Pod: "p", Container: "first"}
	strays := func() {
		for range 5 {
			if _, err := js.Publish(t.Context(), logstream.RunSubject("q", "r")+"no", []byte("log")); err != nil {
				t.Fatal(err)
			}
		}
	}
	strays()
	publishLog(t, stream, log)
	strays()
	other := log
	other.Container = "second"
	publishLog(t, stream, other)
	counter := &strayCounter{Metrics: metrics.New("test"), counts: make(map[string]int)}
	var said bytes.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, js, settings, sink, counter, zerolog.New(zerolog.SyncWriter(&said))) }()
	awaitClean(t, js, logstream.Partition("r"))
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if counter.counts[logstream.StraySubject] != 10 || len(counter.counts) != 1 {
		t.Errorf("%v are counted", counter.counts)
	}
	if strings.Count(said.String(), "none of ours") != 1 {
		t.Errorf("it says %s", said.String())
	}
}

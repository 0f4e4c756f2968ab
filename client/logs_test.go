package client_test

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/runstore"
)

// Without a shipper nobody answers for the archive: what is on the stream is
// shown, and it is an error only if that may not be all.
func TestLogsWithoutAShipper(t *testing.T) {
	_, js := natstest.Start(t)
	runs := client.New(js)
	store, err := runstore.Create(t.Context(), js, runstore.Config{Retention: time.Hour, RequestRetention: time.Hour, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := queue.CreateDefinitions(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	record := run.New(run.Delivery{Queue: "default", ID: "r1", Attempt: 1, PublishedAt: time.Now()})
	record.Job = &run.Job{Name: "run-r1-1"}
	if _, err := store.Create(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	read := func(id string) (string, error) {
		var texts []string
		err := runs.Logs(t.Context(), id, client.LogOptions{}, func(line client.LogLine) error {
			texts = append(texts, string(line.Text))
			return nil
		})
		return strings.Join(texts, " "), err
	}

	if text, err := read("r1"); !errors.Is(err, client.ErrNoLogs) {
		t.Errorf("where no logs are followed: %q, %v", text, err)
	}
	stream, err := logstream.Create(t.Context(), js, logstream.Config{MaxBytes: -1, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	if text, err := read("r1"); !errors.Is(err, client.ErrNoArchive) {
		t.Errorf("when nothing is on the stream: %q, %v", text, err)
	}
	log := logevent.Log{Queue: "default", Run: "r1", Attempt: 1, Pod: "p", Container: "run"}
	version := uint64(0)
	for i, text := range []string{"one", "two"} {
		batch := logevent.Batch{First: uint64(i + 1), Lines: []logevent.Line{{Time: time.Unix(1, 0), Text: []byte(text)}}}
		if version, err = stream.Publish(t.Context(), log, batch.Encode(), version, false); err != nil {
			t.Fatal(err)
		}
	}
	if text, err := read("r1"); err != nil || text != "one two" {
		t.Errorf("when all is on the stream: %q, %v", text, err)
	}
	if err := stream.Purge(t.Context(), log, version); err != nil {
		t.Fatal(err)
	}
	if text, err := read("r1"); !errors.Is(err, client.ErrNoArchive) || text != "two" {
		t.Errorf("when the beginning is archived: %q, %v", text, err)
	}
	if text, err := read("nobody"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("of a run that there is not: %q, %v", text, err)
	}
}

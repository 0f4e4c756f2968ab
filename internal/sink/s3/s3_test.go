//go:build e2e

package s3_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/archive"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/sink/s3"
	"github.com/ropewalk/ropewalk/internal/sinktest"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// The server is a real one, which keeps each object as a file.
func TestConformance(t *testing.T) {
	dir := t.TempDir()
	ctx := wait.Context(t, "the S3 server to do what it is asked for")
	server := start(ctx, t, dir)
	bucket, err := s3.New(ctx, s3.Settings{Bucket: "logs", Prefix: "a/prefix/", Endpoint: server.URL(), PathStyle: true, Tags: map[string]string{"team": "ml"}})
	if err != nil {
		t.Fatal(err)
	}
	if err := bucket.Ready(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.Get(ctx, "nothing"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an object that is not there: %v", err)
	}
	kept, err := archive.New(bucket)
	if err != nil {
		t.Fatal(err)
	}
	sinktest.Run(t, kept, true, func(t *testing.T, log logevent.Log) []logevent.Line {
		t.Helper()
		object, err := os.Open(filepath.Join(server.Folder("logs"), "a/prefix/v1", filepath.FromSlash(log.String())+".ndjson.zst"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = object.Close() }()
		return sinktest.Decode(t, object)
	})
	// A part of an object, and the end of one that is shorter than is asked for.
	large := logevent.Log{Run: "large", Attempt: 1, Pod: "run-large-1-abcde", Container: "run"}
	var lines []logevent.Line
	next, ended, err := kept.Read(ctx, large, 15_001, func(line logevent.Line) bool {
		lines = append(lines, line)
		return true
	})
	if err != nil || next != 20_001 || !ended {
		t.Errorf("from its middle, the log goes to %d, ended %v, %v", next, ended, err)
	}
	sinktest.Compare(t, lines, sinktest.Lines(15_001, 5000))
	for size, want := range map[int64]int{4: 4, 1 << 20: 10} {
		if err := bucket.Put(ctx, "ten", strings.NewReader("0123456789"), 10); err != nil {
			t.Fatal(err)
		}
		body, err := bucket.GetFrom(ctx, "ten", -size)
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(body)
		if err := errors.Join(err, body.Close()); err != nil || string(text) != "0123456789"[10-want:] {
			t.Errorf("the last %d bytes are %q, %v", size, text, err)
		}
	}
	if _, err := bucket.GetFrom(ctx, "nothing", -4); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the end of an object that is not there: %v", err)
	}
}

func start(ctx context.Context, t *testing.T, dir string) *rig.S3 {
	t.Helper()
	server, err := rig.StartS3(ctx, dir, "logs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	for name, value := range server.Credentials() {
		t.Setenv(name, value)
	}
	return server
}

// A server that answers 503, hangs, or is away is an error before the caller gives
// up, and what it did not take is taken afterwards.
func TestAServerInTroubleIsAnErrorAndNoLoss(t *testing.T) {
	ctx := wait.Context(t, "an error of a server in trouble")
	server := start(ctx, t, t.TempDir())
	proxy, err := rig.NewS3Proxy(server.URL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := proxy.Close(); err != nil {
			t.Error(err)
		}
	})
	open := func(patience time.Duration) *archive.Archive {
		bucket, err := s3.New(ctx, s3.Settings{Bucket: "logs", Endpoint: proxy.URL(), PathStyle: true, Patience: patience})
		if err != nil {
			t.Fatal(err)
		}
		kept, err := archive.New(bucket)
		if err != nil {
			t.Fatal(err)
		}
		return kept
	}
	// Who waits for a server that hangs need not wait long; what works may take
	// as long as it takes.
	kept, impatient := open(wait.Limit), open(500*time.Millisecond)
	log := logevent.Log{Queue: "default", Run: "r", Attempt: 1, Pod: "p", Container: "run"}
	if err := kept.Put(ctx, log, sinktest.Lines(1, 10)); err != nil {
		t.Fatal(err)
	}
	for name, trouble := range map[string]struct {
		begin func()
		kept  *archive.Archive
	}{
		"SlowDown": {proxy.SlowDown, kept}, "hanging": {proxy.Hang, impatient}, "away": {server.Kill, kept},
	} {
		trouble.begin()
		if err := trouble.kept.Put(ctx, log, sinktest.Lines(11, 10)); err == nil {
			t.Errorf("%s: a write was confirmed", name)
		}
		if _, _, err := trouble.kept.Reached(ctx, log); err == nil {
			t.Errorf("%s: it is said what is there", name)
		}
		if ctx.Err() != nil { // and no error of its own
			t.Fatalf("%s: %v", name, context.Cause(ctx))
		}
		proxy.Oblige()
		if name == "away" {
			if err := server.Start(ctx); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := kept.Finish(ctx, log, sinktest.Lines(11, 10), 21); err != nil {
		t.Fatal(err)
	}
	var lines []logevent.Line
	_, ended, err := kept.Read(ctx, log, 1, func(line logevent.Line) bool {
		lines = append(lines, line)
		return true
	})
	if err != nil || !ended {
		t.Errorf("ended %v, %v", ended, err)
	}
	sinktest.Compare(t, lines, sinktest.Lines(1, 20))
}

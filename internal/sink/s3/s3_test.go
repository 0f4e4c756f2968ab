//go:build e2e

package s3_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/archive"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/sink/s3"
	"github.com/ropewalk/ropewalk/internal/sinktest"
	"github.com/ropewalk/ropewalk/test/rig"
)

// The server is a real one, which keeps each object as a file.
func TestConformance(t *testing.T) {
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	server, err := rig.StartS3(ctx, dir, "logs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	for name, value := range server.Credentials() {
		t.Setenv(name, value)
	}
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
}

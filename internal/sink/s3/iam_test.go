//go:build e2e

package s3_test

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/archive"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/sink/s3"
	"github.com/ropewalk/ropewalk/internal/sinktest"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// permissions are what Amazon asks for each operation, besides those of tags
// and keys.
var permissions = map[string][]string{
	"PutObject": {"s3:PutObject"}, "CreateMultipartUpload": {"s3:PutObject"}, "UploadPart": {"s3:PutObject"}, "CompleteMultipartUpload": {"s3:PutObject"},
	"AbortMultipartUpload": {"s3:AbortMultipartUpload"}, "GetObject": {"s3:GetObject"}, "HeadObject": {"s3:GetObject"},
	"ListObjectsV2": {"s3:ListBucket"}, "DeleteObject": {"s3:DeleteObject"}, "DeleteObjects": {"s3:DeleteObject"},
}

// recorder notes the operations of a bucket.
type recorder struct {
	mu   sync.Mutex
	seen map[string]bool
}

func (r *recorder) note(operation string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen[operation] = true
}

func (r *recorder) check(t *testing.T, policy string, besides ...string) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "..", "deploy", "iam", "aws", policy))
	if err != nil {
		t.Fatal(err)
	}
	var document struct{ Statement []struct{ Action any } }
	if err := json.Unmarshal(text, &document); err != nil {
		t.Fatal(err)
	}
	var allowed []string
	for _, statement := range document.Statement {
		if one, ok := statement.Action.(string); ok {
			allowed = append(allowed, one)
			continue
		}
		for _, one := range statement.Action.([]any) {
			allowed = append(allowed, one.(string))
		}
	}
	needed := map[string]bool{}
	for _, action := range besides {
		needed[action] = true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for operation := range r.seen {
		if permissions[operation] == nil {
			t.Errorf("it is not known what %s needs", operation)
		}
		for _, action := range permissions[operation] {
			needed[action] = true
		}
	}
	slices.Sort(allowed)
	if want := slices.Sorted(maps.Keys(needed)); !slices.Equal(allowed, want) {
		t.Errorf("%s allows %v; what was called needs %v", policy, allowed, want)
	}
}

// The policies allow what a shipper and a reader of logs ask of a real S3
// server, and nothing that they do not.
func TestPoliciesAllowWhatIsCalled(t *testing.T) {
	ctx := wait.Context(t, "the S3 server to do what it is asked for")
	server, err := rig.StartS3(ctx, t.TempDir(), "logs")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(server.Kill)
	for name, value := range server.Credentials() {
		t.Setenv(name, value)
	}
	open := func(seen *recorder) (*s3.Bucket, *archive.Archive) {
		bucket, err := s3.New(ctx, s3.Settings{
			Bucket: "logs", Prefix: "p/", Endpoint: server.URL(), PathStyle: true, Tags: map[string]string{"team": "ml"}, Count: seen.note,
		})
		if err != nil {
			t.Fatal(err)
		}
		kept, err := archive.New(bucket)
		if err != nil {
			t.Fatal(err)
		}
		return bucket, kept
	}
	work := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	log := logevent.Log{Queue: "q", Run: "r", Attempt: 1, Pod: "p", Container: "run"}

	shipping := &recorder{seen: map[string]bool{}}
	bucket, kept := open(shipping)
	work(bucket.Ready(ctx))
	work(kept.Put(ctx, log, sinktest.Lines(1, 10)))
	_, _, err = kept.Reached(ctx, log)
	work(err)
	work(kept.Finish(ctx, log, sinktest.Lines(11, 10), 21))
	large := make([]byte, 65<<20)
	work(bucket.Put(ctx, "large", bytes.NewReader(large), int64(len(large))))
	if !shipping.seen["CreateMultipartUpload"] {
		t.Errorf("a large log was not uploaded in parts: %v", shipping.seen)
	}
	// Tags come with the upload, and one that fails is taken back.
	shipping.check(t, "logshipper.json", "s3:PutObjectTagging", "s3:AbortMultipartUpload")

	reading := &recorder{seen: map[string]bool{}}
	_, kept = open(reading)
	stored, err := kept.Logs(ctx, "r", time.Time{})
	work(err)
	if len(stored) != 1 {
		t.Fatalf("%d logs, want 1", len(stored))
	}
	_, err = kept.Check(ctx, stored[0])
	work(err)
	_, _, err = kept.Read(ctx, log, 1, func(logevent.Line) bool { return true })
	work(err)
	reading.check(t, "reader.json")
}

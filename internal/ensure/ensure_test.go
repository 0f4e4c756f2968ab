package ensure

import (
	"errors"
	"fmt"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/natstest"
)

// On several servers, of which each connection reaches another.
func TestWhatWasMadeCanBeRead(t *testing.T) {
	for i, js := range natstest.StartCluster(t) {
		for j := range 8 {
			name := fmt.Sprintf("s-%d-%d", i, j)
			stream, err := Stream(t.Context(), js, jetstream.StreamConfig{Name: name, Subjects: []string{name}, Replicas: 3, AllowDirect: true})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := stream.GetLastMsgForSubject(t.Context(), name); !errors.Is(err, jetstream.ErrMsgNotFound) {
				t.Errorf("stream %s: %v", name, err)
			}
			bucket, err := Bucket(t.Context(), js, jetstream.KeyValueConfig{Bucket: name, Replicas: 3})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := bucket.Get(t.Context(), "key"); !errors.Is(err, jetstream.ErrKeyNotFound) {
				t.Errorf("bucket %s: %v", name, err)
			}
			if err := ObjectStore(t.Context(), js, jetstream.ObjectStoreConfig{Bucket: name, Replicas: 3}); err != nil {
				t.Fatal(err)
			}
			objects, err := js.ObjectStore(t.Context(), name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := objects.GetInfo(t.Context(), "file"); !errors.Is(err, jetstream.ErrObjectNotFound) {
				t.Errorf("object store %s: %v", name, err)
			}
		}
	}
}

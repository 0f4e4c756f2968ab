package contexts_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/ropewalk/ropewalk/internal/contexts"
	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/run"
)

func TestWhatWasPutIsThereUnderItsHash(t *testing.T) {
	_, js := natstest.Start(t)
	store := contexts.New(js)
	reference := contexts.Reference([]byte("a tar file"))
	refused := func(about string, most int, says string) {
		t.Helper()
		_, err := store.Get(t.Context(), reference, most)
		var invalid *run.InvalidError
		if !errors.As(err, &invalid) || !strings.Contains(invalid.Error(), says) {
			t.Errorf("%s: %v; want %q", about, err, says)
		}
	}
	refused("before there is a dispatcher", 100, "there is no object store")
	if _, err := store.Put(t.Context(), []byte("another")); err == nil || !strings.Contains(err.Error(), "start a dispatcher") {
		t.Errorf("stored before there is a dispatcher: %v", err)
	}
	for range 2 { // each replica does it
		if err := contexts.Create(t.Context(), js, 1); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := store.Put(t.Context(), []byte("another")); err != nil {
		t.Fatal(err)
	}
	refused("before it was stored", 100, "was not stored, or is gone")
	for range 2 {
		got, err := store.Put(t.Context(), []byte("a tar file"))
		if err != nil || got != reference {
			t.Fatalf("stored as %s, %v; want %s", got, err, reference)
		}
	}
	data, err := store.Get(t.Context(), reference, 100)
	if err != nil || string(data) != "a tar file" {
		t.Errorf("got %q, %v", data, err)
	}
	refused("one that is too large", 5, "has 10 bytes, of which 5 are taken")

	bucket, err := js.ObjectStore(t.Context(), contexts.Bucket)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := bucket.PutBytes(t.Context(), reference, []byte("tampered")); err != nil {
		t.Fatal(err)
	}
	refused("another content under its name", 100, "is not what is stored under it")

	if _, err := store.Put(t.Context(), make([]byte, contexts.Most+1)); err == nil {
		t.Error("a file over the limit was stored")
	}
}

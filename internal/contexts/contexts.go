// Package contexts keeps the files that image builds copy from: small tar files
// in JetStream's object store, each under the SHA-256 of its content. The
// client puts them there; the resolver of images gets them.
package contexts

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/ensure"
	"github.com/ropewalk/ropewalk/internal/run"
)

const (
	// Bucket is the object store's name.
	Bucket = "ropewalk-contexts"
	// Most is the largest file that is taken. It travels to its builder in a
	// Secret, of which the cluster takes 1 MiB.
	Most = 700 << 10
	// kept is how long a file is there for requests that refer to it: as long
	// as a request with secrets is kept for replay, by default.
	kept = 7 * 24 * time.Hour
)

// Store puts and gets the files. It is safe for concurrent use.
type Store struct{ js jetstream.JetStream }

// Create makes the store where it is missing, and brings its configuration in
// line.
func Create(ctx context.Context, js jetstream.JetStream, replicas int) error {
	return ensure.ObjectStore(ctx, js, jetstream.ObjectStoreConfig{
		Bucket: Bucket, Description: "Ropewalk: files that image builds copy from", TTL: kept, Replicas: replicas,
	})
}

// New returns a store that a dispatcher has created. It reaches nothing yet.
func New(js jetstream.JetStream) *Store { return &Store{js} }

// Put stores a file and returns the reference for requests. It may be repeated;
// the same content is the same reference, and is kept anew.
func (s *Store) Put(ctx context.Context, data []byte) (string, error) {
	if len(data) > Most {
		return "", fmt.Errorf("store build context: it has %d bytes, of which %d are taken; leave out what the build does not copy, or compress it", len(data), Most)
	}
	bucket, err := s.js.ObjectStore(ctx, Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return "", errors.New("this NATS server holds no store of build contexts yet; start a dispatcher on it first (dispatcher serve or dispatcher dev)")
	}
	if err != nil {
		return "", fmt.Errorf("open the store of build contexts: %w", err)
	}
	reference := Reference(data)
	if _, err := bucket.PutBytes(ctx, reference, data); err != nil {
		return "", fmt.Errorf("store build context: %w", err)
	}
	return reference, nil
}

// Reference is the name of a file.
func Reference(data []byte) string {
	sum := sha256.Sum256(data)
	return "sha256:" + hex.EncodeToString(sum[:])
}

// Get returns the file of a reference. One that is missing, too large or not
// what its reference says is a [*run.InvalidError]; a store that does not answer
// is a [*run.LaunchError] that may pass.
func (s *Store) Get(ctx context.Context, reference string, most int) ([]byte, error) {
	bucket, err := s.js.ObjectStore(ctx, Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, wrong("was not stored: there is no object store " + Bucket)
	}
	var info *jetstream.ObjectInfo
	if err == nil {
		info, err = bucket.GetInfo(ctx, reference)
	}
	if errors.Is(err, jetstream.ErrObjectNotFound) {
		return nil, wrong(fmt.Sprintf("was not stored, or is gone: files are kept for %s", kept))
	}
	if err == nil && info.Size > uint64(most) {
		return nil, wrong(fmt.Sprintf("has %d bytes, of which %d are taken", info.Size, most))
	}
	var data []byte
	if err == nil {
		data, err = bucket.GetBytes(ctx, reference)
	}
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case err != nil:
		return nil, &run.LaunchError{Reason: run.ImageBuildFailed, Temporary: true, Message: "The store of build contexts does not answer: " + err.Error() + ".", Err: err}
	case Reference(data) != reference:
		return nil, wrong("is not what is stored under it")
	}
	return data, nil
}

func wrong(message string) error {
	return &run.InvalidError{Problems: []run.Problem{{Field: "image.build.context", Message: message}}}
}

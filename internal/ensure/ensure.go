// Package ensure makes the streams and buckets that Ropewalk keeps its state in,
// where they are missing, and brings their configuration in line.
//
// On several servers a stream is there before it can be read: each replica
// answers direct reads from when it notices that it is up to date, and the other
// servers hear of that a moment later. Until then a reader is told that nobody
// answers. What this package returns can be read through the connection that it
// was given; other servers may hear of it a moment later.
package ensure

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/retry"
)

// Stream makes a stream that allows direct reads.
func Stream(ctx context.Context, js jetstream.JetStream, config jetstream.StreamConfig) (jetstream.Stream, error) {
	stream, err := js.CreateOrUpdateStream(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("create stream %s: %w", config.Name, err)
	}
	return stream, Readable(ctx, stream)
}

// Bucket makes a bucket.
func Bucket(ctx context.Context, js jetstream.JetStream, config jetstream.KeyValueConfig) (jetstream.KeyValue, error) {
	bucket, err := js.CreateOrUpdateKeyValue(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("create bucket %s: %w", config.Bucket, err)
	}
	err = answered(ctx, func(ctx context.Context) error {
		_, err := bucket.Get(ctx, nothing)
		return err
	})
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, fmt.Errorf("read bucket %s: %w", config.Bucket, err)
	}
	return bucket, nil
}

// ObjectStore makes a store of objects.
func ObjectStore(ctx context.Context, js jetstream.JetStream, config jetstream.ObjectStoreConfig) error {
	store, err := js.CreateOrUpdateObjectStore(ctx, config)
	if err != nil {
		return fmt.Errorf("create object store %s: %w", config.Bucket, err)
	}
	err = answered(ctx, func(ctx context.Context) error {
		_, err := store.GetInfo(ctx, nothing)
		return err
	})
	if err != nil && !errors.Is(err, jetstream.ErrObjectNotFound) {
		return fmt.Errorf("read object store %s: %w", config.Bucket, err)
	}
	return nil
}

// Readable returns once a stream that allows direct reads can be read.
func Readable(ctx context.Context, stream jetstream.Stream) error {
	err := answered(ctx, func(ctx context.Context) error {
		_, err := stream.GetLastMsgForSubject(ctx, nothing)
		return err
	})
	if err != nil && !errors.Is(err, jetstream.ErrMsgNotFound) {
		return fmt.Errorf("read stream %s: %w", stream.CachedInfo().Config.Name, err)
	}
	return nil
}

// nothing is a key, and a subject, under which we never keep anything.
const nothing = "nothing"

// patience is far longer than replicas take; where they need more, something
// else is wrong.
const patience = 10 * time.Second

func answered(ctx context.Context, read func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return retry.Do(ctx, retry.Policy{First: 10 * time.Millisecond, Most: 500 * time.Millisecond}, func() error {
		err := read(ctx)
		if err != nil && !errors.Is(err, nats.ErrNoResponders) {
			err = retry.Permanent(err)
		}
		return err
	}, nil)
}

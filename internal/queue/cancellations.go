package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/batchget"
	"github.com/ropewalk/ropewalk/internal/ensure"
	"github.com/ropewalk/ropewalk/internal/run"
)

// CancellationBucket holds the cancellations of the last day, under the keys
// <queue>.<run id>. Who may write there may cancel.
const CancellationBucket = "ropewalk-cancels"

// cancellationsLast is how long a cancellation is kept for a dispatcher that is
// not there to see it.
const cancellationsLast = 24 * time.Hour

// Cancellations carries the wish to stop a run from whoever has it to every
// dispatcher. It is safe for concurrent use.
type Cancellations struct {
	js     jetstream.JetStream
	bucket jetstream.KeyValue
}

// CreateCancellations makes the bucket where it is missing, and opens it.
func CreateCancellations(ctx context.Context, js jetstream.JetStream, replicas int) (*Cancellations, error) {
	bucket, err := ensure.Bucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: CancellationBucket, Description: "Ropewalk: runs that somebody wants to be stopped",
		TTL: cancellationsLast, Replicas: replicas,
	})
	if err != nil {
		return nil, err
	}
	return &Cancellations{js, bucket}, nil
}

// OpenCancellations opens what a dispatcher has created.
func OpenCancellations(ctx context.Context, js jetstream.JetStream) (*Cancellations, error) {
	bucket, err := js.KeyValue(ctx, CancellationBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, ErrNotSetUp
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", CancellationBucket, err)
	}
	return &Cancellations{js, bucket}, nil
}

// Request asks the dispatchers to stop a run. It is safe to repeat.
func (c *Cancellations) Request(ctx context.Context, cancellation run.Cancellation) error {
	value, err := json.Marshal(cancellation)
	if err != nil {
		return fmt.Errorf("encode cancellation: %w", err)
	}
	if _, err := c.bucket.Put(ctx, cancellation.Queue+"."+cancellation.ID, value); err != nil {
		return fmt.Errorf("cancel run %s: %w", cancellation.ID, err)
	}
	return nil
}

// Watch calls requested with every cancellation there is, then ready, and then
// requested with each new one, until ctx ends. It survives reconnections.
func (c *Cancellations) Watch(ctx context.Context, ready func(), requested func(run.Cancellation)) error {
	watcher, err := c.bucket.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("watch cancellations: %w", err)
	}
	defer func() { _ = watcher.Stop() }() // fails only when it has stopped already
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case entry, open := <-watcher.Updates():
			if !open {
				return errors.New("watch cancellations: the connection to NATS was closed")
			}
			if entry == nil { // what was there has been sent
				ready()
				continue
			}
			var cancellation run.Cancellation
			if err := json.Unmarshal(entry.Value(), &cancellation); err != nil || entry.Key() != cancellation.Queue+"."+cancellation.ID {
				continue // permissions are enforced on keys: a value that names another run counts for nothing
			}
			requested(cancellation)
		}
	}
}

// Find returns the message of a run that waits, as it would be delivered, or
// [run.ErrNotFound].
func (c *Cancellations) Find(ctx context.Context, queue, id string, attempt int) (run.Delivery, error) {
	messages, err := batchget.Get(ctx, c.js, Stream, batchget.Request{LastFor: []string{Subject(queue, id, attempt)}})
	if err != nil {
		return run.Delivery{}, fmt.Errorf("look up run %s: %w", id, err)
	}
	if len(messages) == 0 {
		return run.Delivery{}, fmt.Errorf("run %s: %w", id, run.ErrNotFound)
	}
	delivery := address(messages[0].Subject)
	delivery.Data, delivery.Sequence, delivery.PublishedAt = messages[0].Data, messages[0].Sequence, messages[0].Time
	return delivery, nil
}

// Remove takes the message of a run out of the stream. It is safe to repeat.
func (c *Cancellations) Remove(ctx context.Context, delivery run.Delivery) error {
	stream, err := c.js.Stream(ctx, Stream)
	if err == nil {
		err = stream.Purge(ctx, jetstream.WithPurgeSubject(Subject(delivery.Queue, delivery.ID, delivery.Attempt)))
	}
	if err != nil {
		return fmt.Errorf("remove run %s from its queue: %w", delivery.ID, err)
	}
	return nil
}

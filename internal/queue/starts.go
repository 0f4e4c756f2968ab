package queue

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/ensure"
	"github.com/ropewalk/ropewalk/internal/retry"
)

// StartBucket holds, for each queue with a start rate, when a run of it was
// last let start.
const StartBucket = "ropewalk-starts"

// Starts holds start rates over all dispatchers: whoever wants to start a run
// writes the time of it by compare-and-set over the time of the last start, once
// that is long enough ago. It is safe for concurrent use.
//
// Times are those of the dispatchers' own clocks. Two clocks that differ let one
// start come early by as much as they differ; the next is late by the same, so
// that the rate holds in the long run.
type Starts struct {
	bucket jetstream.KeyValue
	now    func() time.Time
}

// CreateStarts makes the bucket where it is missing, and opens it.
func CreateStarts(ctx context.Context, js jetstream.JetStream, replicas int) (*Starts, error) {
	bucket, err := ensure.Bucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: StartBucket, Description: "Ropewalk: when a run of a queue was last started", Replicas: replicas,
	})
	if err != nil {
		return nil, err
	}
	return &Starts{bucket, time.Now}, nil
}

// Await returns nil once the caller may start one run of the queue. It waits as
// long as it takes; its only error is the context's.
func (s *Starts) Await(ctx context.Context, queue string, rate Rate, log zerolog.Logger) error {
	return retry.Do(ctx, retry.Network, func() error { return s.await(ctx, queue, rate.Interval()) },
		func(err error, _ time.Duration) {
			log.Warn().Err(err).Msg("cannot ask when the queue's last run was started, trying again")
		})
}

func (s *Starts) await(ctx context.Context, queue string, interval time.Duration) error {
	for {
		last, revision, err := s.last(ctx, queue)
		if err != nil {
			return err
		}
		now := s.now()
		// A clock that is far ahead must not stop the queue.
		if wait := min(last.Add(interval).Sub(now), interval); wait > 0 {
			pause(ctx, wait)
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if last.Before(now) {
				continue
			}
			now = s.now()
		}
		taken, err := s.take(ctx, queue, now, revision)
		if taken || err != nil {
			return err
		}
	}
}

func (s *Starts) last(ctx context.Context, queue string) (time.Time, uint64, error) {
	entry, err := s.bucket.Get(ctx, queue)
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return time.Time{}, 0, nil
	}
	if err != nil {
		return time.Time{}, 0, fmt.Errorf("read the last start of queue %s: %w", queue, err)
	}
	at, err := time.Parse(time.RFC3339Nano, string(entry.Value()))
	if err != nil {
		at = time.Time{} // not ours; it is written over
	}
	return at, entry.Revision(), nil
}

// take claims a start, unless another dispatcher was faster.
func (s *Starts) take(ctx context.Context, queue string, at time.Time, revision uint64) (taken bool, err error) {
	value := []byte(at.UTC().Format(time.RFC3339Nano))
	if revision == 0 {
		_, err = s.bucket.Create(ctx, queue, value)
	} else {
		_, err = s.bucket.Update(ctx, queue, value, revision)
	}
	switch {
	case err == nil:
		return true, nil
	case overtaken(err):
		return false, nil
	default:
		return false, fmt.Errorf("write a start of queue %s: %w", queue, err)
	}
}

package logfollow

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/retry"
)

// outlet gathers lines and publishes them. The reader adds to it and waits when
// it is full; one goroutine publishes.
type outlet struct {
	f *following

	mu      sync.Mutex
	batch   logevent.Builder
	text    int // bytes of text in batch
	reached logevent.Position
	closed  bool
	ended   bool

	// filled has room for one word that there is something to publish, full
	// for one that there is enough to go at once, emptied for one that there
	// is room again.
	filled, full, emptied chan struct{}

	// Only the publishing goroutine uses these.
	version, next uint64
}

func newOutlet(f *following, place logevent.Place) *outlet {
	return &outlet{
		f: f, version: place.Version, next: place.Next, reached: place.Reached,
		filled: make(chan struct{}, 1), full: make(chan struct{}, 1), emptied: make(chan struct{}, 1),
	}
}

func wake(bell chan struct{}) {
	select {
	case bell <- struct{}{}:
	default: // it rings already
	}
}

// position is how far the reader has come, published or not.
func (o *outlet) position() logevent.Position {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.reached
}

// add takes a line, after which the reader stands at reached. It waits for room.
func (o *outlet) add(ctx context.Context, at time.Time, flags logevent.Flags, text []byte, reached logevent.Position) error {
	for {
		o.mu.Lock()
		if size := o.batch.Size(); size == 0 || size+len(text) <= batchBytes {
			o.batch.Add(at, flags, text)
			o.text += len(text)
			o.reached = reached
			first := size == 0
			o.mu.Unlock()
			if first {
				wake(o.filled)
			}
			return nil
		}
		o.mu.Unlock()
		wake(o.full)
		select {
		case <-o.emptied:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// close tells that no more lines come: because the log has ended, or because
// the reader gave up.
func (o *outlet) close(ended bool) {
	o.mu.Lock()
	o.closed, o.ended = true, ended
	o.mu.Unlock()
	wake(o.filled)
	wake(o.full)
}

// publish sends batches until the outlet is closed and, if the log has ended,
// everything including its end is on the stream.
func (o *outlet) publish(ctx context.Context) error {
	for {
		select {
		case <-o.filled:
		case <-ctx.Done():
			return ctx.Err()
		}
		o.gather(ctx)
		o.mu.Lock()
		count, text := o.batch.Count(), o.text
		closed, ended := o.closed, o.ended
		reached := o.reached
		var data []byte
		if count > 0 {
			data = o.batch.Encode(o.next, reached, false)
			o.batch.Reset(keepBytes)
			o.text = 0
		}
		o.mu.Unlock()
		if closed && !ended {
			return nil // whoever goes on reads what is left here again
		}
		if count > 0 {
			wake(o.emptied)
			if err := o.send(ctx, data, false); err != nil {
				return err
			}
			o.next += count
			o.f.config.Counter.Followed(int(count), text)
		}
		if closed {
			var none logevent.Builder
			return o.send(ctx, none.Encode(o.next, reached, true), true)
		}
	}
}

// gather gives lines that come soon the time to go with the first.
func (o *outlet) gather(ctx context.Context) {
	o.mu.Lock()
	closed := o.closed
	o.mu.Unlock()
	if closed {
		return
	}
	timer := time.NewTimer(batchDelay)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-o.full:
	case <-ctx.Done():
	}
}

// sending is how long to wait between tries to publish: a stream that is full
// stays so until somebody has shipped something.
var sending = retry.Policy{First: 50 * time.Millisecond, Most: 2 * time.Second} //nolint:gochecknoglobals // it never changes

// publishTimeout is long enough for a server under load. Afterwards the same
// batch is sent again.
const publishTimeout = 10 * time.Second

func (o *outlet) send(ctx context.Context, data []byte, end bool) error {
	waiting, warned := false, false
	defer func() {
		if waiting {
			o.f.config.Counter.Waiting(-1)
		}
	}()
	err := retry.Do(ctx, sending, func() error {
		limited, cancel := context.WithTimeout(ctx, publishTimeout)
		defer cancel()
		version, err := o.f.config.Stream.Publish(limited, o.f.log, data, o.version, end)
		if err == nil {
			o.version = version
			return nil
		}
		if errors.Is(err, logevent.ErrOvertaken) {
			return retry.Permanent(err)
		}
		if errors.Is(err, logevent.ErrFull) && !waiting {
			waiting = true
			o.f.config.Counter.Waiting(1)
		}
		return err
	}, func(err error, _ time.Duration) {
		if !warned {
			warned = true
			o.f.logger.Warn().Err(err).Msg("lines wait for the stream of logs; the node keeps what follows")
		}
	})
	if err == nil && warned {
		o.f.logger.Info().Msg("the stream of logs takes lines again")
	}
	return err
}

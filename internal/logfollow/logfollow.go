// Package logfollow is the core that takes the lines of one log from where they
// are written to the stream of logs: every line once and in order, over broken
// connections, other followers and its own death. It knows neither Kubernetes
// nor NATS; a source is a container's log or a process's output file, and what
// it needs of both sides it declares here.
//
// What it relies on: a source gives its lines in the same order each time it is
// opened, each line once with the time at which it was written, and from a time
// on all lines that are not older. Times need not rise: two streams of one
// container are written by two threads. It finds its place again by the time of
// the last line and its ordinal among neighbours of the same time, and reads on
// from there in the source's order.
package logfollow

import (
	"context"
	"errors"
	"io"
	"time"

	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/retry"
)

// Source is where the lines of one log come from.
type Source interface {
	// Open reads the log's lines that are not older than since, each as
	// "<RFC 3339 time> <text>\n". With follow it blocks for more until the
	// container ends or ctx does. It returns [logevent.ErrGone] when the lines that
	// were not read yet can never be read, and [logevent.ErrNotYet] when there are
	// none because the container has not started.
	Open(ctx context.Context, since time.Time, follow bool) (io.ReadCloser, error)
	// Ended reports whether nothing more will ever be written. It may be
	// late.
	Ended() bool
	// Changed is closed when what Ended returns may have changed.
	Changed() <-chan struct{}
}

// Stream is where the lines go.
type Stream interface {
	Place(ctx context.Context, log logevent.Log) (logevent.Place, error)
	// Publish appends an encoded batch if version is still the last, and
	// may be repeated. Errors: [logevent.ErrOvertaken], [logevent.ErrFull],
	// or not known.
	Publish(ctx context.Context, log logevent.Log, data []byte, version uint64, end bool) (uint64, error)
	// Unended calls found with each log that has lines and no end, of which
	// nothing came for so long. It returns [logevent.ErrFull] instead when
	// there is so little room that lines may be waiting for it.
	Unended(ctx context.Context, quiet time.Duration, found func(logevent.Log)) error
}

// Counter counts, for metrics. Its methods return at once.
type Counter interface {
	// Followed: so many lines and bytes of text are on the stream.
	Followed(lines, bytes int)
	// Lost: a gap was written into a log, for the given reason.
	Lost(reason string)
	// Waiting: a follower began (1) or ceased (-1) to wait for room.
	Waiting(delta int)
}

// The reasons for gaps, as they are counted.
const (
	LostRotated = "rotated"
	LostGone    = "gone"
)

// Config is what a [Follower] works with; all fields are required.
type Config struct {
	Stream  Stream
	Counter Counter
	Log     zerolog.Logger
	// Silence is how long a log may say nothing before the connection is
	// taken for dead and opened anew. It doubles while nothing comes, up to
	// eight times.
	Silence time.Duration
}

// Follower follows logs. It keeps nothing between them, and is safe for
// concurrent use.
type Follower struct{ config Config }

// New returns a follower.
func New(config Config) (*Follower, error) {
	if config.Stream == nil || config.Counter == nil || config.Silence <= 0 {
		return nil, errors.New("logfollow: Stream, Counter and Silence are required")
	}
	return &Follower{config}, nil
}

const (
	// batchBytes is where a batch is sent: a quarter of the largest message
	// that a NATS server takes by default.
	batchBytes = 256 << 10
	// batchDelay is how long a line may wait for others to go with it. It is
	// a part of how late a live reader sees it.
	batchDelay = 25 * time.Millisecond
	// keepBytes is what an idle follower keeps of its buffer: there may be
	// thousands of them.
	keepBytes = 4 << 10
)

// Follow takes the lines of a log to the stream, from where the stream ends,
// until the log ends (nil), another follower has taken over
// ([logevent.ErrOvertaken]), or ctx ends.
func (f *Follower) Follow(ctx context.Context, log logevent.Log, source Source) error {
	following := &following{
		config: f.config, log: log, source: source,
		logger: f.config.Log.With().Str("run_id", log.Run).Str("pod", log.Pod).Str("container", log.Container).Logger(),
	}
	var place logevent.Place
	err := following.patiently(ctx, "cannot ask how far a log is", func() (err error) {
		place, err = f.config.Stream.Place(ctx, log)
		return err
	})
	if err != nil || place.Ended {
		return err
	}
	following.out = newOutlet(following, place)
	return following.run(ctx)
}

// following is one log in the hands of a follower.
type following struct {
	config Config
	log    logevent.Log
	source Source
	logger zerolog.Logger
	out    *outlet

	// Only the reading goroutine uses these.
	remainder remainder
	// missed is what came by of the ended log without the line that was taken
	// last, if missedOnce.
	missed     int
	missedOnce bool
	// unread counts how often in a row an ended log was something else.
	unread int
}

// run reads while the outlet publishes; the end of either ends both.
func (f *following) run(ctx context.Context) error {
	reading, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	published := make(chan error, 1)
	go func() {
		err := f.out.publish(ctx)
		if err != nil {
			stop(err)
		}
		published <- err
	}()
	err := f.read(reading)
	f.out.close(err == nil)
	if publishErr := <-published; publishErr != nil {
		return publishErr
	}
	return err
}

// patiently repeats an operation until it works or ctx ends, and says once
// that it has to.
func (f *following) patiently(ctx context.Context, trouble string, operation func() error) error {
	warned := false
	err := retry.Do(ctx, retry.Network, operation, func(err error, _ time.Duration) {
		if !warned {
			warned = true
			f.logger.Warn().Err(err).Msg(trouble + ", trying until it works")
		}
	})
	if warned && err == nil {
		f.logger.Info().Msg("it works again")
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

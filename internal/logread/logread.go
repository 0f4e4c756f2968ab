// Package logread reads the logs of a run: what is archived and what is still
// on the stream, as one, without a seam, and on as it comes. It knows neither
// NATS nor S3; what it needs of both sides it declares here.
package logread

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

// Archive is where logs stay. It may be nil: then there is only the stream.
type Archive interface {
	// Logs lists the logs of a run, and says of each whether it is there to
	// its end.
	Logs(ctx context.Context, runID string) (map[logevent.Log]bool, error)
	// Read gives lines from a sequence on to take, until that returns false
	// or there is no more. It returns the next sequence, and whether the log
	// ends there.
	Read(ctx context.Context, log logevent.Log, from uint64, take func(logevent.Line) bool) (next uint64, ended bool, err error)
	// Lag is how long lines may be missing from what is read that are
	// neither on the stream any more.
	Lag() time.Duration
}

// Stream is where new lines are. It may be nil: then there is only the archive.
type Stream interface {
	// Read gives batches of a run to take, those that are there and then each
	// new one, until take returns false or ctx ends. It calls idle when it
	// begins to wait; that too ends it by returning false.
	Read(ctx context.Context, runID string, idle func() bool, take func(log logevent.Log, batch logevent.Batch, live bool) bool) error
}

// Query says what to read.
type Query struct {
	Run string
	// Follow goes on with what comes, until Over says that the run is over
	// and all its logs have ended.
	Follow bool
	// Over tells whether the run is over and has no logs but the ones that
	// are known, all of which have ended; used with Follow.
	Over func(ctx context.Context, known []logevent.Log) (bool, error)
	// Wanted chooses logs; nil is all.
	Wanted func(logevent.Log) bool
	// Since leaves out what is older.
	Since time.Time
	// From is the sequence of the first line that is read of each log; 0 is
	// the beginning.
	From uint64
	// Tail, if not 0, lets all be left out but the last so many lines of each
	// log that is archived to its end, where the archive knows which these are.
	Tail int
}

// Lasting is an archive that knows how many lines a log has that is there to its
// end.
type Lasting interface {
	Last(ctx context.Context, log logevent.Log) (uint64, error)
}

// Line is a line of one of a run's logs.
type Line struct {
	Log logevent.Log
	logevent.Line
}

// Reader reads logs.
type Reader struct {
	archive Archive
	stream  Stream
}

// New returns a reader on an archive and a stream, of which one may be nil.
func New(archive Archive, stream Stream) *Reader { return &Reader{archive, stream} }

// Read gives the lines of a run to take until that returns an error, which it
// returns, or there are no more. Lines of one log come in their order.
func (r *Reader) Read(ctx context.Context, query Query, take func(Line) error) error {
	reading := &reading{reader: r, query: query, take: take, logs: make(map[logevent.Log]*progress)}
	if err := reading.archived(ctx); err != nil {
		return err
	}
	if r.stream == nil {
		return nil
	}
	return reading.streamed(ctx)
}

// progress is how far one log was read.
type progress struct {
	next  uint64
	ended bool
}

type reading struct {
	reader *Reader
	query  Query
	take   func(Line) error
	failed error

	mu   sync.Mutex // guards logs and what is in it
	logs map[logevent.Log]*progress
}

// at returns how far a log was read. Only the reading goroutine changes that.
func (r *reading) at(log logevent.Log) *progress {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.logs[log]
	if !ok {
		p = &progress{next: max(1, r.query.From)}
		r.logs[log] = p
	}
	return p
}

// give hands a line on, if it is wanted.
func (r *reading) give(log logevent.Log, line logevent.Line) bool {
	if !line.Time.Before(r.query.Since) {
		r.failed = r.take(Line{log, line})
	}
	return r.failed == nil
}

// key makes logs of the archive, which does not know queues, and of the stream
// the same.
func key(log logevent.Log) logevent.Log {
	log.Queue = ""
	return log
}

func (r *reading) wanted(log logevent.Log) bool { return r.query.Wanted == nil || r.query.Wanted(log) }

// archived reads what is archived of all logs.
func (r *reading) archived(ctx context.Context) error {
	if r.reader.archive == nil {
		return nil
	}
	logs, err := r.reader.archive.Logs(ctx, r.query.Run)
	if err != nil {
		return err
	}
	for _, log := range sorted(logs) {
		if !r.wanted(log) {
			continue
		}
		if logs[log] {
			if err := r.skip(ctx, log); err != nil {
				return err
			}
		}
		if err := r.fromArchive(ctx, log); err != nil {
			return err
		}
	}
	return nil
}

// skip leaves out what a query for the last lines has no use for. Times need
// not rise, so that one for what is new takes all.
func (r *reading) skip(ctx context.Context, log logevent.Log) error {
	lasting, ok := r.reader.archive.(Lasting)
	if !ok || r.query.Tail <= 0 || !r.query.Since.IsZero() {
		return nil
	}
	last, err := lasting.Last(ctx, log)
	if err != nil { // reading all of it will say what is wrong, if anything is
		return ctx.Err()
	}
	p := r.at(key(log))
	if tail := uint64(r.query.Tail); last > tail {
		p.next = max(p.next, last-tail+1)
	}
	return nil
}

// fromArchive reads on in one log.
func (r *reading) fromArchive(ctx context.Context, log logevent.Log) error {
	log = key(log)
	p := r.at(log)
	next, ended, err := r.reader.archive.Read(ctx, log, p.next, func(line logevent.Line) bool { return r.give(log, line) })
	r.mu.Lock()
	p.next, p.ended = next, p.ended || ended
	r.mu.Unlock()
	if r.failed != nil {
		return r.failed
	}
	return err
}

// overCheck is how often it is asked whether the run is over.
const overCheck = 250 * time.Millisecond

// streamed reads the stream: to its end for now, or while following until the
// run is over.
func (r *reading) streamed(ctx context.Context) error {
	reading, stop := context.WithCancel(ctx)
	defer stop()
	var (
		asking  sync.WaitGroup
		askedOf error
	)
	if r.query.Follow {
		asking.Go(func() {
			defer stop()
			askedOf = r.awaitOver(reading)
		})
	}
	var problem error
	more := func() bool { return r.query.Follow }
	err := r.reader.stream.Read(reading, r.query.Run, more, func(log logevent.Log, batch logevent.Batch, live bool) bool {
		problem = r.batch(ctx, log, batch)
		return problem == nil && (!live || more())
	})
	ended := reading.Err() != nil
	stop()
	asking.Wait()
	switch {
	case problem != nil:
		return problem
	case ctx.Err() != nil:
		return ctx.Err()
	case r.query.Follow && askedOf != nil && !errors.Is(askedOf, context.Canceled):
		return askedOf
	case ended:
		return nil
	default:
		return err
	}
}

// awaitOver returns when the run is over and every log that is known has ended.
func (r *reading) awaitOver(ctx context.Context) error {
	ticker := time.NewTicker(overCheck)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if known, ended := r.known(); ended {
			if over, err := r.query.Over(ctx, known); err != nil || over {
				return err
			}
		}
	}
}

// known lists the logs that were seen, and says whether all of them have ended.
func (r *reading) known() (logs []logevent.Log, ended bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	ended = true
	for log, p := range r.logs {
		logs = append(logs, log)
		ended = ended && p.ended
	}
	return logs, ended
}

// batch takes a batch from the stream. Where it does not follow on what was
// read, what is missing is in the archive by now.
func (r *reading) batch(ctx context.Context, log logevent.Log, batch logevent.Batch) error {
	if log = key(log); !r.wanted(log) {
		return nil
	}
	p := r.at(log)
	if batch.First > p.next && r.reader.archive != nil {
		if err := r.bridge(ctx, log, p, batch.First); err != nil {
			return err
		}
	}
	if batch.First > p.next {
		// Neither has them: they were lost, or there is no archive.
		p.next = batch.First
	}
	for _, line := range batch.Lines {
		if line.Seq < p.next {
			continue
		}
		p.next = line.Seq + 1
		if !r.give(log, line) {
			return r.failed
		}
	}
	r.mu.Lock()
	p.ended = p.ended || batch.End
	r.mu.Unlock()
	return nil
}

// lagCheck is how often an archive is asked again that shows lines late.
const lagCheck = 3 * time.Second

// bridge reads the archive up to a sequence, which it may not show at once.
func (r *reading) bridge(ctx context.Context, log logevent.Log, p *progress, until uint64) error {
	limit := time.Now().Add(r.reader.archive.Lag())
	for {
		if err := r.fromArchive(ctx, log); err != nil || p.next >= until || !time.Now().Before(limit) {
			return err
		}
		select {
		case <-time.After(lagCheck):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Package ship is the core that takes lines from the stream of logs to where
// they stay: it gathers what comes for each log, gives it to a sink in pieces
// of a good size, and tells the stream only once the sink has confirmed. It
// knows no SDK; source and sink are what it declares.
//
// What has been kept is known by the sink. A shipper that takes over asks it
// where a log goes on, so that lines which come again after a crash are not kept
// twice. Of a sink that cannot tell, it is known only what was confirmed to the
// source, and lines may be given to it twice.
package ship

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

// Delivery is a batch that is the shipper's until it is kept.
type Delivery struct {
	Log     logevent.Log
	Batch   logevent.Batch
	Version uint64
	// Before is the version of the log's batch before this one; 0 if this is
	// its first.
	Before uint64
	Again  bool
	Size   int
}

// Source gives the batches of one partition: those of a log in order, but for
// those that come again.
type Source interface {
	// Next waits for a batch, at most as long as ctx lasts.
	Next(ctx context.Context) (Delivery, error)
	// Confirmed tells whether every batch up to version was said to be kept,
	// by whatever shipper. It may be late to say yes.
	Confirmed(ctx context.Context, version uint64) (bool, error)
	// Kept tells that batches are where they stay, in their order, and returns
	// once that was understood. It may be repeated.
	Kept(ctx context.Context, versions []uint64) error
	// GiveBack gives back batches that cannot be kept yet. They come again
	// later, to this shipper or to another one.
	GiveBack(versions []uint64)
	// Purge removes what lies before version of a log.
	Purge(ctx context.Context, log logevent.Log, version uint64) error
}

// Sink is where lines stay. What it was given once it may be given again. An
// error means that it is not known whether the lines are kept.
type Sink interface {
	// Reached returns the sequence of the first line that is not kept, and
	// whether the log was finished. A sink that cannot know returns 0; it has
	// to take lines that it has already without keeping them twice.
	Reached(ctx context.Context, log logevent.Log) (next uint64, ended bool, err error)
	// Put keeps lines of a log that goes on.
	Put(ctx context.Context, log logevent.Log, lines []logevent.Line) error
	// Finish keeps the last lines of a log, if there are any; next is the
	// sequence that would follow them.
	Finish(ctx context.Context, log logevent.Log, lines []logevent.Line, next uint64) error
}

// Counter counts, for metrics. Its methods return at once.
type Counter interface {
	// Shipped: so many lines and bytes of text were confirmed, the oldest
	// of which was written so long ago.
	Shipped(lines, bytes int, age time.Duration)
	// SinkRetried: the sink had to be asked again.
	SinkRetried()
	// Buffered: so many more (or fewer) lines and bytes are held.
	Buffered(lines, bytes int)
}

// Config is what a [Shipper] works with; all fields are required.
type Config struct {
	Sink    Sink
	Counter Counter
	Log     zerolog.Logger
	// Bytes is the size of text at which what was gathered of a log is
	// given to the sink, Age the time after which it is in any case.
	Bytes int
	Age   time.Duration
	// MostBytes bounds the memory of what is held of all logs of all
	// partitions: gathered, or ahead of lines that are elsewhere. Partitions is
	// how many run at once at most.
	MostBytes, Partitions int
	Now                   func() time.Time
}

// Shipper ships partitions. It is safe for concurrent use.
type Shipper struct {
	config Config
	pool   *pool
}

// New returns a shipper.
func New(config Config) (*Shipper, error) {
	if config.Sink == nil || config.Counter == nil || config.Now == nil || config.Bytes <= 0 || config.Age <= 0 || config.MostBytes < config.Bytes || config.Partitions <= 0 {
		return nil, errors.New("ship: Sink, Counter, Now, Bytes, Age, MostBytes (at least Bytes) and Partitions are required")
	}
	return &Shipper{config, newPool(config.MostBytes, config.Partitions)}, nil
}

// recheck is how often the sink is asked how far a log is of which lines are
// missing that were given to another shipper, and how often the source is told
// again what it did not understand.
const recheck = 2 * time.Second

const (
	// forget is how long the place of a log is remembered of which nothing
	// comes.
	forget = 10 * time.Minute
	// forgetEnded is how long that of a log is remembered that has ended: as
	// long as batches of it may come again that a dead shipper held, so that
	// the sink is not asked about each of them.
	forgetEnded = time.Minute
	// settling is how long the source may take to understand what is kept.
	settling = 5 * time.Second
)

// Run ships what comes from a source until ctx ends or the source fails. What
// was not confirmed by then comes again.
func (s *Shipper) Run(ctx context.Context, source Source) error {
	p := &partition{config: s.config, pool: s.pool, source: source, logs: make(map[logevent.Log]*gathered)}
	defer p.drop()
	for {
		delivery, err := p.next(ctx)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, context.DeadlineExceeded):
		case err != nil:
			return err
		default:
			if err := p.take(ctx, delivery); err != nil {
				return err
			}
		}
		if err := p.flushDue(ctx); err != nil {
			return err
		}
	}
}

// partition is what a shipper holds of one partition.
type partition struct {
	config Config
	pool   *pool
	source Source
	logs   map[logevent.Log]*gathered
	// lines and size are what is held in memory, held is what that takes.
	lines, size int
	held        int64
	// unsettled: the source could not be told what is kept.
	unsettled bool
}

// gathered is what is held of one log.
type gathered struct {
	log logevent.Log
	// next is the sequence that follows what is kept and gathered.
	next  uint64
	lines []logevent.Line
	size  int
	// since is when the first of them came, used when anything last did.
	since, used time.Time
	ended       bool
	// finished: the sink has the log to its end.
	finished bool
	// gathered has the batches whose lines are held, stored those that are
	// kept and of which the source does not know that yet; it was last told so
	// at told.
	gathered, stored []batch
	told             time.Time
	// ahead has what comes after lines that are with another shipper or on
	// their way again, by version: a batch without lines begins where the
	// next one does.
	ahead   map[uint64]Delivery
	checked time.Time
}

// batch is what is remembered of a delivery whose lines were taken.
type batch struct {
	version     uint64
	lines, size int
	end         bool
}

func batchOf(d Delivery) batch {
	return batch{version: d.Version, lines: len(d.Batch.Lines), size: d.Size, end: d.Batch.End}
}

// next waits for a delivery until something else is to be done.
func (p *partition) next(ctx context.Context) (Delivery, error) {
	until := p.config.Now().Add(p.config.Age)
	for _, g := range p.logs {
		if len(g.gathered) > 0 {
			until = earlier(until, g.since.Add(p.config.Age))
		}
		if len(g.stored) > 0 {
			until = earlier(until, g.told.Add(recheck))
		}
		if len(g.ahead) > 0 {
			until = earlier(until, g.checked.Add(recheck))
		}
	}
	limited, cancel := context.WithTimeout(ctx, max(until.Sub(p.config.Now()), time.Millisecond))
	defer cancel()
	return p.source.Next(limited)
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// take gathers a delivery.
func (p *partition) take(ctx context.Context, d Delivery) error {
	g, known := p.logs[d.Log]
	if !known {
		g = &gathered{log: d.Log, next: 1, ahead: make(map[uint64]Delivery)}
		p.logs[d.Log] = g
		if d.Again || d.Batch.First > 1 {
			if err := p.check(ctx, g, d); err != nil {
				return err
			}
		}
	}
	g.used = p.config.Now()
	if g.finished {
		g.stored = append(g.stored, batchOf(d))
		return p.settle(ctx, g)
	}
	if d.Batch.First > g.next {
		if old, held := g.ahead[d.Version]; held {
			p.hold(-len(old.Batch.Lines), -old.Size)
		}
		p.hold(len(d.Batch.Lines), d.Size)
		g.ahead[d.Version] = d
		return nil
	}
	p.absorb(g, d)
	p.catchUp(g)
	return nil
}

// absorb appends the lines of a delivery that are new.
func (p *partition) absorb(g *gathered, d Delivery) {
	if len(g.gathered) == 0 {
		g.since = p.config.Now()
	}
	for _, line := range d.Batch.Lines {
		if line.Seq == g.next {
			g.lines = append(g.lines, line)
			g.size += len(line.Text)
			g.next++
		}
	}
	p.hold(len(d.Batch.Lines), d.Size)
	g.ended = g.ended || d.Batch.End
	g.gathered = append(g.gathered, batchOf(d))
}

// catchUp absorbs what was ahead and no longer is.
func (p *partition) catchUp(g *gathered) {
	for moved := true; moved && len(g.ahead) > 0; {
		moved = false
		for version, d := range g.ahead {
			if d.Batch.First <= g.next {
				delete(g.ahead, version)
				p.hold(-len(d.Batch.Lines), -d.Size)
				p.absorb(g, d)
				moved = true
			}
		}
	}
}

// check finds out how far a log is of which d is the earliest batch at hand. A
// sink that cannot know leaves it to the source: if what precedes the batch was
// confirmed, the log goes on with it.
func (p *partition) check(ctx context.Context, g *gathered, d Delivery) error {
	known := true
	err := p.patiently(ctx, g.log, func() error {
		next, ended, err := p.config.Sink.Reached(ctx, g.log)
		if err == nil {
			known = next > 0
			g.skipTo(next)
			g.finished = ended
		}
		g.checked = p.config.Now()
		return err
	})
	if err != nil || known || d.Batch.First <= g.next {
		return err
	}
	confirmed, err := p.source.Confirmed(ctx, d.Before)
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil: // it is asked again
		p.config.Log.Warn().Err(err).Str("log", g.log.String()).Msg("cannot ask the stream of logs what is archived")
	case confirmed:
		g.skipTo(d.Batch.First)
	}
	return nil
}

// skipTo leaves out what lies before next, which is kept. That is also so for
// lines that were gathered: put beside later ones, they would look as if what is
// between them were there.
func (g *gathered) skipTo(next uint64) {
	if next > g.next {
		g.next, g.lines, g.size = next, nil, 0
	}
}

// earliest is the first of what is ahead of a log.
func (g *gathered) earliest() Delivery {
	return g.ahead[slices.Min(slices.Collect(maps.Keys(g.ahead)))]
}

package ship

import (
	"cmp"
	"context"
	"slices"
	"time"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/retry"
)

// flushDue gives the sink what is large, old or at its end.
func (p *partition) flushDue(ctx context.Context) error {
	now := p.config.Now()
	for log, g := range p.logs {
		if len(g.ahead) > 0 && now.Sub(g.checked) >= recheck {
			if err := p.check(ctx, g, g.earliest()); err != nil {
				return err
			}
			p.catchUp(g)
		}
		if g.ended && !g.finished || g.size >= p.config.Bytes || len(g.gathered) > 0 && now.Sub(g.since) >= p.config.Age {
			if err := p.flush(ctx, g); err != nil {
				return err
			}
		}
		if len(g.stored) > 0 && now.Sub(g.told) >= recheck {
			if err := p.settle(ctx, g); err != nil {
				return err
			}
		}
		if g.idle() && now.Sub(g.used) > g.remembered() {
			delete(p.logs, log)
		}
	}
	return p.relieve(ctx)
}

// flush gives the sink what was gathered of a log, until it confirms, unless
// another shipper has finished the log meanwhile: what is put beside a finished
// log would stay there.
func (p *partition) flush(ctx context.Context, g *gathered) error {
	if !g.finished {
		if err := p.put(ctx, g); err != nil {
			return err
		}
	}
	for _, b := range g.gathered {
		p.hold(-b.lines, -b.size)
	}
	g.stored = append(g.stored, g.gathered...)
	g.lines, g.size, g.gathered = nil, 0, nil
	g.finished = g.finished || g.ended
	return p.settle(ctx, g)
}

func (p *partition) put(ctx context.Context, g *gathered) error {
	began := p.config.Now()
	err := p.patiently(ctx, g.log, func() error {
		if g.ended {
			return p.config.Sink.Finish(ctx, g.log, g.lines, g.next)
		}
		return p.config.Sink.Put(ctx, g.log, g.lines)
	})
	if err != nil {
		return err
	}
	if len(g.lines) > 0 {
		p.config.Counter.Shipped(len(g.lines), g.size, began.Sub(g.lines[0].Time))
	}
	return nil
}

// idle tells whether nothing of a log is waited for.
func (g *gathered) idle() bool {
	return len(g.gathered) == 0 && len(g.stored) == 0 && len(g.ahead) == 0
}

// remembered is how long the place of a log is remembered of which nothing comes.
func (g *gathered) remembered() time.Duration {
	if g.finished {
		return forgetEnded
	}
	return forget
}

// settle tells the source what is kept, and makes room in the stream.
//
// The order is what makes a death between any two steps harmless. What precedes
// the end of a log is purged after the server knows that it is kept: a batch that
// is gone and still owed would hold back what is known to be confirmed. The end
// itself is confirmed last: as long as it is not, it comes again, and whoever gets
// it purges again; nobody else ever would. Of a log that goes on, what is not
// purged now is with the next purge.
func (p *partition) settle(ctx context.Context, g *gathered) error {
	g.told = p.config.Now()
	if len(g.stored) == 0 {
		return nil
	}
	limited, cancel := context.WithTimeout(ctx, settling)
	defer cancel()
	before, ends := split(g.stored)
	// What was gathered since then is in no sink: purged, it could not come again.
	last := slices.MaxFunc(g.stored, func(a, b batch) int { return cmp.Compare(a.version, b.version) }).version
	err := p.tell(limited, before)
	if err == nil {
		err = p.source.Purge(limited, g.log, last)
	}
	if err == nil {
		err = p.tell(limited, ends)
	}
	if err == nil {
		g.stored = nil
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err != nil && !p.unsettled:
		p.unsettled = true
		p.config.Log.Warn().Err(err).Str("log", g.log.String()).Msg("cannot tell the stream of logs what is kept, or make room in it; trying until it works")
	case err == nil && p.unsettled:
		p.unsettled = false
		p.config.Log.Info().Str("log", g.log.String()).Msg("the stream of logs knows again what is kept")
	}
	return nil
}

// split parts batches from those that end their log.
func split(stored []batch) (before, ends []uint64) {
	for _, b := range stored {
		if b.end {
			ends = append(ends, b.version)
		} else {
			before = append(before, b.version)
		}
	}
	return before, ends
}

func (p *partition) tell(ctx context.Context, versions []uint64) error {
	if len(versions) == 0 {
		return nil
	}
	return p.source.Kept(ctx, versions)
}

// sinking is how long to wait between tries to reach the sink.
var sinking = retry.Policy{First: 200 * time.Millisecond, Most: 15 * time.Second} //nolint:gochecknoglobals // it never changes

func (p *partition) patiently(ctx context.Context, log logevent.Log, operation func() error) error {
	warned := false
	err := retry.Do(ctx, sinking, operation, func(err error, _ time.Duration) {
		p.config.Counter.SinkRetried()
		if !warned {
			warned = true
			p.config.Log.Warn().Err(err).Str("log", log.String()).Msg("the sink does not take lines, trying until it does; they stay in the stream")
		}
	})
	if warned && err == nil {
		p.config.Log.Info().Str("log", log.String()).Msg("the sink takes lines again")
	}
	return err
}

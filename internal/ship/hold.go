package ship

import (
	"cmp"
	"context"
	"slices"
	"sync/atomic"
	"time"
)

// lineBytes is about what a line takes in memory beside its text.
const lineBytes = 64

// weight is about what lines take in memory.
func weight(lines, bytes int) int { return bytes + lines*lineBytes }

// pool shares out the memory of a shipper. Half of it is parted evenly, so that
// no partition ever waits for another one's sink to have room for the batch
// that it needs; the other half is for those that have more to do. A partition
// looks after it has taken a batch, so that the bound may be passed by one batch
// for each.
type pool struct {
	share, common int64
	// used is how much of the common half is.
	used atomic.Int64
}

func newPool(bytes, partitions int) *pool {
	share := int64(bytes) / 2 / int64(partitions)
	return &pool{share: share, common: int64(bytes) - share*int64(partitions)}
}

// beyond is what a partition that holds so much takes of the common half.
func (s *pool) beyond(held int64) int64 { return max(0, held-s.share) }

// hold counts what is held in memory.
func (p *partition) hold(lines, bytes int) {
	p.lines += lines
	p.size += bytes
	before := p.held
	p.held += int64(weight(lines, bytes))
	p.pool.used.Add(p.pool.beyond(p.held) - p.pool.beyond(before))
	p.config.Counter.Buffered(lines, bytes)
}

// drop forgets everything.
func (p *partition) drop() { p.hold(-p.lines, -p.size) }

// over tells whether the partition has to hold less.
func (p *partition) over() bool {
	return p.held > p.pool.share && p.pool.used.Load() > p.pool.common
}

// relieve brings the partition back to what it may hold: it gives the sink what
// is gathered, and the source what cannot be given to the sink yet.
func (p *partition) relieve(ctx context.Context) error {
	for p.over() {
		largest := p.largest()
		if largest == nil {
			return p.giveBack(ctx)
		}
		if err := p.flush(ctx, largest); err != nil {
			return err
		}
	}
	return nil
}

// giveBack gives back what waits for lines that are elsewhere, the latest
// first, and half of the share stays. Those lines come before it in any case:
// they go to whoever is given it. It comes again, and would at once be given back
// again if nothing were waited for.
func (p *partition) giveBack(ctx context.Context) error {
	var ahead []Delivery
	for _, g := range p.logs {
		for _, d := range g.ahead {
			ahead = append(ahead, d)
		}
	}
	slices.SortFunc(ahead, func(a, b Delivery) int { return cmp.Compare(b.Version, a.Version) })
	var back []uint64
	// The earliest one stays: its log is asked for as long as it does.
	for i := 0; i < len(ahead)-1 && p.held > p.pool.share/2; i++ {
		d := ahead[i]
		delete(p.logs[d.Log].ahead, d.Version)
		p.hold(-len(d.Batch.Lines), -d.Size)
		back = append(back, d.Version)
	}
	p.source.GiveBack(back)
	select {
	case <-time.After(recheck):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// largest is the log of which most is gathered.
func (p *partition) largest() *gathered {
	var largest *gathered
	for _, g := range p.logs {
		if len(g.gathered) > 0 && (largest == nil || g.weight() > largest.weight()) {
			largest = g
		}
	}
	return largest
}

func (g *gathered) weight() int { return weight(len(g.lines), g.size) }

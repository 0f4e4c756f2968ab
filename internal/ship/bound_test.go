package ship_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/ship"
)

// server is a source that gives batches in their order, those first that come
// again, as the server does.
type server struct {
	mu    sync.Mutex
	given map[uint64]ship.Delivery
	again []ship.Delivery
	fresh []ship.Delivery
	kept  map[uint64]bool
	wake  chan struct{}
}

func newServer(fresh []ship.Delivery) *server {
	return &server{fresh: fresh, given: make(map[uint64]ship.Delivery), kept: make(map[uint64]bool), wake: make(chan struct{}, 1)}
}

func (s *server) take() (ship.Delivery, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	from := &s.again
	if len(*from) == 0 {
		from = &s.fresh
	}
	if len(*from) == 0 {
		return ship.Delivery{}, false
	}
	d := (*from)[0]
	*from = (*from)[1:]
	s.given[d.Version] = d
	return d, true
}

func (s *server) Next(ctx context.Context) (ship.Delivery, error) {
	for {
		if d, ok := s.take(); ok {
			return d, nil
		}
		select {
		case <-s.wake:
		case <-ctx.Done():
			return ship.Delivery{}, ctx.Err()
		}
	}
}

// redeliver has batches come again.
func (s *server) redeliver(some ...ship.Delivery) {
	s.mu.Lock()
	for _, d := range some {
		d.Again = true
		s.again = append(s.again, d)
	}
	slices.SortFunc(s.again, func(a, b ship.Delivery) int { return int(a.Version) - int(b.Version) })
	s.mu.Unlock()
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

func (s *server) GiveBack(versions []uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, version := range versions {
		d := s.given[version]
		time.AfterFunc(5*time.Second, func() { s.redeliver(d) })
	}
}

func (s *server) Kept(_ context.Context, versions []uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, version := range versions {
		s.kept[version] = true
	}
	return nil
}

func (s *server) confirmed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.kept)
}

func (*server) Confirmed(context.Context, uint64) (bool, error)   { return false, nil }
func (*server) Purge(context.Context, logevent.Log, uint64) error { return nil }

// gauge knows how much memory was held at most.
type gauge struct {
	counter
	mu        sync.Mutex
	now, most int
}

func (g *gauge) Buffered(lines, bytes int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.now += bytes + 64*lines
	g.most = max(g.most, g.now)
}

func (g *gauge) read() (now, most int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.now, g.most
}

// logSinks is a sink for each log.
type logSinks struct {
	mu   sync.Mutex
	down error
	logs map[logevent.Log]*sink
}

func (l *logSinks) of(log logevent.Log) *sink {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.logs[log] == nil {
		l.logs[log] = newSink()
	}
	l.logs[log].set(l.down)
	return l.logs[log]
}

func (l *logSinks) set(down error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.down = down
}

func (l *logSinks) Reached(ctx context.Context, log logevent.Log) (uint64, bool, error) {
	return l.of(log).Reached(ctx, log)
}

func (l *logSinks) Put(ctx context.Context, log logevent.Log, lines []logevent.Line) error {
	return l.of(log).Put(ctx, log, lines)
}

func (l *logSinks) Finish(ctx context.Context, log logevent.Log, lines []logevent.Line, next uint64) error {
	return l.of(log).Finish(ctx, log, lines, next)
}

const (
	batchLines  = 10
	batchWeight = batchLines * (100 + 64)
)

// batches are those of logs that write by turns, and their ends.
func batches(version uint64, logs []logevent.Log, each int) []ship.Delivery {
	var all []ship.Delivery
	for n := range each + 1 {
		for _, log := range logs {
			version++
			b := logevent.Batch{First: uint64(n*batchLines + 1), End: n == each}
			for i := range batchLines {
				if !b.End {
					b.Lines = append(b.Lines, logevent.Line{Seq: b.First + uint64(i), Time: time.Now(), Text: make([]byte, 100)})
				}
			}
			all = append(all, ship.Delivery{Log: log, Batch: b, Version: version, Size: 100 * len(b.Lines)})
		}
	}
	return all
}

func logsOf(partition, n int) []logevent.Log {
	var logs []logevent.Log
	for i := range n {
		logs = append(logs, logevent.Log{Queue: "default", Run: fmt.Sprint("r", partition), Attempt: 1, Pod: "p", Container: fmt.Sprint("c", i)})
	}
	return logs
}

// bounded ships partitions that share so much memory until the test calls what
// it returns.
func bounded(t *testing.T, to ship.Sink, most int, from ...*server) (*gauge, func()) {
	t.Helper()
	held := &gauge{}
	shipper, err := ship.New(ship.Config{
		Sink: to, Counter: held, Log: zerolog.Nop(), Bytes: most / 4, Age: time.Minute, MostBytes: most, Partitions: len(from), Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var running sync.WaitGroup
	for _, source := range from {
		running.Go(func() {
			if err := shipper.Run(ctx, source); !errors.Is(err, context.Canceled) {
				t.Errorf("it ended with %v", err)
			}
		})
	}
	return held, func() {
		cancel()
		running.Wait()
		if now, _ := held.read(); now != 0 {
			t.Errorf("%d bytes are held by nobody", now)
		}
	}
}

func (l *logSinks) check(t *testing.T, logs []logevent.Log, lines int) {
	t.Helper()
	for _, log := range logs {
		s := l.of(log)
		if !s.over() || len(s.kept) != lines {
			t.Errorf("%s: %d lines of %d, over %v", log, len(s.kept), lines, s.over())
		}
		for seq, n := range s.kept {
			if n != 1 {
				t.Errorf("%s: line %d is kept %d times", log, seq, n)
			}
		}
	}
}

func TestWhatIsHeldIsBoundedWhileTheSinkIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, partitions, each = 100 * batchWeight, 4, 200
		to := &logSinks{logs: make(map[logevent.Log]*sink)}
		to.set(errors.New("503"))
		var (
			from []*server
			logs []logevent.Log
		)
		for i := range partitions {
			some := logsOf(i, 30)
			logs = append(logs, some...)
			from = append(from, newServer(batches(0, some, each)))
		}
		held, stop := bounded(t, to, most, from...)
		defer stop()
		<-time.After(3 * time.Hour)
		synctest.Wait()
		// One batch for each partition is taken before it is looked at.
		now, highest := held.read()
		if highest > most+partitions*batchWeight || now < most/2 {
			t.Errorf("%d bytes are held, and %d were; the bound is %d", now, highest, most)
		}
		to.set(nil)
		<-time.After(10 * time.Minute)
		synctest.Wait()
		if _, highest := held.read(); highest > most+partitions*batchWeight {
			t.Errorf("%d bytes were held; the bound is %d", highest, most)
		}
		to.check(t, logs, each*batchLines)
	})
}

// The beginnings of all logs are with a shipper that died, and come only after
// far more than can be held: also the log whose batch is needed to make room
// gets it.
func TestWhatWaitsForItsBeginningIsBoundedAndNotStuck(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const most, each = 100 * batchWeight, 100
		to := &logSinks{logs: make(map[logevent.Log]*sink)}
		logs := logsOf(0, 20)
		all := batches(0, logs, each)
		early := len(all) / 10
		from := newServer(all[early:])
		held, stop := bounded(t, to, most, from)
		defer stop()
		<-time.After(15 * time.Second)
		synctest.Wait()
		if now, _ := held.read(); now == 0 || from.confirmed() > 0 {
			t.Errorf("%d bytes are held, %d batches confirmed", now, from.confirmed())
		}
		// One log's comes long after those of the others.
		var late []ship.Delivery
		for _, d := range all[:early] {
			if d.Log == logs[0] {
				late = append(late, d)
			} else {
				from.redeliver(d)
			}
		}
		<-time.After(10 * time.Minute)
		from.redeliver(late...)
		<-time.After(10 * time.Minute)
		synctest.Wait()
		if _, highest := held.read(); highest > most+batchWeight {
			t.Errorf("%d bytes were held; the bound is %d", highest, most)
		}
		to.check(t, logs, each*batchLines)
		if n := from.confirmed(); n != len(all) {
			t.Errorf("%d of %d batches are confirmed", n, len(all))
		}
	})
}

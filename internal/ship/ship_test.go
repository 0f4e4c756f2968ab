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

var log = logevent.Log{Queue: "default", Run: "r", Attempt: 1, Pod: "p", Container: "run"}

// sink keeps the sequences of lines.
type sink struct {
	mu       sync.Mutex
	puts     []string
	kept     map[uint64]int
	next     uint64
	finished bool
	broken   error
	reached  int
	// forgetful: it cannot tell how far a log is.
	forgetful bool
}

func newSink() *sink { return &sink{kept: make(map[uint64]int), next: 1} }

func (s *sink) Reached(context.Context, logevent.Log) (uint64, bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.reached++
	if s.forgetful {
		return 0, false, s.broken
	}
	return s.next, s.finished, s.broken
}

func (s *sink) Put(_ context.Context, _ logevent.Log, lines []logevent.Line) error {
	return s.keep("put", lines, false)
}

func (s *sink) Finish(_ context.Context, _ logevent.Log, lines []logevent.Line, next uint64) error {
	if n := len(lines); n > 0 && lines[n-1].Seq+1 != next {
		return fmt.Errorf("the end is said to be %d after line %d", next, lines[n-1].Seq)
	}
	return s.keep("finish", lines, true)
}

func (s *sink) keep(what string, lines []logevent.Line, end bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	for _, line := range lines {
		s.kept[line.Seq]++
		s.next = max(s.next, line.Seq+1)
	}
	if len(lines) > 0 {
		what += fmt.Sprintf(" %d-%d", lines[0].Seq, lines[len(lines)-1].Seq)
	}
	s.puts = append(s.puts, what)
	s.finished = end
	return nil
}

// did is what was asked of the sink.
func (s *sink) did() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.puts)
}

// asked is how often it was asked how far a log is.
func (s *sink) asked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.reached
}

// over tells whether the log is finished.
func (s *sink) over() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.finished
}

func (s *sink) set(broken error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.broken = broken
}

// source gives what is put into it, and notes what is kept.
type source struct {
	deliveries chan ship.Delivery
	mu         sync.Mutex
	kept       []uint64
	purged     uint64
	// deaf, if set, is what it says of what is kept.
	deaf error
	// floor is the version up to which all was confirmed.
	floor uint64
}

func newSource() *source { return &source{deliveries: make(chan ship.Delivery, 100)} }

func (s *source) Next(ctx context.Context) (ship.Delivery, error) {
	select {
	case d := <-s.deliveries:
		return d, nil
	case <-ctx.Done():
		return ship.Delivery{}, ctx.Err()
	}
}

func (s *source) Confirmed(_ context.Context, version uint64) (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return version <= s.floor, nil
}

func (s *source) Kept(_ context.Context, versions []uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.deaf != nil {
		return s.deaf
	}
	s.kept = append(s.kept, versions...)
	return nil
}

func (*source) GiveBack([]uint64) {}

func (s *source) Purge(_ context.Context, _ logevent.Log, version uint64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.purged = version
	return nil
}

// give delivers n lines from first on, whose version is first too; before them
// lay a batch with the version before.
func (s *source) give(first uint64, n int, end, again bool) { s.giveAfter(0, first, n, end, again) }

func (s *source) giveAfter(before, first uint64, n int, end, again bool) {
	batch := logevent.Batch{First: first, End: end}
	for i := range n {
		batch.Lines = append(batch.Lines, logevent.Line{Seq: first + uint64(i), Time: time.Now(), Text: []byte("0123456789")})
	}
	s.deliveries <- ship.Delivery{Log: log, Batch: batch, Version: first, Before: before, Again: again, Size: 10 * n}
}

func (s *source) confirmed() []uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.kept)
}

type counter struct{}

func (counter) Shipped(int, int, time.Duration) {}
func (counter) SinkRetried()                    {}
func (counter) Buffered(int, int)               {}

// running ships from a source to a sink until the returned function is called.
func running(t *testing.T, to *sink, from *source) (stop func()) {
	t.Helper()
	shipper, err := ship.New(ship.Config{
		Sink: to, Counter: counter{}, Log: zerolog.Nop(), Bytes: 1000, Age: 10 * time.Second, MostBytes: 1 << 20, Partitions: 1, Now: time.Now,
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- shipper.Run(ctx, from) }()
	return func() {
		cancel()
		if err := <-done; !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
	}
}

func TestASmallLogIsOnePutAndNoQuestion(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, from := newSink(), newSource()
		defer running(t, to, from)()
		from.give(1, 5, false, false)
		from.give(6, 5, false, false)
		from.give(11, 0, true, false)
		synctest.Wait()
		if !slices.Equal(to.did(), []string{"finish 1-10"}) || to.asked() != 0 || !slices.Equal(from.confirmed(), []uint64{1, 6, 11}) || from.purged != 11 {
			t.Errorf("%v, %d questions, confirmed %v, purged to %d", to.did(), to.asked(), from.confirmed(), from.purged)
		}
	})
}

func TestSizeAndAgeSendWhatWasGathered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, from := newSink(), newSource()
		defer running(t, to, from)()
		from.give(1, 150, false, false)
		from.give(151, 10, false, false)
		synctest.Wait()
		if !slices.Equal(to.did(), []string{"put 1-150"}) {
			t.Errorf("by size: %v", to.did())
		}
		<-time.After(11 * time.Second)
		synctest.Wait()
		if !slices.Equal(to.did(), []string{"put 1-150", "put 151-160"}) {
			t.Errorf("by age: %v", to.did())
		}
	})
}

func TestNothingIsConfirmedWhileTheSinkIsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, from := newSink(), newSource()
		defer running(t, to, from)()
		to.set(errors.New("503"))
		from.give(1, 200, true, false)
		<-time.After(3 * time.Hour)
		synctest.Wait()
		if kept := from.confirmed(); len(kept) != 0 {
			t.Errorf("confirmed %v", kept)
		}
		to.set(nil)
		<-time.After(time.Minute)
		synctest.Wait()
		if kept := from.confirmed(); !slices.Equal(kept, []uint64{1}) || !to.over() {
			t.Errorf("confirmed %v, finished %v", kept, to.over())
		}
	})
}

// What is told later is told of what the sink has, not of what came meanwhile:
// that would be nowhere any more if we died now.
func TestWhatIsInNoSinkIsNotRemoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, from := newSink(), newSource()
		defer running(t, to, from)()
		from.deaf = errors.New("no answer")
		from.give(1, 150, false, false)
		synctest.Wait()
		from.mu.Lock()
		from.deaf = nil
		from.mu.Unlock()
		from.give(151, 5, false, false)
		<-time.After(5 * time.Second)
		synctest.Wait()
		from.mu.Lock()
		defer from.mu.Unlock()
		if !slices.Equal(to.did(), []string{"put 1-150"}) || !slices.Equal(from.kept, []uint64{1}) || from.purged != 1 {
			t.Errorf("%v, confirmed %v, purged to %d", to.did(), from.kept, from.purged)
		}
	})
}

// A shipper died after writing lines 1 to 10 and before saying so: they come
// again, after newer ones, and cut differently.
func TestWhoTakesOverKeepsEachLineOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, from := newSink(), newSource()
		if err := to.keep("put", []logevent.Line{{Seq: 1}, {Seq: 2}, {Seq: 3}, {Seq: 4}, {Seq: 5}}, false); err != nil {
			t.Fatal(err)
		}
		defer running(t, to, from)()
		from.give(9, 4, false, false)
		<-time.After(15 * time.Second)
		synctest.Wait()
		if len(from.confirmed()) != 0 {
			t.Errorf("confirmed %v before the lines that precede them", from.confirmed())
		}
		from.give(1, 5, false, true)
		from.give(6, 3, false, true)
		from.give(13, 0, true, false)
		<-time.After(11 * time.Second)
		synctest.Wait()
		for seq := uint64(1); seq <= 12; seq++ {
			if to.kept[seq] != 1 {
				t.Errorf("line %d is kept %d times", seq, to.kept[seq])
			}
		}
		if kept := from.confirmed(); len(kept) != 4 || !to.over() {
			t.Errorf("confirmed %v, finished %v", kept, to.over())
		}
		// And what comes again after the end is confirmed at once.
		from.give(6, 3, false, true)
		synctest.Wait()
		if kept := from.confirmed(); len(kept) != 5 || len(to.kept) != 12 {
			t.Errorf("confirmed %v, kept %d lines", kept, len(to.kept))
		}
	})
}

// The sink cannot tell what it has. Lines 1 to 10 were confirmed, 11 to 20 were
// not, and come again after newer ones.
func TestOfASinkThatCannotTellTheSourceKnowsWhatWasConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, from := newSink(), newSource()
		to.forgetful, from.floor = true, 1
		defer running(t, to, from)()
		from.giveAfter(11, 21, 5, false, false)
		<-time.After(15 * time.Second)
		synctest.Wait()
		if len(to.did()) != 0 {
			t.Errorf("%v before the lines that precede them", to.did())
		}
		from.giveAfter(1, 11, 10, false, true)
		from.giveAfter(21, 26, 0, true, false)
		<-time.After(11 * time.Second)
		synctest.Wait()
		if !slices.Equal(to.did(), []string{"finish 11-25"}) || len(from.confirmed()) != 3 {
			t.Errorf("%v, confirmed %v", to.did(), from.confirmed())
		}
	})
}

// It is confirmed while we wait: by a shipper that was taken for dead.
func TestOfASinkThatCannotTellAShipperDoesNotWaitForWhatIsConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, from := newSink(), newSource()
		to.forgetful = true
		defer running(t, to, from)()
		from.giveAfter(11, 21, 5, false, false)
		<-time.After(5 * time.Second)
		synctest.Wait()
		from.mu.Lock()
		from.floor = 11
		from.mu.Unlock()
		<-time.After(15 * time.Second)
		synctest.Wait()
		if !slices.Equal(to.did(), []string{"put 21-25"}) {
			t.Errorf("%v", to.did())
		}
	})
}

// A shipper that was taken for dead writes lines 1 to 10 while we hold 1 to 5 of
// them: what we write must not look as if it had 6 to 10.
func TestLinesThatAnotherShipperKeptMeanwhileLeaveNoHole(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, from := newSink(), newSource()
		defer running(t, to, from)()
		from.give(1, 5, false, true)
		synctest.Wait()
		if err := to.keep("put", []logevent.Line{{Seq: 1}, {Seq: 10}}, false); err != nil {
			t.Fatal(err)
		}
		from.give(11, 5, false, false)
		<-time.After(20 * time.Second)
		synctest.Wait()
		if !slices.Equal(to.did(), []string{"put 1-10", "put 11-15"}) || !slices.Equal(from.confirmed(), []uint64{1, 11}) {
			t.Errorf("%v, confirmed %v", to.did(), from.confirmed())
		}
	})
}

// Two batches begin at the same line when one of them has none: both are held,
// and both are confirmed.
func TestBatchesThatBeginAlikeAreBothConfirmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, from := newSink(), newSource()
		defer running(t, to, from)()
		for version, batch := range map[uint64]logevent.Batch{
			20: {First: 6}, 21: {First: 6, Lines: []logevent.Line{{Seq: 6}}}, 22: {First: 7, End: true},
		} {
			from.deliveries <- ship.Delivery{Log: log, Batch: batch, Version: version}
		}
		synctest.Wait()
		from.give(1, 5, false, true)
		<-time.After(15 * time.Second)
		synctest.Wait()
		if kept := from.confirmed(); len(kept) != 4 || !to.over() || len(to.kept) != 6 {
			t.Errorf("confirmed %v, finished %v, %d lines", kept, to.over(), len(to.kept))
		}
	})
}

// While we hold the last lines of a log, a shipper that was taken for dead
// finishes it.
func TestNothingIsPutBesideALogThatIsFinished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		to, from := newSink(), newSource()
		defer running(t, to, from)()
		from.give(1, 5, false, false)
		synctest.Wait()
		if err := to.keep("finish", []logevent.Line{{Seq: 1}, {Seq: 5}}, true); err != nil {
			t.Fatal(err)
		}
		from.give(9, 1, false, true) // has the sink asked
		<-time.After(15 * time.Second)
		synctest.Wait()
		if !slices.Equal(to.did(), []string{"finish 1-5"}) || len(from.confirmed()) == 0 {
			t.Errorf("%v, confirmed %v", to.did(), from.confirmed())
		}
	})
}

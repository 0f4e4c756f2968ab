package logfollow_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logfollow"
)

// stream is the stream of one log, in memory.
type stream struct {
	mu      sync.Mutex
	batches []logevent.Batch
	flaky   func() error // what a publish answers that was stored all the same
	refuse  func() error // what a publish answers that was not stored
	full    bool
	last    time.Time // when the last batch came
}

func (s *stream) Place(context.Context, logevent.Log) (logevent.Place, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.batches) == 0 {
		return logevent.Place{Next: 1}, nil
	}
	last := s.batches[len(s.batches)-1]
	return logevent.Place{Version: uint64(len(s.batches)), Next: last.Next(), Reached: last.Reached, Ended: last.End, At: s.last}, nil
}

func (s *stream) Publish(ctx context.Context, _ logevent.Log, data []byte, version uint64, end bool) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ctx.Err() != nil {
		return 0, ctx.Err()
	}
	if s.refuse != nil {
		if err := s.refuse(); err != nil {
			return 0, err
		}
	}
	if version != uint64(len(s.batches)) {
		if version < uint64(len(s.batches)) && bytes.Equal(s.batches[len(s.batches)-1].Encode(), data) {
			return uint64(len(s.batches)), nil
		}
		return 0, logevent.ErrOvertaken
	}
	batch, err := logevent.Decode(data)
	if err != nil || batch.End != end {
		return 0, fmt.Errorf("a batch that is none: %w", err)
	}
	s.batches, s.last = append(s.batches, batch), time.Now()
	if s.flaky != nil {
		if err := s.flaky(); err != nil {
			return 0, err
		}
	}
	return uint64(len(s.batches)), nil
}

func (s *stream) Unended(_ context.Context, quiet time.Duration, found func(logevent.Log)) error {
	s.mu.Lock()
	full, n := s.full, len(s.batches)
	unended := n > 0 && !s.batches[n-1].End && time.Since(s.last) >= quiet
	s.mu.Unlock()
	if full {
		return logevent.ErrFull
	}
	if unended {
		found(theLog)
	}
	return nil
}

// text is the log as the stream has it, and how many of its lines are gaps.
func (s *stream) text(t *testing.T) (text string, gaps int) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	var all strings.Builder
	next := uint64(1)
	for i, batch := range s.batches {
		if batch.First != next {
			t.Fatalf("batch %d begins with line %d; want %d", i, batch.First, next)
		}
		next = batch.Next()
		if batch.End != (i == len(s.batches)-1) {
			t.Fatalf("batch %d of %d: end is %v", i, len(s.batches), batch.End)
		}
		for _, line := range batch.Lines {
			switch {
			case line.Flags&logevent.Gap != 0:
				gaps++
			case line.Flags&(logevent.Partial|logevent.Unended) != 0:
				all.Write(line.Text)
			default:
				all.Write(append(slices.Clone(line.Text), '\n'))
			}
			if len(line.Text) > logevent.MaxText {
				t.Fatalf("a line has %d bytes", len(line.Text))
			}
		}
	}
	return all.String(), gaps
}

// record is a line of a source, or a part of one that the next record goes on
// with.
type record struct {
	at   time.Time
	text string // with its newline
}

// source is a log that is written while it is read, and whose connections break.
type source struct {
	mu      sync.Mutex
	records []record
	gone    int // records that were rotated away
	ended   bool
	removed bool
	changed chan struct{}
	more    chan struct{}
	breaks  func() (afterBytes int, err error) // a negative number is never
	opened  int
}

func newSource() *source {
	return &source{changed: make(chan struct{}), more: make(chan struct{}), breaks: func() (int, error) { return -1, nil }}
}

func (s *source) write(records ...record) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.records = append(s.records, records...)
	close(s.more)
	s.more = make(chan struct{})
}

func (s *source) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	close(s.changed)
	close(s.more)
}

func (s *source) Ended() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ended
}

func (s *source) Changed() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changed
}

func (s *source) Open(ctx context.Context, since time.Time, follow bool) (io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.opened++
	if s.removed {
		return nil, logevent.ErrGone
	}
	left, err := s.breaks()
	return &connection{ctx: ctx, source: s, since: since.Truncate(time.Second), follow: follow, next: s.gone, left: left, breaks: err}, nil
}

// connection is one reading of a source.
type connection struct {
	ctx    context.Context //nolint:containedctx // a reader has no other way to be interrupted
	source *source
	since  time.Time
	follow bool
	next   int
	// within: the record before was a part of a line.
	within bool
	rest   string
	left   int
	breaks error
}

func (c *connection) Close() error { return nil }

func (c *connection) Read(into []byte) (int, error) {
	for {
		if c.ctx.Err() != nil {
			return 0, c.ctx.Err()
		}
		if c.left == 0 {
			if c.breaks == nil { // silent
				<-c.ctx.Done()
				return 0, c.ctx.Err()
			}
			return 0, c.breaks
		}
		if c.rest != "" {
			size := len(into)
			if c.left > 0 {
				size = min(size, c.left)
			}
			n := copy(into[:size], c.rest)
			c.rest = c.rest[n:]
			if c.left > 0 {
				c.left -= n
			}
			return n, nil
		}
		c.source.mu.Lock()
		more, ended := c.source.more, c.source.ended
		for c.rest == "" && c.next < len(c.source.records) {
			// As a kubelet does it: what is too old is left out, and a part of a
			// line has no time before it even if the line's beginning is left out.
			r := c.source.records[c.next]
			if !r.at.Before(c.since) {
				if !c.within {
					c.rest = r.at.Format("2006-01-02T15:04:05.000000000Z07:00") + " "
				}
				c.rest += r.text
			}
			c.within = !strings.HasSuffix(r.text, "\n")
			c.next++
		}
		c.source.mu.Unlock()
		switch {
		case c.rest != "":
		case !c.follow || ended:
			return 0, io.EOF
		default:
			select {
			case <-more:
			case <-c.ctx.Done():
				return 0, c.ctx.Err()
			}
		}
	}
}

type counter struct {
	mu          sync.Mutex
	lost        []string
	waiting     int
	everWaiting bool
}

func (c *counter) Followed(int, int) {}
func (c *counter) Lost(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost = append(c.lost, reason)
}

// gaps are the reasons that were counted so far.
func (c *counter) gaps() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.lost)
}

func (c *counter) Waiting(delta int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.waiting += delta
	c.everWaiting = true
}

var theLog = logevent.Log{Queue: "default", Run: "r", Attempt: 1, Pod: "p", Container: "run"}

func follower(t *testing.T, to logfollow.Stream, counts *counter) *logfollow.Follower {
	t.Helper()
	f, err := logfollow.New(logfollow.Config{Stream: to, Counter: counts, Log: zerolog.Nop(), Silence: 10 * time.Second})
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// randomRecords has many lines that share a timestamp, lines that are a little
// older than the one before, long ones, empty ones, ones that are written slowly
// in parts, and bytes of all kinds.
func randomRecords(random *rand.Rand, n int) []record {
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	var records []record
	for i := range n {
		switch random.IntN(4) {
		case 0:
			at = at.Add(time.Duration(random.Int64N(int64(400 * time.Millisecond))))
		case 1:
			at = at.Add(time.Duration(random.Int64N(1000)))
		}
		text := make([]byte, random.IntN(60))
		for j := range text {
			if text[j] = byte(random.UintN(256)); text[j] == '\n' {
				text[j] = 'n'
			}
		}
		if random.IntN(100) == 0 {
			text = bytes.Repeat([]byte("äö€"), random.IntN(60_000))
		}
		when := at
		if random.IntN(20) == 0 && len(records) > 0 {
			when = at.Add(-time.Duration(1 + random.Int64N(int64(time.Second))))
		}
		if random.IntN(15) == 0 {
			for part := range 1 + random.IntN(6) {
				records = append(records, record{when, fmt.Sprintf("%d.%d %s", i, part, strings.Repeat("=", random.IntN(40_000)))})
				at = at.Add(time.Duration(random.Int64N(int64(2 * time.Second))))
				when = at
			}
		}
		records = append(records, record{when, fmt.Sprintf("%d %s\n", i, text)})
	}
	return records
}

func written(records []record) string {
	var all strings.Builder
	for _, r := range records {
		all.WriteString(r.text)
	}
	return all.String()
}

// Connections break at any byte, with an error, with what looks like an end, or
// by falling silent; followers are killed at any time, and two may be at it at
// once; answers to publishes are lost.
func TestEveryLineOnceInOrderWhateverBreaks(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random := rand.New(rand.NewPCG(seed, 1))
				records := randomRecords(random, 300)
				if seed%3 == 0 {
					last := &records[len(records)-1]
					last.text = strings.TrimSuffix(last.text, "\n")
				}
				from, to := newSource(), &stream{}
				var mu sync.Mutex
				chance := func(n int) bool { mu.Lock(); defer mu.Unlock(); return random.IntN(n) == 0 }
				from.breaks = func() (int, error) {
					if chance(4) {
						return -1, nil
					}
					mu.Lock()
					defer mu.Unlock()
					return random.IntN(400_000), []error{nil, io.EOF, io.ErrUnexpectedEOF}[random.IntN(3)]
				}
				to.flaky = func() error {
					if chance(10) {
						return errors.New("the answer is lost")
					}
					return nil
				}
				go func() {
					for part := range slices.Chunk(records, 50) {
						from.write(part...)
						<-time.After(time.Second)
					}
					from.end()
				}()
				counts := &counter{}
				f := follower(t, to, counts)
				var both sync.WaitGroup
				for range 2 {
					both.Go(func() {
						for {
							ctx, cancel := context.WithCancel(t.Context())
							mu.Lock()
							life := time.Duration(random.Int64N(int64(40 * time.Second)))
							mu.Unlock()
							killed := time.AfterFunc(life, cancel)
							err := f.Follow(ctx, theLog, from)
							killed.Stop()
							cancel()
							if err == nil {
								return
							}
							if !errors.Is(err, context.Canceled) && !errors.Is(err, logevent.ErrOvertaken) {
								t.Errorf("follow: %v", err)
								return
							}
							<-time.After(time.Second)
						}
					})
				}
				both.Wait()
				got, gaps := to.text(t)
				if gaps != 0 {
					t.Errorf("%d gaps, %v", gaps, counts.lost)
				}
				if want := written(records); got != want {
					at := 0
					for at < min(len(got), len(want)) && got[at] == want[at] {
						at++
					}
					t.Errorf("%d bytes instead of %d, different from byte %d: got %.80q, want %.80q", len(got), len(want), at, got[at:], want[at:])
				}
			})
		})
	}
}

func line(second int, text string) record {
	return record{time.Date(2026, 1, 1, 0, 0, second, 7, time.UTC), text + "\n"}
}

func TestALineIsPublishedSoonAndTheEndComesLast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := newSource(), &stream{}
		done := make(chan error)
		go func() { done <- follower(t, to, &counter{}).Follow(t.Context(), theLog, from) }()
		synctest.Wait()
		from.write(line(1, "hello"))
		<-time.After(30 * time.Millisecond)
		if place, err := to.Place(t.Context(), theLog); err != nil || place.Next != 2 || place.Ended {
			t.Errorf("after 30 ms the stream is at %+v, %v", place, err)
		}
		from.end()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if text, _ := to.text(t); text != "hello\n" {
			t.Errorf("%q", text)
		}
		// And whoever comes later finds nothing to do.
		opened := from.opened
		if err := follower(t, to, &counter{}).Follow(t.Context(), theLog, from); err != nil || from.opened != opened {
			t.Errorf("%v; it was opened %d times more", err, from.opened-opened)
		}
	})
}

func TestAFullStreamHoldsTheReaderBackAndTheReadingOutlivesThePod(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to, counts := newSource(), &stream{}, &counter{}
		full := true
		to.refuse = func() error {
			if full {
				return logevent.ErrFull
			}
			return nil
		}
		var records []record
		for i := range 100_000 {
			records = append(records, line(i/1000, fmt.Sprint("line ", i, strings.Repeat(".", 100))))
		}
		from.write(records...)
		from.end()
		done := make(chan error)
		go func() { done <- follower(t, to, counts).Follow(t.Context(), theLog, from) }()
		<-time.After(3 * time.Hour)
		if counts.waiting != 1 {
			t.Errorf("%d wait", counts.waiting)
		}
		// What is being read is all that is left of it.
		from.mu.Lock()
		from.removed = true
		from.mu.Unlock()
		to.mu.Lock()
		full = false
		to.mu.Unlock()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if text, gaps := to.text(t); text != written(records) || gaps != 1 {
			t.Errorf("%d bytes of %d and %d gaps", len(text), len(written(records)), gaps)
		}
		if counts.waiting != 0 || !slices.Equal(counts.lost, []string{logfollow.LostGone}) {
			t.Errorf("%+v", counts)
		}
	})
}

func TestWhatTheNodeLostIsWrittenDown(t *testing.T) {
	for name, test := range map[string]struct {
		lose func(*source)
		want string
		why  string
	}{
		"the file was rotated while nobody followed": {
			lose: func(s *source) { s.write(line(100, "e"), line(101, "f")); s.gone = 5; s.end() },
			want: "a\nb\nc\nf\n", why: logfollow.LostRotated,
		},
		"the file was rotated away and nothing is left": {
			lose: func(s *source) { s.gone = 3; s.end() },
			want: "a\nb\nc\n", why: logfollow.LostRotated,
		},
		"the pod was removed": {
			lose: func(s *source) { s.removed = true; s.end() },
			want: "a\nb\nc\n", why: logfollow.LostGone,
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				from, to, counts := newSource(), &stream{}, &counter{}
				from.write(line(1, "a"), line(1, "b"), line(2, "c"))
				ctx, kill := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- follower(t, to, counts).Follow(ctx, theLog, from) }()
				<-time.After(time.Second)
				kill()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Errorf("killed: %v", err)
				}
				if name == "the file was rotated while nobody followed" {
					from.write(line(50, "d"))
				}
				test.lose(from)
				if err := follower(t, to, counts).Follow(t.Context(), theLog, from); err != nil {
					t.Fatal(err)
				}
				if text, gaps := to.text(t); text != test.want || gaps != 1 {
					t.Errorf("%q with %d gaps", text, gaps)
				}
				if !slices.Equal(counts.lost, []string{test.why}) {
					t.Errorf("counted %v", counts.lost)
				}
			})
		})
	}
}

// A progress bar is one long line that is written for minutes, in parts. An
// answer from a time on begins within it.
func TestAnAnswerMayBeginWithinALineThatIsKnown(t *testing.T) {
	part := func(second int) record {
		return record{line(second, "").at, strings.Repeat(fmt.Sprint(second, " "), 8<<10)}
	}
	for name, before := range map[string][]record{
		"long":                       {line(1, "a"), part(2), part(4), part(6), part(8), line(10, "100 %"), line(11, "b")},
		"short":                      {line(1, "a"), part(2), line(10, ""), line(11, "b")},
		"as if it began with a time": {line(1, "a"), part(2), record{line(10, "").at, line(10, "").at.Format(time.RFC3339Nano) + " \n"}, line(11, "b")},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				from, to, counts := newSource(), &stream{}, &counter{}
				from.write(before...)
				ctx, kill := context.WithCancel(t.Context())
				done := make(chan error)
				go func() { done <- follower(t, to, counts).Follow(ctx, theLog, from) }()
				<-time.After(time.Second)
				kill()
				if err := <-done; !errors.Is(err, context.Canceled) {
					t.Errorf("killed: %v", err)
				}
				after := []record{line(12, "c"), part(13), part(20), line(21, "100 %")}
				go func() { done <- follower(t, to, counts).Follow(t.Context(), theLog, from) }()
				<-time.After(time.Minute)
				from.write(after...)
				<-time.After(time.Minute)
				from.end()
				if err := <-done; err != nil {
					t.Fatal(err)
				}
				if text, gaps := to.text(t); text != written(append(before, after...)) || gaps != 0 {
					t.Errorf("%d bytes instead of %d, and %d gaps", len(text), len(written(append(before, after...))), gaps)
				}
			})
		})
	}
}

func TestTheLastLineMayLackItsNewline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		from, to := newSource(), &stream{}
		from.write(line(1, "a"), record{line(2, "").at, "no newline"})
		from.end()
		if err := follower(t, to, &counter{}).Follow(t.Context(), theLog, from); err != nil {
			t.Fatal(err)
		}
		if text, _ := to.text(t); text != "a\nno newline" {
			t.Errorf("%q", text)
		}
	})
}

package logread_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/archive"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logread"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/sink/file"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestMain(m *testing.M) { natstest.VerifyTestMain(m) }

// archived and streamed join the reader to real ones, as the commands do.
type (
	archived struct {
		kept *archive.Archive
		lag  time.Duration
		// hidden, if it is set, hides what it says from readers.
		hidden func() bool
	}
	streamed struct{ stream *logstream.Stream }
)

func (a *archived) Logs(ctx context.Context, runID string) (map[logevent.Log]bool, error) {
	stored, err := a.kept.Logs(ctx, runID, time.Time{})
	logs := make(map[logevent.Log]bool)
	for _, s := range stored {
		logs[s.Log] = s.Whole
	}
	return logs, err
}

func (a *archived) Read(ctx context.Context, log logevent.Log, from uint64, take func(logevent.Line) bool) (uint64, bool, error) {
	if a.hidden != nil && a.hidden() {
		return from, false, nil
	}
	return a.kept.Read(ctx, log, from, take)
}

func (a *archived) Lag() time.Duration { return a.lag }

func (s streamed) Read(ctx context.Context, runID string, idle func() bool, take func(logevent.Log, logevent.Batch, bool) bool) error {
	return s.stream.Read(ctx, runID, idle, func(a logstream.Arrival) bool { return take(a.Log, a.Batch, a.Live) })
}

// pipeline is a stream and an archive, and one log that moves from one to the
// other.
type pipeline struct {
	t       *testing.T
	stream  *logstream.Stream
	archive *archived
	log     logevent.Log
	// next and version are the writer's, moved is how far the shipper is.
	next, version uint64
	written       []logevent.Line
	versions      []uint64 // by batch
	ends          []uint64 // the sequence after each batch
	moved         int      // batches
}

func newPipeline(t *testing.T) *pipeline {
	t.Helper()
	_, js := natstest.Start(t)
	stream, err := logstream.Create(t.Context(), js, logstream.Config{MaxBytes: -1, Replicas: 1})
	if err != nil {
		t.Fatal(err)
	}
	folder, err := file.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	kept, err := archive.New(folder)
	if err != nil {
		t.Fatal(err)
	}
	return &pipeline{
		t: t, stream: stream, archive: &archived{kept: kept}, next: 1,
		log: logevent.Log{Queue: "default", Run: "r", Attempt: 1, Pod: "p", Container: "run"},
	}
}

// write puts lines on the stream, or the end of the log.
func (p *pipeline) write(n int, end bool) {
	p.t.Helper()
	batch := logevent.Batch{First: p.next, End: end}
	for range n {
		batch.Lines = append(batch.Lines, logevent.Line{Seq: p.next, Time: time.Unix(int64(p.next/10), 0).UTC(), Text: fmt.Append(nil, p.next)})
		p.next++
	}
	p.written = append(p.written, batch.Lines...)
	var err error
	if p.version, err = p.stream.Publish(p.t.Context(), p.log, batch.Encode(), p.version, end); err != nil {
		p.t.Error(err)
		return
	}
	p.versions, p.ends = append(p.versions, p.version), append(p.ends, p.next)
}

// move takes so many batches from the stream to the archive, as a shipper does.
func (p *pipeline) move(batches int, end bool) {
	p.t.Helper()
	to := min(p.moved+batches, len(p.versions))
	if to == p.moved {
		return
	}
	from := uint64(1)
	if p.moved > 0 {
		from = p.ends[p.moved-1]
	}
	lines := p.written[from-1 : p.ends[to-1]-1]
	var err error
	if end {
		err = p.archive.kept.Finish(p.t.Context(), p.log, lines, p.ends[to-1])
	} else {
		err = p.archive.kept.Put(p.t.Context(), p.log, lines)
	}
	if err == nil {
		err = p.stream.Purge(p.t.Context(), p.log, p.versions[to-1])
	}
	if err != nil {
		p.t.Error(err)
	}
	p.moved = to
}

// expect tells what is wrong with what a reader has seen.
func expect(lines []uint64, last uint64) error {
	for i, seq := range lines {
		if seq != uint64(i)+1 {
			return fmt.Errorf("line %d stands where %d belongs", seq, i+1)
		}
	}
	if len(lines) != int(last) {
		return fmt.Errorf("%d lines; want %d", len(lines), last)
	}
	return nil
}

// Readers begin at any time, and follow, while what they read moves from the
// stream to the archive under them, and there from chunks to one object.
func TestAReaderSeesNoSeam(t *testing.T) {
	p := newPipeline(t)
	const batches, size = 120, 25
	var over bool
	var mu sync.Mutex
	var readers sync.WaitGroup
	ctx := wait.Context(t, "every reader to see the whole log")
	read := func(name string) {
		readers.Go(func() {
			var lines []uint64
			err := logread.New(p.archive, streamed{p.stream}).Read(ctx, logread.Query{
				Run: "r", Follow: true,
				Over: func(context.Context, []logevent.Log) (bool, error) {
					mu.Lock()
					defer mu.Unlock()
					return over, nil
				},
			}, func(line logread.Line) error {
				if string(line.Text) != fmt.Sprint(line.Seq) {
					return fmt.Errorf("line %d is %s", line.Seq, line.Text)
				}
				lines = append(lines, line.Seq)
				return nil
			})
			if err = errors.Join(err, expect(lines, batches*size)); err != nil {
				t.Errorf("reader %s: %v", name, err)
			}
		})
	}
	for i := range batches {
		if i%20 == 0 {
			read(fmt.Sprint(i))
		}
		p.write(size, false)
		if rand.IntN(3) == 0 {
			p.move(rand.IntN(6), false)
		}
	}
	p.write(0, true)
	read("at the end")
	p.move(batches+1, true)
	mu.Lock()
	over = true
	mu.Unlock()
	read("after the end")
	readers.Wait()
}

func TestWithoutFollowingAReaderEndsWithWhatIsThere(t *testing.T) {
	p := newPipeline(t)
	for range 5 {
		p.write(10, false)
	}
	p.move(3, false)
	for name, test := range map[string]struct {
		reader *logread.Reader
		want   uint64
	}{
		"both":         {logread.New(p.archive, streamed{p.stream}), 50},
		"archive only": {logread.New(p.archive, nil), 30},
	} {
		var lines []uint64
		err := test.reader.Read(t.Context(), logread.Query{Run: "r"}, func(line logread.Line) error {
			lines = append(lines, line.Seq)
			return nil
		})
		if err = errors.Join(err, expect(lines, test.want)); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	var recent []string
	err := logread.New(p.archive, streamed{p.stream}).Read(t.Context(), logread.Query{
		Run: "r", Since: time.Unix(4, 0), Wanted: func(log logevent.Log) bool { return log.Container == "run" },
	}, func(line logread.Line) error {
		recent = append(recent, string(line.Text))
		return nil
	})
	if err != nil || strings.Join(recent, " ") != "40 41 42 43 44 45 46 47 48 49 50" {
		t.Errorf("since then: %v, %v", recent, err)
	}
}

// An archive that shows late what it has confirmed is waited for, and not longer
// than it says.
func TestAnArchiveMayLagBehind(t *testing.T) {
	p := newPipeline(t)
	p.write(10, false)
	p.write(10, false)
	p.write(10, false)
	p.move(2, false)
	asked := 0
	p.archive.hidden = func() bool { asked++; return asked < 3 }
	for _, test := range []struct {
		lag  time.Duration
		want int
	}{{time.Hour, 30}, {0, 20}} {
		asked, p.archive.lag = 0, test.lag
		lines := 0
		err := logread.New(p.archive, streamed{p.stream}).Read(t.Context(), logread.Query{Run: "r"}, func(logread.Line) error {
			lines++
			return nil
		})
		if err != nil || lines != test.want {
			t.Errorf("with a lag of %s: %d lines, %v; want %d", test.lag, lines, err, test.want)
		}
	}
}

// lasting is an archive that can tell where a log ends, and counts what is read
// of it.
type lasting struct {
	*archived
	read int
}

func (l *lasting) Last(ctx context.Context, log logevent.Log) (uint64, error) {
	return l.kept.Last(ctx, log)
}

func (l *lasting) Read(ctx context.Context, log logevent.Log, from uint64, take func(logevent.Line) bool) (uint64, bool, error) {
	return l.archived.Read(ctx, log, from, func(line logevent.Line) bool {
		l.read++
		return take(line)
	})
}

func TestForTheLastLinesNoMoreAreRead(t *testing.T) {
	p := newPipeline(t)
	p.write(100, false)
	p.write(50, true)
	p.move(2, true)
	for name, test := range map[string]struct {
		query logread.Query
		want  int
	}{
		"all":                           {logread.Query{}, 150},
		"the last ten":                  {logread.Query{Tail: 10}, 10},
		"more than there are":           {logread.Query{Tail: 1000}, 150},
		"the last ten of what is newer": {logread.Query{Tail: 10, Since: time.Unix(1, 0)}, 150},
	} {
		kept := &lasting{archived: p.archive}
		test.query.Run = p.log.Run
		last := uint64(0)
		err := logread.New(kept, streamed{p.stream}).Read(t.Context(), test.query, func(line logread.Line) error {
			last = line.Seq
			return nil
		})
		if err != nil || kept.read != test.want || last != 150 {
			t.Errorf("%s: %d lines were read, the last is %d, %v; want %d", name, kept.read, last, err, test.want)
		}
	}
}

package logask_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/logask"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logread"
	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

var first = logevent.Log{Run: "r1", Attempt: 1, Pod: "p1", Container: "run"}

// held is a source that holds lines in memory.
type held struct {
	lines map[logevent.Log][]logevent.Line
	err   error
}

func (h held) Logs(context.Context, string) (map[logevent.Log]bool, error) {
	logs := map[logevent.Log]bool{}
	for log := range h.lines {
		logs[log] = true
	}
	return logs, nil
}

func (h held) Last(_ context.Context, log logevent.Log) (uint64, error) {
	all := h.lines[log]
	if len(all) == 0 {
		return 0, errors.ErrUnsupported
	}
	return all[len(all)-1].Seq, nil
}

func (h held) Read(_ context.Context, _ string, from uint64, wanted func(logevent.Log) bool, take func(logevent.Log, logevent.Line) error) error {
	for log, lines := range h.lines {
		for _, line := range lines {
			if wanted(log) && line.Seq >= from {
				if err := take(log, line); err != nil {
					return err
				}
			}
		}
	}
	return h.err
}

// answering has a source answer for the length of the test.
func answering(t *testing.T, source logask.Source) *logask.Archive {
	t.Helper()
	conn, _ := natstest.Start(t)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		if err := logask.Answer(ctx, conn, source, zerolog.Nop()); !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
	archive := logask.New(conn)
	wait.Until(t, "somebody to answer", func() bool {
		_, err := archive.Logs(t.Context(), "r1")
		return !errors.Is(err, logask.ErrNobody)
	})
	return archive
}

func lines(texts ...string) (all []logevent.Line) {
	for i, text := range texts {
		all = append(all, logevent.Line{Seq: uint64(i + 1), Time: time.Unix(1, int64(i)).UTC(), Text: []byte(text)})
	}
	return all
}

func TestALogComesAsItIs(t *testing.T) {
	t.Parallel()
	want := lines("plain", "", "\x00\x1b[1m control", "not \xff UTF-8", "snö")
	want[1].Flags, want[4].Flags = logevent.Gap, logevent.Partial|logevent.Unended
	archive := answering(t, held{lines: map[logevent.Log][]logevent.Line{first: want}})
	var got []logevent.Line
	next, ended, err := archive.Read(t.Context(), first, 1, func(line logevent.Line) bool { got = append(got, line); return true })
	if err != nil || next != 6 || !ended {
		t.Fatalf("next %d, ended %t, %v", next, ended, err)
	}
	if !slices.EqualFunc(got, want, func(a, b logevent.Line) bool {
		return a.Seq == b.Seq && a.Time.Equal(b.Time) && a.Flags == b.Flags && bytes.Equal(a.Text, b.Text)
	}) {
		t.Errorf("%v\nwant %v", got, want)
	}
}

func TestALogThatIsLargerThanAnAnswerComesWhole(t *testing.T) {
	t.Parallel()
	var texts []string
	for i := range 6000 { // about two answers
		texts = append(texts, fmt.Sprintf("%d %s", i, strings.Repeat("x", 1000)))
	}
	texts = append(texts, strings.Repeat("\x00", logevent.MaxText)) // the worst to escape
	archive := answering(t, held{lines: map[logevent.Log][]logevent.Line{first: lines(texts...)}})
	count, size := 0, 0
	next, ended, err := archive.Read(t.Context(), first, 1, func(line logevent.Line) bool {
		count++
		size = len(line.Text)
		return true
	})
	if err != nil || count != 6001 || next != 6002 || !ended || size != logevent.MaxText {
		t.Errorf("%d lines, next %d, ended %t, the last one of %d bytes, %v", count, next, ended, size, err)
	}
}

func TestOnlyWhatIsWantedComes(t *testing.T) {
	t.Parallel()
	other := logevent.Log{Run: "r1", Attempt: 2, Pod: "p2", Container: "run"}
	archive := answering(t, held{lines: map[logevent.Log][]logevent.Line{first: lines("a", "b", "c"), other: lines("x")}})
	logs, err := archive.Logs(t.Context(), "r1")
	if err != nil || len(logs) != 2 || !logs[first] || !logs[other] {
		t.Errorf("%v, %v", logs, err)
	}
	var got []string
	take := func(line logevent.Line) bool { got = append(got, string(line.Text)); return len(got) < 2 }
	if next, ended, err := archive.Read(t.Context(), first, 2, take); err != nil || next != 4 || ended || strings.Join(got, "") != "bc" {
		t.Errorf("%q, next %d, ended %t, %v", got, next, ended, err)
	}
}

func TestTheEndOfALogIsReadWithoutTheRest(t *testing.T) {
	t.Parallel()
	empty := logevent.Log{Run: "r1", Attempt: 1, Pod: "p1", Container: "init"}
	archive := answering(t, held{lines: map[logevent.Log][]logevent.Line{first: lines("a", "b", "c"), empty: nil}})
	if last, err := archive.Last(t.Context(), first); err != nil || last != 3 {
		t.Errorf("the last line is %d, %v; want 3", last, err)
	}
	for _, log := range []logevent.Log{empty, {Run: "r1", Attempt: 1, Pod: "p1", Container: "other"}} {
		if last, err := archive.Last(t.Context(), log); !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("the last line of %s is %d, %v", log.Container, last, err)
		}
	}
	var got []string
	err := logread.New(archive, nil).Read(t.Context(), logread.Query{Run: "r1", Tail: 2}, func(line logread.Line) error {
		got = append(got, string(line.Text))
		return nil
	})
	if err != nil || strings.Join(got, "") != "bc" {
		t.Errorf("the last two lines are %q, %v", got, err)
	}
}

func TestWhatGoesWrongIsTold(t *testing.T) {
	t.Parallel()
	archive := answering(t, held{lines: map[logevent.Log][]logevent.Line{first: lines("a")}, err: errors.New("the bucket is on fire")})
	if _, _, err := archive.Read(t.Context(), first, 1, func(logevent.Line) bool { return true }); err == nil || !strings.Contains(err.Error(), "on fire") {
		t.Errorf("got %v", err)
	}
	if _, err := archive.Logs(t.Context(), "-no-id-"); err == nil || !strings.Contains(err.Error(), "not a run id") {
		t.Errorf("got %v", err)
	}
}

func TestARequestThatIsNoneIsAnswered(t *testing.T) {
	t.Parallel()
	conn, _ := natstest.Start(t)
	if _, err := logask.New(conn).Logs(t.Context(), "r1"); !errors.Is(err, logask.ErrNobody) {
		t.Errorf("without anybody there: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- logask.Answer(ctx, conn, held{}, zerolog.Nop()) }()
	var reply *nats.Msg
	patient := wait.Context(t, "an answer")
	wait.Success(t, "an answer", func() (err error) {
		reply, err = conn.RequestWithContext(patient, logask.Subjects+"r1", []byte("{"))
		return err
	})
	if reply.Header.Get(logask.EndHeader) == "" || !strings.Contains(string(reply.Data), "not JSON") {
		t.Errorf("the answer is %v", reply)
	}
	cancel()
	if err := wait.Receive(t, "end of answering", done); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

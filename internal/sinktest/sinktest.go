// Package sinktest is the conformance suite that every sink of logs runs: what
// it is given is there once, in order and byte for byte, also when it is given
// twice, in other pieces, or by a shipper that took over.
package sinktest

import (
	"bytes"
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

// Sink is what is tested.
type Sink interface {
	Reached(ctx context.Context, log logevent.Log) (next uint64, ended bool, err error)
	Put(ctx context.Context, log logevent.Log, lines []logevent.Line) error
	Finish(ctx context.Context, log logevent.Log, lines []logevent.Line, next uint64) error
}

// Lines makes lines of all kinds, from a sequence on.
func Lines(first uint64, n int) []logevent.Line {
	texts := [][]byte{
		[]byte("plain"),
		{},
		[]byte("äöü €"),
		{0xff, 0xfe, 0},
		[]byte("\x1b[31mred\x1b[0m\u009b"), []byte(`"quoted" \ <html>`),
		bytes.Repeat([]byte("long "), 1500), []byte("tab\tcr\r\u2028"),
		{0xc2},
	}
	var lines []logevent.Line
	for i := range n {
		seq := first + uint64(i)
		line := logevent.Line{Seq: seq, Time: time.Unix(1_700_000_000, int64(seq/3)).UTC(), Text: fmt.Append(nil, seq, " ")}
		line.Text = append(line.Text, texts[seq%uint64(len(texts))]...)
		line.Flags = logevent.Flags([]int{0, 0, 0, 1, 0, 4}[seq%6])
		lines = append(lines, line)
	}
	return lines
}

// Run runs the suite. read returns what a sink has of a log, in its order, by
// other means than the sink's own; a sink that cannot tell how far it is says
// so by remembers.
func Run(t *testing.T, sink Sink, remembers bool, read func(t *testing.T, log logevent.Log) []logevent.Line) {
	t.Helper()
	log := func(name string) logevent.Log {
		return logevent.Log{Queue: "default", Run: name, Attempt: 1, Pod: "run-" + name + "-1-abcde", Container: "run"}
	}
	put := func(t *testing.T, log logevent.Log, lines []logevent.Line) {
		t.Helper()
		if err := sink.Put(t.Context(), log, lines); err != nil {
			t.Fatal(err)
		}
	}
	finish := func(t *testing.T, log logevent.Log, lines []logevent.Line, next uint64) {
		t.Helper()
		if err := sink.Finish(t.Context(), log, lines, next); err != nil {
			t.Fatal(err)
		}
	}
	check := func(t *testing.T, log logevent.Log, n int) {
		t.Helper()
		Compare(t, read(t, log), Lines(1, n))
		next, ended, err := sink.Reached(t.Context(), log)
		if err != nil || remembers && (next != uint64(n)+1 || !ended) {
			t.Errorf("the sink says that it has reached %d, ended %v, %v", next, ended, err)
		}
	}
	t.Run("a log of one piece", func(t *testing.T) {
		l := log("one")
		finish(t, l, Lines(1, 100), 101)
		finish(t, l, Lines(1, 100), 101)
		check(t, l, 100)
	})
	t.Run("a log without lines", func(t *testing.T) {
		l := log("none")
		finish(t, l, nil, 1)
		check(t, l, 0)
	})
	t.Run("a log of several pieces, each given twice", func(t *testing.T) {
		l := log("several")
		for range 2 {
			put(t, l, Lines(1, 50))
			put(t, l, Lines(51, 50))
		}
		if next, ended, err := sink.Reached(t.Context(), l); err != nil || remembers && (next != 101 || ended) {
			t.Errorf("it has reached %d, ended %v, %v", next, ended, err)
		}
		finish(t, l, Lines(101, 20), 121)
		check(t, l, 120)
		if remembers {
			finish(t, l, nil, 121) // a shipper died before it could say so
			check(t, l, 120)
		}
	})
	t.Run("a log of several pieces, the last of which is given again after its end", func(t *testing.T) {
		l := log("again")
		put(t, l, Lines(1, 50))
		for range 2 { // two shippers, or one that was not told that the first time worked
			finish(t, l, Lines(51, 20), 71)
			check(t, l, 70)
		}
	})
	t.Run("pieces that overlap", func(t *testing.T) {
		l := log("overlap")
		put(t, l, Lines(1, 50))
		put(t, l, Lines(1, 30))
		put(t, l, Lines(31, 40))
		finish(t, l, Lines(71, 5), 76)
		check(t, l, 75)
	})
	t.Run("a large log", func(t *testing.T) {
		l := log("large")
		for first := uint64(1); first <= 20_000; first += 5000 {
			put(t, l, Lines(first, 5000))
		}
		finish(t, l, nil, 20_001)
		check(t, l, 20_000)
	})
}

// Compare fails the test where lines differ.
func Compare(t *testing.T, got, want []logevent.Line) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d lines instead of %d", len(got), len(want))
	}
	for i := range want {
		if got[i].Seq != want[i].Seq || !got[i].Time.Equal(want[i].Time) || got[i].Flags != want[i].Flags || !bytes.Equal(got[i].Text, want[i].Text) {
			t.Fatalf("line %d is %+v; want %+v", i, got[i], want[i])
		}
	}
}

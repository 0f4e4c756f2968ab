package logship

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/logask"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logread"
	"github.com/ropewalk/ropewalk/internal/logstream"
)

// Answer answers those who ask for logs over NATS from the archive and the
// stream, until ctx ends. Any number of processes may do so.
func Answer(ctx context.Context, js jetstream.JetStream, kept Archive, log zerolog.Logger) error {
	return stopped(ctx, logask.Answer(ctx, js.Conn(), answers{js, kept}, log))
}

// answers reads archive and stream for those who ask.
type answers struct {
	js   jetstream.JetStream
	kept Archive
}

func (a answers) Logs(ctx context.Context, runID string) (map[logevent.Log]bool, error) {
	return Archived{a.kept}.Logs(ctx, runID)
}

func (a answers) Last(ctx context.Context, log logevent.Log) (uint64, error) {
	return Archived{a.kept}.Last(ctx, log)
}

func (a answers) Read(ctx context.Context, runID string, from uint64, wanted func(logevent.Log) bool, take func(logevent.Log, logevent.Line) error) error {
	var reader *logread.Reader
	stream, err := logstream.Open(ctx, a.js)
	switch {
	case err == nil:
		reader = logread.New(Archived{a.kept}, Streamed{stream})
	case errors.Is(err, logstream.ErrNotSetUp):
		reader = logread.New(Archived{a.kept}, nil)
	default:
		return err
	}
	query := logread.Query{Run: runID, Wanted: wanted, From: from}
	return reader.Read(ctx, query, func(line logread.Line) error { return take(line.Log, line.Line) })
}

// Archived gives a reader of logs what the archive has.
type Archived struct{ Kept Archive }

// Logs lists the logs of a run, and says of each whether it is there to its end.
func (a Archived) Logs(ctx context.Context, runID string) (map[logevent.Log]bool, error) {
	stored, err := a.Kept.Logs(ctx, runID, time.Time{})
	logs := make(map[logevent.Log]bool, len(stored))
	for _, s := range stored {
		logs[s.Log] = s.Whole
	}
	return logs, err
}

// Read gives lines from a sequence on to take.
func (a Archived) Read(ctx context.Context, log logevent.Log, from uint64, take func(logevent.Line) bool) (uint64, bool, error) {
	return a.Kept.Read(ctx, log, from, take)
}

// Last returns the sequence of the last line of a log that is there to its end,
// or [errors.ErrUnsupported] if the archive cannot tell.
func (a Archived) Last(ctx context.Context, log logevent.Log) (uint64, error) {
	lasting, ok := a.Kept.(logread.Lasting)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	return lasting.Last(ctx, log)
}

// Lag is how long what was confirmed may be missing from what is read.
func (a Archived) Lag() time.Duration { return a.Kept.Lag() }

// Streamed gives a reader of logs what the stream has.
type Streamed struct{ Stream *logstream.Stream }

// Read gives batches to take, those that are there and each new one.
func (s Streamed) Read(ctx context.Context, runID string, idle func() bool, take func(logevent.Log, logevent.Batch, bool) bool) error {
	return s.Stream.Read(ctx, runID, idle, func(a logstream.Arrival) bool { return take(a.Log, a.Batch, a.Live) })
}

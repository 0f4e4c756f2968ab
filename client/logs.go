package client

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/ropewalk/ropewalk/internal/logask"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logread"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/run"
)

// The types of logs.
type (
	// LogLine is one line of one of a run's logs.
	LogLine = logread.Line
	// Log names a log: attempt, pod and container.
	Log = logevent.Log
	// LogArchive is where logs stay.
	LogArchive = logread.Archive
)

// What is special about a line, in its Flags.
const (
	// LinePartial: the line goes on in the next one.
	LinePartial = logevent.Partial
	// LineUnended: no newline followed.
	LineUnended = logevent.Unended
	// LineGap: lines are missing here, and the text says why.
	LineGap = logevent.Gap
)

// Errors of [Client.Logs], for errors.Is.
var (
	// ErrNoLogs: the dispatchers leave logs in the pods.
	ErrNoLogs = errors.New("no dispatcher on this NATS server follows logs; set ROPEWALK_LOG_ARCHIVE for it, and start a logshipper")
	// ErrNoArchive: what is archived cannot be had, for nobody answers.
	ErrNoArchive = logask.ErrNobody
)

// LogOptions choose lines.
type LogOptions struct {
	// Follow goes on with what comes, until the run is over and all of its
	// logs have ended.
	Follow bool
	// Attempt and Container narrow the choice; empty means all.
	Attempt   int
	Container string
	// Since leaves out what is older.
	Since time.Time
	// Tail, if not 0, is how many of the last lines are of interest. Lines
	// before the last so many of each log may be left out, where that saves
	// reading them; it is not said that they are.
	Tail int
	// Archive is where to read what is archived; nil asks those who ship
	// logs, by way of NATS.
	Archive LogArchive
}

func (o LogOptions) wants(log Log) bool {
	return (o.Attempt == 0 || o.Attempt == log.Attempt) && (o.Container == "" || o.Container == log.Container)
}

// Logs gives the lines of a run to take until that returns an error, which it
// returns, or there are no more. Lines of one log come in their order; the text
// of a line may be used until take returns. It returns [ErrNotFound] when
// nothing is known of the run, neither a record nor a log.
func (c *Client) Logs(ctx context.Context, id string, options LogOptions, take func(LogLine) error) error {
	record, err := c.Get(ctx, id)
	forgotten := errors.Is(err, ErrNotFound)
	if err != nil && (!forgotten || !run.ValidID(id)) {
		return err
	}
	stream, err := logstream.Open(ctx, c.js)
	if errors.Is(err, logstream.ErrNotSetUp) {
		return ErrNoLogs
	}
	if err != nil {
		return err
	}
	source := &archiveSource{LogArchive: options.Archive}
	if source.LogArchive == nil {
		source.LogArchive = logask.New(c.js.Conn())
	}
	if forgotten { // logs are kept longer than records
		stored, err := source.Logs(ctx, id)
		if err != nil || len(stored) == 0 {
			return errors.Join(fmt.Errorf("run %s: %w", id, ErrNotFound), err)
		}
		options.Follow = false
	}
	query := logread.Query{Run: id, Follow: options.Follow, Wanted: options.wants, Since: options.Since, Tail: options.Tail}
	query.Over = func(ctx context.Context, known []Log) (bool, error) { return c.logsOver(ctx, id, known) }
	reader := logread.New(source, streamSource{stream})
	err = reader.Read(ctx, query, func(line LogLine) error {
		source.see(line)
		return take(line)
	})
	if err == nil && source.lacks(record) {
		return ErrNoArchive
	}
	return err
}

// lateLogs is how long after a run's end its followers may take to find a
// container that has ended before they came to it.
const lateLogs = 5 * time.Second

// logsOver tells whether a run is over and has no other logs than those that
// are known.
func (c *Client) logsOver(ctx context.Context, id string, known []Log) (bool, error) {
	record, err := c.Get(ctx, id)
	if err != nil {
		return false, err
	}
	if !record.State.Final() {
		return false, nil
	}
	found := slices.ContainsFunc(known, func(log Log) bool { return log.Attempt == record.Attempt && log.Container == "run" })
	return found || record.Job == nil || record.FinishedAt == nil || time.Since(*record.FinishedAt) > lateLogs, nil
}

// archiveSource is an archive that may be out of reach: what the stream still
// has is shown then, and only if that is not all, it is an error.
type archiveSource struct {
	LogArchive
	away      bool
	seen, gap bool
	next      map[Log]uint64
}

func (a *archiveSource) Logs(ctx context.Context, runID string) (map[Log]bool, error) {
	logs, err := a.LogArchive.Logs(ctx, runID)
	if errors.Is(err, ErrNoArchive) {
		a.away = true
		return nil, nil
	}
	return logs, err
}

func (a *archiveSource) Read(ctx context.Context, log Log, from uint64, take func(logevent.Line) bool) (uint64, bool, error) {
	next, ended, err := a.LogArchive.Read(ctx, log, from, take)
	if errors.Is(err, ErrNoArchive) {
		a.away = true
		return from, false, nil
	}
	return next, ended, err
}

// Last is what the archive says, if it can tell.
func (a *archiveSource) Last(ctx context.Context, log Log) (uint64, error) {
	lasting, ok := a.LogArchive.(logread.Lasting)
	if !ok {
		return 0, errors.ErrUnsupported
	}
	return lasting.Last(ctx, log)
}

// see notes whether lines are left out.
func (a *archiveSource) see(line LogLine) {
	if a.next == nil {
		a.next = make(map[Log]uint64)
	}
	a.gap = a.gap || line.Seq > max(a.next[line.Log], 1)
	a.seen, a.next[line.Log] = true, line.Seq+1
}

// lacks reports whether lines of the run may have been left out, because the
// archive was out of reach.
func (a *archiveSource) lacks(record Run) bool {
	return a.away && (a.gap || !a.seen && record.Job != nil)
}

// streamSource gives the reader what the stream has.
type streamSource struct{ stream *logstream.Stream }

func (s streamSource) Read(ctx context.Context, runID string, idle func() bool, take func(Log, logevent.Batch, bool) bool) error {
	return s.stream.Read(ctx, runID, idle, func(a logstream.Arrival) bool { return take(a.Log, a.Batch, a.Live) })
}

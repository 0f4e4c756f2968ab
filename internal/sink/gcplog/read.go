package gcplog

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloud.google.com/go/logging/apiv2/loggingpb"
	"google.golang.org/api/iterator"

	"github.com/ropewalk/ropewalk/internal/archive"
	"github.com/ropewalk/ropewalk/internal/logevent"
)

var errDamaged = errors.New("the entry is not one of Ropewalk's")

// page is how many entries the service gives at most for one request. It allows
// few requests a minute.
const page = 1000

// list gives entries by their time to take until that returns false.
func (l *Logging) list(ctx context.Context, conditions []string, take func(*loggingpb.LogEntry) (bool, error)) error {
	filter := append([]string{"logName=" + strconv.Quote(l.name), `resource.type="k8s_container"`}, conditions...)
	entries := l.client.ListLogEntries(ctx, &loggingpb.ListLogEntriesRequest{
		ResourceNames: []string{"projects/" + l.settings.Project}, Filter: strings.Join(filter, " AND "),
		OrderBy: "timestamp asc", PageSize: page,
	}, l.writing...)
	for {
		entry, err := entries.Next()
		if errors.Is(err, iterator.Done) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read from Cloud Logging: %w", err)
		}
		if more, err := take(entry); err != nil || !more {
			return err
		}
	}
}

func label(name, operator, value string) string {
	return "labels." + strconv.Quote(name) + operator + strconv.Quote(value)
}

func conditionsOf(log logevent.Log) []string {
	return []string{
		label(labelRun, "=", log.Run), label(labelAttempt, "=", strconv.Itoa(log.Attempt)),
		"resource.labels.pod_name=" + strconv.Quote(log.Pod), "resource.labels.container_name=" + strconv.Quote(log.Container),
	}
}

// Logs lists the logs that there are of a run, or of all runs if the id is
// empty, and of those only what was written since then.
func (l *Logging) Logs(ctx context.Context, runID string, since time.Time) ([]archive.Stored, error) {
	conditions := []string{"labels." + strconv.Quote(labelEdge) + ":*"}
	if runID != "" {
		conditions = append(conditions, label(labelRun, "=", runID))
	}
	if !since.IsZero() {
		conditions = append(conditions, "timestamp>="+strconv.Quote(since.UTC().Format(time.RFC3339Nano)))
	}
	found := make(map[logevent.Log]*archive.Stored)
	err := l.list(ctx, conditions, func(entry *loggingpb.LogEntry) (bool, error) {
		labels, resource := entry.GetLabels(), entry.GetResource().GetLabels()
		attempt, err := strconv.Atoi(labels[labelAttempt])
		if err != nil {
			return false, fmt.Errorf("entry %s has no attempt: %w", entry.GetInsertId(), errDamaged)
		}
		log := logevent.Log{Run: labels[labelRun], Attempt: attempt, Pod: resource["pod_name"], Container: resource["container_name"]}
		if found[log] == nil {
			found[log] = &archive.Stored{Log: log}
		}
		found[log].Whole = found[log].Whole || labels[labelEdge] == edgeEnd
		if at := entry.GetTimestamp().AsTime(); at.After(found[log].Modified) {
			found[log].Modified = at
		}
		return true, nil
	})
	var all []archive.Stored
	for _, stored := range found {
		all = append(all, *stored)
	}
	slices.SortFunc(all, func(a, b archive.Stored) int {
		if order := cmp.Compare(a.Log.Attempt, b.Log.Attempt); order != 0 {
			return order
		}
		return cmp.Compare(a.Log.String(), b.Log.String())
	})
	return all, err
}

// Read gives the lines of a log from a sequence on to take, each once and in
// order, until take returns false, a line is missing, or there is no more. It
// returns the sequence of the line that would come next, and whether the log
// ends there.
func (l *Logging) Read(ctx context.Context, log logevent.Log, from uint64, take func(logevent.Line) bool) (next uint64, ended bool, err error) {
	found, err := l.read(ctx, log, from, take)
	return found.next, found.end == found.next && !found.stopped, err
}

// mostAhead bounds the text that is held because it came before lines that
// precede it. Entries come by time, and two streams of one container, or a clock
// that was set, make times that do not rise.
const mostAhead = 64 << 20

// order puts entries that come by time in the order of their sequence.
type order struct {
	take    func(logevent.Line) bool
	next    uint64
	end     uint64 // of the log, 0 as long as it is not known
	stopped bool
	ahead   map[uint64]logevent.Line
	held    int
	// last is the highest sequence that was seen.
	last uint64
}

func (o *order) add(entry *loggingpb.LogEntry) error {
	line, end, err := parseEntry(entry)
	switch {
	case err != nil:
		return err
	case end:
		o.end = line.Seq
		return nil
	}
	o.last = max(o.last, line.Seq)
	if _, known := o.ahead[line.Seq]; known || line.Seq < o.next {
		return nil
	}
	o.ahead[line.Seq] = line
	o.held += len(line.Text)
	for !o.stopped {
		line, ok := o.ahead[o.next]
		if !ok {
			break
		}
		delete(o.ahead, o.next)
		o.held -= len(line.Text)
		o.next++
		o.stopped = !o.take(line)
	}
	return nil
}

func (l *Logging) read(ctx context.Context, log logevent.Log, from uint64, take func(logevent.Line) bool) (*order, error) {
	o := &order{take: take, next: from, ahead: make(map[uint64]logevent.Line)}
	err := l.list(ctx, append(conditionsOf(log), label(labelSeq, ">=", seqText(from))), func(entry *loggingpb.LogEntry) (bool, error) {
		if err := o.add(entry); err != nil || o.stopped {
			return false, err
		}
		if o.held < mostAhead {
			return true, nil
		}
		// What is missing lies far from its neighbours, or nowhere.
		before := o.next
		err := l.fetch(ctx, log, o)
		return o.next > before && !o.stopped, err
	})
	return o, err
}

// fetch asks for the lines that those which are held wait for.
func (l *Logging) fetch(ctx context.Context, log logevent.Log, o *order) error {
	until := o.last
	for seq := range o.ahead {
		until = min(until, seq)
	}
	conditions := append(conditionsOf(log), label(labelSeq, ">=", seqText(o.next)), label(labelSeq, "<", seqText(until)))
	return l.list(ctx, conditions, func(entry *loggingpb.LogEntry) (bool, error) { return !o.stopped, o.add(entry) })
}

// Check reads a whole log, and says whether its lines are all there.
func (l *Logging) Check(ctx context.Context, stored archive.Stored) (archive.Verdict, error) {
	verdict := archive.Verdict{Log: stored.Log}
	found, err := l.read(ctx, stored.Log, 1, func(line logevent.Line) bool {
		verdict.Lines++
		if line.Flags&logevent.Gap != 0 {
			verdict.Gaps++
		}
		return true
	})
	switch {
	case errors.Is(err, errDamaged):
		verdict.Problem = err.Error()
	case err != nil:
		return verdict, err
	case found.last >= found.next:
		verdict.Problem = fmt.Sprintf("line %d is missing, and there are later ones up to %d", found.next, found.last)
	case found.end == 0:
		verdict.Problem = fmt.Sprintf("its end is not there; it goes to line %d", found.next-1)
	case found.end != found.next:
		verdict.Problem = fmt.Sprintf("its end tells of lines up to %d, and it goes to line %d", found.end-1, found.next-1)
	default:
		verdict.Ended = true
	}
	return verdict, nil
}

package archive

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"time"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

// Index reads the index of a log that is there to its end; the error is
// [fs.ErrNotExist] when it is not.
func (a *Archive) Index(ctx context.Context, log logevent.Log) (Index, error) {
	key := finalKey(log)
	tail, err := a.tail(ctx, key, likelyIndex)
	if err == nil {
		// The end tells how long the index is.
		if size := indexSize(tail); size > len(tail) && size <= mostIndex && len(tail) == likelyIndex {
			tail, err = a.tail(ctx, key, size)
		}
	}
	if err != nil {
		return Index{}, fmt.Errorf("read %s: %w", key, err)
	}
	index, err := parseIndex(tail)
	if err != nil {
		return Index{}, fmt.Errorf("read %s: %w", key, err)
	}
	return index, nil
}

const (
	// likelyIndex has room for the index of a log of 800 chunks.
	likelyIndex = 64 << 10
	// mostIndex is more than any index takes of a log below a terabyte.
	mostIndex = 8 << 20
)

// tail reads the last bytes of an object, or all of one that has fewer.
func (a *Archive) tail(ctx context.Context, key string, size int) ([]byte, error) {
	body, err := a.objects.GetFrom(ctx, key, -int64(size))
	if err != nil {
		return nil, err
	}
	defer func() { _ = body.Close() }() // it was only read
	return io.ReadAll(io.LimitReader(body, int64(size)))
}

// Last returns the sequence of the last line of a log that is there to its end.
func (a *Archive) Last(ctx context.Context, log logevent.Log) (uint64, error) {
	index, err := a.Index(ctx, log)
	return index.Last, err
}

// Stored is what the archive has of a log.
type Stored struct {
	Log logevent.Log
	// Whole: it is there to its end, as one object.
	Whole bool
	// Modified is when the newest object of it was written.
	Modified time.Time
	chunks   []chunk
}

// Logs lists the logs that the archive has of a run, or of all runs if the id
// is empty, in the order of their names: those of which something was written
// since then.
func (a *Archive) Logs(ctx context.Context, runID string, since time.Time) ([]Stored, error) {
	prefix := layout
	if runID != "" {
		prefix += runID + "/"
	}
	objects, err := a.objects.List(ctx, prefix)
	if err != nil {
		return nil, fmt.Errorf("list the archive: %w", err)
	}
	found := make(map[logevent.Log]*Stored)
	for _, object := range objects {
		log, c, ok := parseKey(object)
		if !ok {
			continue
		}
		if found[log] == nil {
			found[log] = &Stored{Log: log}
		}
		s := found[log]
		if object.Modified.After(s.Modified) {
			s.Modified = object.Modified
		}
		if c == nil {
			s.Whole = true
		} else {
			s.chunks = append(s.chunks, *c)
		}
	}
	var all []Stored
	for _, s := range found {
		if s.Modified.Before(since) {
			continue
		}
		sortChunks(s.chunks)
		all = append(all, *s)
	}
	slices.SortFunc(all, func(a, b Stored) int {
		if order := cmp.Compare(a.Log.Attempt, b.Log.Attempt); order != 0 {
			return order
		}
		return cmp.Compare(a.Log.String(), b.Log.String())
	})
	return all, nil
}

// Read gives the lines of a log from a sequence on to take, each once and in
// order, until take returns false, a line is missing, or there is no more. It
// returns the sequence of the line that would come next, and whether the log
// ends there.
func (a *Archive) Read(ctx context.Context, log logevent.Log, from uint64, take func(logevent.Line) bool) (next uint64, ended bool, err error) {
	next, stopped := from, false
	each := func(line logevent.Line) bool {
		if line.Seq < next {
			return true
		}
		if line.Seq > next {
			return false
		}
		next++
		stopped = !take(line)
		return !stopped
	}
	err = a.readFinal(ctx, log, from, each)
	if err == nil {
		return next, !stopped, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return next, false, err
	}
	all, err := a.chunks(ctx, log)
	if err != nil {
		return next, false, err
	}
	for _, c := range all {
		if c.last < next || stopped {
			continue
		}
		err := a.readObject(ctx, c.key, 0, each)
		if errors.Is(err, fs.ErrNotExist) {
			// The log has ended meanwhile, and its chunks have become one.
			return a.Read(ctx, log, next, take)
		}
		if err != nil {
			return next, false, err
		}
	}
	return next, false, nil
}

// readFinal gives the lines of a log that is there to its end from the chunk on
// that has a sequence.
func (a *Archive) readFinal(ctx context.Context, log logevent.Log, from uint64, take func(logevent.Line) bool) error {
	key, offset := finalKey(log), int64(0)
	if from > 1 {
		index, err := a.Index(ctx, log)
		if err != nil && !errors.Is(err, ErrDamaged) { // lines can be read without it
			return err
		}
		offset = index.offset(from)
	}
	taken := false
	err := a.readObject(ctx, key, offset, func(line logevent.Line) bool {
		taken = true
		return take(line)
	})
	if err != nil && offset > 0 && !taken && !errors.Is(err, fs.ErrNotExist) {
		// Written again by another shipper meanwhile, from other chunks.
		return a.readObject(ctx, key, 0, take)
	}
	return err
}

// Lag is how long what was confirmed may be missing from what is read: not at
// all.
func (*Archive) Lag() time.Duration { return 0 }

// Verdict is what a check of a log found.
type Verdict struct {
	Log   logevent.Log `json:"log"`
	Lines uint64       `json:"lines"`
	// Gaps is how many of the lines tell that lines are missing which the
	// cluster had lost.
	Gaps int `json:"gaps"`
	// Ended: the log is there to its end.
	Ended bool `json:"ended"`
	// Problem says what is wrong; empty when nothing is.
	Problem string `json:"problem,omitempty"`
}

// Check reads a whole log, and says whether its lines are all there.
func (a *Archive) Check(ctx context.Context, stored Stored) (Verdict, error) {
	verdict := Verdict{Log: stored.Log, Ended: stored.Whole}
	next, ended, err := a.Read(ctx, stored.Log, 1, func(line logevent.Line) bool {
		verdict.Lines++
		if line.Flags&logevent.Gap != 0 {
			verdict.Gaps++
		}
		return true
	})
	switch {
	case errors.Is(err, ErrDamaged):
		verdict.Problem = err.Error()
		return verdict, nil
	case err != nil:
		return verdict, err
	case !ended:
		verdict.Ended = false
		verdict.Problem = fmt.Sprintf("its end is not there; it goes to line %d", next-1)
		if len(stored.chunks) > 0 {
			if last := stored.chunks[len(stored.chunks)-1].last; last >= next {
				verdict.Problem = fmt.Sprintf("line %d is missing, and there are later ones up to %d", next, last)
			}
		}
		return verdict, nil
	}
	index, err := a.Index(ctx, stored.Log)
	switch {
	case errors.Is(err, ErrDamaged):
		verdict.Problem = err.Error()
	case err != nil:
		return verdict, err
	case index.Last != next-1:
		verdict.Problem = fmt.Sprintf("its index tells of lines up to %d, and it goes to line %d", index.Last, next-1)
	case !index.Ended:
		verdict.Problem = "its index does not say that it has ended"
	}
	return verdict, nil
}

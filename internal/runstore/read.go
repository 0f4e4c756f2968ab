package runstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/batchget"
	"github.com/ropewalk/ropewalk/internal/run"
)

// Query chooses records.
type Query struct {
	// Queue and State narrow the list; empty means all.
	Queue string
	State run.State
	// Want, if set, narrows it further. It must return at once.
	Want func(run.Run) bool
	// Limit is the most records to return.
	Limit int
}

// List returns records, the run that was first taken up last coming first. It
// reads the end of the index and the records that this names, and goes further
// back only as long as the query wants more.
func (s *Store) List(ctx context.Context, query Query) ([]run.Run, error) {
	subject := IndexSubjects + "*.*"
	if query.Queue != "" {
		subject = IndexSubjects + query.Queue + ".*"
	}
	var (
		found    []run.Run
		subjects []string // of records, newest first
		fault    error
	)
	// A page is what the server answers for at once, or, for a short list,
	// little more than what will be shown.
	pageSize := min(max(query.Limit, 32), batchget.MostSubjects)
	flush := func() bool {
		records, err := s.page(ctx, subjects)
		subjects = subjects[:0]
		if err != nil {
			fault = err
			return false
		}
		for _, record := range records {
			if (query.State == "" || record.State == query.State) && (query.Want == nil || query.Want(record)) {
				found = append(found, record)
			}
		}
		return len(found) < query.Limit
	}
	err := batchget.NewestFirst(ctx, s.js, IndexStream, subject, func(message batchget.Message) bool {
		subjects = append(subjects, recordSubjects+message.Subject[len(IndexSubjects):])
		return len(subjects) < pageSize || flush()
	})
	if err == nil && fault == nil && len(subjects) > 0 && len(found) < query.Limit {
		flush()
	}
	if err == nil {
		err = fault
	}
	if err != nil {
		return nil, fmt.Errorf("list runs: %w", err)
	}
	return found[:min(len(found), query.Limit)], nil
}

// page reads one page of records, in the order of their subjects; those
// that are gone are left out.
func (s *Store) page(ctx context.Context, subjects []string) ([]run.Run, error) {
	if len(subjects) == 0 {
		return nil, nil
	}
	messages, err := batchget.Get(ctx, s.js, recordStream, batchget.Request{LastFor: subjects})
	if err != nil {
		return nil, err
	}
	bySubject := make(map[string]batchget.Message, len(messages))
	for _, message := range messages {
		bySubject[message.Subject] = message
	}
	records := make([]run.Run, 0, len(messages))
	for _, subject := range subjects {
		message, ok := bySubject[subject]
		if !ok || message.Operation != "" {
			continue
		}
		record, err := decode(message.Data)
		if err != nil {
			return nil, err
		}
		records = append(records, record)
	}
	return records, nil
}

// Watch calls changed with the record of a run as it is now, if there is one,
// and with every change that follows, until changed returns false (then the
// error is nil) or ctx ends. With an empty id it reports the changes of every
// run from now on. ready, unless it is nil, is called once what was there has
// been reported: whatever happens from then on is not missed.
func (s *Store) Watch(ctx context.Context, id string, ready func(), changed func(run.Run) bool) error {
	return s.WatchIn(ctx, "*", id, ready, changed)
}

// WatchIn is [Store.Watch] of a queue, or of a run whose queue is known, so that
// permissions can be given for a queue.
func (s *Store) WatchIn(ctx context.Context, queue, id string, ready func(), changed func(run.Run) bool) error {
	keys, options := key(queue, id), []jetstream.WatchOpt{jetstream.IgnoreDeletes()}
	if id == "" {
		keys, options = key(queue, "*"), append(options, jetstream.UpdatesOnly())
	}
	watcher, err := s.records.Watch(ctx, keys, options...)
	if err != nil {
		return fmt.Errorf("watch runs: %w", err)
	}
	defer func() { _ = watcher.Stop() }() // fails only when it has stopped already
	if ready != nil && id == "" {
		ready()
		ready = nil
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case entry, open := <-watcher.Updates():
			if !open {
				if ctx.Err() != nil {
					return ctx.Err()
				}
				return errors.New("watch runs: the connection to NATS was closed")
			}
			if entry == nil { // what was there has been sent
				if ready != nil {
					ready()
				}
				continue
			}
			record, err := decode(entry.Value())
			if err != nil {
				return fmt.Errorf("watch runs: %w", err)
			}
			if !changed(record) {
				return nil
			}
		}
	}
}

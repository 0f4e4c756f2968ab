package logfollow

import (
	"cmp"
	"context"
	"errors"
	"io"
	"sync"
	"time"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

const (
	// abandonedInterval is how often logs are looked for whose pods went away
	// while nobody followed them. Each look reads the headers of the newest
	// message of every log of the last two weeks, and for each log without its
	// end the run's record and whether the pod is there.
	abandonedInterval = 2 * time.Minute
	// abandonedAfter is how long nothing must have come of such a log, and how
	// long its pod must have been seen gone: much longer than a follower that
	// still has lines of it takes to publish them.
	abandonedAfter = 5 * time.Minute
)

// lookForAbandoned brings the logs to their ends whose pods went away while
// nobody followed them, until ctx ends. It is apart from what follows runs, which
// must not wait while a cluster does not answer.
func (r *Runs) lookForAbandoned(ctx context.Context, all *sync.WaitGroup) {
	ticker := time.NewTicker(abandonedInterval)
	defer ticker.Stop()
	gone, failing := map[logevent.Log]time.Time{}, false
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		var err error
		gone, err = r.abandoned(ctx, gone, all)
		if ctx.Err() == nil && err != nil && !failing {
			r.log.Warn().Err(err).Msg("cannot look for all logs whose pods are gone; trying again until it works")
		}
		failing = err != nil
	}
}

// abandoned makes one look. since says of the logs that the look before found
// without their pod since when that is so; those that are so for long enough get
// a gap, which says that lines may be missing, and their end. It returns what it
// has found itself.
//
// Where the stream has been full, followers may have had to wait with lines of
// pods that are gone by now: they go first.
func (r *Runs) abandoned(ctx context.Context, since map[logevent.Log]time.Time, all *sync.WaitGroup) (map[logevent.Log]time.Time, error) {
	limited, cancel := context.WithTimeout(ctx, abandonedInterval)
	defer cancel()
	var quiet []logevent.Log
	err := r.follower.config.Stream.Unended(limited, abandonedAfter, func(log logevent.Log) { quiet = append(quiet, log) })
	if errors.Is(err, logevent.ErrFull) {
		return nil, nil
	}
	now, found := time.Now(), make(map[logevent.Log]time.Time)
	for _, log := range quiet {
		if r.following(log) {
			continue
		}
		gone, failed := r.jobs.Gone(limited, log)
		err = cmp.Or(err, failed)
		if !gone {
			continue
		}
		first, before := since[log]
		if !before {
			first = now
		}
		if found[log] = first; now.Sub(first) >= abandonedAfter {
			r.start(ctx, log, removed{}, all, false)
		}
	}
	return found, err
}

// following tells whether a log is followed here.
func (r *Runs) following(log logevent.Log) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, active := r.active[log]
	return active
}

// removed is a source of which nothing is left.
type removed struct{}

func (removed) Open(context.Context, time.Time, bool) (io.ReadCloser, error) {
	return nil, logevent.ErrGone
}
func (removed) Ended() bool              { return true }
func (removed) Changed() <-chan struct{} { return nil }

package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// recordBucket is where the dispatcher keeps its records, as <queue>.<id>.
const recordBucket = "ropewalk-runs"

// Record is a run as its record tells it, in the fields that outsiders may
// rely on.
type Record struct {
	ID       string `json:"id"`
	Queue    string `json:"queue"`
	State    string `json:"state"`
	Reason   string `json:"reason"`
	Message  string `json:"message"`
	ExitCode *int   `json:"exitCode"`
	Attempt  int    `json:"attempt"`
	Image    string `json:"image"`
	Job      *struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
		UID       string `json:"uid"`
	} `json:"job"`
	QueuedAt   time.Time  `json:"queuedAt"`
	StartedAt  *time.Time `json:"startedAt"`
	FinishedAt *time.Time `json:"finishedAt"`
	Owner      string     `json:"owner"`
	History    []Change   `json:"history"`
	Evidence   *Evidence  `json:"evidence"`
}

// Change is a state that a run came into.
type Change struct {
	State   string    `json:"state"`
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
	Owner   string    `json:"owner"`
	Phases  []struct {
		Part string    `json:"part"`
		At   time.Time `json:"at"`
	} `json:"phases"`
}

// Evidence is what a record says of the end of an attempt.
type Evidence struct {
	Attempt int `json:"attempt"`
	Events  []struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	} `json:"events"`
	LastLines []string `json:"lastLines"`
	Missing   string   `json:"missing"`
}

// Final reports whether the run is over.
func (r Record) Final() bool { return Final(r.State) }

// Final reports whether a run in this state is over.
func Final(state string) bool {
	switch state {
	case "succeeded", "failed", "cancelled", "timed_out", "rejected":
		return true
	default:
		return false
	}
}

// Update is a record as it was written, and when that came in here.
type Update struct {
	At     time.Time
	Record Record
}

// Records follows the run records straight from their bucket.
type Records struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex
	changed signal
	updates map[string][]Update // by run id
	seen    uint64              // revision
	err     error
}

// WatchRecords waits for the bucket to be there, which the first dispatcher
// makes, and begins to follow it. Records written while nats-server is away
// are none; those written before the connection is back may be seen in their
// last form only.
func WatchRecords(ctx context.Context, conn *nats.Conn, js jetstream.JetStream) (*Records, error) {
	var bucket jetstream.KeyValue
	err := Poll(ctx, 50*time.Millisecond, func() (err error) {
		bucket, err = js.KeyValue(ctx, recordBucket)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("open the run store: %w", err)
	}
	follow, stop := context.WithCancel(context.Background())
	r := &Records{stop: stop, changed: newSignal(), updates: map[string][]Update{}}
	reconnected := conn.StatusChanged(nats.CONNECTED)
	r.done.Go(func() {
		defer conn.RemoveStatusListener(reconnected)
		for follow.Err() == nil {
			r.follow(follow, bucket, reconnected)
		}
	})
	return r, nil
}

// follow watches until the context ends or the connection was lost and is back:
// a restarted server has forgotten the watch, and the client would notice only
// after some missed heartbeats.
func (r *Records) follow(ctx context.Context, bucket jetstream.KeyValue, reconnected <-chan nats.Status) {
	watcher, err := bucket.WatchAll(ctx)
	if err != nil {
		// The connection went away again; the next one tells.
		select {
		case <-reconnected:
		case <-time.After(time.Second):
		case <-ctx.Done():
		}
		return
	}
	// Without a connection there is nothing to stop at the server.
	defer func() { _ = watcher.Stop() }()
	for {
		select {
		case entry, open := <-watcher.Updates():
			if !open {
				return
			}
			if entry != nil { // nil ends the first part, what was there before
				r.see(entry, time.Now())
			}
		case <-reconnected:
			return
		case <-ctx.Done():
			return
		}
	}
}

// Stop ends the watch. What was seen stays readable.
func (r *Records) Stop() {
	r.stop()
	r.done.Wait()
}

func (r *Records) see(entry jetstream.KeyValueEntry, at time.Time) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if entry.Operation() != jetstream.KeyValuePut || entry.Revision() <= r.seen {
		return
	}
	defer r.changed.wake()
	r.seen = entry.Revision()
	var record Record
	if err := json.Unmarshal(entry.Value(), &record); err != nil {
		r.err = fmt.Errorf("record %s is not JSON: %w", entry.Key(), err)
		return
	}
	if want := record.Queue + "." + record.ID; entry.Key() != want {
		r.err = fmt.Errorf("record %s says that it is %s", entry.Key(), want)
		return
	}
	r.updates[record.ID] = append(r.updates[record.ID], Update{At: at, Record: record})
}

// Updates returns every change of a run's record, oldest first.
func (r *Records) Updates(id string) []Update {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.updates[id])
}

// Now returns the present records by run id.
func (r *Records) Now() map[string]Record {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.now()
}

func (r *Records) now() map[string]Record {
	records := make(map[string]Record, len(r.updates))
	for id, updates := range r.updates {
		records[id] = updates[len(updates)-1].Record
	}
	return records
}

// Await waits until the records are as the caller wants them, and looks at
// them at every change.
func (r *Records) Await(ctx context.Context, want func(map[string]Record) bool) error {
	for {
		r.mu.Lock()
		records, err, changed := r.now(), r.err, r.changed.changed
		r.mu.Unlock()
		if err != nil || want(records) {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			states := map[string]int{}
			for record := range maps.Values(records) {
				states[record.State]++
			}
			return fmt.Errorf("wait for records, of which there are %v: %w", states, context.Cause(ctx))
		}
	}
}

// AwaitRun waits until one run's record is as the caller wants it.
func (r *Records) AwaitRun(ctx context.Context, id string, want func(Record) bool) (Record, error) {
	for {
		r.mu.Lock()
		updates, err, changed := r.updates[id], r.err, r.changed.changed
		r.mu.Unlock()
		if err != nil {
			return Record{}, err
		}
		var record Record
		if len(updates) > 0 {
			if record = updates[len(updates)-1].Record; want(record) {
				return record, nil
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return record, fmt.Errorf("wait for run %s, which is %q (%s %s): %w", id, record.State, record.Reason, record.Message, context.Cause(ctx))
		}
	}
}

package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/runstore"
)

// InQueue is a client of one queue only. It asks the NATS server for nothing
// else, so that it works with permissions that reach no further: those that
// deploy/nats gives to a server.
type InQueue struct {
	client *Client
	queue  string
}

// In returns a client of one queue.
func (c *Client) In(queue string) *InQueue { return &InQueue{c, queue} }

// Submit is [Client.Submit]; a request for another queue is an error.
func (q *InQueue) Submit(ctx context.Context, request Request) (id string, duplicate bool, err error) {
	if request.Queue != "" && request.Queue != q.queue {
		return "", false, fmt.Errorf("the request is for queue %s, and this client is one of queue %s", request.Queue, q.queue)
	}
	request.Queue = q.queue
	return q.client.Submit(ctx, request)
}

// Get returns the record of a run of the queue, or [ErrNotFound].
func (q *InQueue) Get(ctx context.Context, id string) (Run, error) {
	store, err := runstore.Open(ctx, q.client.js)
	if err != nil {
		return Run{}, err
	}
	record, err := store.Get(ctx, q.queue, id)
	if !errors.Is(err, ErrNotFound) {
		return record, err
	}
	if record, err = queue.WaitingIn(ctx, q.client.js, q.queue, id); !errors.Is(err, ErrNotFound) {
		return record, err
	}
	// It may have been taken up, and even ended, between the two looks.
	return store.Get(ctx, q.queue, id)
}

// Wait returns the record of a run of the queue once it is over. It waits, too,
// for a run that is not known.
func (q *InQueue) Wait(ctx context.Context, id string) (Run, error) {
	if !run.ValidID(id) { // a wildcard would follow other runs
		return Run{}, fmt.Errorf("run %q: %w", id, ErrNotFound)
	}
	store, err := runstore.Open(ctx, q.client.js)
	if err != nil {
		return Run{}, err
	}
	var last Run
	err = store.WatchIn(ctx, q.queue, id, nil, func(record Run) bool {
		last = record
		return !record.State.Final()
	})
	return last, err
}

// Cancel is [Client.Cancel] for a run of the queue.
func (q *InQueue) Cancel(ctx context.Context, id string) (Run, error) {
	record, err := q.Get(ctx, id)
	if err != nil {
		return Run{}, err
	}
	if record.State.Final() {
		return record, fmt.Errorf("%s is %s: %w", id, record.State, ErrFinished)
	}
	cancellations, err := queue.OpenCancellations(ctx, q.client.js)
	if err != nil {
		return Run{}, err
	}
	return record, cancellations.Request(ctx, run.Cancellation{Queue: q.queue, ID: record.ID, Attempt: record.Attempt, RequestedAt: time.Now().UTC()})
}

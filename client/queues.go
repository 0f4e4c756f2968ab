package client

import (
	"context"

	"github.com/ropewalk/ropewalk/internal/queue"
)

// ErrQueueExists: there is a queue of that name already.
var ErrQueueExists = queue.ErrQueueExists

// Queues returns the definition of every queue, by name.
func (c *Client) Queues(ctx context.Context) ([]Queue, error) {
	definitions, err := queue.OpenDefinitions(ctx, c.js)
	if err != nil {
		return nil, err
	}
	return definitions.List(ctx)
}

// Usage returns how a queue stands: what waits, what is under way, the limit.
func (c *Client) Usage(ctx context.Context, definition Queue) (Usage, error) {
	return queue.Use(ctx, c.js, definition)
}

// SetConcurrency sets the limit of a queue, live, and creates the queue where
// it is missing. From then on the environment of the dispatchers no longer
// changes it.
func (c *Client) SetConcurrency(ctx context.Context, name string, concurrency int) error {
	definitions, err := queue.OpenDefinitions(ctx, c.js)
	if err != nil {
		return err
	}
	return definitions.Set(ctx, Queue{Name: name, Concurrency: concurrency})
}

// CreateQueue creates a queue, live, or returns [ErrQueueExists].
func (c *Client) CreateQueue(ctx context.Context, definition Queue) error {
	definitions, err := queue.OpenDefinitions(ctx, c.js)
	if err != nil {
		return err
	}
	return definitions.Create(ctx, definition)
}

// UpdateQueue changes a queue, live, and returns what it is then. Change may be
// called several times, each time with the queue as others have just left it. A
// queue that is missing is created if create is set, and is else [ErrNoQueue].
func (c *Client) UpdateQueue(ctx context.Context, name string, create bool, change func(*Queue) error) (Queue, error) {
	definitions, err := queue.OpenDefinitions(ctx, c.js)
	if err != nil {
		return Queue{}, err
	}
	return definitions.Update(ctx, name, create, change)
}

// DeleteQueue deletes a queue that has been drained and has no runs left. Its
// error says what is in the way.
func (c *Client) DeleteQueue(ctx context.Context, name string) error {
	definitions, err := queue.OpenDefinitions(ctx, c.js)
	if err != nil {
		return err
	}
	return definitions.Delete(ctx, name)
}

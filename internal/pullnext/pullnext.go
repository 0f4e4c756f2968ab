// Package pullnext waits for the next message of a JetStream pull, as the
// iterators of nats.go do, without a standstill that those can come to.
//
// While an iterator hands out messages, it asks the server for more, but not
// while the request before is still being sent (fetchInProgress in nats.go
// v1.55). If the goroutine that sends it is held up, as on a machine without a
// processor to spare, until all that it asked for has been handed out, nobody
// asks again: the server has messages, the client waits, and the iterator notices
// only when two heartbeats are overdue, after 10 s or more.
package pullnext

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// Next returns the next message, or the iterator's error, or that of ctx once it
// ends.
func Next(ctx context.Context, messages jetstream.MessagesContext) (jetstream.Msg, error) {
	// To be called anew has the iterator look whether there is something to ask
	// for. In the end it is left to wait: it counts heartbeats within one call only.
	for _, look := range [...]time.Duration{10 * time.Millisecond, 100 * time.Millisecond, time.Second} {
		message, err := within(ctx, look, messages)
		if ctx.Err() != nil || !errors.Is(err, context.DeadlineExceeded) {
			return message, err
		}
	}
	return messages.Next(jetstream.NextContext(ctx))
}

func within(ctx context.Context, wait time.Duration, messages jetstream.MessagesContext) (jetstream.Msg, error) {
	ctx, cancel := context.WithTimeout(ctx, wait)
	defer cancel()
	return messages.Next(jetstream.NextContext(ctx))
}

// Package retry is the one place that decides how Ropewalk waits between
// tries. It wraps cenkalti/backoff with the three things that its defaults get
// wrong for us: it never gives up by itself (the library stops after 15
// minutes), it builds a fresh policy for every call (the library's are
// stateful), and it returns the last error of the operation when its context
// ends.
package retry

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v4"
)

// Policy says how long to wait between tries. Waits grow from First to Most by
// half each time, spread by ±50 % so that replicas do not try in step.
type Policy struct{ First, Most time.Duration }

// Network suits calls to a server that may be restarting: soon again, then
// every few seconds.
var Network = Policy{First: 50 * time.Millisecond, Most: 5 * time.Second}

// Permanent marks an error that no further try can cure.
func Permanent(err error) error { return backoff.Permanent(err) }

// Do calls operation until it returns nil or a [Permanent] error, or ctx ends.
// It calls failed, unless that is nil, after every try that will be followed by
// another. The error is the last one of the operation, unwrapped from Permanent,
// joined with ctx's when ctx ended first.
func Do(ctx context.Context, policy Policy, operation func() error, failed func(err error, wait time.Duration)) error {
	exponential := backoff.NewExponentialBackOff(
		backoff.WithInitialInterval(policy.First),
		backoff.WithMaxInterval(policy.Most),
		backoff.WithMaxElapsedTime(0),
	)
	var last error
	err := backoff.RetryNotify(func() error {
		last = operation()
		return last
	}, backoff.WithContext(exponential, ctx), failed)
	if err != nil && ctx.Err() != nil && !errors.Is(err, ctx.Err()) {
		return errors.Join(err, ctx.Err())
	}
	if err != nil && last != nil && errors.Is(err, ctx.Err()) && !errors.Is(last, ctx.Err()) {
		return errors.Join(last, err)
	}
	return err
}

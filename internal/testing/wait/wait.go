// Package wait is how tests wait: for one thing, which they name, and up to one
// limit. No test has a deadline of its own, and no test sleeps.
//
// Only tests import it. What a test waits for must be something that it can
// see: a channel, a condition, a call that succeeds. To see that something does
// not happen, wait for something else that happens after it would have.
package wait

import (
	"context"
	"fmt"
	"testing"
	"time"
)

// Limit is how long a test waits for anything. It says nothing about how long
// things may take: it only ends a test that would otherwise wait forever, and
// names what that test waited for. What takes ten seconds on an idle machine has
// taken two minutes beside a compiler on the same two cores.
const Limit = 5 * time.Minute

// A wait looks often at first and more rarely later, because a look may start a
// process.
const (
	firstInterval = 5 * time.Millisecond
	maxInterval   = 200 * time.Millisecond
)

// Context returns a context for a call that waits for what. It ends with the
// test, or after [Limit] with a cause that names what. A cleanup may use it too:
// the context then outlives the test's own.
func Context(t testing.TB, what string) context.Context {
	t.Helper()
	parent := t.Context()
	if parent.Err() != nil { // this is a cleanup
		parent = context.WithoutCancel(parent)
	}
	ctx, cancel := context.WithTimeoutCause(parent, Limit, fmt.Errorf("waited %s for %s", Limit, what))
	t.Cleanup(cancel)
	return ctx
}

// Until waits until the condition holds.
func Until(t testing.TB, what string, holds func() bool) {
	t.Helper()
	if err := poll(Context(t, what), func() (bool, error) { return holds(), nil }); err != nil {
		t.Fatal(err)
	}
}

// Success waits until try returns no error. If it never does, the test fails
// with its last error.
func Success(t testing.TB, what string, try func() error) {
	t.Helper()
	err := poll(Context(t, what), func() (bool, error) {
		err := try()
		return err == nil, err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// Receive waits for a value from the channel. A channel that is closed fails the
// test, unless a value was still in it; use [Closed] for one that is to be closed.
func Receive[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	ctx := Context(t, what)
	select {
	case value, open := <-from:
		if !open {
			t.Fatalf("the channel is closed; there is no %s", what)
		}
		return value
	case <-ctx.Done():
		t.Fatal(context.Cause(ctx))
		panic("unreachable")
	}
}

// Closed waits until the channel is closed. Values that are still in it are
// dropped.
func Closed[T any](t testing.TB, what string, channel <-chan T) {
	t.Helper()
	ctx := Context(t, what)
	for {
		select {
		case _, open := <-channel:
			if !open {
				return
			}
		case <-ctx.Done():
			t.Fatal(context.Cause(ctx))
		}
	}
}

// poll returns the last error joined to the context's cause when the context
// ends first.
func poll(ctx context.Context, check func() (done bool, err error)) error {
	for interval := firstInterval; ; interval = min(interval*5/4, maxInterval) {
		done, err := check()
		if done {
			return nil
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			if err != nil {
				return fmt.Errorf("%w: %w", context.Cause(ctx), err)
			}
			return context.Cause(ctx)
		}
	}
}

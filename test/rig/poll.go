package rig

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// stopError ends a poll.
type stopError struct{ error }

func (e stopError) Unwrap() error { return e.error }

// Stop marks an error that more polling cannot mend.
func Stop(err error) error { return stopError{err} }

// Poll calls check until it returns nil, or an error marked by [Stop], or the
// context ends; then it returns the last error too. It is for things that
// cannot be watched, such as whether a port is open.
func Poll(ctx context.Context, interval time.Duration, check func() error) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		err := check()
		if err == nil {
			return nil
		}
		if stop, ok := errors.AsType[stopError](err); ok {
			return stop.error
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", context.Cause(ctx), err)
		}
	}
}

// signal wakes whoever waits for something to change. The zero value is not
// usable; see newSignal. Its methods need the lock that guards the state that
// changes.
type signal struct{ changed chan struct{} }

func newSignal() signal { return signal{changed: make(chan struct{})} }

func (s *signal) wake() {
	close(s.changed)
	s.changed = make(chan struct{})
}

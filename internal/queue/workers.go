package queue

import (
	"context"
	"sync"
)

// workers are the places that a queue has in this process for runs that are not
// launched yet.
type workers struct {
	// all has one for each run that is made ready or launched, launching one
	// for each that is launched.
	all, launching chan struct{}
}

// newWorkers makes places to launch so many runs at once. Half as many more are
// made ready meanwhile: to have its record written and its image found takes a
// run a fraction of the time that a launch takes, and if its launch had the place
// for all of that, fewer than so many would be under way.
func newWorkers(launching int) *workers {
	return &workers{all: make(chan struct{}, launching+(launching+1)/2), launching: make(chan struct{}, launching)}
}

// turn is one of the places, which its run has been given.
type turn struct {
	workers *workers

	mu        sync.Mutex
	launching bool
	done      bool
}

// Await waits until the run may be launched; see [run.Turn].
func (t *turn) Await(ctx context.Context) error {
	if t.settled() {
		return nil
	}
	select {
	case t.workers.launching <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done { // meanwhile
		<-t.workers.launching
		return nil
	}
	t.launching = true
	return nil
}

// settled reports whether there is nothing to wait for.
func (t *turn) settled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.launching || t.done
}

// Done gives the place back; see [run.Turn].
func (t *turn) Done() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.done {
		return
	}
	t.done = true
	if t.launching {
		<-t.workers.launching
	}
	<-t.workers.all
}

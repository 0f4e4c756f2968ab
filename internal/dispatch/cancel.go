package dispatch

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Waiting knows the messages of runs that no dispatcher has taken up.
type Waiting interface {
	// Find returns the message of an attempt, or [run.ErrNotFound].
	Find(ctx context.Context, queue, id string, attempt int) (run.Delivery, error)
	// Remove takes it out of the queue. It may be repeated.
	Remove(ctx context.Context, delivery run.Delivery) error
}

// errCancelled interrupts the handling of a run that is to be stopped.
var errCancelled = errors.New("the run is to be cancelled")

// cancelMemory is how long a cancellation is remembered for a run that this
// dispatcher may yet be handed. It is as long as the queue keeps them.
const cancelMemory = 24 * time.Hour

// cancellations are the wishes to stop runs that this process knows of, and the
// runs under way here that can be stopped.
type cancellations struct {
	mu      sync.Mutex
	wanted  map[string]wish
	handled map[string]map[*underWay]struct{}
}

// wish is a cancellation, and when this process was told of it: nobody else's
// clock decides how long it is remembered.
type wish struct {
	attempt int
	told    time.Time
}

// underWay is a run that is handled here.
type underWay struct {
	all       *cancellations
	key       string
	interrupt func()
	// first is the attempt since which the run is wanted. A wish to stop that
	// attempt holds for its retries, but not for a replay.
	first int
}

func newCancellations() *cancellations {
	return &cancellations{wanted: map[string]wish{}, handled: map[string]map[*underWay]struct{}{}}
}

func cancelKey(queue, id string) string { return queue + "." + id }

// want notes a cancellation, and interrupts the run if it is under way here.
func (c *cancellations) want(cancellation run.Cancellation, now time.Time) (handled bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	key := cancelKey(cancellation.Queue, cancellation.ID)
	c.wanted[key] = wish{cancellation.Attempt, now}
	// A few looks for each that is added forget old ones faster than new ones
	// come.
	looks := 4
	for old, one := range c.wanted {
		if now.Sub(one.told) > cancelMemory {
			delete(c.wanted, old)
		}
		if looks--; looks == 0 {
			break
		}
	}
	for u := range c.handled[key] {
		handled = u.check() || handled
	}
	return handled
}

// begin notes a run as under way, and interrupts it at once if it is to be
// stopped.
func (c *cancellations) begin(delivery run.Delivery, interrupt func()) *underWay {
	c.mu.Lock()
	defer c.mu.Unlock()
	u := &underWay{all: c, key: cancelKey(delivery.Queue, delivery.ID), interrupt: interrupt, first: delivery.Attempt}
	if c.handled[u.key] == nil {
		c.handled[u.key] = map[*underWay]struct{}{}
	}
	c.handled[u.key][u] = struct{}{}
	u.check()
	return u
}

// check interrupts the run if it is to be stopped. The lock is held.
func (u *underWay) check() bool {
	wanted, ok := u.all.wanted[u.key]
	if !ok || wanted.attempt < u.first {
		return false
	}
	u.interrupt()
	return true
}

// wants reports whether a run that is wanted since an attempt is to be stopped.
func (u *underWay) wants(first int) bool {
	u.all.mu.Lock()
	defer u.all.mu.Unlock()
	wanted, ok := u.all.wanted[u.key]
	return ok && wanted.attempt >= first
}

// since tells since which attempt the run is wanted, as its record says.
func (u *underWay) since(first int) {
	u.all.mu.Lock()
	defer u.all.mu.Unlock()
	u.first = first
	u.check()
}

// end notes that the run is no longer under way here.
func (u *underWay) end() {
	u.all.mu.Lock()
	defer u.all.mu.Unlock()
	delete(u.all.handled[u.key], u)
	if len(u.all.handled[u.key]) == 0 {
		delete(u.all.handled, u.key)
	}
}

// Cancel stops a run, wherever it is: one that is under way here is stopped by
// its handling, one that is under way elsewhere by the dispatcher that holds
// it, which is told too, and one that waits never starts. It is told of every
// cancellation, in every dispatcher.
func (d *Dispatcher) Cancel(ctx context.Context, cancellation run.Cancellation) error {
	if d.cancels.want(cancellation, d.config.Now()) {
		return nil
	}
	record, revision, err := d.config.Store.Lookup(ctx, cancellation.ID)
	switch {
	case err == nil && (record.State != run.Queued || record.FirstAttempt > cancellation.Attempt):
		return nil // over, or for the dispatcher that holds it
	case err == nil:
		return d.cancelQueued(ctx, record, func(record run.Run) error {
			_, err := d.config.Store.Update(ctx, record, revision)
			return err
		})
	case !errors.Is(err, run.ErrNotFound):
		return err
	}
	delivery, err := d.config.Waiting.Find(ctx, cancellation.Queue, cancellation.ID, 1)
	if errors.Is(err, run.ErrNotFound) {
		return nil // never published, or just taken up by a dispatcher that is told too
	}
	if err != nil {
		return err
	}
	h := &handling{config: &d.config, delivery: delivery}
	valid := h.read() == nil
	if err := h.keep(ctx, valid); err != nil {
		return err
	}
	h.record = run.New(delivery)
	h.describe(valid)
	return d.cancelQueued(ctx, h.record, func(record run.Run) error {
		_, err := d.config.Store.Create(ctx, record)
		return err
	})
}

// cancelQueued ends a run that waits. The record goes first: from then on the
// message is one of a run that is over, wherever it turns up.
func (d *Dispatcher) cancelQueued(ctx context.Context, record run.Run, write func(run.Run) error) error {
	if err := record.Become(run.Cancelled, d.config.Now().UTC()); err != nil {
		return err
	}
	record.Reason = run.CancelledByUser
	record.Message = run.Explain(run.CancelledByUser, "The run was cancelled before it started.")
	err := write(record)
	if errors.Is(err, run.ErrConflict) {
		return nil // it was just taken up, or another dispatcher has cancelled it
	}
	if err != nil {
		return err
	}
	d.config.Observer.Finished(record)
	return d.config.Waiting.Remove(ctx, run.Delivery{Queue: record.Queue, ID: record.ID, Attempt: record.Attempt})
}

// cancelRetry ends a run that was found under way here when somebody wished it
// stopped, and has just become one that waits for its next attempt: nobody else
// would stop it before that attempt is due. One that was replayed since that wish
// goes on.
func (d *Dispatcher) cancelRetry(ctx context.Context, h *handling) {
	if h.record.State != run.Queued || !h.underWay.wants(h.record.FirstAttempt) {
		return
	}
	err := h.persist(ctx, func() error {
		return d.cancelQueued(ctx, h.record, func(record run.Run) error {
			_, err := d.config.Store.Update(ctx, record, h.revision)
			return err
		})
	})
	if err != nil && ctx.Err() == nil {
		h.log().Warn().Err(err).Msg("cannot cancel the run while it waits for its next attempt; it is cancelled when that is due")
	}
}

// cancel stops a run that is under way here: its Job is deleted, with all that
// runs of it, and then that is recorded.
func (h *handling) cancel(ctx context.Context) (run.Decision, error) {
	finished, err := h.reclaim(ctx)
	if finished || err != nil {
		return run.Done, err
	}
	h.turn.Done()
	if err := h.patiently(ctx, func() error { return h.unlaunch(ctx) }); err != nil {
		return "", err
	}
	h.config.Fault("unlaunched")
	message := "The run was cancelled before it started."
	if h.record.StartedAt != nil {
		message = "The run was cancelled while it ran."
	}
	return h.finish(ctx, run.Observation{State: run.Cancelled, Reason: run.CancelledByUser, Message: run.Explain(run.CancelledByUser, message)})
}

// reclaim reads the run's record anew, since what was interrupted may have been
// written all the same, and claims the run if that had not been done. It
// reports whether the run is over.
func (h *handling) reclaim(ctx context.Context) (finished bool, err error) {
	if h.confirmed.IsZero() {
		return h.claim(ctx, h.valid)
	}
	err = h.persist(ctx, func() (err error) {
		h.record, h.revision, err = h.config.Store.Lookup(ctx, h.delivery.ID)
		return err
	})
	if err == nil && h.record.Owner != h.config.Owner {
		err = run.ErrConflict
	}
	return err == nil && h.record.State.Final(), err
}

// unlaunch removes the Job of the attempt, if there is one.
func (h *handling) unlaunch(ctx context.Context) error {
	job := h.record.Job
	if job == nil && h.valid {
		found, _, err := h.config.Launcher.Launch(ctx, run.Launch{
			Request: h.request, Attempt: h.delivery.Attempt, Image: h.record.Image, Policy: h.policy(), Known: &run.Job{},
		})
		var gone *run.LaunchError
		switch {
		case errors.As(err, &gone) && !gone.Temporary:
			return nil // there is none of ours
		case err != nil:
			return err
		}
		job = &found
	}
	if job == nil {
		return nil
	}
	err := h.config.Launcher.Delete(ctx, *job)
	if err != nil && ctx.Err() == nil {
		return &run.LaunchError{Reason: run.StartTimeout, Temporary: true, Message: "The run is being cancelled, but its Job cannot be deleted yet: " + err.Error() + ".", Err: err}
	}
	return err
}

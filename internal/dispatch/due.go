package dispatch

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Later holds attempts until their time, without a slot, and puts them on
// their queue then.
type Later interface {
	// Schedule lets an attempt be due at a time. It may be repeated.
	Schedule(ctx context.Context, due run.Due, at time.Time) error
	// Queue puts an attempt on its queue. It may be repeated.
	Queue(ctx context.Context, request run.Request, attempt int) error
}

// retry turns a run whose attempt has just ended into one that waits for the
// next, if its policy or the operator's budget wants that. It changes the
// record only; see [handling.finish].
func (h *handling) retry(seen run.Observation) bool {
	policy := h.request.Retry
	if policy.Attempts == 0 {
		policy = h.set().Retry
	}
	wait, again := h.record.Spent.Spend(policy, h.config.InfrastructureRetries, seen, rand.Float64()) //nolint:gosec // a spread is no secret
	if !again {
		return false
	}
	ended := h.record.Attempt
	now := h.config.Now().UTC()
	at := now.Add(wait)
	if err := h.record.Again(at, now); err != nil {
		h.log().Error().Err(err).Msg("refusing a transition")
		return false
	}
	h.record.Message = fmt.Sprintf("Attempt %d ended with %s; attempt %d begins at %s.", ended, seen.Reason, h.record.Attempt, at.Format(time.RFC3339))
	return true
}

// schedule lets the attempt that the record waits for be due at its time.
func (h *handling) schedule(ctx context.Context) error {
	at := h.config.Now()
	if h.record.NextAttemptAt != nil {
		at = *h.record.NextAttemptAt
	}
	due := run.Due{Queue: h.record.Queue, ID: h.record.ID, Attempt: h.record.Attempt}
	return h.persist(ctx, func() error { return h.config.Later.Schedule(ctx, due, at) })
}

// Due puts an attempt on its queue whose time has come: a retry that has waited,
// or a replay that somebody asks for now. An attempt that nobody waits for any
// more is dropped. It may be repeated.
func (d *Dispatcher) Due(ctx context.Context, due run.Due) error {
	record, revision, err := d.config.Store.Lookup(ctx, due.ID)
	if errors.Is(err, run.ErrNotFound) || err == nil && record.Queue != due.Queue {
		d.config.Log.Warn().Str("run_id", due.ID).Msg("an attempt is due of a run that is no longer on record")
		return nil
	}
	if err != nil {
		return err
	}
	waits := record.State == run.Queued && record.Attempt == due.Attempt
	replayed := record.State.CanBecome(run.Queued) && record.Attempt+1 == due.Attempt
	switch {
	case waits, replayed:
	case due.Attempt <= record.Attempt:
		return nil // cancelled meanwhile, or taken up already
	default:
		// What we were told of the record may be older than what whoever
		// asked for the attempt has seen.
		return fmt.Errorf("attempt %d is due, but the run is %s at attempt %d: %w", due.Attempt, record.State, record.Attempt, run.ErrContradicted)
	}
	request, err := d.request(ctx, record, due.Correction)
	if unfit, ok := errors.AsType[*unfitError](err); ok {
		return d.refuse(ctx, record, revision, unfit)
	}
	if err != nil {
		return err
	}
	before := record
	if replayed {
		if err := d.keepCorrected(ctx, due, request); errors.Is(err, run.ErrTooLarge) {
			return d.refuse(ctx, before, revision, errTooLargeToTry)
		} else if err != nil {
			return err
		}
		now := d.config.Now().UTC()
		if err := record.Again(now, now); err != nil {
			return err
		}
		record.Image, record.Request = request.Image.Reference, &request
		record.Labels = request.Labels
		record.Spent = run.Budget{} // whoever replays a run gives it a new start
		record.FirstAttempt = due.Attempt
	}
	record.NextAttemptAt = nil
	record.Message = ""
	// The record goes first: should we end here, the attempt is due again and
	// is found waiting.
	next, err := d.update(ctx, record, revision, request)
	if errors.Is(err, run.ErrTooLarge) {
		return d.refuse(ctx, before, revision, errTooLargeToTry)
	}
	if err != nil {
		return err
	}
	revision = next
	err = d.config.Later.Queue(ctx, request, due.Attempt)
	var refused *run.InvalidError
	switch {
	case errors.As(err, &refused):
		return d.refuse(ctx, record, revision, &unfitError{refused.Error()})
	case errors.Is(err, run.ErrFull):
		// Waiting here would keep other runs' attempts from their queues.
		const later = 30 * time.Second
		return d.config.Later.Schedule(ctx, run.Due{Queue: due.Queue, ID: due.ID, Attempt: due.Attempt}, d.config.Now().Add(later))
	}
	return err
}

// keepCorrected keeps a request with secrets that replaces the one before. The
// record has none of its secrets, and the next attempt may begin without this
// replay's: because the queue is full, or the attempt is cancelled while it
// waits.
func (d *Dispatcher) keepCorrected(ctx context.Context, due run.Due, request run.Request) error {
	if due.Correction == nil || due.Correction.Request == nil || !request.HasSecrets() {
		return nil
	}
	data, err := request.Encode()
	if err != nil {
		return err
	}
	return d.config.Store.KeepRequest(ctx, due.Queue, due.ID, data)
}

// update writes the record of a run that is queued again. A request that is too
// large to stand in it is kept beside it.
func (d *Dispatcher) update(ctx context.Context, record run.Run, revision uint64, request run.Request) (uint64, error) {
	next, err := d.config.Store.Update(ctx, record, revision)
	if !errors.Is(err, run.ErrTooLarge) {
		return next, err
	}
	data, err := request.Encode()
	if err != nil {
		return 0, err
	}
	if err := d.config.Store.KeepRequest(ctx, record.Queue, record.ID, data); err != nil {
		return 0, err
	}
	record.Request, record.Labels = nil, nil
	return d.config.Store.Update(ctx, record, revision)
}

// unfitError is why a run cannot be tried again.
type unfitError struct{ why string }

func (e *unfitError) Error() string { return e.why }

// errTooLargeToTry is said of what would be tried for ever.
var errTooLargeToTry = &unfitError{"it is larger than the NATS server takes; make the request smaller, or raise max_payload on the server"}

// request puts together what the next attempt of a run is to do: the request
// on record, with its secrets, and what a replay corrects in it.
func (d *Dispatcher) request(ctx context.Context, record run.Run, correction *run.Correction) (run.Request, error) {
	var request run.Request
	if record.Request != nil {
		request = record.Request.Clone()
	}
	request.ID, request.Queue = record.ID, record.Queue
	if (record.Request == nil || request.HasSecrets()) && (correction == nil || correction.Request == nil) {
		kept, err := d.config.Store.Request(ctx, record.Queue, record.ID)
		if errors.Is(err, run.ErrNotFound) {
			return run.Request{}, &unfitError{"the request with its secrets is no longer kept (ROPEWALK_SECRET_RETENTION)"}
		}
		if err != nil {
			return run.Request{}, err
		}
		published, err := run.Decode(kept)
		if err != nil {
			return run.Request{}, &unfitError{"the request as it was kept cannot be understood: " + err.Error()}
		}
		if record.Request == nil {
			request = published
			request.ID, request.Queue = record.ID, record.Queue
		}
		whole, ok := request.WithSecrets(published)
		if !ok {
			return run.Request{}, &unfitError{"the request that was kept lacks secrets of the one on record; replay it with its request anew"}
		}
		request = whole
	}
	request, err := request.Correct(correction)
	if err == nil {
		err = request.Validate()
	}
	if err != nil {
		return run.Request{}, &unfitError{err.Error()}
	}
	return request, nil
}

// refuse says in the record why the run cannot be tried again. A run that waited
// for that ends so.
func (d *Dispatcher) refuse(ctx context.Context, record run.Run, revision uint64, why *unfitError) error {
	d.config.Log.Warn().Err(why).Str("run_id", record.ID).Msg("cannot try a run again")
	said := "It cannot be tried again as it is: " + why.Error() + "."
	if record.State == run.Queued {
		if err := record.Become(run.Rejected, d.config.Now().UTC()); err != nil {
			return err
		}
		record.Reason, record.Message = run.InvalidRequest, run.Explain(run.InvalidRequest, said)
	} else if !strings.Contains(record.Message, said) {
		record.Message += " " + said
	}
	_, err := d.config.Store.Update(ctx, record, revision)
	return err
}

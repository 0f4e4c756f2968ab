package run

import (
	"fmt"
	"slices"
	"time"
)

// Run is the record of a run: what `get` shows, what the run store keeps, and
// what events carry. It holds no secret.
type Run struct {
	ID    string `json:"id"`
	Queue string `json:"queue"`
	State State  `json:"state"`
	// Reason is set in every final state but succeeded.
	Reason Reason `json:"reason,omitempty"`
	// Message says, for people, what happened and what to do, or, while the
	// run is not final, what it waits for.
	Message string `json:"message,omitempty"`
	// ExitCode is that of the container, once it has one.
	ExitCode *int `json:"exitCode"`
	// Attempt counts from 1.
	Attempt int `json:"attempt"`
	// FirstAttempt is the one that somebody asked for last, by submitting or
	// replaying the run; those since are retries.
	FirstAttempt int `json:"firstAttempt,omitempty"`
	// Image is the reference that is run, as resolved.
	Image string `json:"image"`
	// Namespace is where the attempt's Job is made, if its queue says where.
	// It stays what it was when the attempt was taken up: another dispatcher
	// looks for the Job there.
	Namespace string `json:"namespace,omitempty"`
	// Job is nil until one is known to exist.
	Job        *Job       `json:"job"`
	QueuedAt   time.Time  `json:"queuedAt"`
	StartedAt  *time.Time `json:"startedAt"`
	FinishedAt *time.Time `json:"finishedAt"`
	// Owner is the dispatcher that holds the run, or held it last.
	Owner string `json:"owner,omitempty"`
	// Labels are the request's.
	Labels map[string]string `json:"labels,omitempty"`
	// History has every change of state, oldest first.
	History []Change `json:"history"`
	// Request is kept for replay; its secrets are not in it. It is nil when
	// the message could not be decoded.
	Request *Request `json:"request,omitempty"`
	// Evidence is of the newest attempt that did not succeed.
	Evidence *Evidence `json:"evidence,omitempty"`
	// NextAttemptAt is when a run that waits for its next attempt is queued
	// again.
	NextAttemptAt *time.Time `json:"nextAttemptAt,omitempty"`
	// Spent is what the run has used of its retries.
	Spent Budget `json:"spent,omitzero"`
	// Sequence is the message's place in the RUNS stream, by which a
	// redelivery is told from a second message for the same id.
	Sequence uint64 `json:"sequence,omitempty"`
}

// Change is one step in the life of a run.
type Change struct {
	State   State     `json:"state"`
	Attempt int       `json:"attempt"`
	At      time.Time `json:"at"`
	// Owner is the dispatcher that made the change.
	Owner string `json:"owner,omitempty"`
	// Phases are the parts of the state whose beginnings are known, in order.
	Phases []Phase `json:"phases,omitempty"`
	// Reason, ExitCode and Job are those of an attempt that ended so.
	Reason   Reason `json:"reason,omitempty"`
	ExitCode *int   `json:"exitCode,omitempty"`
	Job      string `json:"job,omitempty"`
}

// TransitionError tells of a change that the table does not allow.
type TransitionError struct{ From, To State }

func (e *TransitionError) Error() string {
	return fmt.Sprintf("a run that is %s cannot become %s", e.From, e.To)
}

// New returns the record of a run that waits: what is known from its message
// alone.
func New(delivery Delivery) Run {
	return Run{
		ID: delivery.ID, Queue: delivery.Queue, State: Queued, Attempt: delivery.Attempt, FirstAttempt: delivery.Attempt,
		QueuedAt: delivery.PublishedAt, Sequence: delivery.Sequence,
		History: []Change{{State: Queued, Attempt: delivery.Attempt, At: delivery.PublishedAt}},
	}
}

// Become moves the run to state next at the given time, or returns a
// [*TransitionError] and leaves it as it is. It also clears the message, which
// spoke of the state before.
func (r *Run) Become(next State, at time.Time) error {
	if !r.State.CanBecome(next) {
		return &TransitionError{From: r.State, To: next}
	}
	r.State, r.Message, r.Reason = next, "", ""
	r.History = append(slices.Clip(r.History), Change{State: next, Attempt: r.Attempt, At: at, Owner: r.Owner})
	if next.Final() {
		r.FinishedAt = &at
	}
	return nil
}

// Observe brings the record in line with what a launcher saw, at the given
// time. It reports whether anything changed. An observation that lags behind
// the record changes nothing.
func (r *Run) Observe(seen Observation, at time.Time) (changed bool) {
	if r.State == Pending {
		if !seen.ScheduledAt.IsZero() {
			changed = r.Enter(Pulling, seen.ScheduledAt, at)
		}
		if !seen.StartedAt.IsZero() && seen.State.Final() { // it was over before it was seen to run
			changed = r.Enter(Executing, seen.StartedAt, at) || changed
		}
	}
	if r.State != seen.State {
		if r.Become(seen.State, at) != nil {
			return false
		}
		changed = true
	}
	if r.Message != seen.Message || r.Reason != seen.Reason {
		r.Message, r.Reason = seen.Message, seen.Reason
		changed = true
	}
	if !seen.StartedAt.IsZero() && (r.StartedAt == nil || !r.StartedAt.Equal(seen.StartedAt)) {
		r.StartedAt = &seen.StartedAt
		changed = true
	}
	if seen.ExitCode != nil && r.ExitCode == nil {
		r.ExitCode = seen.ExitCode
		changed = true
	}
	if seen.Evidence != nil && seen.State.Final() {
		evidence := *seen.Evidence
		evidence.Attempt = r.Attempt
		r.Evidence, changed = &evidence, true
	}
	if !seen.FinishedAt.IsZero() && seen.State.Final() {
		r.FinishedAt = &seen.FinishedAt
		if r.StartedAt != nil && r.FinishedAt.Before(*r.StartedAt) {
			// The two may come from different clocks, and are whole seconds.
			r.FinishedAt = r.StartedAt
		}
	}
	return changed
}

// Again turns a run whose attempt is over into one that waits for its next
// attempt, which begins at the time given, or at once.
func (r *Run) Again(at, now time.Time) error {
	if !r.State.CanBecome(Queued) {
		return &TransitionError{From: r.State, To: Queued}
	}
	if len(r.History) > 0 {
		last := &r.History[len(r.History)-1]
		last.Reason, last.ExitCode = r.Reason, r.ExitCode
		if r.Job != nil {
			last.Job = r.Job.Name
		}
	}
	r.Attempt++
	if err := r.Become(Queued, now); err != nil {
		return err
	}
	r.Job, r.ExitCode, r.StartedAt, r.FinishedAt, r.NextAttemptAt = nil, nil, nil, nil, nil
	if at.After(now) {
		r.NextAttemptAt = &at
	}
	return nil
}

// Explain joins a sentence on what happened with the reason's sentence on what
// to do. An empty happened stands for the reason's own words.
func Explain(reason Reason, happened string) string {
	if happened == "" {
		happened = reason.Happened()
	}
	return happened + " " + reason.ToDo()
}

package run

import "slices"

// State is where a run stands. The values are part of the wire format.
type State string

// The states of a run. A run that is not final holds one slot of its queue
// from preparing on.
const (
	// Queued: the request waits in the queue; no dispatcher has taken it.
	Queued State = "queued"
	// Preparing: a dispatcher holds the run and makes it ready to launch.
	Preparing State = "preparing"
	// Pending: the Job exists; its container does not run yet.
	Pending State = "pending"
	// Running: the container runs.
	Running State = "running"
	// Succeeded: the container ended with exit code 0.
	Succeeded State = "succeeded"
	// Failed: the run ended for the reason that its record gives.
	Failed State = "failed"
	// Cancelled: somebody asked for the run to be stopped.
	Cancelled State = "cancelled"
	// TimedOut: the run did not start, or did not end, in the time allowed.
	TimedOut State = "timed_out"
	// Rejected: the request could not be accepted; nothing was launched.
	Rejected State = "rejected"
)

// States lists every state in the order of a run's life.
func States() []State {
	return []State{Queued, Preparing, Pending, Running, Succeeded, Failed, Cancelled, TimedOut, Rejected}
}

// Meaning says in one sentence what a state means to the owner of a run.
func (s State) Meaning() string { return meanings[s] }

var meanings = map[State]string{
	Queued:    "The request waits in its queue; no dispatcher has taken it yet.",
	Preparing: "A dispatcher holds the run and makes it ready: policy, image, Job.",
	Pending:   "The Job exists; its container does not run yet (scheduling, pulling).",
	Running:   "The container runs.",
	Succeeded: "The container ended with exit code 0.",
	Failed:    "The run ended without success; the reason says why.",
	Cancelled: "Somebody asked for the run to be stopped, and it was.",
	TimedOut:  "The run did not start, or did not end, within the time allowed.",
	Rejected:  "The request could not be accepted; nothing was launched.",
}

// transitions is the one table of what may follow what. docs/state-machine.md
// is generated from it. A final state leads to queued only, as the next
// attempt. A dispatcher that was away may first see a Job when it has already
// gone on, so that states between may be left out, but none may be gone back
// to.
var transitions = map[State][]State{
	Queued:    {Preparing, Cancelled, TimedOut, Rejected},
	Preparing: {Pending, Running, Succeeded, Failed, Cancelled, TimedOut, Rejected},
	Pending:   {Running, Succeeded, Failed, Cancelled, TimedOut},
	Running:   {Succeeded, Failed, Cancelled, TimedOut},
	Succeeded: {},
	Failed:    {Queued},
	Cancelled: {Queued},
	TimedOut:  {Queued},
	Rejected:  {Queued},
}

// Next lists the states that may follow s, in the order of a run's life.
func (s State) Next() []State { return slices.Clone(transitions[s]) }

// CanBecome reports whether a run in state s may go to state next.
func (s State) CanBecome(next State) bool { return slices.Contains(transitions[s], next) }

// Final reports whether an attempt in state s is over.
func (s State) Final() bool {
	switch s {
	case Succeeded, Failed, Cancelled, TimedOut, Rejected:
		return true
	default:
		return false
	}
}

// Known reports whether s is one of [States].
func (s State) Known() bool { _, ok := transitions[s]; return ok }

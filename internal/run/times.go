package run

import (
	"slices"
	"time"
)

// Part is a part of an attempt's way that tells where its time went.
type Part string

// The parts. Building is a part of the state preparing, and scheduling and
// pulling are parts of pending.
const (
	// Waiting: the run was queued, or waited for its next attempt.
	Waiting Part = "waiting"
	// MakingReady: a dispatcher looked up the image and made the Job.
	MakingReady Part = "preparing"
	// Building: the image was built.
	Building Part = "building"
	// Scheduling: the pod was made and found its node.
	Scheduling Part = "scheduling"
	// Pulling: the node pulled the image and set the container up.
	Pulling Part = "pulling"
	// Executing: the container ran.
	Executing Part = "running"
)

// Parts lists the parts in the order in which they come.
func Parts() []Part {
	return []Part{Waiting, MakingReady, Building, Scheduling, Pulling, Executing}
}

// Phase is the beginning of a part that is no state of its own.
type Phase struct {
	Part Part      `json:"part"`
	At   time.Time `json:"at"`
}

// Enter notes that a part of the present state has begun, unless that is noted.
// The time is brought between the last change and now: it may come from another
// clock, and be in whole seconds.
func (r *Run) Enter(part Part, at, now time.Time) (changed bool) {
	if len(r.History) == 0 {
		return false
	}
	last := r.History[len(r.History)-1]
	from := last.At
	for _, phase := range last.Phases {
		if phase.Part == part {
			return false
		}
		from = phase.At
	}
	if at.After(now) {
		at = now
	}
	if at.Before(from) {
		at = from
	}
	last.Phases = append(slices.Clip(last.Phases), Phase{Part: part, At: at.UTC()})
	r.History = slices.Clone(r.History) // which other copies of the record share
	r.History[len(r.History)-1] = last
	return true
}

// Attempt is one attempt of a run, and where its time went.
type Attempt struct {
	Number int
	// State is the one that the attempt ended in or is in, with its reason and
	// exit code.
	State    State
	Reason   Reason
	ExitCode *int
	Job      string
	// Began is when the attempt was queued, Ended when it was over; zero while
	// it is not.
	Began, Ended time.Time
	// Spent is how long each part took, or takes.
	Spent map[Part]time.Duration
}

// Attempts tells of every attempt, in order, as things stand at the given time.
func (r *Run) Attempts(now time.Time) []Attempt {
	var attempts []Attempt
	for i, change := range r.History {
		if i == 0 || attempts[len(attempts)-1].Number != change.Attempt {
			attempts = append(attempts, Attempt{Number: change.Attempt, Began: change.At, Spent: make(map[Part]time.Duration)})
		}
		attempt := &attempts[len(attempts)-1]
		attempt.State, attempt.Reason, attempt.ExitCode = change.State, change.Reason, change.ExitCode
		if change.Job != "" {
			attempt.Job = change.Job
		}
		until := now
		switch {
		case change.State.Final():
			attempt.Ended = change.At
			continue
		case i+1 < len(r.History):
			until = r.History[i+1].At
		}
		part, from := partOf(change.State), change.At
		for _, phase := range change.Phases {
			attempt.Spent[part] += max(0, phase.At.Sub(from))
			part, from = phase.Part, phase.At
		}
		attempt.Spent[part] += max(0, until.Sub(from))
	}
	if n := len(attempts); n > 0 { // what stands in the record of the newest
		attempts[n-1].Reason, attempts[n-1].ExitCode = r.Reason, r.ExitCode
		if r.Job != nil {
			attempts[n-1].Job = r.Job.Name
		}
	}
	return attempts
}

// partOf is the part that a state begins with.
func partOf(state State) Part {
	switch state {
	case Preparing:
		return MakingReady
	case Pending:
		return Scheduling
	case Running:
		return Executing
	default:
		return Waiting
	}
}

package run

import (
	"encoding/json"
	"errors"
	"time"
)

// Schedule says when a request is run, and again. It is kept until somebody
// deletes it.
type Schedule struct {
	// Name is that of a queue in form; it begins the ids of the runs.
	Name string `json:"name"`
	// At is the one time at which the request is run. Cron says at which times
	// it is run again and again: five fields as in cron, six with seconds
	// before them, or @hourly and the like, in TimeZone, UTC if that is empty.
	At       *time.Time `json:"at,omitempty"`
	Cron     string     `json:"cron,omitempty"`
	TimeZone string     `json:"timeZone,omitempty"`
	// Overlap says what becomes of a time at which the run before still goes
	// on.
	Overlap Overlap `json:"overlap"`
	// Within is how late a run may be queued; left out, however late.
	Within Duration `json:"within,omitempty"`
	// Paused: nothing is run, and what is missed is not made up for.
	Paused bool `json:"paused,omitempty"`
	// Request is what is run; each time has an id of its own.
	Request Request `json:"request"`
	// ChangedAt is when the schedule was last set, paused or resumed. It tells
	// what was arranged for it before from what is in force.
	ChangedAt time.Time `json:"changedAt"`
	// Last is what became of its latest time, and Run the newest run of it.
	Last *Firing `json:"last,omitempty"`
	Run  string  `json:"run,omitempty"`
	// Started and Passed count the times that were run, and those that were
	// not.
	Started int `json:"started"`
	Passed  int `json:"passed"`
}

// Overlap is what becomes of a time at which the run before still goes on.
type Overlap string

// The ways.
const (
	// AllowOverlap: both go on.
	AllowOverlap Overlap = "allow"
	// SkipOverlap: the time is passed over.
	SkipOverlap Overlap = "skip"
	// ReplaceOverlap: the run before is cancelled.
	ReplaceOverlap Overlap = "replace"
)

// Firing is what became of one time of a schedule.
type Firing struct {
	// At is the time by the schedule.
	At      time.Time `json:"at"`
	Outcome Outcome   `json:"outcome"`
	// Run is the run that was started, or the one that was in the way.
	Run string `json:"run,omitempty"`
	// Message says for people why nothing was started.
	Message string `json:"message,omitempty"`
}

// Outcome is what a time of a schedule came to.
type Outcome string

// The outcomes.
const (
	// FiringStarted: a run was queued.
	FiringStarted Outcome = "started"
	// FiringSkipped: the run before still went on.
	FiringSkipped Outcome = "skipped"
	// FiringMissed: it was too late by the time that somebody could.
	FiringMissed Outcome = "missed"
	// FiringRefused: the queue did not take the run.
	FiringRefused Outcome = "refused"
)

// Done reports whether there is no time to come.
func (s Schedule) Done() bool { return s.At != nil && s.Last != nil }

// RunID is the id of the run for one time. It depends on nothing else, so that
// a time that comes twice is one run.
func (s Schedule) RunID(at time.Time) string {
	return s.Name + "-" + at.UTC().Format("20060102t150405z")
}

// Encode writes the schedule for its bucket, its request's secrets in the clear.
func (s Schedule) Encode() ([]byte, error) {
	type bare Schedule // without Encode's receiver, to embed it
	request, err := s.Request.Encode()
	if err != nil {
		return nil, err
	}
	return json.Marshal(struct {
		bare
		Request json.RawMessage `json:"request"`
	}{bare(s), request})
}

// Validate returns an [*InvalidError] with everything that is wrong and can be
// known without a calendar.
func (s Schedule) Validate() error {
	v := &validation{}
	if !ValidQueue(s.Name) {
		v.add("name", "%.80q must be at most %d lower-case letters, digits and '-', beginning and ending with a letter or digit", s.Name, MaxQueueLength)
	}
	switch {
	case s.At == nil && s.Cron == "":
		v.add("at", "is missing, and so is cron: say when")
	case s.At != nil && s.Cron != "":
		v.add("at", "and cron are both given; give one")
	case s.At != nil && s.TimeZone != "":
		v.add("timeZone", "goes with cron; a time such as 2026-01-31T02:00:00+01:00 has its own")
	}
	switch s.Overlap {
	case AllowOverlap, SkipOverlap, ReplaceOverlap:
	default:
		v.add("overlap", "%.40q is not one of allow, skip and replace", string(s.Overlap))
	}
	if s.Within < 0 {
		v.add("within", "must not be negative")
	}
	if s.Request.ID != "" {
		v.add("request.id", "must be left out: each time is a run with an id of its own")
	}
	request := s.Request
	request.ID = "schedule"
	if invalid, ok := errors.AsType[*InvalidError](request.Validate()); ok {
		v.problems = append(v.problems, invalid.Problems...)
	}
	return v.err()
}

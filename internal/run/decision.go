package run

import (
	"cmp"
	"context"
	"errors"
	"time"
)

// Delivery is one run's message as the queue hands it to the core. It is the
// queue's whole knowledge of the run; nothing of it has been decoded.
type Delivery struct {
	// Queue, ID and Attempt come from the message's subject, which is what
	// NATS permissions are enforced on.
	Queue   string
	ID      string
	Attempt int
	// Malformed says what is wrong with the subject, if anything; ID is a
	// stand-in then, see [StandInID].
	Malformed string
	// Data is the request as it was published.
	Data []byte
	// Sequence is the message's place in the stream: a second message for
	// the same id has another one.
	Sequence uint64
	// PublishedAt is when the stream stored the message.
	PublishedAt time.Time
	// Redelivered counts earlier deliveries of this message.
	Redelivered int
	// Policy is what is set for the queue at the moment of delivery; nil is
	// nothing. The runs of a queue share it.
	Policy *Policy
}

// Turn is a run's place among those that one process makes ready and launches at
// the same time.
type Turn interface {
	// Await waits until the run may be launched: others are made ready while as
	// many as may be are launched. It returns the error of ctx if that ends
	// before, and nil at once after Done.
	Await(ctx context.Context) error
	// Done gives the place to another run. What is left to do is to wait. It may
	// be called again.
	Done()
}

// Decision is what becomes of a run's message once the core returns. The queue
// does all acknowledging; the core only decides.
type Decision string

const (
	// Done: the run's final state is on record; the message goes for good.
	Done Decision = "done"
	// Reject: the request can never be run and that is on record; the
	// message goes for good, and the server is told that it was refused.
	Reject Decision = "reject"
	// HandBack: this dispatcher stops; another one shall have the message
	// at once.
	HandBack Decision = "hand back"
	// Abandon: another dispatcher owns the run. Its acknowledgement counts,
	// so nothing is said about this delivery.
	Abandon Decision = "abandon"
)

// Observation is what a launcher sees of a Job at one moment.
type Observation struct {
	// State is Pending, Running or a final state.
	State State
	// Reason and Message tell why the state is final, or, as long as it is
	// not, Message tells what the run waits for.
	Reason  Reason
	Message string
	// ExitCode is the container's, when there is one.
	ExitCode *int
	// ScheduledAt is when the pod got its node. StartedAt and FinishedAt are
	// the container's times. All are zero while unknown.
	ScheduledAt time.Time
	StartedAt   time.Time
	FinishedAt  time.Time
	// Evidence goes with an end without success, as far as there is any.
	Evidence *Evidence
}

// Launch is everything that a launcher needs to make the Job of one attempt.
type Launch struct {
	Request Request
	Attempt int
	// Image is the reference to run, resolved; a local process has none.
	Image string
	// Policy is what is set for the run's queue. Its namespace is the one on
	// record for the attempt, whatever the queue's is by now.
	Policy Policy
	// Known is the Job as recorded by whoever held the run before, with its
	// UID; nil when no Job is known to exist. A known Job is only ever
	// adopted: if it is gone, somebody deleted it, and making it again
	// would run the attempt twice. A known Job without a UID stands for any
	// that is there for this attempt.
	Known *Job
}

// Timeout is how long the run may take: what the request says, or else the
// queue; 0 is as long as the operator allows.
func (l Launch) Timeout() Duration { return cmp.Or(l.Request.Timeout, l.Policy.Timeout) }

// Cancellation asks for a run to be stopped: this attempt, or any before it. A
// later attempt is a new wish to run.
type Cancellation struct {
	Queue       string    `json:"queue"`
	ID          string    `json:"id"`
	Attempt     int       `json:"attempt"`
	RequestedAt time.Time `json:"requestedAt"`
}

// LaunchError is why a launcher could not make or find a Job. Whether trying
// again can help is decided where the cause is known, in the launcher.
type LaunchError struct {
	// Reason is what the run fails with if it is given up.
	Reason Reason
	// Message is in the words of whoever refused.
	Message string
	// Temporary: the same launch may work later, so the run waits for it.
	Temporary bool
	// Err is the cause, for logs and errors.Is.
	Err error
}

func (e *LaunchError) Error() string { return string(e.Reason) + ": " + e.Message }

func (e *LaunchError) Unwrap() error { return e.Err }

// What a run store answers; the core tells these apart with errors.Is.
var (
	// ErrNotFound: there is no record of the run.
	ErrNotFound = errors.New("no such run")
	// ErrConflict: somebody else has changed the record since it was read.
	ErrConflict = errors.New("the run's record has changed meanwhile")
	// ErrContradicted: an attempt does not follow from what is on record.
	ErrContradicted = errors.New("it contradicts the run's record")
	// ErrTooLarge: the NATS server does not take a message of that size.
	ErrTooLarge = errors.New("the request is larger than the NATS server takes")
)

// What a queue answers to whoever publishes to it.
var (
	// ErrNoQueue: there is no queue of that name.
	ErrNoQueue = errors.New("no such queue")
	// ErrFull: the queue holds as much as it may; there may be room later.
	ErrFull = errors.New("the queue is full")
)

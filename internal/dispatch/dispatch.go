// Package dispatch is the core: it takes one run from its delivery to a final
// state on record, and decides what becomes of its message. It knows neither
// NATS nor Kubernetes; what it needs of them it declares here, and the wiring
// in cmd/dispatcher joins the parts.
//
// Every step may be repeated: by the same dispatcher after an error, by another
// one after a crash between any two steps. The order is: claim in the store,
// resolve the image, launch the Job, record it, follow it, record its end; the
// queue then acknowledges.
package dispatch

import (
	"context"
	"errors"
	"time"

	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/retry"
	"github.com/ropewalk/ropewalk/internal/run"
)

// Store keeps the records of runs and changes them by compare-and-set.
type Store interface {
	// Lookup returns a run's record and its revision, or [run.ErrNotFound].
	Lookup(ctx context.Context, id string) (run.Run, uint64, error)
	// Create and Update return the new revision, or [run.ErrConflict], or
	// [run.ErrTooLarge]. Both may be repeated with the same record after an
	// error.
	Create(ctx context.Context, record run.Run) (uint64, error)
	Update(ctx context.Context, record run.Run, revision uint64) (uint64, error)
	// KeepRequest keeps a request as it was published, for replay, and
	// Request returns it as long as it is kept; then it is [run.ErrNotFound].
	KeepRequest(ctx context.Context, queue, id string, data []byte) error
	Request(ctx context.Context, queue, id string) ([]byte, error)
}

// Images decides which image a run uses.
type Images interface {
	// Resolve returns the reference to run. A [*run.LaunchError] says why
	// there is none, and whether there may be later. It may take minutes, as
	// long as an image is built; it then calls waits, on its own goroutine and
	// perhaps several times, with what it waits for.
	Resolve(ctx context.Context, wanted run.ImageRequest, waits func(message string)) (string, error)
}

// Launcher makes the Job of an attempt and tells what becomes of it. internal/
// launchtest holds its contract as tests.
type Launcher interface {
	// Check tells, without side effects, why a launch could never work: a
	// [*run.InvalidError] or a [*run.LaunchError].
	Check(launch run.Launch) error
	// Launch creates the Job or adopts the one that is there. It may be
	// repeated. Errors are [*run.LaunchError] or the context's.
	Launch(ctx context.Context, launch run.Launch) (job run.Job, adopted bool, err error)
	// Follow calls report with each new observation that is not final, and
	// returns the final one. It blocks, and its error is the context's.
	Follow(ctx context.Context, job run.Job, report func(run.Observation)) (run.Observation, error)
	// Delete removes the Job and returns once nothing of it runs any more. It
	// may be repeated.
	Delete(ctx context.Context, job run.Job) error
}

// Observer is told what happens, for metrics. Its methods return at once.
type Observer interface {
	// Claimed: a run was taken up; adopted when another dispatcher held it
	// before, redelivered when its message had been delivered before.
	Claimed(queue string, redelivered, adopted bool)
	// Launched: the Job exists, so long after the request was published.
	Launched(queue string, sincePublished time.Duration)
	// Retried: an attempt ended so, and another one follows.
	Retried(queue string, reason run.Reason)
	// Finished: a final state is on record.
	Finished(record run.Run)
}

// Config is what a [Dispatcher] works with. All fields but Fault are required.
type Config struct {
	Store    Store
	Images   Images
	Launcher Launcher
	Waiting  Waiting
	Later    Later
	// Schedules may be nil in a dispatcher whose Fire is not called.
	Schedules Schedules
	Observer  Observer
	// Owner names this process in the records of the runs that it holds; it
	// is another one for every process.
	Owner string
	// AckWait is how long after its last sign of life a dispatcher must
	// reckon that another one has its runs.
	AckWait time.Duration
	// InfrastructureRetries is how often a run is tried again that was lost to
	// the cluster, without using up its own retries.
	InfrastructureRetries int
	// StartTimeout bounds the wait for room in a quota.
	StartTimeout time.Duration
	Now          func() time.Time
	Log          zerolog.Logger
	// Fault, if set, is called with the name of each step on the way, so that
	// tests can end the process there.
	Fault func(point string)
}

func (c Config) validate() error {
	if c.Store == nil || c.Images == nil || c.Launcher == nil || c.Waiting == nil || c.Later == nil || c.Observer == nil || c.Now == nil {
		return errors.New("dispatch: Store, Images, Launcher, Waiting, Later, Observer and Now are required")
	}
	if c.Owner == "" || c.AckWait <= 0 || c.StartTimeout <= 0 {
		return errors.New("dispatch: Owner, AckWait and StartTimeout are required")
	}
	return nil
}

// Dispatcher handles runs. Between them it keeps nothing but the cancellations
// that it was told of. It is safe for concurrent use.
type Dispatcher struct {
	config  Config
	cancels *cancellations
}

// New returns a dispatcher.
func New(config Config) (*Dispatcher, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	if config.Fault == nil {
		config.Fault = func(string) {}
	}
	return &Dispatcher{config, newCancellations()}, nil
}

// Handle takes a run to its final state, however long that takes, and says what
// becomes of its message. It is done with its turn when it begins to wait for
// something that needs no work here. When ctx ends it leaves everything as it
// stands and returns [run.HandBack].
//
// Thousands of runs are waited for at a time, each with the stack of its
// goroutine. So the functions that are on it then leave all else to others, which
// have returned by then or are called after.
func (d *Dispatcher) Handle(ctx context.Context, delivery run.Delivery, turn run.Turn) run.Decision {
	working, interrupt := context.WithCancelCause(ctx)
	defer interrupt(nil)
	h := d.begin(delivery, turn, interrupt)
	defer h.underWay.end()
	decision, err := h.handle(ctx, working)
	decision = h.conclude(ctx, working, decision, err)
	h.underWay.end()
	if decision == run.Done && errors.Is(context.Cause(working), errCancelled) {
		d.cancelRetry(ctx, h)
	}
	return decision
}

func (d *Dispatcher) begin(delivery run.Delivery, turn run.Turn, interrupt context.CancelCauseFunc) *handling {
	h := &handling{config: &d.config, delivery: delivery, turn: turn}
	h.underWay = d.cancels.begin(delivery, func() { interrupt(errCancelled) })
	return h
}

// conclude makes the end of the handling a decision.
func (h *handling) conclude(ctx, working context.Context, decision run.Decision, err error) run.Decision {
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(working), errCancelled) {
		decision, err = h.cancel(ctx)
	}
	switch {
	case err == nil:
		return decision
	case errors.Is(err, run.ErrConflict):
		return run.Abandon
	case ctx.Err() != nil:
		return run.HandBack
	default:
		// Every wait on the way is repeated until ctx ends, so this is a
		// fault of ours. Another delivery may fare better.
		h.log().Error().Err(err).Msg("cannot handle the run; handing it back")
		return run.HandBack
	}
}

// log makes the logger of the run. It is not kept: most runs wait for hours
// between two lines.
func (h *handling) log() *zerolog.Logger {
	log := h.config.Log.With().Str("run_id", h.delivery.ID).Str("queue", h.delivery.Queue).Int("attempt", h.delivery.Attempt).Logger()
	return &log
}

// UnderWay reports whether a run that is delivered again was begun before, so
// that handling it starts nothing. What cannot be found out counts as begun: a
// run that is left alone is worse than one that starts early.
func (d *Dispatcher) UnderWay(ctx context.Context, delivery run.Delivery) bool {
	const soon = 5 * time.Second
	ctx, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	record, _, err := d.config.Store.Lookup(ctx, delivery.ID)
	if errors.Is(err, run.ErrNotFound) {
		return false
	}
	return err != nil || record.State != run.Queued && record.Attempt >= delivery.Attempt
}

// persist repeats an operation on the store until it works, conflicts, or ctx
// ends: when NATS is away, the run goes on and its record waits.
func (h *handling) persist(ctx context.Context, operation func() error) error {
	warned := false
	err := retry.Do(ctx, retry.Network, func() error {
		err := operation()
		if errors.Is(err, run.ErrConflict) || errors.Is(err, run.ErrNotFound) || errors.Is(err, run.ErrTooLarge) {
			return retry.Permanent(err)
		}
		return err
	}, func(err error, _ time.Duration) {
		if !warned {
			warned = true
			h.log().Warn().Err(err).Msg("the run store does not answer, trying until it does")
		}
	})
	if warned && err == nil {
		h.log().Info().Msg("the run store answers again")
	}
	return err
}

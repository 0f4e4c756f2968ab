// Package client is the Go client of Ropewalk: submit runs, look at them,
// follow them. It talks to the NATS server only, with the rights of the
// connection that it is given; neither a dispatcher nor a cluster has to be
// reachable. The commands of cmd/dispatcher use it too.
package client

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"
	"golang.org/x/sync/errgroup"

	"github.com/ropewalk/ropewalk/internal/contexts"
	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/runstore"
)

// The types of requests and records, which are those of the wire format.
type (
	Request    = run.Request
	Image      = run.Image
	Build      = run.Build
	Pod        = run.Pod
	Resources  = run.Resources
	Toleration = run.Toleration
	Secret     = run.Secret
	Duration   = run.Duration
	Run        = run.Run
	State      = run.State
	Reason     = run.Reason
	Queue      = queue.Definition
	Policy     = run.Policy
	Rate       = queue.Rate
	Retry      = run.Retry
	Usage      = queue.Usage
	Schedule   = run.Schedule
)

// DefaultQueue is the queue of requests that name none.
const DefaultQueue = "default"

// Errors, for errors.Is.
var (
	// ErrNotFound: no run of that id waits, is under way, or is on record.
	ErrNotFound = run.ErrNotFound
	// ErrNoQueue: there is no queue of that name.
	ErrNoQueue = queue.ErrNoQueue
	// ErrTooLarge: the request is larger than the NATS server takes.
	ErrTooLarge = queue.ErrTooLarge
	// ErrFull: the queue is full; nothing was stored.
	ErrFull = queue.ErrFull
)

// Client talks to Ropewalk through one NATS connection, which stays the
// caller's to close. It is safe for concurrent use.
type Client struct{ js jetstream.JetStream }

// New returns a client on a connection. It does nothing yet.
func New(js jetstream.JetStream) *Client { return &Client{js} }

// NewID returns a run id that nobody else has: a ULID in lower case, so that
// ids sort by time and stand in the names of Jobs as they are.
func NewID() string { return strings.ToLower(ulid.Make().String()) }

// Submit puts a run on its queue and returns its id. Version, ID, Queue and
// SubmittedAt are filled in where they are empty. Once the error is nil, the
// request is stored and will be run. Submitting the same id again is safe: it
// is the same run, and duplicate says so where the server still knows; a run
// that is over stays over. While a cluster of NATS servers chooses a leader,
// nothing can be stored: Submit waits for some 12 s, and its error is then
// [jetstream.ErrNoStreamResponse].
func (c *Client) Submit(ctx context.Context, request Request) (id string, duplicate bool, err error) {
	request.Version = cmp.Or(request.Version, run.Version)
	request.ID = cmp.Or(request.ID, NewID())
	request.Queue = cmp.Or(request.Queue, DefaultQueue)
	if request.SubmittedAt.IsZero() {
		request.SubmittedAt = time.Now().UTC().Truncate(time.Millisecond)
	}
	if err := request.Validate(); err != nil {
		return "", false, fmt.Errorf("the request is not valid: %w", err)
	}
	duplicate, err = queue.Publish(ctx, c.js, request)
	return request.ID, duplicate, err
}

// PutContext stores the files that a build copies from, a tar file that may be
// compressed by gzip, and returns what belongs into [Build].Context. The same
// file again is the same context. It is kept for a week.
func (c *Client) PutContext(ctx context.Context, tar []byte) (string, error) {
	return contexts.New(c.js).Put(ctx, tar)
}

// Get returns the record of a run, or [ErrNotFound].
func (c *Client) Get(ctx context.Context, id string) (Run, error) {
	store, err := runstore.Open(ctx, c.js)
	if err != nil {
		return Run{}, err
	}
	record, _, err := store.Lookup(ctx, id)
	if !errors.Is(err, ErrNotFound) {
		return record, err
	}
	if record, err = queue.Waiting(ctx, c.js, id); !errors.Is(err, ErrNotFound) {
		return record, err
	}
	// It may have been taken up, and even ended, between the two looks.
	record, _, err = store.Lookup(ctx, id)
	return record, err
}

// ListOptions choose runs.
type ListOptions struct {
	// Queue and State narrow the list; empty means all.
	Queue string
	State State
	// Limit is the most runs to return; 0 means 20.
	Limit int
}

// List returns runs, the one that was queued last coming first.
func (c *Client) List(ctx context.Context, options ListOptions) ([]Run, error) {
	if options.State != "" && !options.State.Known() {
		return nil, fmt.Errorf("%q is not a state; there are %v", options.State, run.States())
	}
	limit := cmp.Or(options.Limit, 20)
	store, err := runstore.Open(ctx, c.js)
	if err != nil {
		return nil, err
	}
	// What waits is read first: a run that is taken up meanwhile is then in
	// both lists rather than in none.
	var waiting []Run
	if options.State == "" || options.State == run.Queued {
		if waiting, err = c.listWaiting(ctx, options.Queue, limit); err != nil {
			return nil, err
		}
	}
	recorded, err := store.List(ctx, runstore.Query{Queue: options.Queue, State: options.State, Limit: limit})
	if err != nil {
		return nil, err
	}
	// Of a run that is in both, the record tells more.
	known := make(map[string]bool, len(recorded))
	for _, record := range recorded {
		known[record.ID] = true
	}
	all := recorded
	for _, record := range waiting {
		if known[record.ID] {
			continue
		}
		// A message without a record in the list may be that of a run
		// that was taken up long ago and is still under way.
		if taken, _, err := store.Lookup(ctx, record.ID); err == nil {
			if options.State != "" && taken.State != options.State {
				continue
			}
			record = taken
		} else if !errors.Is(err, ErrNotFound) {
			return nil, err
		}
		all = append(all, record)
	}
	slices.SortStableFunc(all, func(a, b Run) int { return b.QueuedAt.Compare(a.QueuedAt) })
	return all[:min(len(all), limit)], nil
}

func (c *Client) listWaiting(ctx context.Context, name string, limit int) ([]Run, error) {
	var waiting []Run
	err := queue.ListWaiting(ctx, c.js, name, func(record Run) bool {
		waiting = append(waiting, record)
		return len(waiting) < limit
	})
	return waiting, err
}

// Watch calls changed with the record of a run as it is now, and with every
// change that follows, until changed returns false (then the error is nil) or
// ctx ends. With an empty id it reports the changes of every run from now on.
// It returns [ErrNotFound] when there is no such run.
func (c *Client) Watch(ctx context.Context, id string, changed func(Run) bool) error {
	store, err := runstore.Open(ctx, c.js)
	if err != nil {
		return err
	}
	if id == "" {
		return store.Watch(ctx, "", nil, changed)
	}
	if !run.ValidID(id) { // a wildcard would follow other runs
		return fmt.Errorf("run %q: %w", id, ErrNotFound)
	}
	var (
		seen    bool
		lookup  error
		goingOn = true
	)
	// The watch is up before the queue is looked at, so that nothing falls
	// between the two.
	watching, stop := context.WithCancel(ctx)
	defer stop()
	err = store.Watch(watching, id, func() {
		if seen {
			return
		}
		var record Run
		if record, lookup = queue.Waiting(ctx, c.js, id); lookup == nil {
			goingOn = changed(record)
		} else if errors.Is(lookup, ErrNotFound) {
			if _, lookup = c.Get(ctx, id); lookup == nil {
				return // taken up meanwhile; the watch reports it
			}
		}
		if lookup != nil || !goingOn {
			stop()
		}
	}, func(record Run) bool {
		seen = true
		return changed(record)
	})
	if lookup != nil {
		return lookup
	}
	if !goingOn {
		return nil
	}
	return err
}

// Wait returns the record of a run once it is over.
func (c *Client) Wait(ctx context.Context, id string) (Run, error) {
	var last Run
	err := c.Watch(ctx, id, func(record Run) bool {
		last = record
		return !record.State.Final()
	})
	return last, err
}

// ErrFinished: the run is over; there is nothing to cancel.
var ErrFinished = errors.New("the run is over already")

// Cancel asks for a run to be stopped, whatever it is doing. It returns its
// record as it was when asked, at once: [Client.Wait] tells when it has
// stopped. It is safe to repeat; a run that is over is left as it is, with
// [ErrFinished], and one that there is not is [ErrNotFound].
func (c *Client) Cancel(ctx context.Context, id string) (Run, error) {
	record, err := c.Get(ctx, id)
	if err != nil {
		return Run{}, err
	}
	if record.State.Final() {
		return record, fmt.Errorf("%s is %s: %w", id, record.State, ErrFinished)
	}
	cancellations, err := queue.OpenCancellations(ctx, c.js)
	if err != nil {
		return Run{}, err
	}
	return record, cancellations.Request(ctx, run.Cancellation{
		Queue: record.Queue, ID: record.ID, Attempt: record.Attempt, RequestedAt: time.Now().UTC(),
	})
}

// Correction is what a replay changes in a request.
type Correction = run.Correction

// Replay asks for the next attempt of a run that did not succeed, with the same
// request, secrets included for as long as they are kept, or with what the
// correction changes; nil changes nothing. It returns the attempt's number. The
// dispatchers queue it; what they find wrong with it stands in the record then.
// Asking again before it is queued is the same replay.
func (c *Client) Replay(ctx context.Context, id string, correction *Correction) (attempt int, err error) {
	record, err := c.Get(ctx, id)
	if err != nil {
		return 0, err
	}
	return c.replay(ctx, record, correction)
}

func (c *Client) replay(ctx context.Context, record Run, correction *Correction) (attempt int, err error) {
	if !record.State.CanBecome(run.Queued) {
		return 0, fmt.Errorf("run %s is %s; only a run that is over without success can be replayed", record.ID, record.State)
	}
	attempt = record.Attempt + 1
	return attempt, queue.NewDue(c.js).Now(ctx, run.Due{Queue: record.Queue, ID: record.ID, Attempt: attempt, Correction: correction})
}

// ReplayOptions choose runs to replay. All conditions must hold.
type ReplayOptions struct {
	// Queue narrows the choice; empty means all.
	Queue string
	// Reason chooses the runs that ended for it, be it as failed, timed_out,
	// cancelled or rejected. Left out, it is all that failed or timed out.
	Reason Reason
	// Since leaves out runs that ended before.
	Since time.Time
	// DryRun chooses only.
	DryRun bool
}

// replaysAtOnce is how many replays are asked for side by side: the server
// acknowledges each when it is on disk, and does so for many at a time.
const replaysAtOnce = 64

// chooses reports whether a run is one to replay.
func (o ReplayOptions) chooses(record Run) bool {
	wanted := record.State == run.Failed || record.State == run.TimedOut
	if o.Reason != "" {
		wanted = record.Reason == o.Reason && record.State.CanBecome(run.Queued)
	}
	return wanted && (o.Since.IsZero() || record.FinishedAt == nil || !record.FinishedAt.Before(o.Since))
}

// ReplayFailed replays every run without success that the options choose, and
// returns those, as they were before. With an error it returns those that have been
// asked for nevertheless; calling it again asks for the rest.
func (c *Client) ReplayFailed(ctx context.Context, options ReplayOptions) ([]Run, error) {
	const all = 1_000_000 // more than are kept
	store, err := runstore.Open(ctx, c.js)
	if err != nil {
		return nil, err
	}
	chosen, err := store.List(ctx, runstore.Query{Queue: options.Queue, Want: options.chooses, Limit: all})
	if err != nil || options.DryRun {
		return chosen, err
	}
	asked := make([]bool, len(chosen))
	work, working := errgroup.WithContext(ctx)
	work.SetLimit(replaysAtOnce)
	for i, record := range chosen {
		work.Go(func() error {
			select {
			case <-working.Done():
				return nil // another one has failed, and says why
			default:
			}
			// Under ctx: one that fails must not leave open what became of the
			// others.
			_, err := c.replay(ctx, record, nil)
			asked[i] = err == nil
			return err
		})
	}
	err = work.Wait()
	if err == nil {
		return chosen, ctx.Err()
	}
	var done []Run
	for i, record := range chosen {
		if asked[i] {
			done = append(done, record)
		}
	}
	return done, fmt.Errorf("%d of %d failed runs were asked to be replayed, and then: %w", len(done), len(chosen), err)
}

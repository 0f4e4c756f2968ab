package dispatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ropewalk/ropewalk/internal/offstack"
	"github.com/ropewalk/ropewalk/internal/retry"
	"github.com/ropewalk/ropewalk/internal/run"
)

// handling is one run in the hands of this dispatcher.
type handling struct {
	config   *Config
	delivery run.Delivery
	turn     run.Turn
	underWay *underWay

	request run.Request
	valid   bool // the request is
	// record is the run as we last wrote it, at revision.
	record   run.Run
	revision uint64
	// seen is the Job's end.
	seen run.Observation
	// confirmed is when the store last told us that the run is ours.
	confirmed time.Time
}

// handle does all the work under ctx, which also ends when the run is to be
// cancelled, but for the launch itself: interrupted, it would leave open
// whether the Job will yet appear.
func (h *handling) handle(uninterrupted, ctx context.Context) (decision run.Decision, err error) {
	offstack.Do(func() { decision, err = h.prepare(uninterrupted, ctx) })
	if decision != "" || err != nil {
		return decision, err
	}
	return h.follow(ctx)
}

// prepare takes the run from its delivery to a Job on record. The decision is
// empty when there is one, to be followed.
func (h *handling) prepare(uninterrupted, ctx context.Context) (run.Decision, error) {
	invalid := h.read()
	h.valid = invalid == nil
	finished, err := h.claim(ctx, h.valid)
	if err != nil {
		return "", err
	}
	if finished {
		return run.Done, nil
	}
	if invalid != nil && h.record.Job == nil {
		// With a Job on record, an earlier release took the request for
		// valid: what runs is followed to its end.
		return h.reject(ctx, run.InvalidRequest, run.Explain(run.InvalidRequest, "The request is not valid: "+invalid.Error()+"."))
	}
	h.config.Fault("claimed")
	h.underWay.since(h.record.FirstAttempt)

	launch := run.Launch{Request: h.request, Attempt: h.delivery.Attempt, Policy: h.policy(), Known: h.record.Job}
	if launch.Known == nil {
		if refused := launch.Policy.Refuses(h.request); refused != "" {
			return h.refused(ctx, &run.LaunchError{Reason: run.PolicyRefused, Message: refused})
		}
		if launch.Image, err = h.resolve(ctx); err != nil {
			return h.refused(ctx, err)
		}
		h.config.Fault("resolved")
		if err := h.config.Launcher.Check(launch); err != nil {
			return h.refused(ctx, err)
		}
	}
	if err := h.launch(uninterrupted, ctx, launch); err != nil {
		return h.refused(ctx, err)
	}
	return "", nil
}

// policy is what is set for the queue now, but for the namespace, in which this
// attempt's Job may exist already.
func (h *handling) policy() run.Policy {
	policy := *h.set()
	policy.Namespace = h.record.Namespace
	return policy
}

// set is what is set for the queue now.
func (h *handling) set() *run.Policy {
	if h.delivery.Policy == nil {
		return &run.Policy{}
	}
	return h.delivery.Policy
}

// read decodes and validates the request. The subject rules over the body:
// permissions are enforced on subjects.
func (h *handling) read() error {
	if h.delivery.Malformed != "" {
		return fmt.Errorf("subject: %s", h.delivery.Malformed)
	}
	request, err := run.Decode(h.delivery.Data)
	if err != nil {
		return err
	}
	var problems []run.Problem
	if request.ID != "" && request.ID != h.delivery.ID {
		problems = append(problems, run.Problem{Field: "id", Message: "is not the run id of the subject that the request was published on"})
	}
	if request.Queue != "" && request.Queue != h.delivery.Queue {
		problems = append(problems, run.Problem{Field: "queue", Message: "is not the queue of the subject that the request was published on"})
	}
	request.ID, request.Queue = h.delivery.ID, h.delivery.Queue
	if more, ok := errors.AsType[*run.InvalidError](request.Validate()); ok {
		problems = append(problems, more.Problems...)
	}
	h.request = request
	if problems != nil {
		return &run.InvalidError{Problems: problems}
	}
	return nil
}

// claim makes this dispatcher the owner of the run, on record. It reports
// whether there is nothing left to do: the run is over, or is another message's.
func (h *handling) claim(ctx context.Context, valid bool) (finished bool, err error) {
	if h.unheardOf(valid) {
		if err := h.claimNew(ctx, valid); !errors.Is(err, run.ErrConflict) {
			return false, err
		}
	}
	for {
		finished, err := h.tryClaim(ctx, valid)
		if errors.Is(err, run.ErrConflict) && ctx.Err() == nil {
			continue // the record moved between reading and writing
		}
		return finished, err
	}
}

// unheardOf reports whether the run most likely has no record, so that looking
// for one first would cost every run a round trip. What is kept beside the
// record is another matter: a duplicate must not replace it.
func (h *handling) unheardOf(valid bool) bool {
	return h.delivery.Redelivered == 0 && h.delivery.Attempt == 1 && !h.mustKeep(valid)
}

// mustKeep reports whether the record cannot keep the request as it was
// published: for its secrets, or because it could not be decoded.
func (h *handling) mustKeep(valid bool) bool { return !valid || h.request.HasSecrets() }

// keep keeps the request as it was published, if its record cannot.
func (h *handling) keep(ctx context.Context, valid bool) error {
	if !h.mustKeep(valid) {
		return nil
	}
	return h.persist(ctx, func() error {
		return h.config.Store.KeepRequest(ctx, h.delivery.Queue, h.delivery.ID, h.delivery.Data)
	})
}

func (h *handling) tryClaim(ctx context.Context, valid bool) (finished bool, err error) {
	var (
		record   run.Run
		revision uint64
	)
	err = h.persist(ctx, func() (err error) {
		record, revision, err = h.config.Store.Lookup(ctx, h.delivery.ID)
		return err
	})
	switch {
	case errors.Is(err, run.ErrNotFound):
		return false, h.claimNew(ctx, valid)
	case err != nil:
		return false, err
	case record.Queue != h.delivery.Queue:
		h.log().Warn().Str("first_queue", record.Queue).Msg("a run of this id is in another queue already; this message is taken for a duplicate")
		return true, nil
	case record.State == run.Queued && h.delivery.Attempt < record.Attempt:
		// This attempt is over and the next one waits. Whoever recorded that
		// may have ended before it was scheduled.
		h.record, h.revision = record, revision
		return true, h.schedule(ctx)
	case record.State.Final() && h.delivery.Attempt <= record.Attempt, h.delivery.Attempt < record.Attempt,
		// A further attempt is for a run that is over without success. One
		// beside an attempt that runs, or after success, would be a second run.
		h.delivery.Attempt > record.Attempt && !record.State.CanBecome(run.Queued):
		h.log().Info().Str("state", string(record.State)).Msg("there is nothing to do for this attempt of the run")
		return true, nil
	}
	return false, h.claimAgain(ctx, record, revision, valid)
}

func (h *handling) claimNew(ctx context.Context, valid bool) error {
	if err := h.keep(ctx, valid); err != nil {
		return err
	}
	h.record = run.New(h.delivery)
	h.record.Owner = h.config.Owner
	h.describe(valid)
	if valid {
		h.record.Namespace = h.set().Namespace
		h.become(run.Preparing)
	}
	create := func() (err error) {
		h.revision, err = h.config.Store.Create(ctx, h.record)
		return err
	}
	err := h.persist(ctx, create)
	if errors.Is(err, run.ErrTooLarge) {
		if err = h.trim(ctx); err == nil {
			err = h.persist(ctx, create)
		}
	}
	if err != nil {
		return err
	}
	h.confirmed = h.config.Now()
	h.config.Observer.Claimed(h.delivery.Queue, h.delivery.Redelivered > 0, false)
	return nil
}

// claimAgain takes over a run that is on record: from a dispatcher that died or
// stopped, from ourselves, or as its next attempt.
func (h *handling) claimAgain(ctx context.Context, record run.Run, revision uint64, valid bool) error {
	adopted := record.Owner != h.config.Owner && record.State != run.Queued // a run that waits is nobody's
	if record.Sequence != h.delivery.Sequence {                             // another message than the one it was claimed for
		if err := h.keep(ctx, valid); err != nil {
			return err
		}
	}
	h.record, h.revision = record, revision
	h.record.Owner, h.record.Sequence = h.config.Owner, h.delivery.Sequence
	h.describe(valid)
	if h.delivery.Attempt > record.Attempt {
		// Somebody has published a further attempt themselves.
		now := h.config.Now().UTC()
		if err := h.record.Again(now, now); err != nil {
			return err // tryClaim has seen to it that this cannot be
		}
		h.record.Attempt, h.record.FirstAttempt = h.delivery.Attempt, h.delivery.Attempt
		adopted = false
	}
	if h.record.State == run.Queued && valid {
		h.record.Namespace = h.set().Namespace
		h.become(run.Preparing)
	}
	if err := h.save(ctx); err != nil {
		return err
	}
	h.config.Observer.Claimed(h.delivery.Queue, h.delivery.Redelivered > 0, adopted)
	if adopted {
		h.log().Info().Str("from", record.Owner).Str("state", string(record.State)).Msg("adopted a run")
	}
	return nil
}

// describe puts into the record what the request tells of the run.
func (h *handling) describe(valid bool) {
	if !valid && h.request.Version == 0 {
		return // it could not be decoded
	}
	request := h.request
	h.record.Request, h.record.Labels = &request, request.Labels
	if h.record.Image == "" {
		h.record.Image = request.Image.Reference
	}
}

// become changes the state where the transition table allows it, which at the
// places that call it it always does.
func (h *handling) become(state run.State) {
	if err := h.record.Become(state, h.config.Now().UTC()); err != nil {
		h.log().Error().Err(err).Msg("refusing a transition")
	}
}

// save writes the record. [run.ErrConflict] means that the run is no longer
// ours, and nothing more may be done to it.
func (h *handling) save(ctx context.Context) error {
	update := func() (err error) {
		revision, err := h.config.Store.Update(ctx, h.record, h.revision)
		if err == nil {
			h.revision = revision
		}
		return err
	}
	err := h.persist(ctx, update)
	if errors.Is(err, run.ErrTooLarge) {
		if err = h.trim(ctx); err == nil {
			err = h.persist(ctx, update)
		}
	}
	if err == nil {
		h.confirmed = h.config.Now()
	}
	return err
}

// trim makes the record small enough for any server: a request may fill a
// message to the brim, and the record says more than the request. What is taken
// out of that is kept as it was published.
func (h *handling) trim(ctx context.Context) error {
	h.log().Warn().Msg("the run's record is too large; the request is kept beside it, and of its history the newest part")
	h.record.Request, h.record.Labels = nil, nil
	// A run that is tried again without end outgrows any record by its history.
	const changes = 200 // some 40 KiB
	if old := len(h.record.History) - changes; old > 0 {
		h.record.History = slices.Clone(h.record.History[old:])
	}
	const most = 4096 // bytes
	if len(h.record.Message) > most {
		h.record.Message = strings.ToValidUTF8(h.record.Message[:most], "") + "…"
	}
	return h.persist(ctx, func() error {
		return h.config.Store.KeepRequest(ctx, h.delivery.Queue, h.delivery.ID, h.delivery.Data)
	})
}

// say shows what the run waits for in its record.
func (h *handling) say(ctx context.Context, message string) error {
	if h.record.Message == message {
		return nil
	}
	h.record.Message = message
	return h.save(ctx)
}

// resolve finds the image. While it waits for one to be built, the record shows
// it and the place is free for others.
func (h *handling) resolve(ctx context.Context) (string, error) {
	wanted := run.ImageRequest{Request: h.request, Attempt: h.delivery.Attempt, PublishedAt: h.delivery.PublishedAt, Allow: h.set().ImageAllow, Deny: h.set().ImageDeny}
	if strings.Contains(h.record.Image, "@") && h.record.Image != h.request.Image.Reference {
		wanted.Known = h.record.Image
	}
	// What waits cannot save ends the resolving: the run is no longer ours, or
	// we stop.
	resolving, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var image string
	err := h.patiently(ctx, func() (err error) {
		image, err = h.config.Images.Resolve(resolving, wanted, func(message string) {
			h.turn.Done()
			now := h.config.Now()
			h.record.Enter(run.Building, now, now)
			if err := h.say(resolving, message); err != nil {
				stop(err)
			}
		})
		if err != nil && resolving.Err() != nil {
			return retry.Permanent(context.Cause(resolving))
		}
		return err
	})
	if err == nil && image != "" {
		h.record.Image = image // written with the next change
	}
	return image, err
}

// launch makes the Job, or finds it, and records it.
func (h *handling) launch(uninterrupted, ctx context.Context, launch run.Launch) error {
	var (
		job     run.Job
		adopted bool
	)
	if launch.Known == nil { // a Job that is there need not wait until others are
		if err := h.turn.Await(ctx); err != nil {
			return err
		}
	}
	err := h.patiently(ctx, func() (err error) {
		// A process that was stopped for a while may have lost the run
		// without knowing. It must not launch then: the attempt may be over
		// and its Job gone. So the claim is confirmed when it is old.
		if h.config.Now().Sub(h.confirmed) > h.config.AckWait/2 {
			if err := h.save(ctx); err != nil {
				return err
			}
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		job, adopted, err = h.config.Launcher.Launch(uninterrupted, launch)
		return err
	})
	h.turn.Done() // what is left to do is quick, and others wait for the cluster
	if err == nil {
		err = ctx.Err() // to be cancelled, with a Job that is there for certain
	}
	if err != nil {
		return err
	}
	h.config.Fault("launched")
	if launch.Known == nil && !adopted {
		h.config.Observer.Launched(h.delivery.Queue, h.config.Now().Sub(h.delivery.PublishedAt))
	}
	h.log().Debug().Str("job", job.Name).Bool("adopted", adopted).Msg("the Job exists")
	if h.record.Job == nil || *h.record.Job != job || h.record.State == run.Preparing {
		h.record.Job = &job
		if h.record.State == run.Preparing {
			h.become(run.Pending)
		}
		if err := h.save(ctx); err != nil {
			return err
		}
	}
	h.config.Fault("recorded")
	return nil
}

// waiting is how long to wait between tries at something that may work later.
func waiting() retry.Policy {
	return retry.Policy{First: 200 * time.Millisecond, Most: 15 * time.Second}
}

// patiently repeats what may work later, the slot held, and shows in the record
// what the run waits for. What lacks room in a quota is given up in the end: it
// keeps others from running.
func (h *handling) patiently(ctx context.Context, operation func() error) error {
	var told error
	err := retry.Do(ctx, waiting(), func() error {
		err := operation()
		var refusal *run.LaunchError
		switch {
		case err == nil:
			return nil
		case !errors.As(err, &refusal) || !refusal.Temporary:
			return retry.Permanent(err)
		case refusal.Reason == run.QuotaExceeded && h.config.Now().Sub(h.preparingSince()) > h.config.StartTimeout:
			return retry.Permanent(err)
		}
		if told = h.say(ctx, refusal.Message); told != nil {
			return retry.Permanent(told)
		}
		return err
	}, func(err error, wait time.Duration) {
		h.log().Debug().Err(err).Dur("wait", wait).Msg("the run waits")
	})
	if err != nil && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

func (h *handling) preparingSince() time.Time {
	for _, v := range slices.Backward(h.record.History) {
		if v.State == run.Preparing {
			return v.At
		}
	}
	return h.record.QueuedAt
}

// refused ends a run that could not be launched: rejected when nothing can have
// been launched and the request is to blame, failed otherwise.
func (h *handling) refused(ctx context.Context, err error) (run.Decision, error) {
	if ctx.Err() != nil || errors.Is(err, run.ErrConflict) {
		return "", err
	}
	if invalid, ok := errors.AsType[*run.InvalidError](err); ok {
		return h.reject(ctx, run.InvalidRequest, run.Explain(run.InvalidRequest, "The request is not valid: "+invalid.Error()+"."))
	}
	var refusal *run.LaunchError
	if !errors.As(err, &refusal) {
		return "", err
	}
	message := run.Explain(refusal.Reason, refusal.Message)
	if h.record.State == run.Preparing && (refusal.Reason == run.PolicyRefused || refusal.Reason == run.InvalidRequest) {
		return h.reject(ctx, refusal.Reason, message)
	}
	return h.finish(ctx, run.Observation{State: run.Failed, Reason: refusal.Reason, Message: message})
}

func (h *handling) reject(ctx context.Context, reason run.Reason, message string) (run.Decision, error) {
	h.become(run.Rejected)
	h.record.Reason, h.record.Message = reason, message
	if err := h.save(ctx); err != nil {
		return "", err
	}
	h.finished()
	return run.Reject, nil
}

// follow waits for the Job's end and keeps the record in step.
func (h *handling) follow(ctx context.Context) (run.Decision, error) {
	// The first error in a report ends the following: the run is no longer
	// ours, or we stop.
	following, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var err error
	h.seen, err = h.config.Launcher.Follow(following, *h.record.Job, func(seen run.Observation) { h.report(following, stop, seen) })
	return h.followed(ctx, following, err)
}

func (h *handling) followed(ctx, following context.Context, err error) (run.Decision, error) {
	if err != nil {
		return "", cmp.Or(context.Cause(following), err)
	}
	h.config.Fault("finished")
	return h.finish(ctx, h.seen)
}

func (h *handling) report(following context.Context, stop context.CancelCauseFunc, seen run.Observation) {
	if following.Err() != nil || !h.record.Observe(seen, h.config.Now().UTC()) {
		return
	}
	if err := h.save(following); err != nil {
		stop(err)
	}
}

func (h *handling) finish(ctx context.Context, seen run.Observation) (run.Decision, error) {
	h.record.Observe(seen, h.config.Now().UTC())
	again := h.retry(seen)
	if err := h.save(ctx); err != nil {
		return "", err
	}
	if again {
		h.log().Info().Str("reason", string(seen.Reason)).Msg("the attempt is over; another one follows")
		h.config.Observer.Retried(h.record.Queue, seen.Reason)
		h.config.Fault("retry-recorded")
		return run.Done, h.schedule(ctx)
	}
	h.finished()
	return run.Done, nil
}

func (h *handling) finished() {
	h.config.Observer.Finished(h.record)
	h.log().Info().Str("state", string(h.record.State)).Str("reason", string(h.record.Reason)).Msg("the run is over")
}

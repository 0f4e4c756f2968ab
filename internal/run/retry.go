package run

import (
	"maps"
	"slices"
	"time"
)

// Retry says when a run that failed is tried again by itself. The zero value
// never does.
type Retry struct {
	// Attempts is the most attempts in all, the first included.
	Attempts int `json:"attempts,omitempty"`
	// First is the wait before the second attempt; each further wait is twice
	// as long, up to Most. Left out, 10s and 5m.
	First Duration `json:"first,omitempty"`
	Most  Duration `json:"most,omitempty"`
	// Reasons and ExitCodes narrow what is tried again: any of these reasons,
	// or AppError with any of these codes. Both left out, it is everything
	// that another attempt may cure.
	Reasons   []Reason `json:"reasons,omitempty"`
	ExitCodes []int    `json:"exitCodes,omitempty"`
}

// MaxAttempts bounds Retry.Attempts: the attempt is part of the Job's name.
const MaxAttempts = 1000

const (
	defaultFirstWait = Duration(10 * time.Second)
	defaultMostWait  = Duration(5 * time.Minute)
)

// Covers reports whether the policy wants an attempt that ended like this to
// be followed by another, however many there have been.
func (r Retry) Covers(seen Observation) bool {
	if len(r.Reasons) == 0 && len(r.ExitCodes) == 0 {
		return seen.Reason.Curable()
	}
	return slices.Contains(r.Reasons, seen.Reason) ||
		seen.Reason == AppError && seen.ExitCode != nil && slices.Contains(r.ExitCodes, *seen.ExitCode)
}

// Wait is how long to wait after so many attempts. Spread is from 0 to 1 and
// makes the wait up to a quarter shorter or longer, so that runs that failed
// together do not come back together.
func (r Retry) Wait(attempts int, spread float64) time.Duration {
	wait, most := time.Duration(r.First), time.Duration(r.Most)
	if wait <= 0 {
		wait = time.Duration(defaultFirstWait)
	}
	if most <= 0 {
		most = max(time.Duration(defaultMostWait), wait)
	}
	for range attempts - 1 {
		if wait >= most/2 {
			wait = most
			break
		}
		wait *= 2
	}
	return time.Duration(float64(min(wait, most)) * (0.75 + spread/2))
}

// Curable reports whether another attempt with the same request may succeed.
func (r Reason) Curable() bool {
	switch r {
	case InvalidPodSpec, InvalidRequest, PolicyRefused, CancelledByUser, ImageBuildFailed:
		return false
	default:
		return true
	}
}

// Budget is what is left of a run's retries.
type Budget struct {
	// Retries counts the attempts that the run's own policy has paid for,
	// Infrastructure those that were lost to the cluster.
	Retries        int `json:"retries,omitempty"`
	Infrastructure int `json:"infrastructure,omitempty"`
}

// Spend decides whether an attempt that ended like this is followed by another,
// and how long after. Failures of the infrastructure are paid for from a budget
// of their own, of so many, and only when that is used up from the run's.
func (b *Budget) Spend(policy Retry, infrastructure int, seen Observation, spread float64) (wait time.Duration, again bool) {
	if seen.State != Failed && seen.State != TimedOut {
		return 0, false
	}
	if seen.Reason.Infrastructure() && b.Infrastructure < infrastructure {
		b.Infrastructure++
		return Retry{First: Duration(time.Second), Most: Duration(time.Minute)}.Wait(b.Infrastructure, spread), true
	}
	if b.Retries+1 >= policy.Attempts || !policy.Covers(seen) {
		return 0, false
	}
	b.Retries++
	return policy.Wait(b.Retries, spread), true
}

// Due says that an attempt of a run is to be queued now: one that has waited
// long enough, or a replay.
type Due struct {
	Queue   string `json:"queue"`
	ID      string `json:"id"`
	Attempt int    `json:"attempt"`
	// Correction is what a replay changes.
	Correction *Correction `json:"correction,omitempty"`
}

// Correction is what a replay changes in a request. Secrets stay what they are.
type Correction struct {
	// Image replaces the image's reference.
	Image string `json:"image,omitempty"`
	// Env is added to the environment, over what is there.
	Env map[string]string `json:"env,omitempty"`
	// Resources replaces requests and limits, resource by resource.
	Resources Resources `json:"resources,omitzero"`
	// Request, as it would be published, replaces all of the request, secrets
	// included: for one that could not even be understood.
	Request []byte `json:"request,omitempty"`
}

// Correct returns the request with the correction made. It shares nothing with
// the request that it was made of.
func (r Request) Correct(correction *Correction) (Request, error) {
	r = r.Clone()
	if correction == nil {
		return r, nil
	}
	if correction.Request != nil {
		corrected, err := Decode(correction.Request)
		if err != nil {
			return Request{}, err
		}
		corrected.ID, corrected.Queue = r.ID, r.Queue
		r = corrected
	}
	if correction.Image != "" {
		r.Image = Image{Reference: correction.Image}
	}
	r.Env = overlay(r.Env, correction.Env)
	r.Pod.Resources = Resources{
		Requests: overlay(r.Pod.Resources.Requests, correction.Resources.Requests),
		Limits:   overlay(r.Pod.Resources.Limits, correction.Resources.Limits),
	}
	return r, nil
}

// overlay returns a map with the entries of both, those of over counting.
func overlay(under, over map[string]string) map[string]string {
	if len(over) == 0 {
		return maps.Clone(under)
	}
	all := make(map[string]string, len(under)+len(over))
	maps.Copy(all, under)
	maps.Copy(all, over)
	return all
}

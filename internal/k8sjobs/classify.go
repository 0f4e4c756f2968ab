package k8sjobs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Sight is all that is known of a Job at one moment.
type Sight struct {
	// Job is as last seen; nil when it never was.
	Job *batchv1.Job
	// Gone: the Job's deletion was seen.
	Gone bool
	// Pods are all of its pods that were ever seen, oldest first.
	Pods []PodSight
	// Refusals are the events of pods that could not be made, in any order.
	Refusals []*corev1.Event
	// StuckSince is when a pod was first seen that cannot start by itself,
	// see [Stuck]. The cluster keeps no such time.
	StuckSince time.Time
	Now        time.Time
}

// PodSight is a pod as last seen.
type PodSight struct {
	*corev1.Pod
	// Gone: the pod is no more.
	Gone bool
	// Cause is what came first, the pod's end or its deletion, if that was
	// seen. The pod alone does not tell: its deletion is dated anew when it
	// is carried out.
	Cause Cause
}

// Cause is why a pod ended.
type Cause int

// The causes.
const (
	Unseen Cause = iota
	ByItself
	ByDeletion
)

// Verdict is what a sight means.
type Verdict struct {
	Seen run.Observation
	// Again is when to look again even if nothing changes; zero is never.
	Again time.Time
	// GiveUp: the run is over by our own decision, while its Job still
	// exists. The Job must be deleted before anybody is told.
	GiveUp bool
}

const (
	// quiet is how long an ordinary step on the way to a running container
	// may take before its name is shown: every message is a write to the
	// run's record, and most steps are over at once.
	quiet = 5 * time.Second
	// settle is how long a Job that has ended waits to see how its pods
	// ended. The two come by different watches, in any order.
	settle = 5 * time.Second
	// ending is the same where a pod is seen to run on: clusters before 1.31
	// say that a Job has failed while its pods are still being stopped.
	ending = time.Minute
)

// Classify tells a run's state from what is known of its Job. It is pure.
//
// A run is over only when the Job controller says so, which it does when every
// pod has ended, or when the Job is gone and its pods have ended. Pods alone
// never decide: another one may follow.
func Classify(s Sight, patience Patience) Verdict {
	end := condition(s.Job)
	switch {
	case end != nil:
		if until := unsettled(s, end); s.Now.Before(until) {
			return Verdict{Seen: underway(s, ""), Again: until}
		}
		return Verdict{Seen: concluded(s, end)}
	case s.Gone:
		return vanished(s)
	case s.Job == nil:
		return Verdict{Seen: run.Observation{State: run.Pending}}
	case s.Job.DeletionTimestamp != nil:
		return Verdict{Seen: underway(s, "The Job is being deleted; the run is over when its pod has ended.")}
	default:
		return waiting(s, patience)
	}
}

// condition is the one that says how the Job has ended; nil while it has not.
func condition(job *batchv1.Job) *batchv1.JobCondition {
	if job == nil {
		return nil
	}
	for i, found := range job.Status.Conditions {
		if found.Status == corev1.ConditionTrue && (found.Type == batchv1.JobComplete || found.Type == batchv1.JobFailed) {
			return &job.Status.Conditions[i]
		}
	}
	return nil
}

// unsettled is until when an ended Job is to be watched for the end of its pods.
func unsettled(s Sight, end *batchv1.JobCondition) time.Time {
	said := end.LastTransitionTime.Time
	if len(s.Pods) == 0 && s.Job.Status.Succeeded+s.Job.Status.Failed > 0 {
		return said.Add(settle)
	}
	var until time.Time
	for _, pod := range s.Pods {
		switch {
		case ended(pod):
		case pod.Gone, pod.DeletionTimestamp == nil:
			until = latest(until, said.Add(settle))
		default:
			until = latest(until, said.Add(ending))
		}
	}
	return until
}

// underway is the observation of a run that is not over, saying what it waits
// for.
func underway(s Sight, message string) run.Observation {
	seen := run.Observation{State: run.Pending, Message: message}
	if started := startedAt(s); !started.IsZero() {
		seen.State, seen.StartedAt = run.Running, started
	}
	return seen
}

// waiting judges a Job that has neither ended nor gone.
func waiting(s Sight, patience Patience) Verdict {
	pod, found := current(s)
	if found && !started(pod).IsZero() {
		return Verdict{Seen: underway(s, lingering(pod))}
	}
	if !found && len(s.Pods) > 0 {
		// All pods have ended. The Job controller is about to say that the
		// Job has too, or to make another pod.
		return Verdict{Seen: underway(s, "")}
	}
	hold := obstacle(s, pod, patience)
	since := s.Job.CreationTimestamp.Time
	if len(s.Pods) > 1 {
		since = pod.CreationTimestamp.Time
	}
	if patience.Start > 0 {
		hold.limit(since.Add(patience.Start), hold.atStartTimeout(patience.Start))
	}
	return hold.verdict(s)
}

// current is the newest pod that has not ended.
func current(s Sight) (PodSight, bool) {
	for _, pod := range slices.Backward(s.Pods) {
		if !ended(pod) && !pod.Gone {
			return pod, true
		}
	}
	return PodSight{}, false
}

// hold is what keeps a run from starting, and for how long that is borne.
type hold struct {
	message string
	quiet   time.Time // nothing is said of it before
	reason  run.Reason
	end     time.Time // when it is given up; zero is never
	happens string    // what is told then
}

// limit gives the hold an end, unless it has an earlier one.
func (h *hold) limit(at time.Time, end givingUp) {
	if h.end.IsZero() || at.Before(h.end) {
		h.end, h.reason, h.happens = at, end.reason, end.happened
	}
}

type givingUp struct {
	reason   run.Reason
	happened string
}

// atStartTimeout is how a run ends that this hold kept from starting in time.
func (h *hold) atStartTimeout(limit time.Duration) givingUp {
	if h.reason == run.QuotaExceeded {
		return givingUp{run.QuotaExceeded, fmt.Sprintf("The run did not start within %s. %s", limit, h.message)}
	}
	return givingUp{run.StartTimeout, fmt.Sprintf("The run did not start within %s. Last, it waited for this: %s", limit, h.message)}
}

func (h *hold) verdict(s Sight) Verdict {
	if !h.end.IsZero() && !s.Now.Before(h.end) {
		seen := underway(s, "")
		seen.State, seen.Reason, seen.Message = finalState(h.reason), h.reason, run.Explain(h.reason, h.happens)
		seen.FinishedAt = s.Now
		return Verdict{Seen: seen, GiveUp: true}
	}
	if s.Now.Before(h.quiet) {
		return Verdict{Seen: underway(s, ""), Again: earliest(h.quiet, h.end)}
	}
	return Verdict{Seen: underway(s, h.message), Again: h.end}
}

// finalState is the state that a run ends in for a reason.
func finalState(reason run.Reason) run.State {
	switch reason {
	case run.StartTimeout, run.DeadlineExceeded:
		return run.TimedOut
	default:
		return run.Failed
	}
}

// ended reports whether nothing of the pod runs any more.
func ended(pod PodSight) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// program is the status of the container that runs the request's command.
func program(pod PodSight) corev1.ContainerState {
	for _, status := range pod.Status.ContainerStatuses {
		if status.Name == ContainerName {
			return status.State
		}
	}
	return corev1.ContainerState{}
}

// started is when the pod's program started, zero when it did not. Container
// runtimes give the year 1970 to what they could not start.
func started(pod PodSight) time.Time {
	state := program(pod)
	switch {
	case state.Running != nil:
		return state.Running.StartedAt.Time
	case state.Terminated != nil && state.Terminated.StartedAt.Unix() > 0:
		return state.Terminated.StartedAt.Time
	default:
		return time.Time{}
	}
}

// startedAt is when the run started: with the first pod that did.
func startedAt(s Sight) (first time.Time) {
	for _, pod := range s.Pods {
		first = earliest(first, started(pod))
	}
	return first
}

// lingering tells what stands between a pod that has started and its end, if it
// is anything but its program.
func lingering(pod PodSight) string {
	if pod.DeletionTimestamp != nil {
		return sentence("The run's pod is being deleted; the run is over when the pod has ended", why(pod))
	}
	done := program(pod).Terminated
	if done == nil {
		return ""
	}
	var names []string
	for _, status := range pod.Status.ContainerStatuses {
		if status.State.Running != nil {
			names = append(names, status.Name)
		}
	}
	if names == nil {
		return ""
	}
	return fmt.Sprintf("The program ended with %s; the run is over when the pod's other containers (%s) have ended too.",
		exitCode(int(done.ExitCode)), strings.Join(names, ", "))
}

// why is the cluster's word on why it disrupts a pod, if it does.
func why(pod PodSight) string {
	if disrupted := podCondition(pod, corev1.DisruptionTarget); disrupted != nil {
		return disrupted.Message
	}
	return ""
}

// earliest is the earlier of two times, of which a zero one does not count.
func earliest(a, b time.Time) time.Time {
	if a.IsZero() || !b.IsZero() && b.Before(a) {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

// sortByAge orders pods from the oldest to the newest.
func sortByAge(pods []PodSight) {
	slices.SortFunc(pods, func(a, b PodSight) int {
		if order := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); order != 0 {
			return order
		}
		return cmp.Compare(a.UID, b.UID)
	})
}

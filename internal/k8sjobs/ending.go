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

// concluded is the final observation of a Job that has ended.
func concluded(s Sight, end *batchv1.JobCondition) run.Observation {
	seen := run.Observation{StartedAt: startedAt(s), FinishedAt: end.LastTransitionTime.Time}
	pod, found := decisive(s, end)
	if found {
		if finished := finishedAt(pod); !finished.IsZero() {
			seen.FinishedAt = finished
		}
	}
	if end.Type == batchv1.JobComplete {
		seen.State, seen.ExitCode = run.Succeeded, new(0) // that is what complete means
		return seen
	}
	if found {
		seen.ExitCode = exitCodeOf(pod)
	}
	var happened string
	switch {
	case end.Reason == batchv1.JobReasonDeadlineExceeded:
		seen.Reason, happened = run.DeadlineExceeded, overtime(s)
	case found:
		seen.Reason, happened = podEnd(s, pod)
	default:
		seen.Reason = run.JobDeleted
		happened = sentence("The run's pod is gone, so that how it ended is not known; of the Job the cluster says", end.Message)
	}
	seen.State, seen.Message = finalState(seen.Reason), run.Explain(seen.Reason, happened)
	return seen
}

// decisive is the pod that made the Job end as it did: the newest one that
// ended that way, else the newest.
func decisive(s Sight, end *batchv1.JobCondition) (PodSight, bool) {
	phase := corev1.PodFailed
	if end.Type == batchv1.JobComplete {
		phase = corev1.PodSucceeded
	}
	for _, pod := range slices.Backward(s.Pods) {
		if pod.Status.Phase == phase {
			return pod, true
		}
	}
	if len(s.Pods) == 0 {
		return PodSight{}, false
	}
	return s.Pods[len(s.Pods)-1], true
}

// vanished judges a Job that somebody or something else deleted.
func vanished(s Sight) Verdict {
	if pod, alive := current(s); alive {
		return Verdict{Seen: underway(s, fmt.Sprintf("The Job was deleted; the run is over when its pod %s has ended.", pod.Name))}
	}
	seen := run.Observation{State: run.Failed, Reason: run.JobDeleted, StartedAt: startedAt(s), FinishedAt: s.Now}
	happened := ""
	if len(s.Pods) > 0 {
		pod := s.Pods[len(s.Pods)-1]
		seen.ExitCode = exitCodeOf(pod)
		if finished := finishedAt(pod); !finished.IsZero() {
			seen.FinishedAt = finished
		}
		// What ended by itself has ended so, even if the Job was deleted
		// before the cluster could say it. Doing it again would be wrong.
		last := s.Job == nil || s.Job.Spec.BackoffLimit == nil || *s.Job.Spec.BackoffLimit == 0
		switch {
		case !ended(pod) || stopped(s, pod):
		case pod.Status.Phase == corev1.PodSucceeded:
			seen.State, seen.Reason, seen.ExitCode = run.Succeeded, "", new(0)
			return Verdict{Seen: seen}
		case last:
			seen.Reason, happened = podEnd(s, pod)
		}
	}
	seen.State, seen.Message = finalState(seen.Reason), run.Explain(seen.Reason, happened)
	return Verdict{Seen: seen}
}

// podEnd tells why a pod failed: first what the cluster did to it, then what
// its containers did.
func podEnd(s Sight, pod PodSight) (reason run.Reason, happened string) {
	if pod.Status.Reason == "DeadlineExceeded" {
		return run.DeadlineExceeded, overtime(s)
	}
	if disrupted := podCondition(pod, corev1.DisruptionTarget); disrupted != nil && disrupted.Status == corev1.ConditionTrue {
		if reason, happened := disruption(pod, disrupted.Reason, disrupted.Message); reason != "" {
			return reason, happened
		}
	}
	if reason, happened := disruption(pod, pod.Status.Reason, pod.Status.Message); reason != "" {
		return reason, happened
	}
	if stopped(s, pod) {
		if code := exitCodeOf(pod); code != nil {
			return run.JobDeleted, fmt.Sprintf("The run's pod was deleted, and its program ended with %s.", exitCode(*code))
		}
		return run.JobDeleted, "The run's pod was deleted."
	}
	return containerEnd(pod)
}

// disruption tells what the cluster did to a pod, by the reason of its
// DisruptionTarget condition or of its status; empty for anything else.
func disruption(pod PodSight, why, words string) (run.Reason, string) {
	node := ""
	if pod.Spec.NodeName != "" {
		node = " " + pod.Spec.NodeName
	}
	switch why {
	case "PreemptionByScheduler", "PreemptionByKubeScheduler", "Preempting":
		return run.Preempted, sentence("A pod of higher priority took the place of this one", words)
	case "TerminationByKubelet":
		// The kubelet evicts, makes room for critical pods and shuts its node
		// down by the same condition; the status tells them apart.
		if reason, happened := disruption(pod, pod.Status.Reason, pod.Status.Message); reason != "" {
			return reason, happened
		}
		return run.Evicted, sentence("Node"+node+" evicted the pod", words)
	case "EvictionByEvictionAPI":
		return run.Evicted, sentence("The pod was evicted from node"+node+", as when a node is drained", words)
	case "Evicted":
		return run.Evicted, sentence("Node"+node+" evicted the pod", words)
	case "DeletionByTaintManager", "DeletionByPodGC", "NodeLost":
		return run.NodeLost, sentence("Node"+node+" was lost while the run was on it", words)
	case "Terminated", "Shutdown", "NodeShutdown":
		return run.NodeLost, sentence("Node"+node+" was shut down while the run was on it", words)
	case "OutOfcpu", "OutOfmemory", "OutOfpods", "OutOfephemeral-storage", "NodeAffinity", "UnexpectedAdmissionError":
		return run.Evicted, sentence("Node"+node+" did not take the pod that the scheduler gave it", words)
	default:
		return "", ""
	}
}

// containerEnd tells why a pod failed by its containers.
func containerEnd(pod PodSight) (run.Reason, string) {
	name, end := blamed(pod)
	if end == nil {
		return run.JobDeleted, sentence("The run's pod ended before its program's end was seen", pod.Status.Message)
	}
	what, code := "The program", exitCode(int(end.ExitCode))
	if name != ContainerName {
		what = "The container " + name
	}
	switch end.Reason {
	case "OOMKilled":
		return run.OOMKilled, fmt.Sprintf("%s used more memory than its limit and was killed with %s.", what, code)
	case "StartError", "ContainerCannotRun":
		words := end.Message
		if _, cause, found := strings.Cut(words, "unable to start container process: "); found {
			words = cause
		}
		return run.InvalidPodSpec, sentence(what+" could not be started ("+code+")", words)
	case "ContainerStatusUnknown":
		return run.NodeLost, sentence("Node "+pod.Spec.NodeName+" lost the container", end.Message)
	}
	if end.Message != "" {
		return run.AppError, sentence(what+" ended with "+code+" and left word why", end.Message)
	}
	return run.AppError, what + " ended with " + code + "."
}

// blamed is the container that a pod failed by, with its end, nil if that was
// not seen: the program's, or the one before it that failed.
func blamed(pod PodSight) (name string, end *corev1.ContainerStateTerminated) {
	end = program(pod).Terminated
	if end != nil && end.ExitCode != 0 {
		return ContainerName, end
	}
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if failed := status.State.Terminated; failed != nil && failed.ExitCode != 0 {
			return status.Name, failed
		}
	}
	return ContainerName, end
}

// overtime tells that a run took too long, and how long that is.
func overtime(s Sight) string {
	happened := "The run took longer than its timeout"
	if s.Job != nil {
		if seconds := cmp.Or(s.Job.Spec.ActiveDeadlineSeconds, s.Job.Spec.Template.Spec.ActiveDeadlineSeconds); seconds != nil {
			happened += fmt.Sprintf(" of %s", time.Duration(*seconds)*time.Second)
		}
	}
	if startedAt(s).IsZero() {
		return happened + ", all of it before its program could start."
	}
	return happened + "."
}

// stopped reports whether a pod ended because it was deleted. What had ended by
// then is not to blame on that.
func stopped(s Sight, pod PodSight) bool {
	switch {
	case pod.Cause != Unseen:
		return pod.Cause == ByDeletion
	case pod.DeletionTimestamp == nil:
		return pod.Gone && !ended(pod)
	case pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds > 0:
		// The deletion is under way and dated when the pod is to be gone by.
		asked := pod.DeletionTimestamp.Add(-time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second)
		finished := finishedAt(pod)
		return finished.IsZero() || !finished.Before(asked)
	}
	// The deletion was carried out. If the Job had ended by then, it was not
	// the cause; else it most likely was.
	end := condition(s.Job)
	return end == nil || end.LastTransitionTime.After(pod.DeletionTimestamp.Time)
}

// cause tells what a pod's state says of its end and deletion, while only one
// of the two has come to pass.
func cause(pod *corev1.Pod) Cause {
	over := ended(PodSight{Pod: pod}) || program(PodSight{Pod: pod}).Terminated != nil
	switch deleted := pod.DeletionTimestamp != nil; {
	case over && !deleted:
		return ByItself
	case deleted && !over:
		return ByDeletion
	default:
		return Unseen
	}
}

// finishedAt is when the program ended, zero when that is not known. A busy
// container runtime may say of a short one that it ended before it started.
func finishedAt(pod PodSight) time.Time {
	if end := program(pod).Terminated; end != nil && end.FinishedAt.Unix() > 0 {
		return latest(end.FinishedAt.Time, end.StartedAt.Time)
	}
	return time.Time{}
}

// exitCodeOf is the program's exit code, nil when it has none.
func exitCodeOf(pod PodSight) *int {
	if end := program(pod).Terminated; end != nil {
		return new(int(end.ExitCode))
	}
	return nil
}

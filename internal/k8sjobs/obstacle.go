package k8sjobs

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/ropewalk/ropewalk/internal/run"
)

// obstacle names what keeps a run from starting. The pod is nil when none was
// made yet.
func obstacle(s Sight, pod PodSight, patience Patience) *hold {
	if pod.Pod == nil {
		return withoutPod(s, patience)
	}
	if pod.DeletionTimestamp != nil {
		return &hold{message: "The run's pod is being deleted."}
	}
	scheduled := podCondition(pod, corev1.PodScheduled)
	switch {
	case scheduled == nil:
		return &hold{message: "The pod waits for the scheduler.", quiet: pod.CreationTimestamp.Add(quiet)}
	case scheduled.Status == corev1.ConditionTrue:
		return onNode(s, pod, scheduled, patience)
	case scheduled.Reason == corev1.PodReasonSchedulingGated:
		return &hold{message: sentence("The pod is held back by its scheduling gates", scheduled.Message)}
	}
	h := &hold{message: sentence("No node can take the pod yet", scheduled.Message)}
	if patience.Unschedulable > 0 {
		happened := sentence(fmt.Sprintf("No node could take the pod for %s", patience.Unschedulable), scheduled.Message)
		h.limit(scheduled.LastTransitionTime.Add(patience.Unschedulable), givingUp{run.Unschedulable, happened})
	}
	return h
}

// withoutPod is what keeps the Job controller from making a pod.
func withoutPod(s Sight, patience Patience) *hold {
	if suspend := s.Job.Spec.Suspend; suspend != nil && *suspend {
		return &hold{message: "The Job is suspended, by whoever admits Jobs to this cluster, and waits to be resumed."}
	}
	if len(s.Refusals) == 0 {
		return &hold{message: "The Job waits for the Job controller to make its pod.", quiet: s.Job.CreationTimestamp.Add(quiet)}
	}
	inTime := func(a, b *corev1.Event) int { return said(a).Compare(said(b)) }
	oldest, newest := slices.MinFunc(s.Refusals, inTime), slices.MaxFunc(s.Refusals, inTime)
	words := strings.TrimPrefix(newest.Message, "Error creating: ")
	switch {
	case strings.Contains(words, "exceeded quota"):
		return &hold{message: sentence("The namespace's quota has no room for the pod", words), reason: run.QuotaExceeded}
	case forGood(words):
		return atOnce(s, run.InvalidPodSpec, sentence("The cluster refuses the run's pod", words))
	}
	h := &hold{message: sentence("The cluster does not make the run's pod yet", words)}
	if strings.Contains(words, "not found") && patience.ImagePull > 0 {
		// A service account or a priority class: either is about to be made,
		// or its name is wrong.
		happened := sentence("The cluster could not make the run's pod", words)
		h.limit(said(oldest).Add(patience.ImagePull), givingUp{run.InvalidPodSpec, happened})
	}
	return h
}

// said is when an event last happened.
func said(event *corev1.Event) time.Time {
	switch {
	case event.Series != nil && !event.Series.LastObservedTime.IsZero():
		return event.Series.LastObservedTime.Time
	case !event.LastTimestamp.IsZero():
		return event.LastTimestamp.Time
	case !event.EventTime.IsZero():
		return event.EventTime.Time
	}
	return event.CreationTimestamp.Time
}

// forGood tells the refusals of a pod that repeating it cannot cure, by the
// words of the API server's own admission. Anything else may pass.
func forGood(words string) bool {
	for _, mark := range []string{
		"violates PodSecurity",
		" is invalid:",
		"per Container is", "per Pod is", // a LimitRange
		"denied the request", "denied request", // a webhook, an admission policy
	} {
		if strings.Contains(words, mark) {
			return true
		}
	}
	return false
}

// onNode is what keeps a pod that has its node from running.
func onNode(s Sight, pod PodSight, scheduled *corev1.PodCondition, patience Patience) *hold {
	name, waits := blocked(pod)
	if waits == nil {
		return &hold{
			message: fmt.Sprintf("Node %s pulls the image or sets the container up.", pod.Spec.NodeName),
			quiet:   scheduled.LastTransitionTime.Add(quiet),
		}
	}
	words := waits.Message
	if _, cause, found := strings.Cut(words, "ErrImagePull: "); found {
		words = cause // the same words while it waits as while it tries
	}
	image, container := "the image", "the container"
	if name != ContainerName {
		image, container = "the image of container "+name, "the container "+name
	}
	reason, doing := run.InvalidPodSpec, "set up "+container
	switch {
	case waits.Reason == "InvalidImageName":
		return atOnce(s, run.ImagePullFailed, sentence("The name of "+image+" is not valid", words))
	case waits.Reason == "CrashLoopBackOff":
		return &hold{message: sentence("The container "+name+" keeps failing before the program can start", words)}
	case pulls(waits.Reason):
		reason, doing = run.ImagePullFailed, "pull "+image
	}
	h := &hold{message: sentence(fmt.Sprintf("Node %s cannot %s yet", pod.Spec.NodeName, doing), cmp.Or(words, waits.Reason))}
	if patience.ImagePull > 0 && !s.StuckSince.IsZero() {
		happened := sentence(fmt.Sprintf("Node %s could not %s", pod.Spec.NodeName, doing), cmp.Or(words, waits.Reason))
		h.limit(s.StuckSince.Add(patience.ImagePull), givingUp{reason, happened})
	}
	return h
}

// atOnce is a hold that no waiting cures. Its end lies before every other's.
func atOnce(s Sight, reason run.Reason, happened string) *hold {
	return &hold{message: happened, reason: reason, happens: happened, end: s.Job.CreationTimestamp.Time}
}

// Stuck reports whether the newest pod cannot start by itself: its image is not
// there or its container cannot be set up. Whoever follows a run notes since
// when, for [Sight.StuckSince].
func Stuck(pods []PodSight) bool {
	pod, found := current(Sight{Pods: pods})
	if !found || !started(pod).IsZero() {
		return false
	}
	_, waits := blocked(pod)
	return waits != nil
}

// blocked is the first container that waits for something out of the ordinary.
func blocked(pod PodSight) (name string, waits *corev1.ContainerStateWaiting) {
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if waits := status.State.Waiting; waits != nil {
			switch waits.Reason {
			case "", "ContainerCreating", "PodInitializing":
			default:
				return status.Name, waits
			}
		}
	}
	return "", nil
}

// pulls reports whether a container's reason to wait is its image.
func pulls(reason string) bool {
	switch reason {
	case "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull",
		"ImageInspectError", "RegistryUnavailable", "SignatureValidationFailed":
		return true
	default:
		return false
	}
}

func podCondition(pod PodSight, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

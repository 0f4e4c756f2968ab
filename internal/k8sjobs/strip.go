package k8sjobs

import (
	"fmt"
	"slices"
	"strings"
	"unique"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// What the informers keep of an object. Jobs stay in the cluster for days after
// they have ended, so what is kept of each, times the runs of days, is what the
// dispatcher's memory is for. A Job and its pod as the API sends them take
// about 15 KiB; what is left here takes about 4. What [Classify] reads is what
// must be kept.

// stripJob is the transform of the Job informer.
func stripJob(object any) (any, error) {
	job, ok := object.(*batchv1.Job)
	if !ok {
		return object, nil // a cache.DeletedFinalStateUnknown, stripped before
	}
	kept := &batchv1.Job{ObjectMeta: stripMeta(job.ObjectMeta)}
	kept.Spec.BackoffLimit = job.Spec.BackoffLimit
	kept.Spec.Suspend = job.Spec.Suspend
	kept.Spec.ActiveDeadlineSeconds = job.Spec.ActiveDeadlineSeconds
	kept.Spec.Template.Spec.ActiveDeadlineSeconds = job.Spec.Template.Spec.ActiveDeadlineSeconds
	if ignores(job) {
		kept.Spec.PodFailurePolicy = ignoring
	}
	kept.Status.Succeeded, kept.Status.Failed = job.Status.Succeeded, job.Status.Failed
	for _, condition := range job.Status.Conditions {
		if condition.Type == batchv1.JobComplete || condition.Type == batchv1.JobFailed {
			condition.Message = clipped(condition.Message)
			kept.Status.Conditions = append(kept.Status.Conditions, condition)
		}
	}
	return kept, nil
}

// ignores reports whether the cluster may leave pods of a Job that have failed out
// of its count.
func ignores(job *batchv1.Job) bool {
	policy := job.Spec.PodFailurePolicy
	return policy != nil && slices.ContainsFunc(policy.Rules, func(rule batchv1.PodFailurePolicyRule) bool {
		return rule.Action == batchv1.PodFailurePolicyActionIgnore
	})
}

// ignoring is what is kept of a policy that ignores anything.
var ignoring = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{Action: batchv1.PodFailurePolicyActionIgnore}}} //nolint:gochecknoglobals // it never changes

// stripPod is the transform of the pod informer.
func stripPod(object any) (any, error) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return object, nil
	}
	kept := &corev1.Pod{ObjectMeta: stripMeta(pod.ObjectMeta)}
	kept.OwnerReferences = []metav1.OwnerReference{{UID: jobOfPod(pod)}}
	kept.Spec.NodeName = interned(pod.Spec.NodeName)
	kept.Status.Phase = corev1.PodPhase(interned(string(pod.Status.Phase)))
	kept.Status.Reason = pod.Status.Reason
	kept.Status.Message = clipped(pod.Status.Message)
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled || condition.Type == corev1.DisruptionTarget {
			condition.Message = clipped(condition.Message)
			kept.Status.Conditions = append(kept.Status.Conditions, condition)
		}
	}
	kept.Status.InitContainerStatuses = stripContainers(pod.Status.InitContainerStatuses)
	kept.Status.ContainerStatuses = stripContainers(pod.Status.ContainerStatuses)
	return kept, nil
}

// stripPodForLogs keeps what [Launcher.Pods] promises besides.
func stripPodForLogs(object any) (any, error) {
	stripped, err := stripPod(object)
	pod, isPod := object.(*corev1.Pod)
	if !isPod || err != nil {
		return stripped, err
	}
	kept := stripped.(*corev1.Pod)
	for label, value := range pod.Labels {
		if strings.HasPrefix(label, labelPrefix) {
			metav1.SetMetaDataLabel(&kept.ObjectMeta, interned(label), interned(value))
		}
	}
	kept.Spec.InitContainers = stripSpecs(pod.Spec.InitContainers)
	kept.Spec.Containers = stripSpecs(pod.Spec.Containers)
	return kept, nil
}

func stripSpecs(containers []corev1.Container) []corev1.Container {
	if len(containers) == 0 {
		return nil
	}
	kept := make([]corev1.Container, len(containers))
	for i, container := range containers {
		kept[i] = corev1.Container{Name: interned(container.Name), RestartPolicy: container.RestartPolicy}
	}
	return kept
}

func stripContainers(statuses []corev1.ContainerStatus) []corev1.ContainerStatus {
	if len(statuses) == 0 {
		return nil
	}
	kept := make([]corev1.ContainerStatus, len(statuses))
	for i, status := range statuses {
		kept[i] = corev1.ContainerStatus{Name: interned(status.Name), State: status.State}
		if waiting := status.State.Waiting; waiting != nil {
			kept[i].State.Waiting = &corev1.ContainerStateWaiting{Reason: interned(waiting.Reason), Message: clipped(waiting.Message)}
		}
		if ended := status.State.Terminated; ended != nil {
			kept[i].State.Terminated = &corev1.ContainerStateTerminated{
				ExitCode: ended.ExitCode, Reason: interned(ended.Reason), Message: clipped(ended.Message),
				StartedAt: ended.StartedAt, FinishedAt: ended.FinishedAt,
			}
		}
	}
	return kept
}

// stripEvent is the transform of the event informer.
func stripEvent(object any) (any, error) {
	event, ok := object.(*corev1.Event)
	if !ok {
		return object, nil
	}
	kept := &corev1.Event{ObjectMeta: stripMeta(event.ObjectMeta)}
	kept.InvolvedObject.UID = event.InvolvedObject.UID
	kept.Reason, kept.Message = interned(event.Reason), clipped(event.Message)
	kept.LastTimestamp, kept.Count = event.LastTimestamp, event.Count
	return kept, nil
}

func stripMeta(meta metav1.ObjectMeta) metav1.ObjectMeta {
	return metav1.ObjectMeta{
		Name: meta.Name, Namespace: interned(meta.Namespace), UID: meta.UID, ResourceVersion: meta.ResourceVersion,
		CreationTimestamp: meta.CreationTimestamp,
		DeletionTimestamp: meta.DeletionTimestamp, DeletionGracePeriodSeconds: meta.DeletionGracePeriodSeconds,
	}
}

// interned shares the memory of texts that are the same in every object.
func interned(text string) string { return unique.Make(text).Value() }

// jobOfPod is the UID of the Job that a pod was made for. The label says it
// also after the cluster has taken the pod's owner away, as it does when a Job
// is deleted without its pods; they are the Job's all the same.
func jobOfPod(pod *corev1.Pod) types.UID {
	for _, label := range []string{batchv1.ControllerUidLabel, "controller-uid"} { // the second is older
		if uid := pod.Labels[label]; uid != "" {
			return types.UID(uid)
		}
	}
	if len(pod.OwnerReferences) > 0 {
		return pod.OwnerReferences[0].UID
	}
	return ""
}

// jobUID indexes pods and events by the UID of their Job.
func jobUID(object any) ([]string, error) {
	switch object := object.(type) {
	case *corev1.Pod:
		return []string{string(jobOfPod(object))}, nil
	case *corev1.Event:
		return []string{string(object.InvolvedObject.UID)}, nil
	default:
		return nil, fmt.Errorf("a %T is indexed by no Job", object)
	}
}

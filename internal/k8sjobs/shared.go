package k8sjobs

import (
	"context"
	"fmt"
	"maps"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Ensure makes a Job that is no run's own, such as a build that many runs wait
// for, with the Secret of the same name that it needs, or finds them. It adds
// the namespace and the labels of this installation. It may be repeated, by any
// number of processes at once: the Job's name is the lock. Errors are a
// [*run.LaunchError] or the context's. Follow and Delete take the Job it returns.
func (l *Launcher) Ensure(ctx context.Context, wanted *batchv1.Job, secret *corev1.Secret) (run.Job, error) {
	if err := ctx.Err(); err != nil {
		return run.Job{}, err
	}
	settings := l.template.settings
	ours := map[string]string{LabelManagedBy: ManagedBy, LabelInstance: settings.Instance}
	wanted.Namespace, secret.Namespace = settings.Namespace, settings.Namespace
	for _, meta := range []*metav1.ObjectMeta{&wanted.ObjectMeta, &wanted.Spec.Template.ObjectMeta, &secret.ObjectMeta} {
		labels := maps.Clone(meta.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, ours)
		meta.Labels = labels
	}
	found, err := l.createJob(ctx, wanted)
	if apierrors.IsAlreadyExists(err) {
		found, err = l.getJob(ctx, wanted.Namespace, wanted.Name)
		if err == nil && (found.Labels[LabelManagedBy] != ManagedBy || found.Labels[LabelInstance] != settings.Instance) {
			return run.Job{}, refuse(run.InvalidPodSpec, "A Job %s is in namespace %s already, and this installation did not make it.", wanted.Name, wanted.Namespace)
		}
	}
	if err != nil {
		return run.Job{}, refusedOr(ctx, err)
	}
	job := run.Job{Namespace: found.Namespace, Name: found.Name, UID: string(found.UID)}
	if isOver(found) {
		return job, nil // it needs its Secret no more
	}
	secret.OwnerReferences = ownedBy(job)
	return job, l.ensure(ctx, job, secret)
}

// isOver reports whether a Job is over, or is being deleted.
func isOver(job *batchv1.Job) bool {
	if job.DeletionTimestamp != nil {
		return true
	}
	for _, condition := range job.Status.Conditions {
		if (condition.Type == batchv1.JobComplete || condition.Type == batchv1.JobFailed) && condition.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}

// LastWords is the end of what the program of a Job's newest pod wrote, if its
// container has ended and keeps that; see terminationMessagePolicy.
func (l *Launcher) LastWords(ctx context.Context, job run.Job) (string, error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	pods, err := l.client.CoreV1().Pods(job.Namespace).List(call, metav1.ListOptions{LabelSelector: "job-name=" + job.Name})
	if err != nil {
		return "", fmt.Errorf("list the pods of job %s: %w", job.Name, err)
	}
	var newest metav1.Time
	words := ""
	for _, pod := range pods.Items {
		if owner := metav1.GetControllerOf(&pod); owner == nil || string(owner.UID) != job.UID || pod.CreationTimestamp.Before(&newest) {
			continue
		}
		for _, status := range pod.Status.ContainerStatuses {
			if status.Name == ContainerName && status.State.Terminated != nil {
				newest, words = pod.CreationTimestamp, status.State.Terminated.Message
			}
		}
	}
	return words, nil
}

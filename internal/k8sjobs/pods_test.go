package k8sjobs

import (
	"maps"
	"slices"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/ropewalk/ropewalk/internal/run"
)

func TestPodsAreCountedWhenTheJobIsOver(t *testing.T) {
	ignore := func(job *batchv1.Job) {
		job.Spec.PodFailurePolicy = &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{
			{Action: batchv1.PodFailurePolicyActionFailJob}, {Action: batchv1.PodFailurePolicyActionIgnore},
		}}
	}
	theirs := run.Job{Namespace: "runs", Name: "run-a-1", UID: "job"}
	for says, c := range map[string]struct {
		job               *batchv1.Job
		of                run.Job
		succeeded, failed int
		known             bool
	}{
		"not yet seen":      {nil, theirs, 0, 0, false},
		"under way":         {jobOf(func(job *batchv1.Job) { job.Status.Failed = 2 }), theirs, 0, 2, false},
		"complete":          {jobOf(complete(9)), theirs, 1, 0, true},
		"failed":            {jobOf(failed(9, "BackoffLimitExceeded")), theirs, 0, 1, true},
		"tried again":       {jobOf(complete(9), func(job *batchv1.Job) { job.Status.Failed = 2 }), theirs, 1, 2, true},
		"complete, ignores": {jobOf(complete(9), ignore), theirs, 1, 0, true},
		"failed, ignores":   {jobOf(failed(9, "BackoffLimitExceeded"), ignore), theirs, 0, 1, false},
		"another's by now":  {jobOf(complete(9)), run.Job{Namespace: "runs", Name: "run-a-1", UID: "older"}, 0, 0, false},
	} {
		t.Run(says, func(t *testing.T) {
			onStage(t, func(s *stage) {
				if c.job != nil {
					s.sees(stripped(t, stripJob, c.job), false)
				}
				if succeeded, failed, known := s.launcher.PodsCounted(c.of); succeeded != c.succeeded || failed != c.failed || known != c.known {
					t.Errorf("%d have succeeded and %d failed, known: %v; want %d, %d, %v", succeeded, failed, known, c.succeeded, c.failed, c.known)
				}
			})
		})
	}
}

func TestWhatReadingLogsTakesIsKept(t *testing.T) {
	labels := map[string]string{LabelRunID: "a", LabelQueue: "default", LabelAttempt: "2"}
	pod := podOf(corev1.PodRunning, running(3)).Pod
	pod.Labels = maps.Clone(labels)
	pod.Labels["team"] = "a"
	again := new(corev1.ContainerRestartPolicyAlways)
	pod.Spec.InitContainers = []corev1.Container{{Name: "proxy", Image: "proxy", RestartPolicy: again}}
	pod.Spec.Containers = []corev1.Container{{Name: "run", Image: "busybox"}}
	kept := stripped(t, stripPodForLogs, pod)
	if !maps.Equal(kept.Labels, labels) {
		t.Errorf("the labels are %v, want %v", kept.Labels, labels)
	}
	equal := func(a, b corev1.Container) bool {
		return a.Name == b.Name && a.RestartPolicy == b.RestartPolicy && a.Image == ""
	}
	if !slices.EqualFunc(kept.Spec.InitContainers, pod.Spec.InitContainers, equal) || !slices.EqualFunc(kept.Spec.Containers, pod.Spec.Containers, equal) {
		t.Errorf("the containers are %+v and %+v", kept.Spec.InitContainers, kept.Spec.Containers)
	}
	if without := stripped(t, stripPod, pod); without.Labels != nil || without.Spec.Containers != nil {
		t.Errorf("where no logs are read, %v and %+v are kept", without.Labels, without.Spec.Containers)
	}
	if kept.Status.Phase != corev1.PodRunning || string(jobOfPod(kept)) != "job" {
		t.Errorf("it is %s and of Job %s", kept.Status.Phase, jobOfPod(kept))
	}
}

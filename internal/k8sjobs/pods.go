package k8sjobs

import (
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Pods is the launcher's watch on its pods, for those who read their logs: a
// second one would cost the API server and this process as much again. Of each
// pod it has name, phase and the states of the containers, and where
// [Config.Logs] is set the labels ropewalk.dev/* and the names of the containers
// with their restart policies.
func (l *Launcher) Pods() cache.SharedIndexInformer { return l.watch.pods }

// PodsOf is what the watch has of a Job's pods.
func (l *Launcher) PodsOf(job run.Job) []*corev1.Pod {
	return indexed[*corev1.Pod](l.watch.pods, job)
}

// JobOf is the UID of the Job that a pod was made for, empty if none.
func (l *Launcher) JobOf(pod *corev1.Pod) types.UID { return jobOfPod(pod) }

// PodsCounted is how many pods of a Job have succeeded and failed, as the cluster
// counts them when it is over: the Job controller says so only after it has counted
// all. It is not known of a Job that failed and whose pod failure policy ignores
// some pods, which are not counted then. It asks the watch, which need not have
// shown those pods yet.
func (l *Launcher) PodsCounted(job run.Job) (succeeded, failed int, known bool) {
	found, exists, err := l.watch.jobs.GetStore().GetByKey(job.Namespace + "/" + job.Name)
	if err != nil || !exists {
		return 0, 0, false
	}
	seen, ok := found.(*batchv1.Job)
	if !ok || string(seen.UID) != job.UID {
		return 0, 0, false
	}
	for _, condition := range seen.Status.Conditions {
		if condition.Status == corev1.ConditionTrue {
			known = known || condition.Type == batchv1.JobComplete || condition.Type == batchv1.JobFailed && !ignores(seen)
		}
	}
	return int(seen.Status.Succeeded), int(seen.Status.Failed), known
}

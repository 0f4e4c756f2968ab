// Package podlogtest is for tests and benchmarks that read the logs of pods
// which no launcher of theirs has made.
package podlogtest

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Watch is a watch on pods, as [podlogs.Watch] wants it. It knows nothing of
// Jobs.
type Watch struct{ informer cache.SharedIndexInformer }

// NewWatch returns a watch that begins with [Watch.Run].
func NewWatch(client kubernetes.Interface, namespace, selector string) *Watch {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.LabelSelector = selector }))
	return &Watch{factory.Core().V1().Pods().Informer()}
}

// Run watches until ctx ends.
func (w *Watch) Run(ctx context.Context) { w.informer.RunWithContext(ctx) }

// Pods is the informer.
func (w *Watch) Pods() cache.SharedIndexInformer { return w.informer }

// PodsOf is what the informer has of a Job's pods.
func (w *Watch) PodsOf(job run.Job) (pods []*corev1.Pod) {
	for _, object := range w.informer.GetStore().List() {
		if pod, ok := object.(*corev1.Pod); ok && string(w.JobOf(pod)) == job.UID {
			pods = append(pods, pod)
		}
	}
	return pods
}

// JobOf is the UID of a pod's owner.
func (w *Watch) JobOf(pod *corev1.Pod) types.UID {
	if owner := metav1.GetControllerOfNoCopy(pod); owner != nil {
		return owner.UID
	}
	return ""
}

// PodsCounted is never known.
func (w *Watch) PodsCounted(run.Job) (succeeded, failed int, known bool) { return 0, 0, false }

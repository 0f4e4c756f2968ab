package k8sjobs

import (
	"fmt"
	"runtime"
	"testing"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// TestARunInFlightTakesLittleMemory fills the caches with Jobs and pods as they
// come off the wire, and weighs them.
func TestARunInFlightTakesLittleMemory(t *testing.T) {
	const runs, most = 2000, 6 << 10 // bytes; a dispatcher may take 25 KiB a run in all
	jobs := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	pods := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{byJob: jobUID})
	settings, launch := elaborate()
	job, _ := build(t, settings, launch)
	job.ManagedFields = []metav1.ManagedFieldsEntry{{Manager: "kube-controller-manager", FieldsV1: metav1.NewFieldsV1(string(make([]byte, 2000)))}}
	pod := &corev1.Pod{ObjectMeta: *job.ObjectMeta.DeepCopy(), Spec: job.Spec.Template.Spec, Status: podOf(corev1.PodRunning, running(3)).Status}

	before := heap()
	for i := range runs {
		job.UID, job.Name = types.UID(fmt.Sprintf("00000000-0000-4000-8000-%012d", i)), fmt.Sprintf("run-a-%d", i)
		pod.UID, pod.Name = types.UID(fmt.Sprintf("00000000-0000-4000-9000-%012d", i)), fmt.Sprintf("run-a-%d-x", i)
		pod.Labels[batchv1.ControllerUidLabel] = string(job.UID)
		received(t, jobs, job, &batchv1.Job{}, stripJob)
		received(t, pods, pod, &corev1.Pod{}, stripPod)
	}
	each := (heap() - before) / runs
	t.Logf("a run takes %d bytes", each)
	if each > most {
		t.Errorf("a run takes %d bytes of the caches, want at most %d", each, most)
	}
	runtime.KeepAlive(jobs)
	runtime.KeepAlive(pods)
}

func received(t *testing.T, into cache.Indexer, object interface{ Marshal() ([]byte, error) }, decoded interface{ Unmarshal([]byte) error }, strip cache.TransformFunc) {
	t.Helper()
	wire, err := object.Marshal()
	if err != nil {
		t.Fatal(err)
	}
	if err := decoded.Unmarshal(wire); err != nil {
		t.Fatal(err)
	}
	kept, err := strip(decoded)
	if err != nil {
		t.Fatal(err)
	}
	if err := into.Add(kept); err != nil {
		t.Fatal(err)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.HeapAlloc
}

func TestAPodIsItsJobsAlsoWithoutAnOwner(t *testing.T) {
	owned := []metav1.OwnerReference{{Kind: "Job", Name: "run-a-1", UID: "job", Controller: new(true)}}
	for sentence, meta := range map[string]metav1.ObjectMeta{
		"an owner":                       {OwnerReferences: owned},
		"an owner and the label":         {OwnerReferences: owned, Labels: map[string]string{"batch.kubernetes.io/controller-uid": "job"}},
		"the label, its owner was taken": {Labels: map[string]string{"batch.kubernetes.io/controller-uid": "job"}},
		"the label of old clusters":      {Labels: map[string]string{"controller-uid": "job"}},
	} {
		for range 2 { // as it comes, and stripped
			if got, err := jobUID(&corev1.Pod{ObjectMeta: meta}); err != nil || len(got) != 1 || got[0] != "job" {
				t.Errorf("a pod with %s is indexed by %q, %v", sentence, got, err)
			}
			meta = stripped(t, stripPod, &corev1.Pod{ObjectMeta: meta}).ObjectMeta
		}
	}
}

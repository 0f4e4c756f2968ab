package rig

import (
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
)

// The tests that rely on the observer cannot tell when it counts wrongly, so
// its counting is tested by itself.
func TestObserverCountsActiveJobs(t *testing.T) {
	job := func(uid, queue string, conditions ...batchv1.JobConditionType) *batchv1.Job {
		object := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{
			Name: "run-" + uid, UID: types.UID(uid), Labels: map[string]string{labelRunID: uid, labelQueue: queue},
		}}
		for _, condition := range conditions {
			object.Status.Conditions = append(object.Status.Conditions, batchv1.JobCondition{Type: condition, Status: corev1.ConditionTrue})
		}
		return object
	}
	o := &Observer{
		changed: newSignal(), jobs: map[string]*SeenJob{},
		created: map[string]int{}, active: map[string]int{}, most: map[string]int{},
	}
	steps := []struct {
		says   string
		event  watch.EventType
		job    *batchv1.Job
		all, a Counts
	}{
		{"a Job is active from its creation", watch.Added, job("1", "a"), Counts{1, 1, 1}, Counts{1, 1, 1}},
		{"one of another queue counts there", watch.Added, job("2", "b"), Counts{2, 2, 2}, Counts{1, 1, 1}},
		{"a change is no second Job", watch.Modified, job("1", "a"), Counts{2, 2, 2}, Counts{1, 1, 1}},
		{"nearly complete is still active", watch.Modified, job("1", "a", batchv1.JobSuccessCriteriaMet), Counts{2, 2, 2}, Counts{1, 1, 1}},
		{"complete ends it", watch.Modified, job("1", "a", batchv1.JobSuccessCriteriaMet, batchv1.JobComplete), Counts{2, 1, 2}, Counts{1, 0, 1}},
		{"and deleting it then changes nothing", watch.Deleted, job("1", "a", batchv1.JobComplete), Counts{2, 1, 2}, Counts{1, 0, 1}},
		{"a deleted Job is not active", watch.Deleted, job("2", "b"), Counts{2, 0, 2}, Counts{1, 0, 1}},
		{"a Job of the same name and another UID is another", watch.Added, job("3", "a"), Counts{3, 1, 2}, Counts{2, 1, 1}},
		{"failed ends it too", watch.Modified, job("3", "a", batchv1.JobFailed), Counts{3, 0, 2}, Counts{2, 0, 1}},
	}
	for _, step := range steps {
		o.see(watch.Event{Type: step.event, Object: step.job}, time.Now())
		if all, a := o.Counts(""), o.Counts("a"); all != step.all || a != step.a {
			t.Errorf("%s: counts %+v in all and %+v of queue a, want %+v and %+v", step.says, all, a, step.all, step.a)
		}
	}
	o.see(watch.Event{Type: watch.Error, Object: &metav1.Status{Message: "too old"}}, time.Now())
	if o.Err() == nil {
		t.Error("a watch that broke off must be told")
	}
}

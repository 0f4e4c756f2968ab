package rig

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	watchtools "k8s.io/client-go/tools/watch"
)

// The labels by which a Job says which run it is for.
const (
	labelRunID   = "ropewalk.dev/run-id"
	labelQueue   = "ropewalk.dev/queue"
	labelAttempt = "ropewalk.dev/attempt"
)

// SeenJob is what the API server told of one Job. Times are those of this
// process, at which the events came in.
type SeenJob struct {
	Name, UID             string
	RunID, Queue, Attempt string
	CreatedAt             time.Time
	// EndedAt is when the Job stopped being active, by its conditions or
	// because it was deleted; zero while it is active.
	EndedAt time.Time
	// Condition is "Complete" or "Failed" once the Job has it.
	Condition string
	Deleted   bool
	// Pods are the names of its pods by UID.
	Pods map[string]string
}

// Observer follows the Jobs and pods of a namespace by a watch of its own that
// misses no event, not even over a restart of the API server: it goes on from
// the resource version it has reached. A Job is active from its creation until
// it is complete, failed or deleted.
type Observer struct {
	stop context.CancelFunc
	done sync.WaitGroup

	mu      sync.Mutex
	changed signal
	jobs    map[string]*SeenJob // by UID
	order   []string            // UIDs in the order of creation
	// Numbers by queue, "" for all.
	created, active, most map[string]int

	err error
}

// Observe begins to watch; the context is for the beginning alone. The namespace
// must have no Jobs yet. Pods are watched only where pods is true, since they
// cost the observer as much again.
func Observe(begin context.Context, client kubernetes.Interface, namespace string, pods bool) (*Observer, error) {
	ctx, stop := context.WithCancel(context.WithoutCancel(begin))
	o := &Observer{
		stop: stop, changed: newSignal(), jobs: map[string]*SeenJob{},
		created: map[string]int{}, active: map[string]int{}, most: map[string]int{},
	}
	list, err := client.BatchV1().Jobs(namespace).List(begin, metav1.ListOptions{})
	if err == nil && len(list.Items) > 0 {
		err = fmt.Errorf("there are %d already", len(list.Items))
	}
	if err == nil {
		err = o.follow(ctx, list.ResourceVersion, client.BatchV1().Jobs(namespace).Watch)
	}
	if err == nil && pods {
		err = o.follow(ctx, list.ResourceVersion, client.CoreV1().Pods(namespace).Watch)
	}
	if err != nil {
		o.Stop()
		return nil, fmt.Errorf("observe the Jobs of %s: %w", namespace, err)
	}
	return o, nil
}

func (o *Observer) follow(ctx context.Context, version string, open func(context.Context, metav1.ListOptions) (watch.Interface, error)) error {
	watcher, err := watchtools.NewRetryWatcherWithContext(ctx, version, &cache.ListWatch{WatchFuncWithContext: open})
	if err != nil {
		return err
	}
	o.done.Go(func() {
		for event := range watcher.ResultChan() {
			o.see(event, time.Now())
		}
		if ctx.Err() == nil {
			o.see(watch.Event{Type: watch.Error}, time.Now())
		}
	})
	return nil
}

// Stop ends the watch. What was seen stays readable.
func (o *Observer) Stop() {
	o.stop()
	o.done.Wait()
}

func (o *Observer) see(event watch.Event, at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	defer o.changed.wake()
	switch object := event.Object.(type) {
	case *batchv1.Job:
		o.seeJob(event.Type, object, at)
	case *corev1.Pod:
		for _, owner := range object.OwnerReferences {
			if job := o.jobs[string(owner.UID)]; owner.Kind == "Job" && job != nil {
				job.Pods[string(object.UID)] = object.Name
			}
		}
	default:
		if o.err == nil {
			o.err = fmt.Errorf("the watch broke off, so that events are missing: %w", apierrors.FromObject(event.Object))
		}
	}
}

func (o *Observer) seeJob(event watch.EventType, object *batchv1.Job, at time.Time) {
	uid := string(object.UID)
	job := o.jobs[uid]
	if job == nil {
		job = &SeenJob{
			Name: object.Name, UID: uid, CreatedAt: at, Pods: map[string]string{},
			RunID: object.Labels[labelRunID], Queue: object.Labels[labelQueue], Attempt: object.Labels[labelAttempt],
		}
		o.jobs[uid] = job
		o.order = append(o.order, uid)
		for _, queue := range []string{"", job.Queue} {
			o.created[queue]++
			o.active[queue]++
			o.most[queue] = max(o.most[queue], o.active[queue])
		}
	}
	for _, condition := range object.Status.Conditions {
		if condition.Status == corev1.ConditionTrue && (condition.Type == batchv1.JobComplete || condition.Type == batchv1.JobFailed) {
			job.Condition = string(condition.Type)
		}
	}
	job.Deleted = job.Deleted || event == watch.Deleted
	if job.EndedAt.IsZero() && (job.Condition != "" || job.Deleted) {
		job.EndedAt = at
		o.active[""]--
		o.active[job.Queue]--
	}
}

// Jobs returns all Jobs seen so far in the order of their creation.
func (o *Observer) Jobs() []SeenJob {
	o.mu.Lock()
	defer o.mu.Unlock()
	jobs := make([]SeenJob, len(o.order))
	for i, uid := range o.order {
		jobs[i] = *o.jobs[uid]
		jobs[i].Pods = maps.Clone(jobs[i].Pods)
	}
	return jobs
}

// Counts are the numbers of Jobs of a queue, or of all queues.
type Counts struct {
	// Created Jobs, those active now, and the most that were active at once
	// since the last ResetMost.
	Created, Active, Most int
}

// Counts returns the numbers of one queue; "" stands for all.
func (o *Observer) Counts(queue string) Counts {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.counts(queue)
}

func (o *Observer) counts(queue string) Counts {
	return Counts{Created: o.created[queue], Active: o.active[queue], Most: o.most[queue]}
}

// ResetMost begins anew to look for the most Jobs that are active at once.
func (o *Observer) ResetMost() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.most = maps.Clone(o.active)
}

// Await waits until the numbers of a queue are as the caller wants them, and
// looks at them at every event. It fails when an event was missed.
func (o *Observer) Await(ctx context.Context, queue string, want func(Counts) bool) error {
	for {
		o.mu.Lock()
		counts, err, changed := o.counts(queue), o.err, o.changed.changed
		o.mu.Unlock()
		if err != nil || want(counts) {
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait for Jobs, of which there are %+v: %w", counts, context.Cause(ctx))
		}
	}
}

// Err is not nil when an event was missed, so that nothing seen can be relied
// on.
func (o *Observer) Err() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

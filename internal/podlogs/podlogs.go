// Package podlogs finds the containers of the pods that were made for runs, and
// reads their logs by the Kubernetes log API. What is done with the lines is
// not its business; cmd joins it to the follower.
//
// It sees the pods by the watch of whoever launches them.
package podlogs

import (
	"context"
	"fmt"
	"io"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/run"
)

// The labels of the pods of runs and builds; they are contracts.
const (
	labelRunID   = "ropewalk.dev/run-id"
	labelQueue   = "ropewalk.dev/queue"
	labelAttempt = "ropewalk.dev/attempt"
	// labelBuild is on the pods of builders, whose logs are no run's own.
	labelBuild = "ropewalk.dev/build"
)

// Config is where pods are.
type Config struct {
	Client kubernetes.Interface
	Watch  Watch
	// Namespace is that of the watch.
	Namespace string
	// Selector is the label selector of an installation's pods.
	Selector string
}

// Watch is what is seen of a namespace's pods and Jobs. It may lag behind the
// cluster.
type Watch interface {
	// Pods is the informer of the pods, which somebody else runs. Of each pod it
	// has at least name, UID, the labels ropewalk.dev/*, the containers' names and
	// restart policies, the phase and the states of the containers.
	Pods() cache.SharedIndexInformer
	// PodsOf is what the informer has of a Job's pods.
	PodsOf(job run.Job) []*corev1.Pod
	// JobOf is the UID of a pod's Job, empty if it has none.
	JobOf(pod *corev1.Pod) types.UID
	// PodsCounted is how many pods of a Job that is over have succeeded and
	// failed in all, where that is known.
	PodsCounted(job run.Job) (succeeded, failed int, known bool)
}

// Pods finds the containers of the pods of runs.
type Pods struct {
	config Config
	synced cache.InformerSynced

	mu   sync.Mutex
	jobs map[types.UID]map[types.UID]*pod // followed, by Job and pod
	// news is closed and replaced when a pod of a followed Job changes.
	news map[types.UID]chan struct{}
}

// pod is what is known of one pod whose logs somebody reads.
type pod struct {
	mu      sync.Mutex
	object  *corev1.Pod
	gone    bool
	changed chan struct{}
}

func (p *pod) update(object *corev1.Pod, gone bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if isOver(object) || !isOver(p.object) { // or it is older than what is known
		p.object = object
	}
	p.gone = p.gone || gone
	close(p.changed)
	p.changed = make(chan struct{})
}

// New returns what finds the pods that the watch shows.
func New(config Config) (*Pods, error) {
	w := &Pods{config: config, jobs: make(map[types.UID]map[types.UID]*pod), news: make(map[types.UID]chan struct{})}
	registration, err := config.Watch.Pods().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { w.changed(object, false) },
		UpdateFunc: func(_, object any) { w.changed(object, false) },
		DeleteFunc: func(object any) {
			if unknown, missed := object.(cache.DeletedFinalStateUnknown); missed {
				object = unknown.Obj
			}
			w.changed(object, true)
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	w.synced = registration.HasSynced
	return w, nil
}

func (w *Pods) changed(object any, gone bool) {
	seen, ok := object.(*corev1.Pod)
	if !ok {
		return
	}
	job := w.config.Watch.JobOf(seen)
	w.mu.Lock()
	defer w.mu.Unlock()
	pods, followed := w.jobs[job]
	if !followed {
		return
	}
	w.note(pods, seen, gone)
	close(w.news[job])
	w.news[job] = make(chan struct{})
}

// note keeps what is newest of a pod. The caller holds the lock.
func (w *Pods) note(pods map[types.UID]*pod, seen *corev1.Pod, gone bool) {
	if known, ok := pods[seen.UID]; ok {
		known.update(seen, gone)
		return
	}
	pods[seen.UID] = &pod{object: seen, gone: gone, changed: make(chan struct{})}
}

// Logs calls found once with every container of the Job's pods, as they come,
// until over is closed and all that the Job had were found.
func (w *Pods) Logs(ctx context.Context, job run.Job, over <-chan struct{}, found func(*Container)) error {
	if !cache.WaitForCacheSync(ctx.Done(), w.synced) {
		return ctx.Err()
	}
	uid := types.UID(job.UID)
	w.mu.Lock()
	if _, taken := w.jobs[uid]; taken {
		w.mu.Unlock()
		return fmt.Errorf("the logs of job %s are followed already", job.Name)
	}
	pods := make(map[types.UID]*pod)
	w.jobs[uid], w.news[uid] = pods, make(chan struct{})
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		// The containers that were found keep their pods, but nobody tells
		// them of changes any more: by now all have ended.
		delete(w.jobs, uid)
		delete(w.news, uid)
	}()
	w.mu.Lock()
	for _, seen := range w.config.Watch.PodsOf(job) {
		w.note(pods, seen, false)
	}
	w.mu.Unlock()
	given := make(map[string]bool)
	for {
		news := w.give(uid, pods, given, found)
		select {
		case <-news:
		case <-over:
			return w.rest(ctx, job, pods, given, found)
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// give calls found with containers that are new.
func (w *Pods) give(uid types.UID, pods map[types.UID]*pod, given map[string]bool, found func(*Container)) (news <-chan struct{}) {
	w.mu.Lock()
	var fresh []*Container
	for _, p := range pods {
		for _, container := range w.containers(p) {
			if key := container.log.String(); !given[key] {
				given[key] = true
				fresh = append(fresh, container)
			}
		}
	}
	news = w.news[uid]
	w.mu.Unlock()
	for _, container := range fresh {
		found(container)
	}
	return news
}

// rest looks for the pods that a Job had when it was over, and marks those as
// ended that are no longer there.
func (w *Pods) rest(ctx context.Context, job run.Job, pods map[types.UID]*pod, given map[string]bool, found func(*Container)) error {
	w.mu.Lock()
	before := slices.Collect(maps.Keys(pods))
	w.mu.Unlock()
	there, err := w.all(ctx, job)
	if err != nil {
		return err
	}
	w.mu.Lock()
	present := make(map[types.UID]bool)
	for _, seen := range there {
		present[seen.UID] = true
		w.note(pods, seen, false)
	}
	for _, uid := range before {
		if p := pods[uid]; !present[uid] {
			p.update(p.object, true)
		}
	}
	w.mu.Unlock()
	w.give(types.UID(job.UID), pods, given, found)
	return w.awaitEnds(ctx, types.UID(job.UID), pods)
}

// all returns the pods of a Job that is over. The watch may lag behind that: if
// it does not show as many that have succeeded and failed as the Job had, the
// cluster is asked. It shows pods in order, so that one that was ignored cannot
// stand for a later one that succeeded.
func (w *Pods) all(ctx context.Context, job run.Job) ([]*corev1.Pod, error) {
	succeeded, failed, known := w.config.Watch.PodsCounted(job)
	seen := w.config.Watch.PodsOf(job)
	for _, pod := range seen {
		switch pod.Status.Phase {
		case corev1.PodSucceeded:
			succeeded--
		case corev1.PodFailed:
			failed--
		default:
		}
	}
	if known && succeeded <= 0 && failed <= 0 {
		return seen, nil
	}
	wait := 100 * time.Millisecond
	for {
		list, err := w.config.Client.CoreV1().Pods(job.Namespace).List(ctx, metav1.ListOptions{LabelSelector: w.config.Selector + ",batch.kubernetes.io/job-name=" + job.Name})
		if err == nil {
			var of []*corev1.Pod
			for i := range list.Items {
				if pod := &list.Items[i]; w.config.Watch.JobOf(pod) == types.UID(job.UID) {
					of = append(of, pod)
				}
			}
			return of, nil
		}
		select {
		case <-time.After(wait):
			wait = min(2*wait, 5*time.Second)
		case <-ctx.Done():
			return nil, fmt.Errorf("list the pods of job %s: %w", job.Name, err)
		}
	}
}

func isOver(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// awaitEnds keeps telling the containers of changes until none is left that
// may change: a pod that is being deleted outlives its Job.
func (w *Pods) awaitEnds(ctx context.Context, uid types.UID, pods map[types.UID]*pod) error {
	for {
		w.mu.Lock()
		news, open := w.news[uid], false
		for _, p := range pods {
			for _, container := range w.containers(p) {
				open = open || !container.Ended()
			}
		}
		w.mu.Unlock()
		if !open {
			return nil
		}
		select {
		case <-news:
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// Ended calls found with every container of every pod that has ended.
func (w *Pods) Ended(ctx context.Context, found func(*Container)) error {
	if !cache.WaitForCacheSync(ctx.Done(), w.synced) {
		return ctx.Err()
	}
	for _, object := range w.config.Watch.Pods().GetStore().List() {
		seen, ok := object.(*corev1.Pod)
		if !ok || !isOver(seen) {
			continue
		}
		for _, container := range w.containers(&pod{object: seen, changed: make(chan struct{})}) {
			found(container)
		}
	}
	return nil
}

// Gone tells whether no pod of that name is in the namespace.
func (w *Pods) Gone(ctx context.Context, name string) (bool, error) {
	if _, there, err := w.config.Watch.Pods().GetStore().GetByKey(w.config.Namespace + "/" + name); err == nil && there {
		return false, nil
	}
	return Gone(ctx, w.config.Client, w.config.Namespace, name)
}

// Gone is [Pods.Gone] where nobody watches.
func Gone(ctx context.Context, client kubernetes.Interface, namespace, name string) (bool, error) {
	list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{FieldSelector: "metadata.name=" + name})
	if err != nil {
		return false, fmt.Errorf("look for pod %s: %w", name, err)
	}
	return !slices.ContainsFunc(list.Items, func(pod corev1.Pod) bool { return pod.Name == name }), nil
}

func (w *Pods) containers(p *pod) []*Container {
	p.mu.Lock()
	defer p.mu.Unlock()
	log, ok := logOf(p.object)
	if !ok {
		return nil
	}
	var all []*Container
	add := func(name string) {
		log.Container = name
		all = append(all, &Container{pods: w, pod: p, name: p.object.Name, log: log})
	}
	for _, container := range p.object.Spec.InitContainers {
		add(container.Name)
	}
	for _, container := range p.object.Spec.Containers {
		add(container.Name)
	}
	return all
}

// logOf names the logs of a pod, but for the container. A pod that was made for
// neither a run nor a build has none.
func logOf(pod *corev1.Pod) (logevent.Log, bool) {
	if hash, ok := pod.Labels[labelBuild]; ok {
		return logevent.Log{Queue: logevent.BuildQueue, Run: logevent.BuildID(hash), Attempt: 1, Pod: pod.Name}, true
	}
	attempt, err := strconv.Atoi(pod.Labels[labelAttempt])
	return logevent.Log{Queue: pod.Labels[labelQueue], Run: pod.Labels[labelRunID], Attempt: attempt, Pod: pod.Name}, err == nil
}

// Container is one container's log.
type Container struct {
	pods *Pods
	pod  *pod
	name string // the pod's
	log  logevent.Log
}

// Log names the log.
func (c *Container) Log() logevent.Log { return c.log }

// Changed is closed with the next change of the pod.
func (c *Container) Changed() <-chan struct{} {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	return c.pod.changed
}

// Ended reports whether the container writes nothing more, as the pod's status
// says.
func (c *Container) Ended() bool {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	if c.pod.gone || isOver(c.pod.object) {
		return true
	}
	status := c.status()
	return status != nil && status.State.Terminated != nil && !c.sidecar()
}

// started reports whether the container was ever seen to have begun.
func (c *Container) started() bool {
	c.pod.mu.Lock()
	defer c.pod.mu.Unlock()
	status := c.status()
	return status != nil && (status.State.Running != nil || status.State.Terminated != nil)
}

func (c *Container) status() *corev1.ContainerStatus {
	for _, statuses := range [][]corev1.ContainerStatus{c.pod.object.Status.ContainerStatuses, c.pod.object.Status.InitContainerStatuses} {
		for i := range statuses {
			if statuses[i].Name == c.log.Container {
				return &statuses[i]
			}
		}
	}
	return nil
}

// sidecar: an init container that is started again when it ends.
func (c *Container) sidecar() bool {
	for _, container := range c.pod.object.Spec.InitContainers {
		if container.Name == c.log.Container {
			return container.RestartPolicy != nil
		}
	}
	return false
}

// Open reads the log by the API; see the follower's Source.
func (c *Container) Open(ctx context.Context, since time.Time, follow bool) (io.ReadCloser, error) {
	if !c.started() {
		return nil, logevent.ErrNotYet // asking would be one refusal for each container that waits
	}
	options := &corev1.PodLogOptions{Container: c.log.Container, Follow: follow, Timestamps: true}
	if !since.IsZero() {
		options.SinceTime = &metav1.Time{Time: since.Truncate(time.Second)}
	}
	body, err := c.pods.config.Client.CoreV1().Pods(c.pods.config.Namespace).GetLogs(c.name, options).Stream(ctx)
	switch {
	case err == nil:
		return body, nil
	case apierrors.IsNotFound(err):
		return nil, fmt.Errorf("%w: %w", logevent.ErrGone, err)
	case ctx.Err() != nil:
		return nil, ctx.Err()
	default:
		return nil, fmt.Errorf("read the log of container %s of pod %s: %w", c.log.Container, c.name, err)
	}
}

package k8sjobs

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"

	"github.com/rs/zerolog"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/ropewalk/ropewalk/internal/run"
)

// byJob is the index of pods and events by their Job's UID.
const byJob = "job"

// watcher is the process's view of the cluster: one informer each for Jobs,
// pods and the events that tell of pods that could not be made. Whoever follows
// a Job holds a [view] of it and is woken when anything of it changes.
type watcher struct {
	jobs, pods, events cache.SharedIndexInformer
	handled            []cache.InformerSynced
	synced             chan struct{}
	log                zerolog.Logger

	mu        sync.Mutex
	following map[types.UID]map[*view]struct{}
	troubles  map[string]error // by resource; what a watch stumbles over now
}

// view is one follower's part of the watch. Its fields belong to the watcher's
// lock, but for kick.
type view struct {
	// kick has room for one wake-up: many changes while nobody looks are one.
	kick chan struct{}
	uid  types.UID
	job  *batchv1.Job // as last seen
	gone bool         // its deletion was seen
	pods map[types.UID]PodSight
}

// see notes a state of one of the Job's pods.
func (v *view) see(pod *corev1.Pod, gone bool) {
	before := v.pods[pod.UID].Cause
	if before == Unseen {
		before = cause(pod)
	}
	v.pods[pod.UID] = PodSight{Pod: pod, Gone: gone, Cause: before}
}

func newWatcher(config Config) (*watcher, error) {
	client, settings := config.Client, config.Settings
	w := &watcher{
		synced:    make(chan struct{}),
		log:       config.Log,
		following: make(map[types.UID]map[*view]struct{}),
		troubles:  make(map[string]error),
	}
	ns := settings.Namespace
	ours := func(options *metav1.ListOptions) { options.LabelSelector = Selector(settings.Instance) }
	refused := func(options *metav1.ListOptions) {
		options.FieldSelector = "involvedObject.kind=Job,reason=FailedCreate"
	}
	jobs, pods, events := client.BatchV1().Jobs(ns), client.CoreV1().Pods(ns), client.CoreV1().Events(ns)
	keep := stripPod
	if config.Logs {
		keep = stripPodForLogs
	}
	var err error
	if w.jobs, err = w.informer(client, "jobs", &batchv1.Job{}, listWatch(ours, jobs.List, jobs.Watch), stripJob, w.jobChanged); err != nil {
		return nil, err
	}
	if w.pods, err = w.informer(client, "pods", &corev1.Pod{}, listWatch(ours, pods.List, pods.Watch), keep, w.podChanged); err != nil {
		return nil, err
	}
	w.events, err = w.informer(client, "events", &corev1.Event{}, listWatch(refused, events.List, events.Watch), stripEvent, w.eventChanged)
	return w, err
}

// listWatch lists and watches what the options select.
func listWatch[List runtime.Object](
	choose func(*metav1.ListOptions),
	list func(context.Context, metav1.ListOptions) (List, error),
	open func(context.Context, metav1.ListOptions) (watch.Interface, error),
) *cache.ListWatch {
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			choose(&options)
			return list(ctx, options)
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			choose(&options)
			return open(ctx, options)
		},
	}
}

// informer makes one of the three. changed is called with the new object, or
// with the last one known and gone set.
func (w *watcher) informer(
	client kubernetes.Interface, resource string, example runtime.Object, source *cache.ListWatch,
	strip cache.TransformFunc, changed func(object any, gone bool),
) (cache.SharedIndexInformer, error) {
	indexers := cache.Indexers{}
	if resource != "jobs" {
		indexers[byJob] = jobUID
	}
	// No resync: nothing here waits for a second look at what has not changed.
	informer := cache.NewSharedIndexInformerWithOptions(
		cache.ToListWatcherWithWatchListSemantics(w.observed(resource, source), client), example,
		cache.SharedIndexInformerOptions{Indexers: indexers},
	)
	registration, err := informer.AddEventHandler(handlers(changed))
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", resource, err)
	}
	w.handled = append(w.handled, registration.HasSynced)
	if err := informer.SetTransform(strip); err != nil {
		return nil, fmt.Errorf("watch %s: %w", resource, err)
	}
	// Errors are told by observed, once each.
	err = informer.SetWatchErrorHandlerWithContext(func(context.Context, *cache.Reflector, error) {})
	return informer, err
}

func handlers(changed func(object any, gone bool)) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { changed(object, false) },
		UpdateFunc: func(_, object any) { changed(object, false) },
		DeleteFunc: func(object any) {
			// The watch was away when it happened: the last state that was
			// seen need not be the last that there was.
			if unknown, missed := object.(cache.DeletedFinalStateUnknown); missed {
				object = unknown.Obj
			}
			changed(object, true)
		},
	}
}

// observed notes which watches work. An informer hides what it stumbles over
// and tries again forever, so that nobody would know.
func (w *watcher) observed(resource string, source *cache.ListWatch) *cache.ListWatch {
	list, open := source.ListWithContextFunc, source.WatchFuncWithContext
	return &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
			objects, err := list(ctx, options)
			w.note(ctx, resource, err)
			return objects, err
		},
		WatchFuncWithContext: func(ctx context.Context, options metav1.ListOptions) (watch.Interface, error) {
			stream, err := open(ctx, options)
			if options.SendInitialEvents != nil && apierrors.IsInvalid(err) {
				return stream, err // an older server, which is asked to list next
			}
			w.note(ctx, resource, err)
			return stream, err
		},
	}
}

// note keeps what a watch stumbles over, and logs the first trouble and its end.
func (w *watcher) note(ctx context.Context, resource string, err error) {
	if ctx.Err() != nil || apierrors.IsResourceExpired(err) || apierrors.IsGone(err) {
		return // we stop, or the watch only has to begin anew
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	before := len(w.troubles)
	if err == nil {
		delete(w.troubles, resource)
	} else {
		w.troubles[resource] = err
	}
	// One cause most often stops all three watches; it is told once.
	switch after := len(w.troubles); {
	case before == 0 && after > 0:
		w.log.Warn().Err(err).Str("resource", resource).Msg("the watch on the cluster does not work; it is tried again until it does")
	case before > 0 && after == 0:
		w.log.Info().Msg("the watch on the cluster works again")
	}
}

// trouble is what the watches stumble over at the moment, nil if over nothing.
func (w *watcher) trouble() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, resource := range slices.Sorted(maps.Keys(w.troubles)) {
		return fmt.Errorf("watch %s: %w", resource, w.troubles[resource])
	}
	return nil
}

// run keeps the informers until ctx ends.
func (w *watcher) run(ctx context.Context) {
	var informers sync.WaitGroup
	for _, informer := range []cache.SharedIndexInformer{w.jobs, w.pods, w.events} {
		informers.Go(func() { informer.RunWithContext(ctx) })
	}
	if cache.WaitForCacheSync(ctx.Done(), w.handled...) {
		close(w.synced)
	}
	informers.Wait()
}

// awaitSynced waits until the watch knows all that there was when it began.
func (w *watcher) awaitSynced(ctx context.Context) error {
	select {
	case <-w.synced:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (w *watcher) jobChanged(object any, gone bool) {
	job, ok := object.(*batchv1.Job)
	if !ok {
		return
	}
	w.update(job.UID, func(v *view) {
		v.job, v.gone = job, v.gone || gone
	})
}

func (w *watcher) podChanged(object any, gone bool) {
	pod, ok := object.(*corev1.Pod)
	if !ok {
		return
	}
	// A pod's last state is kept after it has gone: how a run ended stands in
	// it, and a pod that was deleted goes before its Job is said to have ended.
	w.update(jobOfPod(pod), func(v *view) { v.see(pod, gone) })
}

func (w *watcher) eventChanged(object any, _ bool) {
	if event, ok := object.(*corev1.Event); ok {
		w.update(event.InvolvedObject.UID, func(*view) {})
	}
}

func (w *watcher) update(uid types.UID, change func(*view)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for v := range w.following[uid] {
		change(v)
		select {
		case v.kick <- struct{}{}:
		default: // woken already
		}
	}
}

// follow opens a view of a Job; unfollow ends it.
func (w *watcher) follow(uid types.UID) *view {
	v := &view{kick: make(chan struct{}, 1), uid: uid, pods: make(map[types.UID]PodSight)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.following[uid] == nil {
		w.following[uid] = make(map[*view]struct{})
	}
	w.following[uid][v] = struct{}{}
	return v
}

func (w *watcher) unfollow(v *view) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.following[v.uid], v)
	if len(w.following[v.uid]) == 0 {
		delete(w.following, v.uid)
	}
}

// lost notes that the API has said that the view's Job is gone.
func (w *watcher) lost(v *view) {
	w.mu.Lock()
	defer w.mu.Unlock()
	v.gone = true
}

// look returns what is known of the view's Job now. Absent tells that the cache
// does not hold the Job, which means little by itself: the watch may lag.
func (w *watcher) look(v *view, job run.Job) (sight Sight, absent bool) {
	found, exists, err := w.jobs.GetStore().GetByKey(job.Namespace + "/" + job.Name)
	if err != nil {
		panic("k8sjobs: the cache of Jobs has no keys: " + err.Error())
	}
	pods, events := indexed[*corev1.Pod](w.pods, job), indexed[*corev1.Event](w.events, job)
	w.mu.Lock()
	defer w.mu.Unlock()
	if exists {
		if current := found.(*batchv1.Job); current.UID == v.uid {
			v.job = current
		} else {
			v.gone = true // its name is another's now
			exists = false
		}
	}
	present := make(map[types.UID]bool, len(pods))
	for _, pod := range pods {
		present[pod.UID] = true
		v.see(pod, false)
	}
	sight = Sight{Job: v.job, Gone: v.gone, Refusals: events}
	for uid, pod := range v.pods {
		pod.Gone = !present[uid]
		sight.Pods = append(sight.Pods, pod)
	}
	sortByAge(sight.Pods)
	return sight, !exists && !v.gone
}

// indexed lists what the cache holds of a Job.
func indexed[T any](informer cache.SharedIndexInformer, job run.Job) []T {
	objects, err := informer.GetIndexer().ByIndex(byJob, job.UID)
	if err != nil {
		panic("k8sjobs: the cache has no index by Job: " + err.Error())
	}
	typed := make([]T, len(objects))
	for i, object := range objects {
		typed[i] = object.(T)
	}
	return typed
}

func uid(job run.Job) types.UID { return types.UID(job.UID) }

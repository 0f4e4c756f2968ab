package main

import (
	"cmp"
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"
	"k8s.io/client-go/kubernetes"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/k8sjobs"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logfollow"
	"github.com/ropewalk/ropewalk/internal/logging"
	"github.com/ropewalk/ropewalk/internal/podlogs"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/runstore"
)

// places launches runs in the namespaces that their queues say. Each namespace
// has a launcher of its own, with a watch of its own, from its first run on.
type places struct {
	// The launcher of the namespace that the settings say, which is where
	// builders run too, and what /readyz looks at.
	*k8sjobs.Launcher
	settings *config.Config
	client   kubernetes.Interface
	others   opened[*k8sjobs.Launcher]
	log      zerolog.Logger
}

func newPlaces(settings *config.Config, client kubernetes.Interface, launcher *k8sjobs.Launcher, log zerolog.Logger) *places {
	return &places{Launcher: launcher, settings: settings, client: client, others: newOpened[*k8sjobs.Launcher](), log: log}
}

// in returns the launcher of a namespace; empty is that of the settings.
func (p *places) in(namespace string) (*k8sjobs.Launcher, error) {
	if namespace == "" || namespace == p.settings.Kubernetes.Namespace {
		return p.Launcher, nil
	}
	return p.others.get(namespace, func() (*k8sjobs.Launcher, error) {
		settings := kubernetesSettings(p.settings)
		settings.Namespace = namespace
		p.log.Info().Str(logging.Namespace, namespace).Msg("runs of a queue go to a namespace of their own")
		return k8sjobs.New(k8sjobs.Config{
			Client: p.client, Settings: settings, Logs: followsLogs(p.settings),
			Log: p.log.With().Str(logging.Component, "k8sjobs").Str(logging.Namespace, namespace).Logger(),
		})
	})
}

// Run runs all launchers, those too that are yet to come.
func (p *places) Run(ctx context.Context) error { return p.others.run(ctx, p.Launcher) }

// Check does not begin a watch of a namespace.
func (p *places) Check(launch run.Launch) error { return p.Launcher.Check(launch) }

// Launch launches in the namespace of the run's queue.
func (p *places) Launch(ctx context.Context, launch run.Launch) (run.Job, bool, error) {
	namespace := launch.Policy.Namespace
	if launch.Known != nil && launch.Known.Namespace != "" {
		namespace = launch.Known.Namespace
	}
	launcher, err := p.in(namespace)
	if err != nil {
		return run.Job{}, false, &run.LaunchError{Reason: run.InvalidPodSpec, Message: err.Error(), Err: err}
	}
	return launcher.Launch(ctx, launch)
}

// Follow follows a Job where it is.
func (p *places) Follow(ctx context.Context, job run.Job, report func(run.Observation)) (run.Observation, error) {
	launcher, err := p.in(job.Namespace)
	if err != nil {
		return run.Observation{}, err
	}
	return launcher.Follow(ctx, job, report)
}

// Delete deletes a Job where it is.
func (p *places) Delete(ctx context.Context, job run.Job) error {
	launcher, err := p.in(job.Namespace)
	if err != nil {
		return err
	}
	return launcher.Delete(ctx, job)
}

// opened are things with one for each namespace, made when first asked for, and
// run from then on.
type opened[T runner] struct {
	mu    *sync.Mutex
	all   map[string]T
	fresh chan T
}

// mostPlaces bounds the namespaces that runs may be in: each has watches.
const mostPlaces = 1000

func newOpened[T runner]() opened[T] {
	return opened[T]{mu: new(sync.Mutex), all: make(map[string]T), fresh: make(chan T, mostPlaces)}
}

func (o opened[T]) get(namespace string, open func() (T, error)) (T, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if there, ok := o.all[namespace]; ok {
		return there, nil
	}
	made, err := open()
	if err != nil {
		return made, err
	}
	o.all[namespace] = made
	o.fresh <- made
	return made, nil
}

// run runs the first and all that are opened, until ctx ends or one fails.
func (o opened[T]) run(ctx context.Context, first runner) error {
	parts, failing := errgroup.WithContext(ctx)
	parts.Go(func() error { return first.Run(failing) })
	parts.Go(func() error {
		for {
			select {
			case one := <-o.fresh:
				parts.Go(func() error { return one.Run(failing) })
			case <-failing.Done():
				return nil
			}
		}
	})
	return parts.Wait()
}

// placedLogs finds the logs of pods in the namespaces of their runs. It sees what
// the launchers there watch.
type placedLogs struct {
	places *places
	client kubernetes.Interface
	runs   *runstore.Store

	mu  sync.Mutex
	all map[string]*podlogs.Pods // by namespace
}

func newPlacedLogs(places *places, client kubernetes.Interface, runs *runstore.Store) (*placedLogs, error) {
	p := &placedLogs{places: places, client: client, runs: runs, all: make(map[string]*podlogs.Pods)}
	_, err := p.in("") // builders are there too
	return p, err
}

// in finds the logs in a namespace; empty is that of the settings.
func (p *placedLogs) in(namespace string) (*podlogs.Pods, error) {
	namespace = cmp.Or(namespace, p.places.settings.Kubernetes.Namespace)
	launcher, err := p.places.in(namespace)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if there, ok := p.all[namespace]; ok {
		return there, nil
	}
	made, err := podlogs.New(podlogs.Config{
		Client: p.client, Watch: launcher, Namespace: namespace, Selector: k8sjobs.Selector(p.places.settings.Launch.Instance),
	})
	if err == nil {
		p.all[namespace] = made
	}
	return made, err
}

// now returns those of all namespaces where somebody has looked.
func (p *placedLogs) now() []*podlogs.Pods {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Values(p.all))
}

// Logs finds the logs of one Job.
func (p *placedLogs) Logs(ctx context.Context, job run.Job, over <-chan struct{}, found func(logevent.Log, logfollow.Source)) error {
	pods, err := p.in(job.Namespace)
	if err != nil {
		return err
	}
	return podLogs{pods}.Logs(ctx, job, over, found)
}

// Ended finds the logs that will not grow any more, wherever runs are. A
// namespace that does not let us look does not keep us from the others.
func (p *placedLogs) Ended(ctx context.Context, found func(logevent.Log, logfollow.Source)) error {
	main, err := p.in("")
	if err == nil {
		err = podLogs{main}.Ended(ctx, found)
	}
	for _, pods := range p.now() {
		if pods == main {
			continue
		}
		const soon = 5 * time.Second
		limited, cancel := context.WithTimeout(ctx, soon)
		_ = podLogs{pods}.Ended(limited, found) // there is another look soon
		cancel()
	}
	return err
}

// Gone tells whether the attempt of a log is over and its pod in none of the
// namespaces where it may have been. A build's pod counts alone: builds have no
// records.
func (p *placedLogs) Gone(ctx context.Context, log logevent.Log) (bool, error) {
	if log.Queue != logevent.BuildQueue {
		record, err := p.runs.Get(ctx, log.Queue, log.Run)
		switch {
		case errors.Is(err, run.ErrNotFound): // it was over long ago
		case err != nil:
			return false, err
		case record.Attempt <= log.Attempt && !record.State.Final():
			return false, nil
		default:
			if record.Attempt == log.Attempt { // or it may have been elsewhere
				return p.gone(ctx, cmp.Or(record.Namespace, p.places.settings.Kubernetes.Namespace), log.Pod)
			}
		}
	}
	for _, pods := range p.now() {
		if gone, err := pods.Gone(ctx, log.Pod); err != nil || !gone {
			return false, err
		}
	}
	return true, nil
}

// gone does not begin a watch of a namespace.
func (p *placedLogs) gone(ctx context.Context, namespace, pod string) (bool, error) {
	p.mu.Lock()
	pods, open := p.all[namespace]
	p.mu.Unlock()
	if open {
		return pods.Gone(ctx, pod)
	}
	return podlogs.Gone(ctx, p.client, namespace, pod)
}

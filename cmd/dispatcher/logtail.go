package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/k8sjobs"
	"github.com/ropewalk/ropewalk/internal/localexec"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logfollow"
	"github.com/ropewalk/ropewalk/internal/logging"
	"github.com/ropewalk/ropewalk/internal/logship"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/metrics"
	"github.com/ropewalk/ropewalk/internal/podlogs"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/runstore"
)

// logSilence is how long a log may say nothing before its connection is opened
// anew. It costs a request then, for each container that is silent.
const logSilence = time.Minute

// followsLogs: the settings say where logs are kept. Nobody would take them off
// the stream otherwise.
func followsLogs(settings *config.Config) bool { return settings.Archive() != (config.Archive{}) }

// prepareLogs makes the stream of logs, if anybody will take them off it.
func prepareLogs(ctx context.Context, settings *config.Config, js jetstream.JetStream) error {
	if !followsLogs(settings) {
		return nil
	}
	_, err := logstream.Create(ctx, js, logstream.Config{MaxBytes: int64(settings.Logs.StreamBytes), Replicas: settings.NATS.Replicas})
	return err
}

// withLogs has the logs of the runs that a launcher follows followed too, if
// [followsLogs].
func withLogs(ctx context.Context, settings *config.Config, inner launcher, js jetstream.JetStream, counters *metrics.Metrics, log zerolog.Logger) (launcher, error) {
	if !followsLogs(settings) {
		log.Info().Msg("ROPEWALK_LOG_ARCHIVE is not set; logs stay in the pods")
		return inner, nil
	}
	stream, err := logstream.Open(ctx, js)
	if err != nil {
		return nil, err
	}
	component := log.With().Str(logging.Component, "logs").Logger()
	follower, err := logfollow.New(logfollow.Config{Stream: stream, Counter: counters, Log: component, Silence: logSilence})
	if err != nil {
		return nil, err
	}
	followed := &logged{launcher: inner}
	switch inner := inner.(type) {
	case *localexec.Launcher:
		// Without a cluster, one process is all there is.
		kept, err := logship.Open(ctx, settings, counters)
		if err != nil {
			return nil, err
		}
		followed.shipper = shipping(func(ctx context.Context) error {
			parts, failing := errgroup.WithContext(ctx)
			parts.Go(func() error {
				return logship.Run(failing, js, settings, kept, counters, log.With().Str(logging.Component, "ship").Logger())
			})
			parts.Go(func() error { return logship.Answer(failing, js, kept, component) })
			return parts.Wait()
		})
		followed.logs = logfollow.NewRuns(follower, localLogs{inner}, component)
	case *places:
		// A client of its own, so that launching never waits behind logs.
		client, err := k8sjobs.NewClient(k8sjobs.ClientConfig{
			Kubeconfig: os.Getenv("KUBECONFIG"), QPS: float32(settings.Kubernetes.QPS), Burst: settings.Kubernetes.Burst,
			Version: version(), Count: counters.Request,
		})
		if err != nil {
			return nil, err
		}
		runs, err := runstore.Open(ctx, js)
		if err != nil {
			return nil, err
		}
		placed, err := newPlacedLogs(inner, client, runs)
		if err != nil {
			return nil, err
		}
		followed.logs = logfollow.NewRuns(follower, placed, component)
	default:
		return nil, fmt.Errorf("nobody knows where the logs of a %T are", inner)
	}
	return followed, nil
}

// logged is a launcher whose Jobs' logs are followed.
type logged struct {
	launcher
	logs *logfollow.Runs
	// shipper is nil where logs are shipped by another process.
	shipper runner
}

// Run runs the launcher and what follows logs.
func (l *logged) Run(ctx context.Context) error {
	parts, failing := errgroup.WithContext(ctx)
	parts.Go(func() error { return l.launcher.Run(failing) })
	parts.Go(func() error { return l.logs.Run(failing) })
	if l.shipper != nil {
		parts.Go(func() error { return l.shipper.Run(failing) })
	}
	return parts.Wait()
}

// Follow follows a Job and its logs. It does not wait for the logs to be
// drained: the run's slot is not held for that.
func (l *logged) Follow(ctx context.Context, job run.Job, report func(run.Observation)) (run.Observation, error) {
	release := l.logs.Follow(ctx, job)
	seen, err := l.launcher.Follow(ctx, job, report)
	release(err == nil)
	return seen, err
}

// shipping is the shipper as a part of the process.
type shipping func(context.Context) error

// Run ships until ctx ends.
func (s shipping) Run(ctx context.Context) error { return s(ctx) }

// podLogs and localLogs give the follower what each finds.
type (
	podLogs   struct{ pods *podlogs.Pods }
	localLogs struct{ local *localexec.Launcher }
)

func (p podLogs) Logs(ctx context.Context, job run.Job, over <-chan struct{}, found func(logevent.Log, logfollow.Source)) error {
	return p.pods.Logs(ctx, job, over, func(c *podlogs.Container) { found(c.Log(), c) })
}

func (p podLogs) Ended(ctx context.Context, found func(logevent.Log, logfollow.Source)) error {
	return p.pods.Ended(ctx, func(c *podlogs.Container) { found(c.Log(), c) })
}

// Gone needs no record: a job whose folder is gone was deleted, and its run is
// over or about to be.
func (l localLogs) Gone(_ context.Context, log logevent.Log) (bool, error) {
	return l.local.Gone(log.Pod), nil
}

func (l localLogs) Logs(ctx context.Context, job run.Job, over <-chan struct{}, found func(logevent.Log, logfollow.Source)) error {
	return l.local.Logs(ctx, job, over, func(o *localexec.Output) { found(o.Log(), o) })
}

func (l localLogs) Ended(ctx context.Context, found func(logevent.Log, logfollow.Source)) error {
	return l.local.Ended(ctx, func(o *localexec.Output) { found(o.Log(), o) })
}

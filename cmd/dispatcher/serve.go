package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/oklog/ulid/v2"
	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/contexts"
	"github.com/ropewalk/ropewalk/internal/dispatch"
	"github.com/ropewalk/ropewalk/internal/health"
	"github.com/ropewalk/ropewalk/internal/images"
	"github.com/ropewalk/ropewalk/internal/k8sjobs"
	"github.com/ropewalk/ropewalk/internal/localexec"
	"github.com/ropewalk/ropewalk/internal/logging"
	"github.com/ropewalk/ropewalk/internal/metrics"
	"github.com/ropewalk/ropewalk/internal/natsconn"
	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/runstore"
)

func newServeCommand(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "serve",
		Short: "Take runs off the queues and launch them",
		Long: `Take runs off the queues and launch them, until SIGTERM or SIGINT. Start as
many as you like: together they keep each queue's limit. A clean stop hands the
runs that are under way to the other replicas; their Jobs go on.

All settings come from the environment; see "dispatcher settings".`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			settings, err := config.LoadServe()
			if err != nil {
				return err
			}
			log := logging.New(a.stderr, settings.Log.Level, settings.Log.Format)
			go collectGarbage(cmd.Context())
			conn, js, err := natsconn.DialPatiently(cmd.Context(), natsOptions(settings, "ropewalk-dispatcher"), log)
			if err != nil {
				return err
			}
			defer conn.Close()
			return serve(cmd.Context(), settings, conn, js, log, nil)
		},
	}
}

// natsOptions is how this process reaches NATS, under the name that the server
// shows.
func natsOptions(settings *config.Config, name string) natsconn.Options {
	return natsconn.Options{
		URL: settings.NATS.URL.Reveal(), Name: name, CredentialsFile: settings.NATS.Credentials,
		User: settings.NATS.User, Password: settings.NATS.Password, Token: settings.NATS.Token, Inbox: settings.NATS.Inbox,
		CAFile: settings.NATS.TLSCA, CertFile: settings.NATS.TLSCert, KeyFile: settings.NATS.TLSKey,
	}
}

// runner is a part of the process that runs until its context ends.
type runner interface {
	Run(ctx context.Context) error
}

// runFunc is a [runner] made of a function.
type runFunc func(ctx context.Context) error

func (f runFunc) Run(ctx context.Context) error { return f(ctx) }

// launcher is what serve needs of either launcher.
type launcher interface {
	dispatch.Launcher
	runner
}

// serve runs a dispatcher until ctx ends. It says in one line for each
// dependency what it reached, and calls ready, if that is not nil, with the
// address of the HTTP server once everything is up.
func serve(ctx context.Context, settings *config.Config, conn *nats.Conn, js jetstream.JetStream, log zerolog.Logger, ready func(httpAddr string)) error {
	if err := reachNATS(ctx, conn, js, log); err != nil {
		return err
	}
	counters := metrics.New(version())
	// Before the first run can be submitted: whoever does that may want to
	// follow its logs at once.
	if err := prepareLogs(ctx, settings, js); err != nil {
		return err
	}
	definitions, store, err := prepareNATS(ctx, settings, js)
	if err != nil {
		return err
	}
	cancellations, err := queue.CreateCancellations(ctx, js, settings.NATS.Replicas)
	if err != nil {
		return err
	}
	later, err := queue.CreateDue(ctx, js, settings.NATS.Replicas)
	if err != nil {
		return err
	}
	schedules, err := queue.CreateSchedules(ctx, js, settings.NATS.Replicas)
	if err != nil {
		return err
	}
	starts, err := queue.CreateStarts(ctx, js, settings.NATS.Replicas)
	if err != nil {
		return err
	}
	launching, resolver, err := newLauncher(ctx, settings, js, counters, log)
	if err != nil {
		return err
	}
	self := owner()
	log.Info().Str("owner", self).Msg("this dispatcher's name in the records of its runs")
	core, err := dispatch.New(dispatch.Config{
		Store: store, Images: resolver, Launcher: launching, Waiting: cancellations, Later: later, Observer: counters,
		Schedules: scheduling{schedules, cancellations},
		Owner:     self, AckWait: settings.Runs.AckWait, StartTimeout: settings.Runs.StartTimeout, InfrastructureRetries: settings.Runs.InfrastructureRetries,
		Now: time.Now, Log: log.With().Str(logging.Component, "dispatch").Logger(), Fault: fault,
	})
	if err != nil {
		return err
	}
	consumer, err := queue.New(queue.Config{
		JetStream: js, Definitions: definitions, Handler: core, AckWait: settings.Runs.AckWait, Starts: starts,
		LaunchWorkers: settings.Launch.Workers, Log: log.With().Str(logging.Component, "queue").Logger(), Fault: fault,
	})
	if err != nil {
		return err
	}
	counters.Watch(metrics.Sources{Held: consumer.Held, Queues: func(ctx context.Context) ([]metrics.QueueState, error) {
		return queueStates(ctx, js, definitions)
	}})
	checks := health.Checks{"nats": func() error {
		if !conn.IsConnected() {
			return errors.New("not connected")
		}
		return nil
	}}
	if cluster, ok := launching.(interface{ Trouble() error }); ok {
		checks["cluster"] = cluster.Trouble
	}
	http, err := health.Listen(settings.HTTP.Addr, checks, counters.Handler())
	if err != nil {
		return err
	}
	log.Info().Str("addr", http.Addr()).Msg("serving /livez, /readyz and /metrics")
	if ready != nil {
		ready(http.Addr())
	}
	cancelling := &cancelWatch{
		source: cancellations, core: core, known: make(chan struct{}),
		log: log.With().Str(logging.Component, "cancel").Logger(),
	}
	return runInOrder(ctx, conn, afterwards{cancelling.known, consumer}, cancelling, runFunc(func(ctx context.Context) error {
		return later.Consume(ctx, log.With().Str(logging.Component, "due").Logger(), core.Due)
	}), runFunc(func(ctx context.Context) error {
		return schedules.Run(ctx, log.With().Str(logging.Component, "schedules").Logger(), core.Fire)
	}), launching, http)
}

// scheduling is what the core needs to run schedules.
type scheduling struct {
	*queue.Schedules
	*queue.Cancellations
}

// runInOrder runs the parts, and stops them in this order: first the consumer,
// which hands back the runs that it holds and needs the others and the
// connection for that; then the others, the HTTP server among them, so that
// probes see the process to the end; and last, what was said to NATS is
// flushed. The failure of any part ends them all.
func runInOrder(ctx context.Context, conn *nats.Conn, consumer runner, others ...runner) error {
	outer, stopOuter := context.WithCancel(context.WithoutCancel(ctx))
	defer stopOuter()
	parts, failing := errgroup.WithContext(outer)
	taking, stopTaking := context.WithCancel(failing)
	defer stopTaking()
	defer context.AfterFunc(ctx, stopTaking)()
	for _, other := range others {
		parts.Go(func() error { return other.Run(failing) })
	}
	parts.Go(func() error {
		defer stopOuter()
		return consumer.Run(taking)
	})
	err := parts.Wait()
	if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		err = nil
	}
	if flushErr := conn.FlushTimeout(2 * time.Second); err == nil && flushErr != nil && conn.IsConnected() {
		err = fmt.Errorf("flush what was said to NATS: %w", flushErr)
	}
	return err
}

// reachNATS says what server this is, and refuses one that is too old.
func reachNATS(ctx context.Context, conn *nats.Conn, js jetstream.JetStream, log zerolog.Logger) error {
	account, err := js.AccountInfo(ctx)
	if errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
		return fmt.Errorf("the NATS server at %s runs without JetStream; start it with -js, or give the account JetStream", conn.ConnectedUrlRedacted())
	}
	if err != nil {
		return fmt.Errorf("ask NATS for its JetStream account: %w", err)
	}
	if err := natsconn.RequireVersion(conn.ConnectedServerVersion()); err != nil {
		return err
	}
	if !queue.CronSupported(conn.ConnectedServerVersion()) {
		log.Warn().Str("version", conn.ConnectedServerVersion()).Msg("schedules by the calendar (cron) need nats-server 2.14 or newer; this one keeps single times only")
	}
	log.Info().Str("server", conn.ConnectedUrlRedacted()).Str("version", conn.ConnectedServerVersion()).
		Uint64("store_bytes", account.Store).Int("streams", account.Streams).Msg("reached NATS")
	return nil
}

// prepareNATS makes sure that everything we need on the server is there.
func prepareNATS(ctx context.Context, settings *config.Config, js jetstream.JetStream) (*queue.Definitions, *runstore.Store, error) {
	definitions, err := queue.CreateDefinitions(ctx, js, settings.NATS.Replicas)
	if err != nil {
		return nil, nil, err
	}
	store, err := runstore.Create(ctx, js, runstore.Config{
		Retention: settings.Runs.Retention, RequestRetention: settings.Runs.SecretRetention, Replicas: settings.NATS.Replicas,
	})
	if err != nil {
		return nil, nil, err
	}
	if err := contexts.Create(ctx, js, settings.NATS.Replicas); err != nil {
		return nil, nil, err
	}
	for _, limit := range settings.Limits() {
		definition := queue.Definition{Name: limit.Name, Concurrency: limit.Limit}
		if err := definitions.Seed(ctx, definition, limit.Explicit); err != nil {
			return nil, nil, err
		}
	}
	return definitions, store, nil
}

func queueStates(ctx context.Context, js jetstream.JetStream, definitions *queue.Definitions) ([]metrics.QueueState, error) {
	all, err := definitions.List(ctx)
	if err != nil {
		return nil, err
	}
	states := make([]metrics.QueueState, 0, len(all))
	for _, definition := range all {
		usage, err := queue.Use(ctx, js, definition)
		if err != nil {
			return nil, err
		}
		states = append(states, metrics.QueueState{
			Queue: definition.Name, Waiting: usage.Waiting, InFlight: usage.InFlight, Limit: usage.Limit, Paused: definition.Paused,
		})
	}
	return states, nil
}

// newLauncher makes the launcher that the settings choose, and the resolver of
// images that goes with it. Both have the logs followed of what they launch.
func newLauncher(ctx context.Context, settings *config.Config, js jetstream.JetStream, counters *metrics.Metrics, log zerolog.Logger) (launcher, dispatch.Images, error) {
	if settings.Launch.Launcher == config.LauncherLocal {
		local, err := newLocalLauncher(settings, log)
		if err != nil {
			return nil, nil, err
		}
		followed, err := withLogs(ctx, settings, local, js, counters, log)
		return followed, images.Unused{}, err
	}
	client, err := newKubernetesClient(settings, counters.Request)
	if err != nil {
		return nil, nil, err
	}
	kubernetes, err := newKubernetesLauncher(ctx, settings, client, log)
	if err != nil {
		return nil, nil, err
	}
	followed, err := withLogs(ctx, settings, newPlaces(settings, client, kubernetes, log), js, counters, log)
	if err != nil {
		return nil, nil, err
	}
	launching := onCluster{followed, kubernetes}
	resolver, err := newResolver(settings, client, launching, contexts.New(js))
	return launching, resolver, err
}

// onCluster is a launcher of Jobs, of runs as well as of builds, whose logs are
// followed.
type onCluster struct {
	launcher
	jobs *k8sjobs.Launcher
}

// Trouble tells whether the cluster answers.
func (c onCluster) Trouble() error { return c.jobs.Trouble() }

// Ensure makes the Job of a build.
func (c onCluster) Ensure(ctx context.Context, wanted *batchv1.Job, secret *corev1.Secret) (run.Job, error) {
	return c.jobs.Ensure(ctx, wanted, secret)
}

// LastWords is the end of what a build has written.
func (c onCluster) LastWords(ctx context.Context, job run.Job) (string, error) {
	return c.jobs.LastWords(ctx, job)
}

// owner names this process: host and process id, for people, and what makes it
// another one after a restart.
func owner() string {
	host, err := os.Hostname()
	if err != nil {
		host = "unknown"
	}
	return fmt.Sprintf("%s-%d-%s", host, os.Getpid(), strings.ToLower(ulid.Make().String()[16:]))
}

var (
	_ images.Jobs = onCluster{}

	_ launcher = (*places)(nil)
	_ launcher = (*localexec.Launcher)(nil)
)

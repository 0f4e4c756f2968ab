package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"golang.org/x/sync/errgroup"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/ropewalk/ropewalk/test/rig"
)

// stage is what one measurement stands on: a namespace, a nats-server with an
// empty store, and an observer. Nothing is left over from the one before.
type stage struct {
	bench     *bench
	dir       string
	namespace string
	// client is the cluster as the dispatcher's service account sees it.
	client   *rig.Cluster
	nats     *rig.NATS
	conn     *nats.Conn
	js       jetstream.JetStream
	observer *rig.Observer
	replica  *rig.Dispatcher
}

// open sets up a stage. The caller closes it, even after an error, so that
// nothing stays on the cluster.
func (b *bench) open(ctx context.Context) (*stage, error) {
	b.stages++
	s := &stage{bench: b, dir: filepath.Join(b.dir, fmt.Sprintf("stage-%d", b.stages))}
	if err := os.Mkdir(s.dir, 0o700); err != nil {
		return s, fmt.Errorf("make a directory: %w", err)
	}
	var err error
	if s.namespace, err = b.cluster.NewNamespace(ctx, "bench"); err != nil {
		return s, err
	}
	if err := b.cluster.ApplyRBAC(ctx, s.namespace, manifest); err != nil {
		return s, err
	}
	account, err := b.cluster.BoundAccount(ctx, s.namespace)
	if err != nil {
		return s, err
	}
	if err := b.countAccount(ctx, s.namespace, account); err != nil {
		return s, err
	}
	if err := b.cluster.WriteKubeconfig(ctx, s.namespace, account, "", s.kubeconfig()); err != nil {
		return s, err
	}
	if s.client, err = rig.OpenCluster(s.kubeconfig()); err != nil {
		return s, err
	}
	starting, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("nats-server takes more than 1m to start"))
	defer cancel()
	if s.nats, err = rig.StartNATS(starting, b.natsServer, s.dir); err != nil {
		return s, err
	}
	if s.conn, s.js, err = s.nats.Connect(starting); err != nil {
		return s, err
	}
	s.observer, err = rig.Observe(ctx, b.cluster.Client, s.namespace, false)
	return s, err
}

func (s *stage) kubeconfig() string { return filepath.Join(s.dir, "kubeconfig") }

// close ends the processes, removes the namespace, and waits until the API
// server has nothing to do with it any more.
func (s *stage) close() error {
	if s.replica != nil {
		s.replica.Kill()
	}
	if s.client != nil {
		s.client.Close()
	}
	if s.observer != nil {
		s.observer.Stop()
	}
	if s.conn != nil {
		s.conn.Close()
	}
	if s.nats != nil {
		s.nats.Kill()
	}
	if s.namespace == "" {
		return os.RemoveAll(s.dir)
	}
	// Also after an interrupt: the cluster is not ours alone.
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Minute)
	defer cancel()
	err := errors.Join(
		s.bench.cluster.DeleteNamespace(ctx, s.namespace),
		s.bench.cluster.AwaitGone(ctx, s.namespace),
		os.RemoveAll(s.dir),
	)
	if err == nil {
		s.bench.awaitQuiet(ctx)
	}
	return err
}

// on runs a measurement on a stage of its own.
func (b *bench) on(ctx context.Context, measure func(*stage) error) error {
	s, err := b.open(ctx)
	if err == nil {
		err = measure(s)
	}
	if err != nil && s.replica != nil {
		if log, readErr := os.ReadFile(s.replica.Log); readErr == nil {
			b.say("the dispatcher's log ends:\n%s", log[max(0, len(log)-4000):])
		}
	}
	return errors.Join(err, s.close())
}

// serve starts the stage's dispatcher, or starts it again after stop, and waits
// until it is ready.
func (s *stage) serve(ctx context.Context, concurrency, workers int) error {
	return s.serveWith(ctx, concurrency, workers, nil)
}

// serveWith is serve with settings that this one measurement needs.
func (s *stage) serveWith(ctx context.Context, concurrency, workers int, more rig.Settings) error {
	o := s.bench.options
	settings := rig.Settings{
		"KUBECONFIG":                                        s.kubeconfig(),
		"ROPEWALK_NATS_URL":                                 s.nats.URL(),
		"ROPEWALK_IMAGE_RESOLVE_DIGEST":                     "false", // registries are none of what is measured
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE":       s.namespace,
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT": rig.Runner,
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_NODE_SELECTOR":   o.NodeSelector,
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_TOLERATIONS":     o.Tolerations,
		"ZENML_SERVER_MAX_CONCURRENT_TEMPLATE_RUNS":         strconv.Itoa(concurrency),
		"ROPEWALK_POD_ANNOTATIONS":                          o.RunAnnotation,
		"ROPEWALK_LAUNCH_WORKERS":                           strconv.Itoa(workers),
		"ROPEWALK_LOG_FORMAT":                               "json",
	}.With(more)
	var err error
	if s.replica, err = rig.Serve(s.bench.dispatcher, settings, filepath.Join(s.dir, "dispatcher.log")); err != nil {
		return err
	}
	ready, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	return s.replica.Ready(ready)
}

// stop ends the stage's dispatcher in its own good order.
func (s *stage) stop(ctx context.Context) error {
	if err := s.replica.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	_, err := s.replica.Exit(ctx)
	return err
}

// publish puts n requests on the queue. The first dispatcher has made it.
func (s *stage) publish(ctx context.Context, n int) error {
	return inParallel(n, 64, func(i int) error { return s.publishOne(ctx, i) })
}

// runID is the id of the nth run.
func runID(n int) string { return fmt.Sprintf("run-%06d", n) }

func (s *stage) publishOne(ctx context.Context, n int) error {
	return s.publishText(ctx, n, `{"version":1,"image":{"reference":"busybox"},"command":["sh","-c","true"]}`)
}

func (s *stage) publishText(ctx context.Context, n int, request string) error {
	message := nats.NewMsg("ropewalk.runs.default." + runID(n))
	message.Header.Set(jetstream.MsgIDHeader, runID(n))
	message.Data = []byte(request)
	if _, err := s.js.PublishMsg(ctx, message); err != nil {
		return fmt.Errorf("publish run %d: %w", n, err)
	}
	return nil
}

// awaitCreated waits until the observer has seen n Jobs.
func (s *stage) awaitCreated(ctx context.Context, n int) error {
	ctx, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, errors.New("the Jobs take more than 10m"))
	defer cancel()
	return s.observer.Await(ctx, "", func(c rig.Counts) bool { return c.Created >= n })
}

// created returns when the first n Jobs were seen, in order.
func (s *stage) created(n int) []time.Time {
	jobs := s.observer.Jobs()
	times := make([]time.Time, min(n, len(jobs)))
	for i := range times {
		times[i] = jobs[i].CreatedAt
	}
	return times
}

// labelSelector turns the JSON of a node selector into the API's form.
func labelSelector(selector string) (string, error) {
	var wanted map[string]string
	if err := json.Unmarshal([]byte(selector), &wanted); err != nil {
		return "", fmt.Errorf("-node-selector is not a JSON object of strings: %w", err)
	}
	return labels.SelectorFromSet(wanted).String(), nil
}

// inParallel calls do for 0 to n-1 on a number of workers, and stops at the
// first error.
func inParallel(n, workers int, do func(int) error) error {
	var (
		mu   sync.Mutex
		next int
	)
	take := func() (int, bool) {
		mu.Lock()
		defer mu.Unlock()
		next++
		return next - 1, next <= n
	}
	var group errgroup.Group
	for range workers {
		group.Go(func() error {
			for i, more := take(); more; i, more = take() {
				if err := do(i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return group.Wait()
}

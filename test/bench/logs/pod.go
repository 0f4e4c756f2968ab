package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logfollow"
	"github.com/ropewalk/ropewalk/internal/logread"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/podlogs"
	"github.com/ropewalk/ropewalk/internal/podlogs/podlogtest"
	runs "github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/test/rig"
)

func (f found) Logs(ctx context.Context, job runs.Job, over <-chan struct{}, give func(logevent.Log, logfollow.Source)) error {
	return f.pods.Logs(ctx, job, over, func(c *podlogs.Container) { give(c.Log(), c) })
}

func (f found) Ended(ctx context.Context, give func(logevent.Log, logfollow.Source)) error {
	return f.pods.Ended(ctx, func(c *podlogs.Container) { give(c.Log(), c) })
}

// onCluster runs a pod with a line of shell, calls measure once it runs, and
// removes it.
func (b *bench) onCluster(ctx context.Context, shell string, measure func(ctx context.Context, cluster *rig.Cluster, pod *corev1.Pod) error) (err error) {
	cluster, err := rig.OpenCluster(os.Getenv("KUBECONFIG"))
	if err != nil {
		return err
	}
	defer cluster.Close()
	namespace, err := cluster.NewNamespace(ctx, "bench-logs")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, cluster.DeleteNamespace(context.WithoutCancel(ctx), namespace)) }()
	pod := rig.LogPod(namespace, "bench", "bench", false)
	// The owner stands for the Job: without one, the cluster would collect the pod.
	owner := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "owner"}}
	if owner, err = cluster.Client.CoreV1().ConfigMaps(namespace).Create(ctx, owner, metav1.CreateOptions{}); err != nil {
		return err
	}
	pod.UID, pod.Status = "", corev1.PodStatus{}
	pod.OwnerReferences[0] = metav1.OwnerReference{APIVersion: "v1", Kind: "ConfigMap", Name: owner.Name, UID: owner.UID, Controller: new(true)}
	pod.Spec.RestartPolicy, pod.Spec.TerminationGracePeriodSeconds = corev1.RestartPolicyNever, new(int64)
	pod.Spec.Containers[0] = corev1.Container{Name: "run", Image: b.options.image, Command: []string{"sh", "-c", shell}}
	if _, err = cluster.Client.CoreV1().Pods(namespace).Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 5*time.Minute, errors.New("the pod takes more than 5m"))
	defer cancel()
	err = rig.Poll(ctx, 200*time.Millisecond, func() (err error) {
		if pod, err = cluster.Client.CoreV1().Pods(namespace).Get(ctx, pod.Name, metav1.GetOptions{}); err == nil && pod.Status.Phase != corev1.PodRunning {
			err = fmt.Errorf("the pod is %s", pod.Status.Phase)
		}
		return err
	})
	if err != nil {
		return err
	}
	return measure(ctx, cluster, pod)
}

// bare reads so many lines of a pod by its log API, as kubectl logs -f does.
func bare(ctx context.Context, cluster *rig.Cluster, pod *corev1.Pod, lines int, more func(line []byte) bool) (size int, err error) {
	body, err := cluster.Client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{Follow: true, Timestamps: true}).Stream(ctx)
	if err != nil {
		return 0, err
	}
	defer func() { _ = body.Close() }() // it was only read
	scanner := bufio.NewScanner(body)
	scanner.Buffer(nil, 1<<20)
	for range lines {
		if !scanner.Scan() {
			return size, errors.Join(scanner.Err(), errors.New("the log ended early"))
		}
		size += len(scanner.Bytes()) + 1
		if !more(scanner.Bytes()) {
			break
		}
	}
	return size, nil
}

// piped follows a pod into a stream of a server of its own, once prepare has made
// ready what else is wanted, as long as use lasts.
func (b *bench) piped(ctx context.Context, cluster *rig.Cluster, pod *corev1.Pod, prepare func(jetstream.JetStream) error, use func(ctx context.Context, stream *logstream.Stream) error) error {
	server, err := b.nats(ctx)
	if err != nil {
		return err
	}
	defer server.Kill()
	conn, js, err := server.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	stream, err := logstream.Create(ctx, js, logstream.Config{MaxBytes: -1, Replicas: 1})
	if err != nil {
		return err
	}
	if err := prepare(js); err != nil {
		return err
	}
	follower, err := logfollow.New(logfollow.Config{Stream: stream, Counter: &lineCount{}, Log: zerolog.Nop(), Silence: time.Minute})
	if err != nil {
		return err
	}
	const selector = "ropewalk.dev/run-id=bench"
	watch := podlogtest.NewWatch(cluster.Client, pod.Namespace, selector)
	pods, err := podlogs.New(podlogs.Config{Client: cluster.Client, Watch: watch, Namespace: pod.Namespace, Selector: selector})
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { watch.Run(ctx) })
	following := logfollow.NewRuns(follower, found{pods}, zerolog.Nop())
	all.Go(func() { _ = following.Run(ctx) })
	following.Follow(ctx, runs.Job{Namespace: pod.Namespace, Name: "bench", UID: string(metav1.GetControllerOf(pod).UID)})
	return use(ctx, stream)
}

// pod measures how fast a chatty pod is archived, beside a bare reading of it.
func (b *bench) pod(ctx context.Context) error {
	lines := b.options.podLines
	shell := fmt.Sprintf(`seq 1 %d | sed 's/.*/2026-01-02 15:04:05,678 INFO trainer.loop step=& loss=0.693147 lr=1.000e-03 samples=4096 grad_norm=1.234567/'; echo written; sleep 600`, lines)
	return b.onCluster(ctx, shell, func(ctx context.Context, cluster *rig.Cluster, pod *corev1.Pod) error {
		size, err := bare(ctx, cluster, pod, lines+1, func([]byte) bool { return true }) // all of it is written then
		if err != nil {
			return err
		}
		var bares, ours []float64
		for round := range 5 {
			began := time.Now()
			if _, err := bare(ctx, cluster, pod, lines+1, func([]byte) bool { return true }); err != nil {
				return err
			}
			bares = append(bares, time.Since(began).Seconds())
			var await func() error
			err := b.piped(ctx, cluster, pod, func(js jetstream.JetStream) (err error) {
				await, err = shipping(ctx, js, filepath.Join(b.dir, fmt.Sprint("pod-", round)), lines+1)
				began = time.Now()
				return err
			}, func(context.Context, *logstream.Stream) error { return await() })
			if err != nil {
				return err
			}
			ours = append(ours, time.Since(began).Seconds())
		}
		mb := float64(size) / 1e6
		middle := func(all []float64) float64 { return slices.Sorted(slices.Values(all))[len(all)/2] }
		b.found("one chatty pod, read bare", fmt.Sprintf("%.1f MB/s, %.0f lines/s", mb/middle(bares), float64(lines)/middle(bares)), "", true)
		b.found("the same, archived", fmt.Sprintf("%.1f MB/s, %.0f lines/s", mb/middle(ours), float64(lines)/middle(ours)), "", true)
		ratio := middle(bares) / middle(ours)
		b.found("archived : bare", fmt.Sprintf("%.2f", ratio), "≥ 0.8", ratio >= 0.8)
		return nil
	})
}

// delays returns the middle and nearly the longest.
func delays(all []float64) (p50, p99 float64) {
	slices.SortFunc(all, cmp.Compare)
	at := func(p float64) float64 { return all[max(int(math.Ceil(p*float64(len(all)))), 1)-1] }
	return at(0.5), at(0.99)
}

// latency measures how old a line is when a live reader has it, and when a bare
// reading has it. The clocks of node and reader must be the same.
func (b *bench) latency(ctx context.Context) error {
	const lines = 400
	return b.onCluster(ctx, `i=0; while true; do i=$((i+1)); echo "line $i"; sleep 0.03; done`, func(ctx context.Context, cluster *rig.Cluster, pod *corev1.Pod) error {
		var ours, theirs []float64
		err := b.piped(ctx, cluster, pod, func(jetstream.JetStream) error { return nil }, func(ctx context.Context, stream *logstream.Stream) error {
			began := time.Now()
			err := logread.New(nil, live{stream}).Read(ctx, logread.Query{
				Run: "bench", Follow: true, Over: func(context.Context, []logevent.Log) (bool, error) { return false, nil },
			}, func(line logread.Line) error {
				if line.Time.After(began) {
					ours = append(ours, time.Since(line.Time).Seconds()*1000)
				}
				if len(ours) == lines {
					return errEnough
				}
				return nil
			})
			if errors.Is(err, errEnough) {
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
		began := time.Now()
		_, err = bare(ctx, cluster, pod, math.MaxInt32, func(line []byte) bool {
			stamp, _, _ := bytes.Cut(line, []byte{' '})
			at, err := time.Parse(time.RFC3339Nano, string(stamp))
			if err == nil && at.After(began) {
				theirs = append(theirs, time.Since(at).Seconds()*1000)
			}
			return len(theirs) < lines
		})
		if err != nil {
			return err
		}
		p50, p99 := delays(ours)
		b.found("a line's time to a live reader", fmt.Sprintf("p50 %.0f ms, p99 %.0f ms", p50, p99), "p99 ≤ 250 ms", p99 <= 250)
		p50, p99 = delays(theirs)
		b.found("to a bare reading", fmt.Sprintf("p50 %.0f ms, p99 %.0f ms", p50, p99), "", true)
		return nil
	})
}

var errEnough = errors.New("enough lines")

// live gives the reader the stream.
type live struct{ stream *logstream.Stream }

func (s live) Read(ctx context.Context, runID string, idle func() bool, take func(logevent.Log, logevent.Batch, bool) bool) error {
	return s.stream.Read(ctx, runID, idle, func(a logstream.Arrival) bool { return take(a.Log, a.Batch, a.Live) })
}

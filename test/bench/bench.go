package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/test/rig"
)

// manifest is the Role that ships, which both the dispatcher and the bare loop
// have here, so that the API server treats them alike.
const manifest = "deploy/manifests/rbac.yaml"

// bench is one run of the benchmark.
type bench struct {
	options options
	cluster *rig.Cluster
	dir     string
	// The programs.
	dispatcher, natsServer string
	// job is what the dispatcher creates for a run, without what is the
	// run's own.
	job      *batchv1.Job
	progress io.Writer
	stages   int
}

func prepare(ctx context.Context, o options, progress io.Writer) (*bench, error) {
	if runtime.GOOS != "linux" {
		return nil, errors.New("the memory of a process can be read on Linux only")
	}
	if _, err := os.Stat(manifest); err != nil {
		return nil, fmt.Errorf("run this in the top directory of the repository: %w", err)
	}
	cluster, err := rig.OpenCluster(os.Getenv("KUBECONFIG"))
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "ropewalk-bench-")
	if err != nil {
		return nil, fmt.Errorf("make a directory: %w", err)
	}
	b := &bench{
		options: o, cluster: cluster, dir: dir, progress: progress,
		dispatcher: filepath.Join(dir, "dispatcher"), natsServer: filepath.Join(dir, "nats-server"),
	}
	b.say("building")
	err = errors.Join(
		b.checkRoom(ctx),
		rig.Build(ctx, b.dispatcher, "github.com/ropewalk/ropewalk/cmd/dispatcher"),
		rig.Build(ctx, b.natsServer, "github.com/nats-io/nats-server/v2"),
	)
	if err != nil {
		b.close()
		return nil, err
	}
	return b, nil
}

func (b *bench) close() {
	if err := os.RemoveAll(b.dir); err != nil {
		b.say("cannot remove %s: %v", b.dir, err)
	}
}

// say tells who waits what goes on.
func (b *bench) say(format string, args ...any) {
	_, _ = fmt.Fprintf(b.progress, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}

// checkRoom fails when the fake nodes cannot take all pods: the scheduler would
// try the rest again and again, and that would be measured too.
func (b *bench) checkRoom(ctx context.Context) error {
	selector, err := labelSelector(b.options.NodeSelector)
	if err != nil {
		return err
	}
	nodes, err := b.cluster.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{LabelSelector: selector})
	if err != nil {
		return fmt.Errorf("list the fake nodes: %w", err)
	}
	room := int64(0)
	for _, node := range nodes.Items {
		room += node.Status.Allocatable.Pods().Value()
	}
	need := 0
	if b.options.wants("throughput") || b.options.wants("waiting") {
		need = b.options.Runs + b.options.Runs/4
	}
	if b.options.wants("inflight") {
		need = max(need, b.options.InFlight)
	}
	if b.options.wants("neighbours") { // those of the burst end, and make room
		need = max(need, int(2*quietRate*b.options.LatencyFor.Seconds())+4*neighbourLimit)
	}
	if b.options.wants("images") {
		need = max(need, int(imagesRate*b.options.LatencyFor.Seconds()))
	}
	if room < int64(need) {
		return fmt.Errorf("the %d nodes with %s have room for %d pods, but %d are needed; add fake nodes, or ask for less with -runs and -in-flight", len(nodes.Items), selector, room, need)
	}
	return nil
}

// measure takes all parts one after the other.
func (b *bench) measure(ctx context.Context) (*report, error) {
	r := &report{Options: b.options, Cores: runtime.NumCPU(), StartedAt: time.Now().UTC()}
	version, err := b.cluster.Client.Discovery().ServerVersion()
	if err != nil {
		return nil, fmt.Errorf("ask for the cluster's version: %w", err)
	}
	r.Kubernetes = version.GitVersion
	removeSchema, err := b.countRequests(ctx)
	if err != nil {
		return nil, err
	}
	defer removeSchema()
	if err := b.captureJob(ctx); err != nil {
		return nil, fmt.Errorf("see what Job the dispatcher makes: %w", err)
	}
	for _, part := range []struct {
		name    string
		measure func(context.Context, *report) error
	}{
		{"throughput", b.throughput},
		{"latency", b.latency},
		{"inflight", b.inFlight},
		{"waiting", b.waiting},
		{"neighbours", b.neighbours},
		{"replay", b.replay},
		{"images", b.images},
	} {
		if !b.options.wants(part.name) {
			continue
		}
		if err := part.measure(ctx, r); err != nil {
			return nil, fmt.Errorf("measure %s: %w", part.name, err)
		}
	}
	return r, nil
}

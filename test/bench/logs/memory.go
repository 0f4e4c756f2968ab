package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http/httptest"
	"os"
	"os/exec"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/rs/zerolog"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logfollow"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/podlogs"
	"github.com/ropewalk/ropewalk/internal/podlogs/podlogtest"
	runs "github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/test/rig"
)

const benchNamespace = "runs"

// standIn is an API with so many pods, each of which has written a few lines and
// writes another now and then. It says where it listens, and serves until its
// standard input or ctx ends.
func standIn(ctx context.Context, containers int, stdout io.Writer) error {
	api := rig.NewLogAPI()
	for i := range containers {
		job := fmt.Sprint("job-", i)
		api.Set(rig.LogPod(benchNamespace, job, job, false))
		for n := range 20 {
			api.Log(job+"-pod", "run").Write(time.Now(), sample(n)+"\n")
		}
	}
	server := httptest.NewUnstartedServer(api)
	server.EnableHTTP2 = true
	server.StartTLS()
	defer server.Close()
	if _, err := fmt.Fprintln(stdout, server.URL); err != nil {
		return err
	}
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for i := 0; ; i++ {
		select {
		case <-ticker.C:
			api.Log(fmt.Sprint("job-", i%containers, "-pod"), "run").Write(time.Now(), sample(i)+"\n")
		case <-ctx.Done():
			return nil
		}
	}
}

// lineCount counts lines.
type lineCount struct{ lines atomic.Int64 }

func (c *lineCount) Followed(lines, _ int) { c.lines.Add(int64(lines)) }
func (*lineCount) Lost(string)             {}
func (*lineCount) Waiting(int)             {}

// memory follows many containers at once, in this process, and the stand-in for
// their API in another.
func (b *bench) memory(ctx context.Context) error {
	program, err := os.Executable()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	api := exec.CommandContext(ctx, program, "-stand-in", "-containers", strconv.Itoa(b.options.containers))
	api.Stderr = b.stderr
	out, err := api.StdoutPipe()
	if err != nil {
		return err
	}
	if err := api.Start(); err != nil {
		return err
	}
	defer func() {
		cancel()
		_ = api.Wait() // it was told to end
	}()
	url, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		return fmt.Errorf("start the stand-in: %w", err)
	}
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
	before := resident()
	client, err := kubernetes.NewForConfig(&rest.Config{Host: strings.TrimSpace(url), QPS: -1, TLSClientConfig: rest.TLSClientConfig{Insecure: true, NextProtos: []string{"h2"}}})
	if err != nil {
		return err
	}
	counts := &lineCount{}
	follower, err := logfollow.New(logfollow.Config{Stream: stream, Counter: counts, Log: zerolog.Nop(), Silence: time.Minute})
	if err != nil {
		return err
	}
	watch := podlogtest.NewWatch(client, benchNamespace, "a=b")
	pods, err := podlogs.New(podlogs.Config{Client: client, Watch: watch, Namespace: benchNamespace, Selector: "a=b"})
	if err != nil {
		return err
	}
	following := logfollow.NewRuns(follower, found{pods}, zerolog.Nop())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { watch.Run(ctx) })
	all.Go(func() { _ = following.Run(ctx) })
	for i := range b.options.containers {
		job := fmt.Sprint("job-", i)
		following.Follow(ctx, runs.Job{Namespace: benchNamespace, Name: job, UID: job})
	}
	want := int64(25 * b.options.containers)
	err = rig.Poll(ctx, 100*time.Millisecond, func() error {
		if n := counts.lines.Load(); n < want {
			return fmt.Errorf("%d lines of %d", n, want)
		}
		return nil
	})
	if err != nil {
		return err
	}
	each := float64(resident()-before) / 1024 / float64(b.options.containers)
	b.found(fmt.Sprintf("memory per container, %d at once", b.options.containers), fmt.Sprintf("%.0f KiB", each), "≤ 64 KiB", each <= 64)
	return nil
}

// found joins the follower to the pods.
type found struct{ pods *podlogs.Pods }

// resident is the memory of this process in bytes, without what the collector
// could give back.
func resident() int64 {
	debug.FreeOSMemory()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		panic("read the size of this process: " + err.Error())
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) == 3 && fields[0] == "RssAnon:" {
			kb, err := strconv.ParseInt(fields[1], 10, 64)
			if err == nil {
				return kb << 10
			}
		}
	}
	panic("/proc/self/status has no RssAnon")
}

// Gone is asked of nothing here: all pods stay.
func (found) Gone(context.Context, logevent.Log) (bool, error) { return false, nil }

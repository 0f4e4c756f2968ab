// Command logs measures the way of log lines: from a pod to the archive beside
// a bare reading of the same pod, the shipper beside gzip, how late a live reader
// sees a line, what the archive costs in requests, and the memory of many
// containers. `make bench-logs` calls it. It needs Linux, and for the parts "pod"
// and "latency" a cluster with a real node. It prints a table with the goals.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"

	"github.com/ropewalk/ropewalk/test/rig"
)

type options struct {
	parts, image string
	podLines     int
	shipBytes    int
	containers   int
	standIn      bool
	profile      string
}

// parts are what can be measured, in order.
var parts = []string{"ship", "requests", "memory", "pod", "latency"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	var o options
	flags := flag.NewFlagSet("logs", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.parts, "parts", strings.Join(parts, ","), "what to measure")
	flags.StringVar(&o.image, "image", "busybox", "an image with a shell, for the pods")
	flags.IntVar(&o.podLines, "pod-lines", 50_000, "lines of the chatty pod: its node begins a new file at 10 MiB, and gives away the last file only")
	flags.IntVar(&o.shipBytes, "ship-bytes", 256<<20, "text to ship")
	flags.IntVar(&o.containers, "containers", 2000, "containers to follow at once")
	flags.BoolVar(&o.standIn, "stand-in", false, "be the log API that the part memory follows")
	flags.StringVar(&o.profile, "cpuprofile", "", "write a profile of this process's CPU here")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if o.profile != "" {
		file, err := os.Create(o.profile)
		if err != nil {
			return err
		}
		if err := pprof.StartCPUProfile(file); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if o.standIn {
		return standIn(ctx, o.containers, stdout)
	}
	dir, err := os.MkdirTemp("", "ropewalk-bench-logs-")
	if err != nil {
		return err
	}
	b := &bench{options: o, dir: dir, stderr: stderr, natsServer: filepath.Join(dir, "nats-server")}
	defer func() { _ = os.RemoveAll(dir) }()
	if err := rig.Build(ctx, b.natsServer, "github.com/nats-io/nats-server/v2"); err != nil {
		return err
	}
	for _, part := range parts {
		if !slices.Contains(strings.Split(o.parts, ","), part) {
			continue
		}
		b.say("measuring %s", part)
		measure := map[string]func(context.Context) error{
			"ship": b.ship, "requests": b.requests, "memory": b.memory, "pod": b.pod, "latency": b.latency,
		}[part]
		if err := measure(ctx); err != nil {
			return fmt.Errorf("%s: %w", part, err)
		}
	}
	return b.write(stdout)
}

// bench is what the parts share, and what they found.
type bench struct {
	options    options
	dir        string
	natsServer string
	stderr     io.Writer
	rows       []table.Row
}

func (b *bench) say(format string, args ...any) { _, _ = fmt.Fprintf(b.stderr, format+"\n", args...) }

// found notes a figure; goal is empty where there is none.
func (b *bench) found(what, figure, goal string, met bool) {
	verdict := ""
	if goal != "" {
		verdict = map[bool]string{true: "met", false: "MISSED"}[met]
	}
	b.rows = append(b.rows, table.Row{what, figure, goal, verdict})
}

func (b *bench) write(stdout io.Writer) error {
	t := table.NewWriter()
	t.SetStyle(table.StyleLight)
	t.AppendHeader(table.Row{"What", "Measured", "Goal", ""})
	t.AppendRows(b.rows)
	_, err := fmt.Fprintf(stdout, "%d cores\n%s\n", runtime.NumCPU(), t.Render())
	return err
}

// nats starts a server of its own for one measurement.
func (b *bench) nats(ctx context.Context) (*rig.NATS, error) {
	dir, err := os.MkdirTemp(b.dir, "nats-")
	if err != nil {
		return nil, err
	}
	starting, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("nats-server takes more than 1m to start"))
	defer cancel()
	return rig.StartNATS(starting, b.natsServer, dir)
}

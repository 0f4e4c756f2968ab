// Command bench measures the dispatcher against a bare loop of client-go
// creates, side by side, on the same cluster and in one run. `make bench` calls
// it. It needs Linux, for the memory of a process, and a cluster with nodes
// that only pretend to run pods (see -nodes), since real ones would be the
// limit. It prints tables, or with -o json everything that it measured.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// options is what the command line says.
type options struct {
	Output        string        `json:"-"`
	FakeNodes     string        `json:"-"`
	Parts         string        `json:"parts"`
	Rounds        int           `json:"rounds"`
	Workers       int           `json:"workers"`
	Runs          int           `json:"runs"`
	LatencyFor    time.Duration `json:"latencyFor"`
	InFlight      int           `json:"inFlight"`
	Settle        time.Duration `json:"settle"`
	Waiting       int           `json:"waiting"`
	Burst         int           `json:"burst"`
	NodeSelector  string        `json:"nodeSelector"`
	Tolerations   string        `json:"tolerations"`
	RunAnnotation string        `json:"runAnnotation"`
}

// parts are what can be measured, in order.
var parts = []string{"throughput", "latency", "inflight", "waiting", "neighbours", "replay", "images"}

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
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	if o.FakeNodes != "" {
		command := exec.CommandContext(ctx, "sh", "-c", o.FakeNodes)
		command.Stdout, command.Stderr = stderr, stderr
		if err := command.Run(); err != nil {
			return fmt.Errorf("make fake nodes with %q: %w", o.FakeNodes, err)
		}
	}
	b, err := prepare(ctx, o, stderr)
	if err != nil {
		return err
	}
	defer b.close()
	report, err := b.measure(ctx)
	if err != nil {
		return err
	}
	if o.Output == "json" {
		return report.writeJSON(stdout)
	}
	return report.writeTables(stdout)
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.StringVar(&o.Output, "o", "table", "table or json")
	flags.StringVar(&o.FakeNodes, "fake-nodes-cmd", "", "a shell command to run first, which makes the fake nodes")
	flags.StringVar(&o.Parts, "parts", strings.Join(parts, ","), "what to measure")
	flags.IntVar(&o.Rounds, "rounds", 3, "rounds of each comparison; medians are compared")
	flags.IntVar(&o.Workers, "workers", 32, "workers of the bare loop, and ROPEWALK_LAUNCH_WORKERS")
	flags.IntVar(&o.Runs, "runs", 1500, "Jobs to create in a round of throughput")
	flags.DurationVar(&o.LatencyFor, "latency-for", 10*time.Second, "how long a round of latency lasts")
	flags.IntVar(&o.InFlight, "in-flight", 5000, "runs in flight while memory and API requests are counted")
	flags.DurationVar(&o.Settle, "settle", time.Minute, "how long they stay in flight")
	flags.IntVar(&o.Waiting, "waiting", 100000, "requests that wait while the launch rate is measured again")
	flags.IntVar(&o.Burst, "burst", 10000, "runs that wait in one queue while another's latency is measured, and failed runs that are replayed at once")
	flags.StringVar(&o.NodeSelector, "node-selector", `{"type":"kwok"}`, "the fake nodes, as the dispatcher's setting has it")
	flags.StringVar(&o.Tolerations, "tolerations", `[{"key":"kwok.x-k8s.io/node","operator":"Exists"}]`, "what their taint needs, as the setting has it")
	flags.StringVar(&o.RunAnnotation, "run-annotation", `{"fake/run-for":"2h"}`, "pod annotations that make a fake pod run for long")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.Output != "table" && o.Output != "json" {
		return o, fmt.Errorf("-o is %q; it can be table or json", o.Output)
	}
	for part := range strings.SplitSeq(o.Parts, ",") {
		if !slices.Contains(parts, part) {
			return o, fmt.Errorf("-parts names %q; it can name %s", part, strings.Join(parts, ", "))
		}
	}
	if o.wants("latency") && !o.wants("throughput") {
		return o, errors.New("-parts names latency, whose loads are shares of what throughput finds: name throughput too")
	}
	if o.Rounds < 1 || o.Workers < 1 || o.Runs < 2 || o.InFlight < 1 || o.Waiting < 0 || o.Burst < 1 || o.LatencyFor <= 0 {
		return o, errors.New("all numbers must be positive")
	}
	return o, nil
}

// wants reports whether a part is to be measured.
func (o options) wants(part string) bool {
	return slices.Contains(strings.Split(o.Parts, ","), part)
}

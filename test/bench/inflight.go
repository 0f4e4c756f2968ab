package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/ropewalk/ropewalk/test/rig"
)

// idleFor is how long a dispatcher without work is watched before its memory
// counts as idle.
const idleFor = 10 * time.Second

// inFlight has one replica hold many runs, and looks at its memory and at the
// requests that it makes.
func (b *bench) inFlight(ctx context.Context, r *report) error {
	return b.on(ctx, func(s *stage) error {
		n := b.options.InFlight
		if err := s.serve(ctx, n, b.options.Workers); err != nil {
			return err
		}
		idle, err := s.memory(ctx, idleFor)
		if err != nil {
			return err
		}
		before, err := s.counters(ctx)
		if err != nil {
			return err
		}
		if err := s.hold(ctx, n); err != nil {
			return err
		}
		b.say("in flight: %d runs; watching for %s", n, b.options.Settle)
		launched, err := s.memory(ctx, 0)
		if err != nil {
			return err
		}
		held, err := s.memory(ctx, b.options.Settle)
		if err != nil {
			return err
		}
		after, err := s.counters(ctx)
		if err != nil {
			return err
		}
		result := &inFlightResult{
			Runs: n, Idle: idle, Launched: launched, Held: held,
			Own: map[string]int{}, Server: after.server - before.server,
			RuntimeIdle: before.runtime, RuntimeHeld: after.runtime,
		}
		for kind, count := range after.own {
			if more := count - before.own[kind]; more != 0 {
				result.Own[kind] = more
			}
		}
		r.InFlight = result
		return nil
	})
}

// hold publishes runs and waits until all of them run.
func (s *stage) hold(ctx context.Context, n int) error {
	records, err := rig.WatchRecords(ctx, s.conn, s.js)
	if err != nil {
		return err
	}
	defer records.Stop()
	if err := s.publish(ctx, n); err != nil {
		return err
	}
	if err := s.awaitCreated(ctx, n); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, 15*time.Minute, errors.New("the runs do not all run within 15m"))
	defer cancel()
	return rig.Poll(ctx, time.Second, func() error {
		running := 0
		for _, record := range records.Now() {
			if record.Final() {
				return rig.Stop(fmt.Errorf("run %s is over: %s (%s) %s", record.ID, record.State, record.Reason, record.Message))
			}
			if record.State == "running" {
				running++
			}
		}
		if running < n {
			return fmt.Errorf("%d of %d runs are running", running, n)
		}
		return nil
	})
}

// memory samples the resident memory of the dispatcher once a second for a
// while, in bytes.
func (s *stage) memory(ctx context.Context, length time.Duration) (samples []int, err error) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for end := time.Now().Add(length); ; {
		resident, err := residentMemory(s.replica.Pid())
		if err != nil {
			return nil, err
		}
		if samples = append(samples, resident); time.Now().After(end) {
			return samples, nil
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// residentMemory reads VmRSS, which Linux gives in KiB.
func residentMemory(pid int) (int, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(status)) {
		if rest, found := strings.CutPrefix(line, "VmRSS:"); found {
			kib, err := strconv.Atoi(strings.TrimSuffix(strings.TrimSpace(rest), " kB"))
			if err != nil {
				return 0, fmt.Errorf("read VmRSS of process %d: %w", pid, err)
			}
			return kib << 10, nil
		}
	}
	return 0, fmt.Errorf("process %d shows no VmRSS", pid)
}

// counters are requests to the API server since the start, as the dispatcher
// counts its own by verb and resource, and as the server counts them; and what
// the dispatcher's runtime says of its memory.
type counters struct {
	own     map[string]int
	server  int
	runtime map[string]float64
}

func (s *stage) counters(ctx context.Context) (counters, error) {
	page, err := s.replica.Get(ctx, "/metrics")
	if err != nil {
		return counters{}, err
	}
	c := counters{own: map[string]int{}, runtime: map[string]float64{}}
	const name = "ropewalk_kube_api_requests_total"
	for line := range strings.Lines(page) {
		if field := strings.Fields(line); len(field) == 2 && (strings.HasPrefix(line, "go_memstats_") || strings.HasPrefix(line, "go_goroutines")) {
			if value, err := strconv.ParseFloat(field[1], 64); err == nil {
				c.runtime[field[0]] = value
			}
		}
		labels, found := strings.CutPrefix(line, name+"{")
		if !found {
			continue
		}
		kind := label(labels, "method") + " " + label(labels, "resource")
		c.own[kind] += int(sum(line, name, ""))
	}
	if len(c.own) == 0 {
		return counters{}, fmt.Errorf("the dispatcher has no metric %s", name)
	}
	c.server, err = s.bench.requests(ctx)
	return c, err
}

// label finds the value of a label in a sample's line.
func label(labels, name string) string {
	_, rest, _ := strings.Cut(labels, name+`="`)
	value, _, _ := strings.Cut(rest, `"`)
	return value
}

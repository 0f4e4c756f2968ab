package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/runstore"
	"github.com/ropewalk/ropewalk/test/rig"
)

// command runs a dispatcher command on the stage's NATS server.
func (s *stage) command(ctx context.Context, args ...string) error {
	command := exec.CommandContext(ctx, s.bench.dispatcher, args...)
	command.Env = append(os.Environ(), "ROPEWALK_NATS_URL="+s.nats.URL())
	if said, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("dispatcher %s: %w: %s", strings.Join(args, " "), err, said)
	}
	return nil
}

// neighbourLimit is that of the queue with the burst, and neighbourRunFor how
// long its runs take where they come and go: it starts some ten a second then.
const (
	neighbourLimit  = 50
	neighbourRunFor = `{"metadata": {"annotations": {"fake/run-for": "5s"}}}`
	// quietQueue is the other queue, and quietRate how many runs a second it
	// is given.
	quietQueue = "quiet"
	quietRate  = 30
)

// neighbours compares the latency of one queue alone with that beside another
// which is at its limit and in which many runs wait, and, apart from that, beside
// one whose runs come and go. What those do costs the cluster time, whoever makes
// them: how much longer bare calls take beside them tells what the dispatcher adds.
func (b *bench) neighbours(ctx context.Context, r *report) error {
	result := &neighboursResult{}
	for round := range b.options.Rounds {
		states := []struct {
			what      string
			burst     int
			comeAndGo bool
			queue     *[][]float64
			bare      *[][]float64
		}{
			{"alone", 0, false, &result.Alone, &result.BareAlone},
			{"beside waiting runs", b.options.Burst, false, &result.Waiting, &result.BareWaiting},
			{"beside runs that come and go", b.options.Burst, true, &result.Busy, &result.BareBusy},
		}
		for turn := range states { // so that none always follows the busiest
			beside := states[(round+turn)%len(states)]
			events, bare, err := b.neighboursRound(ctx, beside.burst, beside.comeAndGo)
			if err != nil {
				return err
			}
			*beside.queue, *beside.bare = append(*beside.queue, events), append(*beside.bare, bare)
			b.say("neighbours %d: %s p50 %.1f ms, p99 %.1f ms; bare create p50 %.1f ms, p99 %.1f ms", round+1, beside.what,
				percentile(events, 50), percentile(events, 99), percentile(bare, 50), percentile(bare, 99))
		}
	}
	r.Neighbours = result
	return nil
}

// neighboursRound publishes to the quiet queue at a steady rate, and then makes
// Jobs by bare calls at the same rate. It returns how long it took from each
// publish, and from each call, until its Job was seen.
func (b *bench) neighboursRound(ctx context.Context, burst int, comeAndGo bool) (events, bare []float64, err error) {
	n := int(quietRate * b.options.LatencyFor.Seconds())
	err = b.on(ctx, func(s *stage) error {
		if err := s.neighbour(ctx, burst, comeAndGo); err != nil {
			return err
		}
		if err := s.command(ctx, "queue", "create", quietQueue, "--concurrency", strconv.Itoa(2*n)); err != nil {
			return err
		}
		// The first runs of a queue pay for its consumer and for connections.
		if _, err := s.quietly(ctx, "warm-", quietRate, 0); err != nil {
			return err
		}
		started, err := s.quietly(ctx, "quiet-", n, quietRate)
		if err != nil {
			return err
		}
		calls, err := s.barely(ctx, n)
		if err != nil {
			return err
		}
		for _, job := range s.observer.Jobs() {
			if i, err := strconv.Atoi(strings.TrimPrefix(job.RunID, "quiet-")); err == nil && job.Queue == quietQueue {
				events = append(events, milliseconds(job.CreatedAt.Sub(started[i])))
			}
			if at, is := calls[job.RunID]; is {
				bare = append(bare, milliseconds(job.CreatedAt.Sub(at)))
			}
		}
		return nil
	})
	return events, bare, err
}

// neighbour starts a dispatcher whose default queue has a burst of runs, and
// waits until that queue is at its limit, or past it if its runs come and go.
func (s *stage) neighbour(ctx context.Context, burst int, comeAndGo bool) error {
	if err := s.serve(ctx, neighbourLimit, s.bench.options.Workers); err != nil {
		return err
	}
	started := min(burst, neighbourLimit)
	if comeAndGo {
		if err := s.command(ctx, "queue", "set", "default", "--pod-template-patch", neighbourRunFor); err != nil {
			return err
		}
		started++
	}
	if err := s.publish(ctx, burst); err != nil {
		return err
	}
	return s.observer.Await(ctx, "", func(c rig.Counts) bool { return c.Created >= started })
}

// bareQueue labels the Jobs of bare calls that are made beside a dispatcher's.
const bareQueue = "bare"

// barely makes n Jobs by bare calls at the rate of the quiet queue, waits until
// all are seen, and returns when each was called for, by run id.
func (s *stage) barely(ctx context.Context, n int) (map[string]time.Time, error) {
	const first = 1_000_000 // no run has that number
	started := make([]time.Time, n)
	err := steadily(ctx, n, quietRate, func(i int) error {
		started[i] = time.Now()
		_, _, err := s.createIn(ctx, bareQueue, first+i)
		return err
	})
	if err != nil {
		return nil, err
	}
	calls := make(map[string]time.Time, n)
	for i, at := range started {
		calls[runID(first+i)] = at
	}
	limited, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("the bare calls' Jobs take more than 2m"))
	defer cancel()
	return calls, s.observer.Await(limited, bareQueue, func(c rig.Counts) bool { return c.Created >= n })
}

// quietly publishes n runs to the quiet queue at a steady rate, waits until that
// queue has so many Jobs more than before, and returns when each was published.
func (s *stage) quietly(ctx context.Context, prefix string, n, before int) ([]time.Time, error) {
	started := make([]time.Time, n)
	err := steadily(ctx, n, quietRate, func(i int) error {
		started[i] = time.Now()
		message := nats.NewMsg("ropewalk.runs." + quietQueue + "." + prefix + strconv.Itoa(i))
		message.Data = []byte(`{"version":1,"image":{"reference":"busybox"},"command":["true"]}`)
		_, err := s.js.PublishMsg(ctx, message)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("publish to the quiet queue: %w", err)
	}
	limited, cancel := context.WithTimeoutCause(ctx, 2*time.Minute, errors.New("the quiet queue's Jobs take more than 2m"))
	defer cancel()
	return started, s.observer.Await(limited, quietQueue, func(c rig.Counts) bool { return c.Created >= before+n })
}

// replayLimit is the limit of the queue while a great number of runs is replayed.
const replayLimit = 20

// replay replays a great number of failed runs at once, and looks at how long
// that takes and whether the limit is kept.
func (b *bench) replay(ctx context.Context, r *report) error {
	return b.on(ctx, func(s *stage) error {
		if err := s.serve(ctx, replayLimit, b.options.Workers); err != nil {
			return err
		}
		if err := s.fail(ctx, b.options.Burst); err != nil {
			return err
		}
		result := &replayResult{Runs: b.options.Burst}
		begin := time.Now()
		replayed, err := client.New(s.js).ReplayFailed(ctx, client.ReplayOptions{})
		if err != nil {
			return err
		}
		if len(replayed) != b.options.Burst {
			return fmt.Errorf("%d of %d failed runs were replayed", len(replayed), b.options.Burst)
		}
		result.Asked = time.Since(begin).Seconds()
		stream, err := s.js.Stream(ctx, "RUNS")
		if err != nil {
			return fmt.Errorf("look up the stream of runs: %w", err)
		}
		limited, cancel := context.WithTimeoutCause(ctx, 10*time.Minute, errors.New("the runs are not all queued within 10m"))
		defer cancel()
		err = rig.Poll(limited, 20*time.Millisecond, func() error {
			info, err := stream.Info(limited)
			if err == nil && info.State.Msgs < uint64(b.options.Burst) {
				err = fmt.Errorf("%d of %d runs are queued", info.State.Msgs, b.options.Burst)
			}
			return err
		})
		if err != nil {
			return err
		}
		result.Queued = time.Since(begin).Seconds()
		if err := s.awaitCreated(ctx, replayLimit); err != nil {
			return err
		}
		result.Most = s.observer.Counts("").Most
		r.Replay = result
		b.say("replay: %d failed runs asked for in %.1f s, queued in %.1f s; at most %d at once", result.Runs, result.Asked, result.Queued, result.Most)
		return nil
	})
}

// fail records runs that have failed, as a dispatcher would have.
func (s *stage) fail(ctx context.Context, n int) error {
	store, err := runstore.Open(ctx, s.js)
	if err != nil {
		return err
	}
	request := client.Request{Version: 1, Image: client.Image{Reference: "busybox"}, Command: []string{"true"}}
	return inParallel(n, 64, func(i int) error {
		_, err := store.Create(ctx, client.Run{
			ID: runID(i), Queue: "default", State: "failed", Reason: "AppError", Attempt: 1, FirstAttempt: 1,
			QueuedAt: time.Now().UTC(), Request: &request,
		})
		return err
	})
}

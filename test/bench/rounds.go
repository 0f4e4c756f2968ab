package main

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// throughput creates the same Jobs by a bare loop and by a dispatcher, in
// turns; which of them goes first alternates too.
func (b *bench) throughput(ctx context.Context, r *report) error {
	result := &throughputResult{}
	for round := range b.options.Rounds {
		err := inTurns(round, func() error {
			rate, calls, err := b.bareRate(ctx)
			result.Bare = append(result.Bare, rate)
			result.BareCalls = append(result.BareCalls, calls...)
			b.say("throughput %d: the bare loop creates %.0f Jobs a second", round+1, rate.PerSecond)
			return err
		}, func() error {
			rate, err := b.dispatchRate(ctx, 0)
			result.Dispatched = append(result.Dispatched, rate)
			b.say("throughput %d: the dispatcher creates %.0f Jobs a second", round+1, rate.PerSecond)
			return err
		})
		if err != nil {
			return err
		}
	}
	r.Throughput = result
	return nil
}

// inTurns calls both, in the one order in even rounds and in the other in odd
// ones, so that neither always has the fresher cluster.
func inTurns(round int, first, second func() error) error {
	if round%2 == 1 {
		first, second = second, first
	}
	if err := first(); err != nil {
		return err
	}
	return second()
}

// bareRate measures the bare loop: its rate by the watch, and every call.
func (b *bench) bareRate(ctx context.Context) (rate rate, calls []float64, err error) {
	err = b.on(ctx, func(s *stage) error {
		var mu sync.Mutex
		err := inParallel(b.options.Runs, b.options.Workers, func(i int) error {
			_, took, err := s.create(ctx, i)
			mu.Lock()
			defer mu.Unlock()
			calls = append(calls, milliseconds(took))
			return err
		})
		if err != nil {
			return err
		}
		if err := s.awaitCreated(ctx, b.options.Runs); err != nil {
			return err
		}
		rate = rateOf(s.created(b.options.Runs))
		return nil
	})
	return rate, calls, err
}

// dispatchRate measures a dispatcher that finds its requests published, and
// waiting ones more behind them.
func (b *bench) dispatchRate(ctx context.Context, waiting int) (rate rate, err error) {
	err = b.on(ctx, func(s *stage) error {
		// The first start makes the queue; the second finds it full.
		if err := s.serve(ctx, b.options.Runs+b.options.Runs/4, b.options.Workers); err != nil {
			return err
		}
		if err := s.stop(ctx); err != nil {
			return err
		}
		if err := s.publish(ctx, b.options.Runs+waiting); err != nil {
			return err
		}
		if err := s.serve(ctx, b.options.Runs+b.options.Runs/4, b.options.Workers); err != nil {
			return err
		}
		if err := s.awaitCreated(ctx, b.options.Runs); err != nil {
			return err
		}
		rate = rateOf(s.created(b.options.Runs))
		return nil
	})
	return rate, err
}

// waiting compares the launch rate with nothing more in the queue to that with
// many more requests waiting.
func (b *bench) waiting(ctx context.Context, r *report) error {
	result := &waitingResult{}
	for round := range b.options.Rounds {
		err := inTurns(round, func() error {
			rate, err := b.dispatchRate(ctx, 0)
			result.Empty = append(result.Empty, rate)
			b.say("waiting %d: with nothing more in the queue %.0f Jobs a second", round+1, rate.PerSecond)
			return err
		}, func() error {
			rate, err := b.dispatchRate(ctx, b.options.Waiting)
			result.Full = append(result.Full, rate)
			b.say("waiting %d: with %d more in the queue %.0f Jobs a second", round+1, b.options.Waiting, rate.PerSecond)
			return err
		})
		if err != nil {
			return err
		}
	}
	r.Waiting = result
	return nil
}

// latencyLoads are the shares of the bare loop's rate at which latency is
// compared. At half of it, a small cluster that starts every pod as well is as
// busy as it can be, so that each hop waits for a processor; at an eighth, what
// a hop takes by itself is seen.
var latencyLoads = [...]float64{1. / 2, 1. / 8}

// latency compares a bare create with a publish, both at the same loads, from the
// call to the watch's event.
func (b *bench) latency(ctx context.Context, r *report) error {
	for _, share := range latencyLoads {
		result := &latencyResult{PerSecond: median(perSecond(r.Throughput.Bare)) * share}
		for round := range b.options.Rounds {
			err := inTurns(round, func() error {
				bare, err := b.latencyRound(ctx, result.PerSecond, false)
				result.Bare = append(result.Bare, bare)
				b.say("latency at %.0f/s %d: bare create p50 %.1f ms, p99 %.1f ms", result.PerSecond, round+1, percentile(bare.Event, 50), percentile(bare.Event, 99))
				return err
			}, func() error {
				dispatched, err := b.latencyRound(ctx, result.PerSecond, true)
				result.Dispatched = append(result.Dispatched, dispatched)
				b.say("latency at %.0f/s %d: publish to Job p50 %.1f ms, p99 %.1f ms", result.PerSecond, round+1, percentile(dispatched.Event, 50), percentile(dispatched.Event, 99))
				return err
			})
			if err != nil {
				return err
			}
		}
		r.Latency = append(r.Latency, result)
	}
	return nil
}

// mostWorkers is the most that ROPEWALK_LAUNCH_WORKERS may be.
const mostWorkers = 1000

// latencyRound makes calls at a steady rate, whether or not those before have
// come back, and notes when the Job of each was seen.
func (b *bench) latencyRound(ctx context.Context, perSecond float64, dispatched bool) (round latencyRound, err error) {
	n := int(perSecond * b.options.LatencyFor.Seconds())
	err = b.on(ctx, func(s *stage) error {
		call := func(i int) error {
			_, _, err := s.create(ctx, i)
			return err
		}
		if dispatched {
			// Nothing bounds how many bare calls are under way at once.
			if err := s.serve(ctx, 2*n, min(n, mostWorkers)); err != nil {
				return err
			}
			call = func(i int) error { return s.publishOne(ctx, i) }
		}
		started := make([]time.Time, n)
		round.Call = make([]float64, n)
		err := steadily(ctx, n, perSecond, func(i int) error {
			started[i] = time.Now()
			err := call(i)
			round.Call[i] = milliseconds(time.Since(started[i]))
			return err
		})
		if err != nil {
			return err
		}
		if err := s.awaitCreated(ctx, n); err != nil {
			return err
		}
		round.Event, err = s.events(started)
		return err
	})
	return round, err
}

// events is how long it took, in ms, from when each run was asked for until its
// Job was seen.
func (s *stage) events(started []time.Time) (events []float64, err error) {
	for _, job := range s.observer.Jobs() {
		var i int
		if _, err := fmt.Sscanf(job.RunID, "run-%d", &i); err != nil || i >= len(started) {
			return nil, fmt.Errorf("there is a Job for run %q, which nobody asked for", job.RunID)
		}
		events = append(events, milliseconds(job.CreatedAt.Sub(started[i])))
	}
	return events, nil
}

// steadily starts n calls at a rate, each in a goroutine of its own, and waits
// for all.
func steadily(ctx context.Context, n int, perSecond float64, call func(int) error) error {
	var (
		calls  sync.WaitGroup
		mu     sync.Mutex
		failed error
	)
	begin := time.Now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for i := range n {
		timer.Reset(time.Until(begin.Add(time.Duration(float64(i) / perSecond * float64(time.Second)))))
		select {
		case <-timer.C:
		case <-ctx.Done():
			calls.Wait()
			return ctx.Err()
		}
		calls.Go(func() {
			if err := call(i); err != nil {
				mu.Lock()
				failed = err
				mu.Unlock()
			}
		})
	}
	calls.Wait()
	return failed
}

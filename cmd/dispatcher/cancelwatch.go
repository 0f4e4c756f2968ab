package main

import (
	"context"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/ropewalk/ropewalk/internal/dispatch"
	"github.com/ropewalk/ropewalk/internal/logging"
	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/retry"
	"github.com/ropewalk/ropewalk/internal/run"
)

// cancelWatch tells the core of every cancellation.
type cancelWatch struct {
	source *queue.Cancellations
	core   *dispatch.Dispatcher
	log    zerolog.Logger
	// known is closed once the core knows of every cancellation that there
	// was at the start. No run may be taken up before: it could be one of them.
	known chan struct{}
}

// cancelsAtOnce bounds the runs that are looked up at once when many that wait
// are cancelled together.
const cancelsAtOnce = 16

// Run watches until ctx ends.
func (w *cancelWatch) Run(ctx context.Context) error {
	work, working := errgroup.WithContext(ctx)
	work.SetLimit(cancelsAtOnce)
	told := false
	err := retry.Do(ctx, retry.Network, func() error {
		return w.source.Watch(ctx, func() {
			if !told {
				told = true
				close(w.known)
			}
		}, func(cancellation run.Cancellation) {
			work.Go(func() error {
				w.cancel(working, cancellation)
				return nil
			})
		})
	}, func(err error, _ time.Duration) {
		w.log.Warn().Err(err).Msg("cannot watch for cancellations, trying again")
	})
	_ = work.Wait() // nothing in it returns an error
	if ctx.Err() == nil {
		return err
	}
	return nil
}

func (w *cancelWatch) cancel(ctx context.Context, cancellation run.Cancellation) {
	err := retry.Do(ctx, retry.Network, func() error { return w.core.Cancel(ctx, cancellation) }, nil)
	if err != nil && ctx.Err() == nil {
		w.log.Error().Err(err).Str(logging.RunID, cancellation.ID).Msg("cannot cancel a run that waits")
	}
}

// afterwards is a part that begins to run when another says so.
type afterwards struct {
	begin <-chan struct{}
	part  runner
}

// Run waits, and then runs the part, until ctx ends.
func (a afterwards) Run(ctx context.Context) error {
	select {
	case <-a.begin:
		return a.part.Run(ctx)
	case <-ctx.Done():
		return nil
	}
}

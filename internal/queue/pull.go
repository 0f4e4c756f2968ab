package queue

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/pullnext"
)

// pull takes the runs of one queue off the server, under one definition: a
// change begins another.
type pull struct {
	*served
	definition Definition
	consumer   jetstream.Consumer
	workers    *workers
	handlers   *sync.WaitGroup
}

// ahead is how many messages may be on their way to this replica or wait here.
// With a start rate a message may wait for long, and others must not with it.
func (p *pull) ahead() int {
	if p.definition.StartRate.Interval() > 0 {
		return 1
	}
	return min(pullAhead, cap(p.workers.launching))
}

// run takes messages, each when there is a place for it, until round ends. Handlers run
// under work, which outlives the round.
func (p *pull) run(round, work context.Context) {
	messages, err := p.consumer.Messages(
		// One at a time would cost every run the way to the server and back;
		// the default would prefetch 500 and hold them all.
		jetstream.PullMaxMessages(p.ahead()),
		jetstream.PullExpiry(30*time.Second),
		jetstream.PullHeartbeat(5*time.Second),
	)
	if err != nil {
		p.log.Warn().Err(err).Msg("cannot pull from the queue, trying again")
		return
	}
	defer p.drain(messages)
	for {
		select {
		case p.workers.all <- struct{}{}:
		case <-round.Done():
			return
		}
		message, err := pullnext.Next(round, messages)
		if err != nil {
			<-p.workers.all
			if round.Err() != nil {
				return
			}
			if errors.Is(err, jetstream.ErrNoHeartbeat) {
				continue // the connection is in trouble; nats.go asks again
			}
			p.log.Warn().Err(err).Msg("the pull from the queue ended, beginning it anew")
			return
		}
		// When we stop, work ends before round does, and what handlers hand back
		// by then may come here again.
		if work.Err() != nil || round.Err() != nil || !p.awaitStart(round, message) {
			<-p.workers.all
			p.handBack(message)
			return
		}
		p.begin(work, message)
	}
}

// begin hands a message to the core. Its place is taken already.
func (p *pull) begin(work context.Context, message jetstream.Msg) {
	p.handlers.Go(func() {
		p.served.consumer.handle(work, message, &p.definition.Policy, &turn{workers: p.workers}, &p.log)
	})
}

// awaitStart waits until the queue's start rate lets a run be started. One that
// was started before needs no leave. It is false when round has ended.
//
// It waits with one message in hand and pulls no other: what waits for the rate
// waits at the server, where every replica can take it, and holds no slot.
func (p *pull) awaitStart(round context.Context, message jetstream.Msg) bool {
	if p.definition.StartRate.Interval() == 0 || p.startedBefore(round, message) {
		return true
	}
	waiting, stop := context.WithCancel(round)
	var showing sync.WaitGroup
	defer showing.Wait()
	defer stop()
	showing.Go(func() {
		ticker := time.NewTicker(p.served.consumer.config.AckWait / 3)
		defer ticker.Stop()
		for {
			select {
			case <-waiting.Done():
				return
			case <-ticker.C:
				_ = message.InProgress() // should it fail, the message comes again
			}
		}
	})
	return p.served.consumer.config.Starts.Await(round, p.definition.Name, p.definition.StartRate, p.log) == nil
}

// startedBefore reports whether a message is of a run that is under way.
func (p *pull) startedBefore(ctx context.Context, message jetstream.Msg) bool {
	delivery, err := deliveryOf(message, &p.definition.Policy)
	return err == nil && delivery.Redelivered > 0 && p.served.consumer.config.Handler.UnderWay(ctx, delivery)
}

// adopt takes up what is under way and has lost its dispatcher, and nothing
// else, until round ends: the queue is paused. As long as one run is under way,
// the server has none to deliver that it has not delivered before.
func (p *pull) adopt(round, work context.Context) {
	const lookEvery = time.Second
	for round.Err() == nil {
		if !p.adoptNext(round, work) {
			pause(round, lookEvery)
		}
	}
}

// adoptNext takes up one run if there is one to adopt.
func (p *pull) adoptNext(round, work context.Context) bool {
	info, err := p.consumer.Info(round)
	if err != nil || info.NumAckPending == 0 {
		return false // the next look tells
	}
	select {
	case p.workers.all <- struct{}{}:
	case <-round.Done():
		return false
	}
	if !p.adoptOne(round, work) {
		<-p.workers.all
		return false
	}
	return true
}

// adoptOne takes at most one message, and reports whether it is in the core's
// hands.
func (p *pull) adoptOne(round, work context.Context) bool {
	batch, err := p.consumer.FetchNoWait(1)
	if err != nil {
		return false
	}
	var message jetstream.Msg
	const soon = 5 * time.Second
	timer := time.NewTimer(soon)
	defer timer.Stop()
	select {
	case message = <-batch.Messages():
	case <-timer.C: // the answer was lost with the connection
	}
	if message == nil {
		return false
	}
	if work.Err() != nil || round.Err() != nil || !p.startedBefore(work, message) {
		// We stop, and may be looking at what we have just handed back; or the
		// last run under way ended just before we asked.
		p.handBack(message)
		return false
	}
	p.begin(work, message)
	return true
}

// drain ends a pull and hands back what arrived in the meantime.
func (p *pull) drain(messages jetstream.MessagesContext) {
	messages.Drain()
	for {
		message, err := messages.Next(jetstream.NextMaxWait(time.Second))
		if errors.Is(err, jetstream.ErrNoHeartbeat) {
			continue
		}
		if err != nil {
			return
		}
		p.handBack(message)
	}
}

func (p *pull) handBack(message jetstream.Msg) {
	if err := message.Nak(); err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
		p.log.Warn().Err(err).Msg("cannot hand a message back at once; it comes again after AckWait")
	}
}

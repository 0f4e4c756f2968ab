package queue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/retry"
	"github.com/ropewalk/ropewalk/internal/run"
)

// Handler takes one delivered run to its end and says what becomes of its
// message. It awaits its turn before it launches the run, and is done with it
// once that was launched, so that the next one is pulled. When ctx ends it
// returns [run.HandBack] soon.
type Handler interface {
	Handle(ctx context.Context, delivery run.Delivery, turn run.Turn) run.Decision
	// UnderWay reports whether a run that is delivered again was begun before,
	// so that handling it starts nothing. It answers within moments.
	UnderWay(ctx context.Context, delivery run.Delivery) bool
}

// Config is what a [Consumer] works with. All fields but Fault are required.
type Config struct {
	JetStream   jetstream.JetStream
	Definitions *Definitions
	Handler     Handler
	// AckWait is how long after a dispatcher's last sign of life the server
	// gives its runs to another one.
	AckWait time.Duration
	// Starts holds the queues' start rates.
	Starts *Starts
	// LaunchWorkers is how many runs of one queue this process launches at once.
	// It makes half as many more ready meanwhile, and holds few messages beyond
	// those, so that no replica hoards what another could start.
	LaunchWorkers int
	Log           zerolog.Logger
	// Fault, if set, is called with the name of each step on the way, so that
	// tests can end the process there.
	Fault func(point string)
}

func (c Config) validate() error {
	switch {
	case c.JetStream == nil || c.Definitions == nil || c.Handler == nil || c.Starts == nil:
		return errors.New("queue: JetStream, Definitions, Handler and Starts are required")
	case c.AckWait < time.Second:
		return errors.New("queue: AckWait must be at least 1s")
	case c.LaunchWorkers < 1:
		return errors.New("queue: LaunchWorkers must be at least 1")
	}
	return nil
}

// Consumer pulls runs of every queue and hands them to the core.
type Consumer struct {
	config Config
	mu     sync.Mutex
	held   map[uint64]*holding // by sequence in the stream
}

// holding is a message that this process holds. A message that comes again
// while its run is still followed here (the server was restarted, or a sign of
// life was late) replaces the one before: the newest acknowledgement counts.
type holding struct{ message jetstream.Msg }

// New returns a consumer that does nothing until [Consumer.Run].
func New(config Config) (*Consumer, error) {
	if err := config.validate(); err != nil {
		return nil, err
	}
	if config.Fault == nil {
		config.Fault = func(string) {}
	}
	return &Consumer{config: config, held: map[uint64]*holding{}}, nil
}

// Held returns how many runs this process holds.
func (c *Consumer) Held() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.held)
}

// Run serves every queue that is defined, and each that will be, until ctx
// ends. Then it takes nothing more, waits for the handlers to let go, hands
// their messages back to the server, and returns nil. It returns an error only
// for what waiting cannot mend.
func (c *Consumer) Run(ctx context.Context) error {
	// With ctx, pulling stops and the handlers let go, and then the messages are
	// handed back. Signs of life go on until the last one is, so that none is
	// taken for lost while its acknowledgement is on the way.
	signs, stopSigns := context.WithCancel(context.WithoutCancel(ctx))
	var beating sync.WaitGroup
	beating.Go(func() { c.showLife(signs) })
	defer beating.Wait()
	defer stopSigns()

	var queues sync.WaitGroup
	serving := map[string]*served{}
	err := retry.Do(ctx, retry.Network, func() error {
		return c.config.Definitions.Watch(ctx, func(definition Definition) {
			if running := serving[definition.Name]; running != nil {
				if !running.newest.equal(definition) { // a new watch begins with what is known
					running.newest = definition
					running.change(definition)
				}
				return
			}
			serve, stop := context.WithCancel(ctx)
			queue := &served{
				consumer: c, newest: definition, changed: make(chan Definition, 1), stop: stop,
				log: c.config.Log.With().Str("queue", definition.Name).Logger(),
			}
			serving[definition.Name] = queue
			queues.Go(func() {
				defer stop()
				queue.run(serve, ctx, definition)
			})
		}, func(name string) {
			if running := serving[name]; running != nil {
				delete(serving, name)
				running.stop()
			}
		}, func(err error) {
			c.config.Log.Error().Err(err).Msg("a queue's definition is wrong and is not followed; set it anew by dispatcher queue set")
		})
	}, func(err error, _ time.Duration) {
		c.config.Log.Warn().Err(err).Msg("cannot watch the queues' definitions, trying again")
	})
	queues.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// showLife tells the server three times in every AckWait that the messages are
// being worked on: two signs may be lost.
func (c *Consumer) showLife(ctx context.Context) {
	ticker := time.NewTicker(c.config.AckWait / 3)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			for _, message := range c.messages() {
				// An error means that the connection is gone; the signs
				// go on when it is back.
				_ = message.InProgress()
			}
		}
	}
}

func (c *Consumer) messages() []jetstream.Msg {
	c.mu.Lock()
	defer c.mu.Unlock()
	messages := make([]jetstream.Msg, 0, len(c.held))
	for _, held := range c.held {
		messages = append(messages, held.message)
	}
	return messages
}

// hold notes a message as held, and reports whether it is new here.
func (c *Consumer) hold(sequence uint64, message jetstream.Msg) (isNew bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if held := c.held[sequence]; held != nil {
		held.message = message
		return false
	}
	c.held[sequence] = &holding{message}
	return true
}

// message returns the newest delivery of a message that is held.
func (c *Consumer) message(sequence uint64) jetstream.Msg {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.held[sequence].message
}

func (c *Consumer) release(sequence uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.held, sequence)
}

// handle takes one message from its delivery to its acknowledgement. As long as
// its run lasts its frame stays on the stack, with those of all that it calls
// to wait: what is done before and after stands in functions of its own.
func (c *Consumer) handle(ctx context.Context, message jetstream.Msg, policy *run.Policy, turn run.Turn, log *zerolog.Logger) {
	defer turn.Done()
	delivery := c.take(message, policy, log)
	if delivery == nil {
		return
	}
	defer c.release(delivery.Sequence)
	decision := c.config.Handler.Handle(ctx, *delivery, turn)
	c.settle(ctx, delivery, decision, log)
}

// take notes a message as held and reads what its subject and metadata say. It
// returns nil for a message that is to be left alone.
func (c *Consumer) take(message jetstream.Msg, policy *run.Policy, log *zerolog.Logger) *run.Delivery {
	delivery, err := deliveryOf(message, policy)
	if err != nil {
		log.Error().Err(err).Msg("a message without JetStream's metadata was delivered and is left alone")
		return nil
	}
	if !c.hold(delivery.Sequence, message) {
		return nil
	}
	return &delivery
}

// deliveryOf is what the core is told of a message.
func deliveryOf(message jetstream.Msg, policy *run.Policy) (run.Delivery, error) {
	metadata, err := message.Metadata()
	if err != nil {
		return run.Delivery{}, err
	}
	delivery := address(message.Subject())
	delivery.Data = message.Data()
	delivery.Sequence = metadata.Sequence.Stream
	delivery.PublishedAt = metadata.Timestamp.UTC()
	delivery.Redelivered = int(min(metadata.NumDelivered, 1<<31)) - 1
	delivery.Policy = policy
	return delivery, nil
}

// settle does with a message what was decided. All acknowledging of runs
// stands here.
func (c *Consumer) settle(ctx context.Context, delivery *run.Delivery, decision run.Decision, of *zerolog.Logger) {
	sequence, log := delivery.Sequence, of.With().Str("run_id", delivery.ID).Logger()
	switch decision {
	case run.Done, run.Reject:
		c.config.Fault("final-recorded")
		c.acknowledge(ctx, sequence, decision, log)
		c.config.Fault("acked")
	case run.HandBack:
		// Without delay: a delayed nak would keep its slot.
		if err := c.message(sequence).Nak(); err != nil {
			log.Warn().Err(err).Msg("cannot hand the run back at once; it comes to another dispatcher after AckWait")
		}
	case run.Abandon:
		log.Info().Msg("another dispatcher owns the run now")
	}
}

// acknowledge removes a message for good and waits until the server has
// confirmed it. If it does not within a while, nothing is lost: the message
// comes again, and the record says that the run is over.
func (c *Consumer) acknowledge(ctx context.Context, sequence uint64, decision run.Decision, log zerolog.Logger) {
	// The final state is on record, so that even a process that is asked to
	// stop does better to finish this.
	confirm, cancel := context.WithTimeout(context.WithoutCancel(ctx), c.config.AckWait)
	defer cancel()
	err := retry.Do(confirm, retry.Network, func() error {
		message := c.message(sequence)
		if decision == run.Reject {
			// There is no confirmed form of Term; should it be lost,
			// the message comes again and is refused again.
			return message.TermWithReason("rejected; see the run's record")
		}
		once, cancel := context.WithTimeout(confirm, 2*time.Second)
		defer cancel()
		err := message.DoubleAck(once)
		if errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
			return nil
		}
		return err
	}, nil)
	if err != nil {
		log.Warn().Err(err).Msg("cannot acknowledge the run; it will be delivered again and found finished")
	}
}

// served is the serving of one queue.
type served struct {
	consumer *Consumer
	stop     context.CancelFunc
	newest   Definition      // for the watch alone
	changed  chan Definition // holds the newest change not yet seen
	log      zerolog.Logger
}

func (s *served) change(definition Definition) {
	for {
		select {
		case s.changed <- definition:
			return
		case <-s.changed: // superseded before anybody saw it
		}
	}
}

// run serves the queue until ctx ends, through every kind of trouble. Handlers
// run under work, which outlives a queue that is deleted.
func (s *served) run(ctx, work context.Context, definition Definition) {
	var handlers sync.WaitGroup
	defer handlers.Wait()
	workers := newWorkers(s.consumer.config.LaunchWorkers)
	for ctx.Err() == nil {
		var consumer jetstream.Consumer
		err := retry.Do(ctx, retry.Network, func() (err error) {
			consumer, err = s.configure(ctx, definition)
			return err
		}, func(err error, _ time.Duration) {
			s.log.Warn().Err(err).Msg("cannot configure the queue's consumer, trying again")
		})
		if err != nil {
			return // only ctx ends that loop
		}
		s.log.Info().Int("concurrency", definition.Concurrency).Bool("paused", definition.Paused).Bool("draining", definition.Draining).Msg("serving queue")
		round, next := context.WithCancel(ctx)
		p := &pull{served: s, definition: definition, consumer: consumer, workers: workers, handlers: &handlers}
		var pulling sync.WaitGroup
		pulling.Go(func() {
			defer next()
			if p.definition.Paused {
				p.adopt(round, work)
			} else {
				p.run(round, work)
			}
		})
		select {
		case definition = <-s.changed:
		case <-round.Done():
			// The pull ended by itself. Should it do so again and again, it
			// must not be at full speed.
			pause(ctx, time.Second)
		}
		next()
		pulling.Wait()
	}
}

// pause returns after a while, or when ctx ends.
func pause(ctx context.Context, while time.Duration) {
	timer := time.NewTimer(while)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// configure creates or updates the queue's consumer. Every replica does; the
// calls are the same and the server takes them as one.
func (s *served) configure(ctx context.Context, definition Definition) (jetstream.Consumer, error) {
	consumer, err := s.consumer.config.JetStream.CreateOrUpdateConsumer(ctx, Stream, jetstream.ConsumerConfig{
		Durable: ConsumerPrefix + definition.Name, Description: "Ropewalk: the runs of queue " + definition.Name,
		FilterSubject: Subjects + definition.Name + ".>",
		AckPolicy:     jetstream.AckExplicitPolicy, AckWait: s.consumer.config.AckWait,
		// A redelivery is not a failed attempt; attempts are counted in the
		// run's record.
		MaxDeliver:    -1,
		MaxAckPending: definition.maxAckPending(),
		MaxWaiting:    maxWaiting,
	})
	if err != nil {
		return nil, fmt.Errorf("configure consumer of queue %s: %w", definition.Name, err)
	}
	return consumer, nil
}

// maxWaiting bounds the pull requests that wait at the server, of which each
// replica has a few a queue: more than those of a hundred replicas.
const maxWaiting = 512

// pullAhead is how many messages may be on their way to a replica or wait there
// for a place. At a round trip of 20 ms that feeds 800 launches a second. What
// waits for longer than AckWait, on a replica whose launches hang, goes to
// another one.
const pullAhead = 16

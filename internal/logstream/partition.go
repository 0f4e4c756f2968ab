package logstream

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/pullnext"
	"github.com/ropewalk/ropewalk/internal/retry"
)

const (
	// ConsumerPrefix precedes the partition in the name of its consumer.
	ConsumerPrefix = "ship-"
	// shipAckWait is how long after its last sign of life a shipper's batches
	// go to another one.
	shipAckWait = 15 * time.Second
	// pinnedTTL is how long after its last pull a shipper keeps a partition.
	pinnedTTL = 5 * time.Second
	group     = "ship"
	// returnAfter is how long a batch stays away that was given back: what it
	// waits for is with a shipper that died, and comes within shipAckWait.
	returnAfter = 5 * time.Second
	// heldMost bounds the batches of a partition that are not yet shipped;
	// the server keeps track of each.
	heldMost = 50_000
)

// Delivery is a batch in the hands of a shipper, until that says by
// [PartitionReader.Kept] that it is kept.
type Delivery struct {
	Log   logevent.Log
	Batch logevent.Batch
	// Version is the batch's place in the stream.
	Version uint64
	// Before is the place of the log's batch before it, 0 if it is the first.
	Before uint64
	// Again: it was delivered before, maybe to a shipper that died.
	Again bool
	// Size is that of the message in bytes.
	Size int
}

// PartitionReader gives one shipper the batches of a partition. The server
// sees to it that only one of any number of shippers is given new ones, and
// that another one takes over within seconds of its death.
type PartitionReader struct {
	stream   *Stream
	consumer jetstream.Consumer
	messages jetstream.MessagesContext
	stray    func(reason string, err error)

	mu   sync.Mutex
	held map[uint64]jetstream.Msg
	stop context.CancelFunc
	done sync.WaitGroup
}

// ReadPartition begins to read a partition. What does not belong on the stream is
// passed over, and told to stray with one of the reasons. The caller calls Close.
func (s *Stream) ReadPartition(ctx context.Context, partition int, stray func(reason string, err error)) (*PartitionReader, error) {
	name := fmt.Sprintf("%s%02d", ConsumerPrefix, partition)
	var (
		consumer jetstream.Consumer
		messages jetstream.MessagesContext
	)
	err := retry.Do(ctx, retry.Network, func() (err error) {
		consumer, err = s.stream.CreateOrUpdateConsumer(ctx, jetstream.ConsumerConfig{
			Durable: name, FilterSubject: PartitionSubject(partition) + ">", DeliverPolicy: jetstream.DeliverAllPolicy,
			AckPolicy: jetstream.AckExplicitPolicy, AckWait: shipAckWait, MaxAckPending: heldMost, MaxDeliver: -1,
			PriorityPolicy: jetstream.PriorityPolicyPinned, PriorityGroups: []string{group}, PinnedTTL: pinnedTTL,
		})
		if err != nil {
			return fmt.Errorf("create consumer %s: %w", name, err)
		}
		messages, err = consumer.Messages(jetstream.PullPriorityGroup(group), jetstream.PullExpiry(2*time.Second),
			jetstream.PullMaxMessagesWithBytesLimit(64, 4<<20))
		if err != nil {
			return fmt.Errorf("read partition %d: %w", partition, err)
		}
		return nil
	}, nil)
	if err != nil {
		return nil, err
	}
	beating, stop := context.WithCancel(ctx)
	r := &PartitionReader{stream: s, consumer: consumer, messages: messages, stray: stray, held: make(map[uint64]jetstream.Msg), stop: stop}
	r.done.Go(func() { r.beat(beating) })
	return r, nil
}

// Close gives the partition up. What was not kept goes to another shipper.
func (r *PartitionReader) Close() {
	r.messages.Stop()
	r.stop()
	r.done.Wait()
}

// beat tells the server of every batch that is held that it is in good hands.
func (r *PartitionReader) beat(ctx context.Context) {
	ticker := time.NewTicker(shipAckWait / 4)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
		r.mu.Lock()
		for _, message := range r.held {
			_ = message.InProgress() // the next beat says it again
		}
		r.mu.Unlock()
	}
}

// Next waits for the next batch, at most as long as ctx lasts.
func (r *PartitionReader) Next(ctx context.Context) (Delivery, error) {
	for {
		message, err := pullnext.Next(ctx, r.messages)
		if err != nil {
			if ctx.Err() != nil {
				return Delivery{}, ctx.Err()
			}
			if errors.Is(err, jetstream.ErrNoMessages) || errors.Is(err, jetstream.ErrNoHeartbeat) && !r.gone(ctx) {
				continue // the connection was away; it is asked again
			}
			return Delivery{}, fmt.Errorf("read the stream of logs: %w", err)
		}
		delivery, err := deliveryOf(message)
		if stray, ok := errors.AsType[*strayError](err); ok {
			// If that gets lost, it comes again, and is counted twice.
			_ = message.TermWithReason("stray: " + stray.reason)
			if stray.reason == StraySubject { // nobody else would ever make that room
				r.remove(ctx, message)
			}
			r.stray(stray.reason, err)
			continue
		}
		if err != nil {
			return Delivery{}, fmt.Errorf("read the stream of logs: %w", err)
		}
		r.mu.Lock()
		r.held[delivery.Version] = message
		r.mu.Unlock()
		return delivery, nil
	}
}

// remove removes a message whose subject is no log's. What stays is tried again
// with the next one of that subject.
func (r *PartitionReader) remove(ctx context.Context, message jetstream.Msg) {
	metadata, err := message.Metadata()
	if err != nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_ = r.stream.stream.Purge(ctx, jetstream.WithPurgeSubject(message.Subject()), jetstream.WithPurgeSequence(metadata.Sequence.Stream+1))
}

// gone tells whether the server has no such consumer any more. It says so to
// those who wait for a batch just then; others would wait for good.
func (r *PartitionReader) gone(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	_, err := r.consumer.Info(ctx)
	return errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrConsumerDoesNotExist)
}

func deliveryOf(message jetstream.Msg) (Delivery, error) {
	metadata, err := message.Metadata()
	if err != nil {
		return Delivery{}, err
	}
	arrival, err := arrivalOf(message)
	if err != nil {
		return Delivery{}, err
	}
	before, err := strconv.ParseUint(message.Headers().Get(jetstream.ExpectedLastSubjSeqHeader), 10, 64)
	if err != nil {
		return Delivery{}, &strayError{StrayUnlinked, fmt.Errorf("a batch of log %s does not say which one it follows", arrival.Log)}
	}
	return Delivery{
		Log: arrival.Log, Batch: arrival.Batch, Version: metadata.Sequence.Stream, Before: before,
		Again: metadata.NumDelivered > 1, Size: len(message.Data()),
	}, nil
}

// Kept tells the server that batches are where they stay, those of a log in
// their order, and returns once it knows. An error means that it may not; Kept
// may be repeated then.
func (r *PartitionReader) Kept(ctx context.Context, versions []uint64) error {
	var last jetstream.Msg
	r.mu.Lock()
	for _, version := range versions {
		if message, ok := r.held[version]; ok {
			if last != nil {
				// What gets lost on the way comes again if it is still there,
				// and is found to be kept.
				_ = last.Ack()
			}
			last = message
		}
	}
	r.mu.Unlock()
	if last == nil {
		return nil
	}
	// The server takes what one connection says about a consumer in its order.
	if err := last.DoubleAck(ctx); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
		return fmt.Errorf("confirm batches to the stream of logs: %w", err)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, version := range versions {
		delete(r.held, version)
	}
	return nil
}

// GiveBack gives back batches that cannot be kept yet: they come again after a
// while.
func (r *PartitionReader) GiveBack(versions []uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, version := range versions {
		if message, ok := r.held[version]; ok {
			delete(r.held, version)
			_ = message.NakWithDelay(returnAfter) // or it comes again after shipAckWait
		}
	}
}

// Confirmed tells whether everything in the partition up to the batch at version
// was said to be kept. It says so later than it could: once what lies before it
// of other logs was, too.
func (r *PartitionReader) Confirmed(ctx context.Context, version uint64) (bool, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	info, err := r.consumer.Info(ctx)
	if err != nil {
		return false, fmt.Errorf("ask how far a partition is: %w", err)
	}
	return info.AckFloor.Stream >= version, nil
}

// Purge removes the batches of a log before the one at version.
func (r *PartitionReader) Purge(ctx context.Context, log logevent.Log, version uint64) error {
	return r.stream.Purge(ctx, log, version)
}

// Load is how full the stream is.
type Load struct {
	Batches uint64
	Bytes   uint64
	// Pending is how many batches no shipper has been given yet.
	Pending uint64
	// Held is how many a shipper has and did not yet confirm.
	Held int
}

// Load asks the server how full the stream is and what waits to be shipped.
func (s *Stream) Load(ctx context.Context) (Load, error) {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return Load{}, fmt.Errorf("ask for the state of stream %s: %w", Name, err)
	}
	load := Load{Batches: info.State.Msgs, Bytes: info.State.Bytes}
	for consumer := range s.stream.ListConsumers(ctx).Info() {
		load.Pending += consumer.NumPending
		load.Held += consumer.NumAckPending
	}
	return load, nil
}

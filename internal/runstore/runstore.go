// Package runstore keeps the record of every run in a JetStream key-value
// bucket, and changes it by compare-and-set only: two dispatchers that both
// believe they own a run cannot both move it. Beside the bucket stand an index
// stream, which knows the order in which runs were first taken up, and a bucket
// with the requests that hold secrets, which has a time to live of its own.
//
// The dispatcher's core writes through it; clients read and watch.
package runstore

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/batchget"
	"github.com/ropewalk/ropewalk/internal/ensure"
	"github.com/ropewalk/ropewalk/internal/run"
)

// The names on the server. Other languages' clients rely on them.
const (
	// Bucket holds the records: key <queue>.<run id>, value the JSON of [run.Run].
	Bucket = "ropewalk-runs"
	// RequestBucket holds requests as they were published, secrets included,
	// under the same keys.
	RequestBucket = "ropewalk-secrets"
	// IndexStream holds one small message per run, in the order of first claim.
	IndexStream = "RUN_INDEX"
	// IndexSubjects precedes <queue>.<run id>.
	IndexSubjects = "ropewalk.index."

	recordSubjects = "$KV." + Bucket + "."
	recordStream   = "KV_" + Bucket
)

// Config says how records are kept.
type Config struct {
	// Retention is how long the record of a finished run is kept, counted
	// from its last change.
	Retention time.Duration
	// RequestRetention is how long requests with secrets are kept.
	RequestRetention time.Duration
	// Replicas is the number of servers that hold each message.
	Replicas int
}

// Store reads and writes records. It is safe for concurrent use.
type Store struct {
	js        jetstream.JetStream
	records   jetstream.KeyValue
	requests  jetstream.KeyValue
	retention time.Duration
}

// Create makes the buckets and the index where they are missing, brings their
// configuration in line, and opens the store for reading and writing.
func Create(ctx context.Context, js jetstream.JetStream, config Config) (*Store, error) {
	records, err := ensure.Bucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: Bucket, Description: "Ropewalk: the record of every run", Replicas: config.Replicas,
		// Needed for a time to live by key; watchers see the end of a record
		// as a marker that stays for this long.
		LimitMarkerTTL: time.Minute,
	})
	if err != nil {
		return nil, err
	}
	requests, err := ensure.Bucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: RequestBucket, Description: "Ropewalk: requests with secrets, kept for replay",
		TTL: config.RequestRetention, Replicas: config.Replicas,
	})
	if err != nil {
		return nil, err
	}
	_, err = ensure.Stream(ctx, js, jetstream.StreamConfig{
		Name: IndexStream, Description: "Ropewalk: runs in the order in which they were first taken up",
		Subjects: []string{IndexSubjects + "*.*"}, Replicas: config.Replicas, AllowDirect: true,
		// The first message of a run stands; another one is refused.
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true,
		// A record lives for its retention after the run ended, its index
		// entry from the run's start on: twice covers runs that take long.
		MaxAge: 2 * config.Retention,
	})
	if err != nil {
		return nil, err
	}
	return &Store{js: js, records: records, requests: requests, retention: config.Retention}, nil
}

// ErrNotSetUp tells a client that no dispatcher has ever run on this server.
var ErrNotSetUp = errors.New("this NATS server holds no Ropewalk records yet; start a dispatcher on it first (dispatcher serve or dispatcher dev)")

// Open opens a store that a dispatcher has created, for reading.
func Open(ctx context.Context, js jetstream.JetStream) (*Store, error) {
	records, err := js.KeyValue(ctx, Bucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, ErrNotSetUp
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", Bucket, err)
	}
	return &Store{js: js, records: records}, nil
}

// fewQueues is more than the queues in which one id can have a record: a second
// one is taken for a duplicate of the first, but for a race.
const fewQueues = 8

func key(queue, id string) string { return queue + "." + id }

// Lookup returns the record of a run and its revision, or [run.ErrNotFound].
// The run's queue need not be known.
func (s *Store) Lookup(ctx context.Context, id string) (run.Run, uint64, error) {
	if !run.ValidID(id) {
		return run.Run{}, 0, fmt.Errorf("run %q: %w", id, run.ErrNotFound)
	}
	messages, err := batchget.Get(ctx, s.js, recordStream, batchget.Request{
		LastFor: []string{recordSubjects + "*." + id}, Batch: fewQueues,
	})
	if err != nil {
		return run.Run{}, 0, fmt.Errorf("look up run %s: %w", id, err)
	}
	for _, message := range messages {
		if message.Operation != "" {
			continue
		}
		record, err := decode(message.Data)
		return record, message.Sequence, err
	}
	return run.Run{}, 0, fmt.Errorf("run %s: %w", id, run.ErrNotFound)
}

// Get is [Store.Lookup] of a run whose queue is known. It reads that one record
// by its own subject, so that permissions can be given for a queue.
func (s *Store) Get(ctx context.Context, queue, id string) (run.Run, error) {
	if !run.ValidQueue(queue) || !run.ValidID(id) {
		return run.Run{}, fmt.Errorf("run %q of queue %q: %w", id, queue, run.ErrNotFound)
	}
	entry, err := s.records.Get(ctx, key(queue, id))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return run.Run{}, fmt.Errorf("run %s: %w", id, run.ErrNotFound)
	}
	if err != nil {
		return run.Run{}, fmt.Errorf("look up run %s: %w", id, err)
	}
	return decode(entry.Value())
}

// Create stores the first record of a run and its place in the index, and
// returns the record's revision; [run.ErrConflict] when there is a record of
// this id already, in whatever queue, [run.ErrTooLarge] when the server does not
// take it. It may be called again with the same record after an error.
func (s *Store) Create(ctx context.Context, record run.Run) (uint64, error) {
	value, err := json.Marshal(record)
	if err != nil {
		return 0, fmt.Errorf("encode record of run %s: %w", record.ID, err)
	}
	// The index goes first, side by side with the record: an entry without a
	// record is passed over by readers, a record without an entry would
	// never be listed.
	indexed, err := s.js.PublishMsgAsync(nats.NewMsg(IndexSubjects + key(record.Queue, record.ID)))
	if err != nil {
		return 0, fmt.Errorf("index run %s: %w", record.ID, err)
	}
	revision, err := s.create(ctx, record, value)
	if err != nil {
		return 0, err
	}
	select {
	case <-indexed.Ok():
	case err := <-indexed.Err():
		if !isFull(err) {
			return 0, fmt.Errorf("index run %s: %w", record.ID, err)
		}
	case <-ctx.Done():
		return 0, fmt.Errorf("index run %s: %w", record.ID, ctx.Err())
	}
	return revision, nil
}

// create stores the first record of a run. That there is none yet, in whatever
// queue, the server sees to in the same step: a look-up before it would be a
// round trip more on the way of every run.
func (s *Store) create(ctx context.Context, record run.Run, value []byte) (uint64, error) {
	message := nats.NewMsg(recordSubjects + key(record.Queue, record.ID))
	message.Data = value
	options := []jetstream.PublishOpt{jetstream.WithExpectLastSequenceForSubject(0, recordSubjects+"*."+record.ID)}
	lifetime := time.Duration(0)
	if record.State.Final() { // it was cancelled while it waited
		lifetime = s.retention
	}
	if lifetime > 0 {
		options = append(options, jetstream.WithMsgTTL(lifetime))
	}
	ack, err := s.js.PublishMsg(ctx, message, options...)
	switch {
	case err == nil:
		return ack.Sequence, nil
	case errors.Is(err, nats.ErrMaxPayload):
		return 0, fmt.Errorf("record of run %s: %w", record.ID, run.ErrTooLarge)
	case !isWrongSequence(err):
		return 0, fmt.Errorf("create record of run %s: %w", record.ID, err)
	}
	if revision, err := s.own(ctx, record, value); !errors.Is(err, run.ErrConflict) {
		return revision, err
	}
	if _, _, err := s.Lookup(ctx, record.ID); !errors.Is(err, run.ErrNotFound) {
		if err == nil {
			err = run.ErrConflict
		}
		return 0, fmt.Errorf("record of run %s: %w", record.ID, err)
	}
	// What stands there is the marker of a record that has lived out its time.
	var over []jetstream.KVCreateOpt
	if lifetime > 0 {
		over = append(over, jetstream.KeyTTL(lifetime))
	}
	revision, err := s.records.Create(ctx, key(record.Queue, record.ID), value, over...)
	if errors.Is(err, jetstream.ErrKeyExists) {
		return s.own(ctx, record, value)
	}
	if err != nil {
		return 0, fmt.Errorf("create record of run %s: %w", record.ID, err)
	}
	return revision, nil
}

// isWrongSequence reports whether the server refused a write because another
// one has been there. What servers of a cluster answer while another write is
// still under way (…WrongLastSequenceConstant) is not that: the other one may be
// ours, and asking again tells.
func isWrongSequence(err error) bool {
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence
}

// Update replaces a record that is at the given revision, and returns the new
// one; [run.ErrConflict] when the record has changed. It may be called again
// with the same record after an error.
func (s *Store) Update(ctx context.Context, record run.Run, revision uint64) (uint64, error) {
	value, err := json.Marshal(record)
	if err != nil {
		return 0, fmt.Errorf("encode record of run %s: %w", record.ID, err)
	}
	message := nats.NewMsg(recordSubjects + key(record.Queue, record.ID))
	message.Data = value
	options := []jetstream.PublishOpt{jetstream.WithExpectLastSequencePerSubject(revision)}
	if record.State.Final() && s.retention > 0 {
		options = append(options, jetstream.WithMsgTTL(s.retention))
	}
	ack, err := s.js.PublishMsg(ctx, message, options...)
	switch {
	case err == nil:
		return ack.Sequence, nil
	case errors.Is(err, nats.ErrMaxPayload):
		return 0, fmt.Errorf("record of run %s: %w", record.ID, run.ErrTooLarge)
	case isWrongSequence(err):
		return s.own(ctx, record, value)
	default:
		return 0, fmt.Errorf("update record of run %s: %w", record.ID, err)
	}
}

// own returns the revision of a record whose content is just what we wanted to
// write: our write arrived, and only its acknowledgement was lost. Anything
// else is a conflict.
func (s *Store) own(ctx context.Context, record run.Run, value []byte) (uint64, error) {
	entry, err := s.records.Get(ctx, key(record.Queue, record.ID))
	if err != nil && !errors.Is(err, jetstream.ErrKeyNotFound) {
		return 0, fmt.Errorf("read record of run %s: %w", record.ID, err)
	}
	if err == nil && bytes.Equal(entry.Value(), value) {
		return entry.Revision(), nil
	}
	return 0, fmt.Errorf("record of run %s: %w", record.ID, run.ErrConflict)
}

// KeepRequest keeps a request as it was published, for replay.
func (s *Store) KeepRequest(ctx context.Context, queue, id string, data []byte) error {
	if _, err := s.requests.Put(ctx, key(queue, id), data); err != nil {
		if errors.Is(err, nats.ErrMaxPayload) {
			err = run.ErrTooLarge
		}
		return fmt.Errorf("keep request of run %s: %w", id, err)
	}
	return nil
}

// Request returns a request as it was published, if it is still kept, or
// [run.ErrNotFound].
func (s *Store) Request(ctx context.Context, queue, id string) ([]byte, error) {
	entry, err := s.requests.Get(ctx, key(queue, id))
	if errors.Is(err, jetstream.ErrKeyNotFound) {
		return nil, fmt.Errorf("request of run %s: %w", id, run.ErrNotFound)
	}
	if err != nil {
		return nil, fmt.Errorf("read request of run %s: %w", id, err)
	}
	return entry.Value(), nil
}

// isFull reports whether a stream refused a message for the number of messages
// that it may hold, be it in all or of one subject.
func isFull(err error) bool {
	const streamStoreFailed = 10077
	var api *jetstream.APIError
	return errors.As(err, &api) && api.ErrorCode == streamStoreFailed && strings.Contains(api.Description, "per subject")
}

func decode(value []byte) (run.Run, error) {
	var record run.Run
	if err := json.Unmarshal(value, &record); err != nil {
		return run.Run{}, fmt.Errorf("decode record: %w", err)
	}
	return record, nil
}

// Package logstream keeps the lines of logs on NATS JetStream, between those
// who follow logs, those who read them live, and those who ship them to where
// they stay.
//
// A batch of lines is one message on the subject of its log. It is accepted
// only if the follower names the message before it, so that of two followers
// of one log only one can write. A follower that takes over goes on from the
// subject's last message, which therefore stays: what has been shipped is
// purged up to it. The empty batch that ends a log stays for [EndTTL], as the
// word that there is nothing more to follow.
//
// The stream refuses what is over its bound instead of dropping what is old:
// followers wait then, and the node keeps the lines.
package logstream

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/ensure"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/pullnext"
)

const (
	// Name is the stream's.
	Name = "RUN_LOGS"
	// Subjects precedes <partition>.<queue>.<run>.<attempt>.<pod>.<container>.
	Subjects = "ropewalk.logs."
	// Partitions is how many parts the logs are shipped in. It is part of
	// every subject, so that it can never change; 16 shippers are far more
	// than the stream of one NATS server can keep busy.
	Partitions = 16
	// EndTTL is how long the end of a log is remembered: longer than its pod
	// is kept, or the log would be followed again.
	EndTTL = 14 * 24 * time.Hour
)

// Partition is the part that all logs of a run are in.
func Partition(runID string) int {
	hash := fnv.New32a()
	_, _ = hash.Write([]byte(runID)) // never fails
	return int(hash.Sum32() % Partitions)
}

// Subject is where the batches of a log are.
func Subject(log logevent.Log) string {
	return RunSubject(log.Queue, log.Run) + strconv.Itoa(log.Attempt) + "." + log.Pod + "." + log.Container
}

// RunSubject begins the subjects of all logs of a run; the queue may be "*".
func RunSubject(queue, runID string) string {
	return PartitionSubject(Partition(runID)) + queue + "." + runID + "."
}

// PartitionSubject begins the subjects of all logs of a partition.
func PartitionSubject(partition int) string { return fmt.Sprintf("%s%02d.", Subjects, partition) }

// ParseSubject is the inverse of [Subject].
func ParseSubject(subject string) (logevent.Log, error) {
	tokens := strings.Split(strings.TrimPrefix(subject, Subjects), ".")
	if len(tokens) != 6 || !strings.HasPrefix(subject, Subjects) {
		return logevent.Log{}, fmt.Errorf("%q is not the subject of a log", subject)
	}
	attempt, err := strconv.Atoi(tokens[3])
	if err != nil || attempt < 1 {
		return logevent.Log{}, fmt.Errorf("%q is not the subject of a log: its attempt is no number from 1", subject)
	}
	log := logevent.Log{Queue: tokens[1], Run: tokens[2], Attempt: attempt, Pod: tokens[4], Container: tokens[5]}
	// Such as a run in a partition that is not its own.
	if Subject(log) != subject {
		return logevent.Log{}, fmt.Errorf("%q is not the subject of a log: that is %q", subject, Subject(log))
	}
	return log, nil
}

// Config is how the stream is made.
type Config struct {
	// MaxBytes bounds the stream; -1 leaves it to the account's limit.
	MaxBytes int64
	Replicas int
}

// Stream reads and writes the stream of logs. It is safe for concurrent use.
type Stream struct {
	js     jetstream.JetStream
	stream jetstream.Stream
}

// Create makes the stream, or brings it in line with config.
func Create(ctx context.Context, js jetstream.JetStream, config Config) (*Stream, error) {
	stream, err := ensure.Stream(ctx, js, jetstream.StreamConfig{
		Name: Name, Description: "Ropewalk: lines of logs that are not yet archived",
		Subjects: []string{Subjects + ">"}, Retention: jetstream.LimitsPolicy,
		MaxBytes: config.MaxBytes, Discard: jetstream.DiscardNew, Replicas: config.Replicas,
		AllowDirect: true, AllowMsgTTL: true,
		// Batches are told apart by the message before them; the server need
		// not remember ids, and this is the least that it takes.
		Duplicates: 100 * time.Millisecond,
	})
	if err != nil {
		return nil, err
	}
	return &Stream{js, stream}, nil
}

// ErrNotSetUp: nobody has made the stream on this server.
var ErrNotSetUp = errors.New("this NATS server has no stream of logs yet; start a dispatcher on it first")

// Open opens what a dispatcher has made.
func Open(ctx context.Context, js jetstream.JetStream) (*Stream, error) {
	stream, err := js.Stream(ctx, Name)
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil, ErrNotSetUp
	}
	if err != nil {
		return nil, fmt.Errorf("open stream %s: %w", Name, err)
	}
	return &Stream{js, stream}, nil
}

// Place tells where the follower of a log goes on.
func (s *Stream) Place(ctx context.Context, log logevent.Log) (logevent.Place, error) {
	message, err := s.last(ctx, log)
	if err != nil || message == nil {
		return logevent.Place{Next: 1}, err
	}
	batch, err := logevent.Decode(message.Data)
	if err != nil {
		return logevent.Place{}, fmt.Errorf("read the last batch of log %s: %w", log, err)
	}
	return logevent.Place{Version: message.Sequence, Next: batch.Next(), Reached: batch.Reached, Ended: batch.End, At: message.Time}, nil
}

func (s *Stream) last(ctx context.Context, log logevent.Log) (*jetstream.RawStreamMsg, error) {
	message, err := s.stream.GetLastMsgForSubject(ctx, Subject(log))
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the end of log %s: %w", log, err)
	}
	return message, nil
}

// The server's error codes.
const (
	codeFull         = 10077 // maximum bytes exceeded
	codeStoreFull    = 10047 // the account's or the server's storage
	codeNoSpace      = 10023 // insufficient resources
	codeWrongVersion = jetstream.JSErrCodeStreamWrongLastSequence
)

// Publish appends an encoded batch to a log if its last message is still the
// one at version, and returns the new version. Errors are
// [logevent.ErrOvertaken], [logevent.ErrFull], or such that it is not known
// whether the batch was stored: then Publish may be repeated with the same
// arguments.
func (s *Stream) Publish(ctx context.Context, log logevent.Log, data []byte, version uint64, end bool) (uint64, error) {
	options := []jetstream.PublishOpt{
		jetstream.WithExpectLastSequencePerSubject(version), jetstream.WithRetryAttempts(0),
	}
	if end {
		options = append(options, jetstream.WithMsgTTL(EndTTL))
	}
	ack, err := s.js.Publish(ctx, Subject(log), data, options...)
	if err == nil {
		return ack.Sequence, nil
	}
	var api *jetstream.APIError
	if !errors.As(err, &api) {
		return 0, fmt.Errorf("publish lines of log %s: %w", log, err)
	}
	switch api.ErrorCode {
	case codeWrongVersion:
		// Our own, if the answer to an earlier try was lost.
		message, err := s.last(ctx, log)
		if err != nil {
			return 0, err
		}
		if message != nil && message.Sequence > version && bytes.Equal(message.Data, data) {
			return message.Sequence, nil
		}
		return 0, fmt.Errorf("publish lines of log %s: %w", log, logevent.ErrOvertaken)
	case codeFull, codeStoreFull, codeNoSpace:
		return 0, fmt.Errorf("%w (%s)", logevent.ErrFull, api.Description)
	default:
		return 0, fmt.Errorf("publish lines of log %s: %w", log, err)
	}
}

// Purge removes the batches of a log that lie before the message at version,
// which stays.
func (s *Stream) Purge(ctx context.Context, log logevent.Log, version uint64) error {
	err := s.stream.Purge(ctx, jetstream.WithPurgeSubject(Subject(log)), jetstream.WithPurgeSequence(version))
	if err != nil {
		return fmt.Errorf("purge log %s: %w", log, err)
	}
	return nil
}

// roomFor is the part of the stream's bound that may be full without followers
// having to wait: what they send at a time is far less than the rest.
const roomFor = 0.9

// Unended calls found with each log whose newest batch is not its end and is so
// old. It returns [logevent.ErrFull] when the stream has little room left.
func (s *Stream) Unended(ctx context.Context, quiet time.Duration, found func(logevent.Log)) error {
	info, err := s.stream.Info(ctx)
	if err != nil {
		return fmt.Errorf("ask for the state of stream %s: %w", Name, err)
	}
	if most := info.Config.MaxBytes; most > 0 && float64(info.State.Bytes) > roomFor*float64(most) {
		return logevent.ErrFull
	}
	return s.newest(ctx, func(log logevent.Log, message jetstream.Msg, metadata *jetstream.MsgMetadata) {
		// The end is the one batch with a time to live.
		if message.Headers().Get(jetstream.MsgTTLHeader) == "" && info.TimeStamp.Sub(metadata.Timestamp) >= quiet {
			found(log)
		}
	})
}

// newest gives the newest message of each log to take, without its data.
func (s *Stream) newest(ctx context.Context, take func(logevent.Log, jetstream.Msg, *jetstream.MsgMetadata)) error {
	const what = "look through the stream of logs"
	consumer, err := s.js.OrderedConsumer(ctx, Name, jetstream.OrderedConsumerConfig{DeliverPolicy: jetstream.DeliverLastPerSubjectPolicy, HeadersOnly: true})
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	if consumer.CachedInfo().NumPending == 0 {
		return nil
	}
	messages, err := consumer.Messages()
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	defer messages.Stop()
	for {
		message, err := pullnext.Next(ctx, messages)
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		metadata, err := message.Metadata()
		if err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		if log, err := ParseSubject(message.Subject()); err == nil { // what is no log's is not ours to judge
			take(log, message, metadata)
		}
		if metadata.NumPending == 0 {
			return nil
		}
	}
}

// Logs returns the logs of a run that the stream knows of.
func (s *Stream) Logs(ctx context.Context, runID string) ([]logevent.Log, error) {
	info, err := s.stream.Info(ctx, jetstream.WithSubjectFilter(RunSubject("*", runID)+">"))
	if err != nil {
		return nil, fmt.Errorf("list the logs of run %s: %w", runID, err)
	}
	var logs []logevent.Log
	for subject := range info.State.Subjects {
		if log, err := ParseSubject(subject); err == nil { // or it is a stray, which is no log
			logs = append(logs, log)
		}
	}
	return logs, nil
}

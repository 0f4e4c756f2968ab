package logask

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/run"
)

// Source has the logs that are asked for.
type Source interface {
	// Logs lists what is archived of a run, and says of each log whether it
	// is there to its end.
	Logs(ctx context.Context, runID string) (map[logevent.Log]bool, error)
	// Last returns the sequence of the last line of a log that is there to its
	// end, or [errors.ErrUnsupported] if the archive cannot tell.
	Last(ctx context.Context, log logevent.Log) (uint64, error)
	// Read gives the lines of a run, archived or not, from a sequence of each
	// log on to take, until that returns an error, or there are no more.
	Read(ctx context.Context, runID string, from uint64, wanted func(logevent.Log) bool, take func(logevent.Log, logevent.Line) error) error
}

const (
	// answerers is how many requests are answered side by side; the others
	// wait. Each holds a page of an archive in memory.
	answerers = 8
	// waitingMost is how many requests wait; what is beyond is not answered.
	waitingMost = 256
	// answerWithin is how long an answer may take.
	answerWithin = 30 * time.Second
)

// Answer answers requests until ctx ends. Any number of processes may do so.
func Answer(ctx context.Context, conn *nats.Conn, source Source, log zerolog.Logger) error {
	requests := make(chan *nats.Msg, waitingMost)
	subscription, err := conn.ChanQueueSubscribe(Subjects+"*", Group, requests)
	if err != nil {
		return fmt.Errorf("subscribe to requests for logs: %w", err)
	}
	// It fails only when the connection is closed.
	defer func() { _ = subscription.Unsubscribe() }()
	workers, working := errgroup.WithContext(ctx)
	for range answerers {
		workers.Go(func() error {
			for {
				select {
				case message := <-requests:
					if err := answer(working, conn, source, message); err != nil && working.Err() == nil {
						log.Warn().Err(err).Msg("cannot answer a request for logs")
					}
				case <-working.Done():
					return working.Err()
				}
			}
		})
	}
	return workers.Wait()
}

func answer(ctx context.Context, conn *nats.Conn, source Source, message *nats.Msg) error {
	if message.Reply == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	reply := &reply{conn: conn, to: message.Reply}
	summary, err := reply.lines(ctx, source, strings.TrimPrefix(message.Subject, Subjects), message.Data)
	if err != nil {
		summary.Error = err.Error()
	}
	return errors.Join(err, reply.end(summary))
}

// reply sends an answer.
type reply struct {
	conn *nats.Conn
	to   string
	page []byte
}

// errEnough ends an answer at its limit.
var errEnough = errors.New("the answer is as large as it may be")

func (r *reply) lines(ctx context.Context, source Source, runID string, data []byte) (Summary, error) {
	summary := Summary{Logs: []Stored{}}
	request, err := decodeRequest(data)
	if err != nil {
		return summary, err
	}
	if !run.ValidID(runID) && !logevent.IsBuildID(runID) {
		return summary, fmt.Errorf("%q is not a run id", runID)
	}
	stored, err := source.Logs(ctx, runID)
	if err != nil {
		return summary, err
	}
	for log, whole := range stored {
		if !request.wants(log) {
			continue
		}
		found := Stored{Attempt: log.Attempt, Pod: log.Pod, Container: log.Container, Whole: whole}
		if request.Last && whole {
			if found.Last, err = source.Last(ctx, log); err != nil && !errors.Is(err, errors.ErrUnsupported) {
				return summary, err
			}
		}
		summary.Logs = append(summary.Logs, found)
	}
	slices.SortFunc(summary.Logs, func(a, b Stored) int {
		return cmp.Or(cmp.Compare(a.Attempt, b.Attempt), cmp.Compare(a.Pod, b.Pod), cmp.Compare(a.Container, b.Container))
	})
	if request.List {
		return summary, nil
	}
	left := request.Bytes
	err = source.Read(ctx, runID, request.From, request.wants, func(log logevent.Log, line logevent.Line) error {
		if left <= 0 {
			return errEnough
		}
		size, err := r.line(lineOf(log, line))
		left -= size
		return err
	})
	if errors.Is(err, errEnough) {
		summary.More, err = true, nil
	}
	return summary, errors.Join(err, r.flush())
}

// line adds a line to the answer, and returns how many bytes of it that takes.
func (r *reply) line(line Line) (size int, err error) {
	text, err := json.Marshal(line)
	if err != nil {
		return 0, fmt.Errorf("encode a line: %w", err)
	}
	r.page = append(append(r.page, text...), '\n')
	if len(r.page) >= messageBytes {
		err = r.flush()
	}
	return len(text) + 1, err
}

func (r *reply) flush() error {
	if len(r.page) == 0 {
		return nil
	}
	err := r.conn.Publish(r.to, r.page)
	r.page = r.page[:0] // the connection has copied it
	if err != nil {
		return fmt.Errorf("answer with lines: %w", err)
	}
	return nil
}

func (r *reply) end(summary Summary) error {
	body, err := json.Marshal(summary)
	if err != nil {
		return fmt.Errorf("encode the end of an answer: %w", err)
	}
	if err := r.conn.PublishMsg(&nats.Msg{Subject: r.to, Data: body, Header: nats.Header{EndHeader: {"true"}}}); err != nil {
		return fmt.Errorf("end an answer: %w", err)
	}
	return nil
}

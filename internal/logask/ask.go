package logask

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

// Archive reads the archive by asking for it. It is safe for concurrent use.
type Archive struct{ conn *nats.Conn }

// New returns an archive on a connection, which stays the caller's to close.
func New(conn *nats.Conn) *Archive { return &Archive{conn} }

// silence is how long an answer may say nothing before it counts as lost. What
// reads the archive may itself have to wait for a store of objects.
const silence = answerWithin + 5*time.Second

// Logs lists what is archived of a run, and says of each log whether it is
// there to its end. It returns [ErrNobody] when there is nobody to ask.
func (a *Archive) Logs(ctx context.Context, runID string) (map[logevent.Log]bool, error) {
	summary, err := a.ask(ctx, runID, Request{List: true}, nil)
	if err != nil {
		return nil, err
	}
	logs := make(map[logevent.Log]bool, len(summary.Logs))
	for _, stored := range summary.Logs {
		logs[logevent.Log{Run: runID, Attempt: stored.Attempt, Pod: stored.Pod, Container: stored.Container}] = stored.Whole
	}
	return logs, nil
}

// Last returns the sequence of the last line of a log that is there to its end,
// or [errors.ErrUnsupported] if nobody can tell.
func (a *Archive) Last(ctx context.Context, log logevent.Log) (uint64, error) {
	request := Request{Attempt: log.Attempt, Pod: log.Pod, Container: log.Container, List: true, Last: true}
	summary, err := a.ask(ctx, log.Run, request, nil)
	if err != nil {
		return 0, err
	}
	if len(summary.Logs) != 1 || summary.Logs[0].Last == 0 {
		return 0, errors.ErrUnsupported
	}
	return summary.Logs[0].Last, nil
}

// Lag is none: whoever answers reads archive and stream together.
func (*Archive) Lag() time.Duration { return 0 }

// Read gives the lines of a log from a sequence on to take, until that returns
// false or there are no more. It returns the next sequence, and whether the log
// ends there.
func (a *Archive) Read(ctx context.Context, log logevent.Log, from uint64, take func(logevent.Line) bool) (next uint64, ended bool, err error) {
	next = from
	goingOn := true
	for goingOn {
		var summary Summary
		request := Request{Attempt: log.Attempt, Pod: log.Pod, Container: log.Container, From: next}
		summary, err = a.ask(ctx, log.Run, request, func(line Line) bool {
			if line.Seq < next { // from was none
				return true
			}
			next = line.Seq + 1
			goingOn = take(line.log())
			return goingOn
		})
		if err != nil || !goingOn {
			return next, false, err
		}
		for _, stored := range summary.Logs {
			ended = stored.Whole && !summary.More
		}
		goingOn = summary.More
	}
	return next, ended, nil
}

// ask asks once and gives the lines of the answer to take, until that returns
// false.
func (a *Archive) ask(ctx context.Context, runID string, request Request, take func(Line) bool) (summary Summary, err error) {
	data, err := json.Marshal(request)
	if err != nil {
		return Summary{}, fmt.Errorf("encode a request for logs: %w", err)
	}
	inbox := a.conn.NewInbox()
	answers, err := a.conn.SubscribeSync(inbox)
	if err != nil {
		return Summary{}, fmt.Errorf("ask for the logs of run %s: %w", runID, err)
	}
	// It fails only when the connection is closed.
	defer func() { _ = answers.Unsubscribe() }()
	if err := a.conn.PublishRequest(Subjects+runID, inbox, data); err != nil {
		return Summary{}, fmt.Errorf("ask for the logs of run %s: %w", runID, err)
	}
	for {
		message, err := next(ctx, answers)
		if err != nil {
			return Summary{}, fmt.Errorf("ask for the logs of run %s: %w", runID, err)
		}
		if message.Header.Get(EndHeader) == "" {
			for text := range bytes.Lines(message.Data) {
				var line Line
				if err := json.Unmarshal(text, &line); err != nil {
					return Summary{}, fmt.Errorf("read a line of run %s: %w", runID, err)
				}
				if take == nil || !take(line) {
					return Summary{}, nil
				}
			}
			continue
		}
		if err := json.Unmarshal(message.Data, &summary); err != nil {
			return Summary{}, fmt.Errorf("read the end of the logs of run %s: %w", runID, err)
		}
		if summary.Error != "" {
			return summary, fmt.Errorf("read the archived logs of run %s: %s", runID, summary.Error)
		}
		return summary, nil
	}
}

func next(ctx context.Context, answers *nats.Subscription) (*nats.Msg, error) {
	waiting, cancel := context.WithTimeout(ctx, silence)
	defer cancel()
	message, err := answers.NextMsgWithContext(waiting)
	switch {
	case errors.Is(err, nats.ErrNoResponders):
		return nil, ErrNobody
	case errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil:
		return nil, fmt.Errorf("no answer within %s", silence)
	case err != nil:
		return nil, err
	}
	// A server says so by an empty message with a status.
	if len(message.Data) == 0 && message.Header.Get("Status") == "503" {
		return nil, ErrNobody
	}
	return message, nil
}

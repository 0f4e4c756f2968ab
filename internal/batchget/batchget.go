// Package batchget reads many messages of a JetStream stream in one request.
// It speaks the batch form of the direct-get API (NATS ADR-31, nats-server
// 2.11), which nats.go does not offer: unlike a consumer it leaves nothing
// behind on the server, and it works on work-queue streams, where a second
// consumer is not allowed.
package batchget

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Request says which messages to read; see ADR-31 for the fields' meanings.
// The stream must allow direct access.
type Request struct {
	// Sequence is where to start, and Subject the filter, which may hold
	// wildcards.
	Sequence uint64 `json:"seq,omitempty"`
	Subject  string `json:"next_by_subj,omitempty"`
	// Batch is the most messages to read; left out, [MostSubjects].
	Batch int `json:"batch,omitempty"`
	// LastFor asks for the last message of every subject that matches one of
	// these, at most 1,024 in all, instead of a range.
	LastFor []string `json:"multi_last,omitempty"`
	// Bytes is what ends an answer, after the message that exceeds it; left out,
	// the server's bound of what may be on its way to one client.
	Bytes int `json:"max_bytes,omitempty"`
}

// Message is one message of a stream.
type Message struct {
	Subject  string
	Sequence uint64
	Time     time.Time
	Data     []byte
	// Operation is the KV-Operation header: empty for an ordinary value.
	Operation string
}

// timeout bounds one request.
const timeout = 5 * time.Second

// pageBytes ends one answer of several. An answer as large as the server's own
// bound is where the server takes a client for too slow, and cuts it off.
const pageBytes = 8 << 20

// MostSubjects is how many subjects the server answers for at once.
const MostSubjects = 1024

// The status codes of a direct get's answer.
const (
	statusEndOfBatch = "204"
	statusNotFound   = "404"
)

// Get reads the messages that request asks for, in the order of the stream.
// It returns what the server has, which may be fewer than asked for, or none: an
// answer about a range also ends at a number of bytes. One to LastFor without
// Batch is whole.
func Get(ctx context.Context, js jetstream.JetStream, stream string, request Request) ([]Message, error) {
	whole := len(request.LastFor) > 0 && request.Batch == 0
	if whole && request.Bytes == 0 {
		request.Bytes = pageBytes
	}
	messages, left, err := get(ctx, js, stream, request)
	for whole && left && err == nil && len(messages) > 0 {
		request.Sequence = messages[len(messages)-1].Sequence + 1
		var more []Message
		more, left, err = get(ctx, js, stream, request)
		if len(more) == 0 {
			break
		}
		messages = append(messages, more...)
	}
	return messages, err
}

// get makes one request, and reports whether the server has left something out.
func get(ctx context.Context, js jetstream.JetStream, stream string, request Request) (messages []Message, left bool, err error) {
	// nats.go bounds its own requests like this. An answer that was lost with
	// the connection would else be waited for forever.
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	body, err := json.Marshal(request)
	if err != nil {
		return nil, false, fmt.Errorf("encode batch get: %w", err)
	}
	conn := js.Conn()
	inbox := conn.NewInbox()
	// The channel holds a whole answer: a message that found it full would
	// be dropped by the client as a slow consumer.
	most := request.Batch
	if most == 0 {
		most = MostSubjects
	}
	replies := make(chan *nats.Msg, most+1)
	subscription, err := conn.ChanSubscribe(inbox, replies)
	if err != nil {
		return nil, false, fmt.Errorf("read stream %s: %w", stream, err)
	}
	defer func() { _ = subscription.Unsubscribe() }() // fails only when the connection is closed, and then it is gone too
	subject := "$JS.API.DIRECT.GET." + stream
	if err := conn.PublishRequest(subject, inbox, body); err != nil {
		return nil, false, fmt.Errorf("read stream %s: %w", stream, err)
	}
	for {
		select {
		case <-ctx.Done():
			return nil, false, fmt.Errorf("read stream %s: %w", stream, ctx.Err())
		case reply := <-replies:
			switch status := reply.Header.Get("Status"); status {
			case "":
				message, err := parse(reply)
				if err != nil {
					return nil, false, fmt.Errorf("read stream %s: %w", stream, err)
				}
				messages = append(messages, message)
			case statusEndOfBatch:
				pending, err := strconv.ParseUint(reply.Header.Get("Nats-Num-Pending"), 10, 64)
				return messages, err == nil && pending > 0, nil
			case statusNotFound:
				return messages, false, nil
			case "503":
				return nil, false, fmt.Errorf("read stream %s: %w", stream, nats.ErrNoResponders)
			default:
				return nil, false, fmt.Errorf("read stream %s: the server answers %s %s", stream, status, reply.Header.Get("Description"))
			}
		}
	}
}

// Last reads the last message of one subject, which stands in the request's own
// subject: permissions can be given for it.
func Last(ctx context.Context, js jetstream.JetStream, stream, subject string) (message Message, found bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	reply, err := js.Conn().RequestWithContext(ctx, "$JS.API.DIRECT.GET."+stream+"."+subject, nil)
	if err != nil {
		return Message{}, false, fmt.Errorf("read stream %s: %w", stream, err)
	}
	switch status := reply.Header.Get("Status"); status {
	case "":
		message, err = parse(reply)
		return message, err == nil, err
	case statusNotFound:
		return Message{}, false, nil
	default:
		return Message{}, false, fmt.Errorf("read stream %s: the server answers %s %s", stream, status, reply.Header.Get("Description"))
	}
}

func parse(reply *nats.Msg) (Message, error) {
	sequence, err := strconv.ParseUint(reply.Header.Get("Nats-Sequence"), 10, 64)
	if err != nil {
		return Message{}, errors.New("the server's answer has no sequence: is it older than 2.11?")
	}
	stored, err := time.Parse(time.RFC3339Nano, reply.Header.Get("Nats-Time-Stamp"))
	if err != nil {
		return Message{}, fmt.Errorf("time of message %d: %w", sequence, err)
	}
	operation := reply.Header.Get("KV-Operation")
	if operation == "" && reply.Header.Get("Nats-Marker-Reason") != "" {
		operation = "DEL" // a value that outlived its time to live
	}
	return Message{
		Subject: reply.Header.Get("Nats-Subject"), Sequence: sequence, Time: stored.UTC(),
		Data: reply.Data, Operation: operation,
	}, nil
}

// NewestFirst reads messages that match subject backwards from the end of the
// stream and gives them to take, the newest first, until take returns false or
// the stream's first message is reached. It reads windows that grow while
// they hold few matching messages, so that the last few of a large stream cost
// one or two requests.
func NewestFirst(ctx context.Context, js jetstream.JetStream, stream, subject string, take func(Message) bool) error {
	handle, err := js.Stream(ctx, stream)
	if err != nil {
		return fmt.Errorf("read stream %s: %w", stream, err)
	}
	state := handle.CachedInfo().State
	// In sequences. A window may turn out to be full of messages of a few KiB
	// each, and all of it is held at once.
	const firstWindow, lastWindow = 128, 16384
	window := uint64(firstWindow)
	for end := state.LastSeq + 1; end > state.FirstSeq && state.Msgs > 0; {
		start := max(state.FirstSeq, end-min(window, end))
		messages, err := between(ctx, js, stream, subject, start, end)
		if err != nil {
			return err
		}
		for _, message := range slices.Backward(messages) {
			if !take(message) {
				return nil
			}
		}
		end = start
		window = min(window*2, lastWindow)
	}
	return nil
}

// between reads the messages with start <= sequence < end.
func between(ctx context.Context, js jetstream.JetStream, stream, subject string, start, end uint64) ([]Message, error) {
	const atOnce = 1024
	var all []Message
	for start < end {
		batch := int(min(end-start, atOnce))
		messages, err := Get(ctx, js, stream, Request{Sequence: start, Subject: subject, Batch: batch})
		if err != nil {
			return nil, err
		}
		for _, message := range messages {
			if message.Sequence >= end {
				return all, nil
			}
			all = append(all, message)
			start = message.Sequence + 1
		}
		// A short answer is not the end: the server also stops at a number of
		// bytes.
		if len(messages) == 0 {
			return all, nil
		}
	}
	return all, nil
}

package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/batchget"
	"github.com/ropewalk/ropewalk/internal/retry"
	"github.com/ropewalk/ropewalk/internal/run"
)

// Errors of [Publish], for errors.Is.
var (
	// ErrTooLarge: the request exceeds the server's payload limit.
	ErrTooLarge = run.ErrTooLarge
	// ErrFull: the stream holds as much as it may.
	ErrFull = run.ErrFull
)

// Publish puts a valid request on its queue. Once it returns nil, the request
// is stored and will be run. A request for a run id that waits or is under way
// already is that run: duplicate is true, and nothing was stored. It is safe
// to repeat. While a cluster of servers chooses the stream's leader it waits,
// and gives up with [jetstream.ErrNoStreamResponse] after some 12 s.
func Publish(ctx context.Context, js jetstream.JetStream, request run.Request) (duplicate bool, err error) {
	electing, cancel := context.WithTimeout(ctx, election)
	defer cancel()
	var last error
	err = retry.Do(electing, retry.Policy{First: 50 * time.Millisecond, Most: 500 * time.Millisecond}, func() error {
		duplicate, last = publishAttempt(ctx, js, request, 1)
		if errors.Is(last, jetstream.ErrNoStreamResponse) {
			return last
		}
		return retry.Permanent(last)
	}, nil)
	if ctx.Err() == nil {
		err = last // only the time for an election has ended
	}
	return duplicate, err
}

// election is longer than a cluster takes to choose a leader after it lost one
// of its servers: up to 9 s go by before the others notice.
const election = 12 * time.Second

func publishAttempt(ctx context.Context, js jetstream.JetStream, request run.Request, attempt int) (duplicate bool, err error) {
	data, err := request.Encode()
	if err != nil {
		return false, fmt.Errorf("encode request: %w", err)
	}
	if most := js.Conn().MaxPayload(); int64(len(data)) > most {
		return false, fmt.Errorf("%w: %d bytes against a limit of %d; put what is large into the image or a store, or raise max_payload on the server", ErrTooLarge, len(data), most)
	}
	message := nats.NewMsg(Subject(request.Queue, request.ID, attempt))
	message.Data = data
	ack, err := js.PublishMsg(ctx, message, jetstream.WithMsgID(messageID(request.ID, attempt)), jetstream.WithExpectStream(Stream))
	var api *jetstream.APIError
	switch {
	case err == nil:
		return ack.Duplicate, nil
	case errors.Is(err, nats.ErrMaxPayload): // with the headers it is
		return false, fmt.Errorf("%w: put what is large into the image or a store, or raise max_payload on the server", ErrTooLarge)
	case errors.Is(err, jetstream.ErrNoStreamResponse), errors.Is(err, nats.ErrNoResponders):
		return false, noAnswer(ctx, js, request.Queue, attempt)
	case errors.As(err, &api) && api.ErrorCode == streamStoreFailed && strings.Contains(api.Description, "per subject"):
		return true, nil
	case errors.As(err, &api) && api.ErrorCode == streamStoreFailed:
		return false, fmt.Errorf("%w: %s; try again later, or raise the limits of stream %s", ErrFull, api.Description, Stream)
	default:
		return false, fmt.Errorf("publish run %s: %w", request.ID, err)
	}
}

// noAnswer says why nobody answers who publishes to a queue: there is no such
// queue ([ErrNoQueue]), or the stream has no leader just now
// ([jetstream.ErrNoStreamResponse]). The queue's definition tells, which each
// server that holds it reads out, leader or not.
func noAnswer(ctx context.Context, js jetstream.JetStream, queue string, attempt int) error {
	unknown := fmt.Errorf("%s: %w; see dispatcher queue list", queue, ErrNoQueue)
	message, found, err := batchget.Last(ctx, js, "KV_"+DefinitionBucket, "$KV."+DefinitionBucket+"."+queue)
	var definition Definition
	switch {
	case err == nil && (!found || message.Operation != ""):
		return unknown
	case err == nil:
		err = json.Unmarshal(message.Data, &definition)
		if definition.Draining && attempt == 1 {
			return unknown
		}
	case errors.Is(err, nats.ErrNoResponders): // nobody has that bucket, or has it yet
		_, err = js.Stream(ctx, Stream)
		switch {
		case errors.Is(err, jetstream.ErrStreamNotFound):
			return unknown
		case errors.Is(err, nats.ErrNoResponders), errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
			return fmt.Errorf("publish to queue %s: %w", queue, err)
		}
	}
	return fmt.Errorf("queue %s does not answer, as while the NATS servers start or choose a leader; try again in a few seconds, and if that does not help: dispatcher doctor: %w",
		queue, errors.Join(jetstream.ErrNoStreamResponse, err))
}

// messageID is what the server knows a message by, within the duplicate
// window: the run's id, and from the second attempt on that and the attempt.
func messageID(id string, attempt int) string {
	if attempt > 1 {
		id += "." + strconv.Itoa(attempt)
	}
	return id
}

// streamStoreFailed is the server's one error code for a stream that holds as
// many messages as it may, in all or of one subject; only the description
// tells the two apart.
const streamStoreFailed jetstream.ErrorCode = 10077

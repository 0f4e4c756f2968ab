package queue

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

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
// to repeat.
func Publish(ctx context.Context, js jetstream.JetStream, request run.Request) (duplicate bool, err error) {
	return publishAttempt(ctx, js, request, 1)
}

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
		return false, fmt.Errorf("%s: %w; see dispatcher queue list", request.Queue, ErrNoQueue)
	case errors.As(err, &api) && api.ErrorCode == streamStoreFailed && strings.Contains(api.Description, "per subject"):
		return true, nil
	case errors.As(err, &api) && api.ErrorCode == streamStoreFailed:
		return false, fmt.Errorf("%w: %s; try again later, or raise the limits of stream %s", ErrFull, api.Description, Stream)
	default:
		return false, fmt.Errorf("publish run %s: %w", request.ID, err)
	}
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

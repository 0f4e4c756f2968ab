package queue

import (
	"context"
	"errors"
	"time"

	"github.com/nats-io/nats.go/jetstream"
)

// codeWriteUnderWay is what servers of a cluster answer to a compare-and-set
// while another write of the same subject is still under way
// (JSStreamWrongLastSequenceConstantErr of nats-server).
const codeWriteUnderWay = 10164

// overtaken reports whether a compare-and-set was refused because somebody else
// has written, or is just writing: what was read before counts no more.
func overtaken(err error) bool {
	var api *jetstream.APIError
	return errors.Is(err, jetstream.ErrKeyExists) ||
		errors.As(err, &api) && (api.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || api.ErrorCode == codeWriteUnderWay)
}

// letOthersWrite waits before the next try of a compare-and-set, the longer the
// more there were: the other write may be under way yet, and a server of a
// cluster reads out what it has, which may be a moment old.
func letOthersWrite(ctx context.Context, try int) {
	pause(ctx, time.Duration(try)*10*time.Millisecond)
}

package s3

import (
	"context"
	"errors"
	"io"
	"time"

	awsmiddleware "github.com/aws/aws-sdk-go-v2/aws/middleware"
	"github.com/aws/smithy-go/middleware"
)

// errHanging tells of a server that says nothing.
var errHanging = errors.New("the S3 server does not answer")

// impatient gives every try of a request so long. The library has no limit of
// its own, and a server that hangs would be waited for for good. Reading an
// object takes as long as it takes; see watched.
func impatient(patience time.Duration) func(*middleware.Stack) error {
	return func(stack *middleware.Stack) error {
		return stack.Finalize.Insert(middleware.FinalizeMiddlewareFunc("ropewalkPatience",
			func(ctx context.Context, in middleware.FinalizeInput, next middleware.FinalizeHandler) (middleware.FinalizeOutput, middleware.Metadata, error) {
				if awsmiddleware.GetOperationName(ctx) == "GetObject" {
					return next.HandleFinalize(ctx, in)
				}
				ctx, cancel := context.WithTimeoutCause(ctx, patience, errHanging)
				defer cancel()
				return next.HandleFinalize(ctx, in)
			}), "Retry", middleware.After)
	}
}

// watched is the body of an object, whose reading ends when nothing comes.
type watched struct {
	ctx      context.Context //nolint:containedctx // a reader has no other way to be interrupted
	body     io.ReadCloser
	watchdog *time.Timer
	patience time.Duration
	hangUp   context.CancelCauseFunc
}

func (w *watched) Read(into []byte) (int, error) {
	n, err := w.body.Read(into)
	if n > 0 {
		w.watchdog.Reset(w.patience)
	}
	if err != nil && !errors.Is(err, io.EOF) && errors.Is(context.Cause(w.ctx), errHanging) {
		return n, errHanging
	}
	return n, err
}

func (w *watched) Close() error {
	w.watchdog.Stop()
	defer w.hangUp(nil)
	return w.body.Close()
}

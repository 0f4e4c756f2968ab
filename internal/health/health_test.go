package health

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
)

func TestAskTellsWhatIsLacking(t *testing.T) {
	var broken atomic.Bool
	server, err := Listen("127.0.0.1:0", Checks{"nats": func() error {
		if broken.Load() {
			return errors.New("not connected")
		}
		return nil
	}}, http.NotFoundHandler())
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	if err := Ask(ctx, server.Addr()); err != nil {
		t.Error(err)
	}
	broken.Store(true)
	if err := Ask(ctx, server.Addr()); err == nil || !strings.Contains(err.Error(), "nats: not connected") {
		t.Errorf("it says %v", err)
	}
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	if err := Ask(t.Context(), server.Addr()); err == nil || !strings.Contains(err.Error(), "nothing answers") {
		t.Errorf("it says %v", err)
	}
}

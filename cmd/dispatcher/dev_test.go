package main

import (
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/rs/zerolog"
)

func TestTheServersWarningsAreShownButWhereNothingIsWrong(t *testing.T) {
	var out strings.Builder
	log := natsLog{zerolog.New(&out).Level(zerolog.WarnLevel)}
	log.Warnf("Consumer %q: %v", "c", server.ErrStoreOldUpdate)
	if out.Len() > 0 {
		t.Errorf("it says %s", out.String())
	}
	log.Warnf("Consumer %q: %v", "c", server.ErrStoreClosed)
	if !strings.Contains(out.String(), "store is closed") {
		t.Errorf("it says %q of a store that is closed", out.String())
	}
}

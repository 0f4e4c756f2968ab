package main

import (
	"strings"
	"testing"

	"github.com/ropewalk/ropewalk/internal/natstest"
)

func TestCheckSaysWhatItReached(t *testing.T) {
	conn, _ := natstest.Start(t)
	t.Setenv("ROPEWALK_NATS_URL", conn.ConnectedUrl())
	var out strings.Builder
	if err := execute(t.Context(), []string{"check"}, &out); err != nil || !strings.Contains(out.String(), "with JetStream") {
		t.Errorf("check says %q, %v", out.String(), err)
	}
	t.Setenv("ROPEWALK_NATS_URL", "nats://127.0.0.1:1")
	if err := execute(t.Context(), []string{"check"}, &out); err == nil || !strings.Contains(err.Error(), "no NATS server answers") {
		t.Errorf("check of a server that is away = %v", err)
	}
}

package client_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// TestMain runs what the examples talk to: a NATS server in this process, and a
// dispatcher whose runs are processes on this machine.
func TestMain(m *testing.M) {
	code, err := withDispatcher(m.Run)
	if code == 0 && err == nil {
		// The server's own background work outlives its shutdown for a moment.
		err = goleak.Find(goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startGoRoutine.func1"),
			goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func withDispatcher(test func() int) (code int, err error) {
	dir, err := os.MkdirTemp("", "ropewalk-client")
	if err != nil {
		return 0, fmt.Errorf("make a folder: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	url, stop, err := natstest.Serve(filepath.Join(dir, "nats"))
	if err != nil {
		return 0, err
	}
	defer stop()
	program := filepath.Join(dir, "dispatcher")
	if err := rig.Build(context.Background(), program, "github.com/ropewalk/ropewalk/cmd/dispatcher"); err != nil {
		return 0, err
	}
	dispatcher, err := rig.Serve(program, rig.Settings{
		"ROPEWALK_NATS_URL": url, "ROPEWALK_LAUNCHER": "local", "ROPEWALK_DATA_DIR": filepath.Join(dir, "data"),
		"ROPEWALK_LOG_ARCHIVE": "file://" + filepath.Join(dir, "logs"), "ROPEWALK_SHIP_AGE": "100ms",
	}, filepath.Join(dir, "dispatcher.log"))
	if err != nil {
		return 0, err
	}
	defer dispatcher.Kill()
	ctx, cancel := context.WithTimeout(context.Background(), wait.Limit)
	defer cancel()
	if err := dispatcher.Ready(ctx); err != nil {
		log, _ := os.ReadFile(dispatcher.Log)
		return 0, fmt.Errorf("%w\n%s", err, log)
	}
	if err := os.Setenv("NATS_URL", url); err != nil {
		return 0, fmt.Errorf("tell the examples where the server is: %w", err)
	}
	return test(), nil
}

package gcplog_test

import (
	"errors"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ropewalk/ropewalk/internal/archive"
	"github.com/ropewalk/ropewalk/internal/sink/gcplog"
)

func TestAProbeLeavesNothingAndSaysWhatFails(t *testing.T) {
	sink, server, _ := open(t)
	if err := sink.Probe(t.Context()); err != nil {
		t.Errorf("Probe = %v", err)
	}
	if entries := server.Entries(); len(entries) != 0 {
		t.Errorf("the probe left %v", entries)
	}
	server.Fail(func(int) error { return status.Error(codes.PermissionDenied, "no") }, nil)
	err := sink.Probe(t.Context())
	failed, ok := errors.AsType[*archive.ProbeError](err)
	if !ok || failed.Step != "write" {
		t.Fatalf("Probe = %v", err)
	}
	if gcplog.ToDo(failed.Err) == gcplog.ToDo(errors.New("the network is away")) {
		t.Error("a missing right is told like a network that is away")
	}
}

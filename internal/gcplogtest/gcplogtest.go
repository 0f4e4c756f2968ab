// Package gcplogtest is a server of Cloud Logging's protocol for tests: it keeps
// entries in memory, holds requests to the service's limits, keeps entries of the
// same time and insertId once, and fails as it is told.
package gcplogtest

import (
	"cmp"
	"context"
	"net"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"cloud.google.com/go/logging/apiv2/loggingpb"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// The service's limits.
const (
	mostRequest = 10 << 20
	mostEntry   = 256 << 10
	mostPage    = 1000
)

// Server serves until its test ends.
type Server struct {
	loggingpb.UnimplementedLoggingServiceV2Server
	url string

	mu      sync.Mutex
	entries map[string]*loggingpb.LogEntry
	writes  int
	// before may refuse a request, after may lose the answer to one that was
	// carried out, refuse may refuse an entry.
	before, after func(write int) error
	refuse        func(*loggingpb.LogEntry) error
}

// Start starts a server.
func Start(t *testing.T) *Server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{url: "http://" + listener.Addr().String(), entries: make(map[string]*loggingpb.LogEntry)}
	server := grpc.NewServer(grpc.MaxRecvMsgSize(2 * mostRequest))
	loggingpb.RegisterLoggingServiceV2Server(server, s)
	var serving sync.WaitGroup
	serving.Go(func() {
		if err := server.Serve(listener); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		server.Stop()
		serving.Wait()
	})
	return s
}

// URL is the server's address; it speaks without TLS.
func (s *Server) URL() string { return s.url }

// Fail has writes fail: before they are carried out, or after. The writes are
// numbered from 1; either function may be nil.
func (s *Server) Fail(before, after func(write int) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before, s.after, s.writes = before, after, 0
}

// Refuse has entries refused.
func (s *Server) Refuse(refuse func(*loggingpb.LogEntry) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refuse = refuse
}

// Forget removes the entries that drop says.
func (s *Server) Forget(drop func(*loggingpb.LogEntry) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for key, entry := range s.entries {
		if drop(entry) {
			delete(s.entries, key)
		}
	}
}

// Entries returns what is kept, by time and insertId.
func (s *Server) Entries() []*loggingpb.LogEntry {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all []*loggingpb.LogEntry
	for _, entry := range s.entries {
		all = append(all, entry)
	}
	slices.SortFunc(all, func(a, b *loggingpb.LogEntry) int {
		if order := a.GetTimestamp().AsTime().Compare(b.GetTimestamp().AsTime()); order != 0 {
			return order
		}
		return cmp.Compare(a.GetInsertId(), b.GetInsertId())
	})
	return all
}

// WriteLogEntries keeps entries.
func (s *Server) WriteLogEntries(_ context.Context, request *loggingpb.WriteLogEntriesRequest) (*loggingpb.WriteLogEntriesResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.writes++
	if s.before != nil {
		if err := s.before(s.writes); err != nil {
			return nil, err
		}
	}
	if size := proto.Size(request); size > mostRequest {
		return nil, status.Errorf(codes.InvalidArgument, "the request has %d bytes", size)
	}
	if request.GetDryRun() {
		return &loggingpb.WriteLogEntriesResponse{}, nil
	}
	problems := make(map[int32]*rpcstatus.Status)
	kept := make(map[string]*loggingpb.LogEntry)
	for i, entry := range request.GetEntries() {
		whole := proto.CloneOf(entry)
		complete(whole, request)
		if err := s.check(whole); err != nil {
			problems[int32(i)] = status.Convert(err).Proto()
			continue
		}
		kept[strings.Join([]string{whole.GetLogName(), whole.GetTimestamp().AsTime().Format(time.RFC3339Nano), whole.GetInsertId()}, " ")] = whole
	}
	if len(problems) > 0 && (!request.GetPartialSuccess() || len(kept) == 0) {
		return nil, status.Error(codes.InvalidArgument, "no entry could be written")
	}
	for key, entry := range kept {
		if s.entries[key] == nil {
			s.entries[key] = entry
		}
	}
	if len(problems) > 0 {
		failed, err := status.New(codes.InvalidArgument, "some entries could not be written").
			WithDetails(&loggingpb.WriteLogEntriesPartialErrors{LogEntryErrors: problems})
		if err != nil {
			return nil, err
		}
		return nil, failed.Err()
	}
	if s.after != nil {
		if err := s.after(s.writes); err != nil {
			return nil, err
		}
	}
	return &loggingpb.WriteLogEntriesResponse{}, nil
}

// complete gives an entry what its request says of all.
func complete(entry *loggingpb.LogEntry, request *loggingpb.WriteLogEntriesRequest) {
	if entry.LogName == "" {
		entry.LogName = request.GetLogName()
	}
	if entry.Resource == nil {
		entry.Resource = request.GetResource()
	}
	if entry.Labels == nil {
		entry.Labels = make(map[string]string)
	}
	for name, value := range request.GetLabels() {
		if _, set := entry.Labels[name]; !set {
			entry.Labels[name] = value
		}
	}
}

func (s *Server) check(entry *loggingpb.LogEntry) error {
	switch {
	case proto.Size(entry) > mostEntry:
		return status.Errorf(codes.InvalidArgument, "the entry has %d bytes", proto.Size(entry))
	case entry.GetTimestamp() == nil || entry.GetInsertId() == "":
		return status.Error(codes.InvalidArgument, "this server is for those who set timestamp and insertId")
	case !strings.HasPrefix(entry.GetLogName(), "projects/"), entry.GetResource().GetType() != "k8s_container":
		return status.Error(codes.InvalidArgument, "the log name or resource is wrong")
	case !utf8.ValidString(entry.GetTextPayload()):
		return status.Error(codes.InvalidArgument, "the text is not UTF-8")
	case s.refuse != nil:
		return s.refuse(entry)
	}
	return nil
}

// ListLogEntries gives entries by pages.
func (s *Server) ListLogEntries(_ context.Context, request *loggingpb.ListLogEntriesRequest) (*loggingpb.ListLogEntriesResponse, error) {
	filter, err := parseFilter(request.GetFilter())
	if err != nil {
		return nil, err
	}
	size := int(request.GetPageSize())
	if size < 1 || size > mostPage || len(request.GetResourceNames()) != 1 || request.GetOrderBy() != "timestamp asc" {
		return nil, status.Error(codes.InvalidArgument, "page size, resource names or order")
	}
	skip := 0
	if token := request.GetPageToken(); token != "" {
		if skip, err = strconv.Atoi(token); err != nil {
			return nil, status.Error(codes.InvalidArgument, "page token")
		}
	}
	answer := &loggingpb.ListLogEntriesResponse{}
	for _, entry := range s.Entries() {
		if !strings.HasPrefix(entry.GetLogName(), request.GetResourceNames()[0]+"/") || !filter.matches(entry) {
			continue
		}
		if skip--; skip >= 0 {
			continue
		}
		if len(answer.Entries) == size {
			before, _ := strconv.Atoi("0" + request.GetPageToken())
			answer.NextPageToken = strconv.Itoa(before + size)
			break
		}
		answer.Entries = append(answer.Entries, entry)
	}
	return answer, nil
}

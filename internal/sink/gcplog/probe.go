package gcplog

import (
	"context"

	"cloud.google.com/go/logging/apiv2/loggingpb"
	"google.golang.org/genproto/googleapis/api/monitoredres"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ropewalk/ropewalk/internal/archive"
)

// Probe has the service check an entry without keeping it, and reads one. Its
// error is an [*archive.ProbeError].
func (l *Logging) Probe(ctx context.Context) error {
	_, err := l.client.WriteLogEntries(ctx, &loggingpb.WriteLogEntriesRequest{
		LogName: l.name, DryRun: true, Resource: &monitoredres.MonitoredResource{Type: "global"},
		Entries: []*loggingpb.LogEntry{{Payload: &loggingpb.LogEntry_TextPayload{TextPayload: "Ropewalk was here."}}},
	})
	if err != nil {
		return &archive.ProbeError{Step: "write", Err: err}
	}
	err = l.list(ctx, nil, func(*loggingpb.LogEntry) (bool, error) { return false, nil })
	if err != nil {
		return &archive.ProbeError{Step: "read", Err: err}
	}
	return nil
}

// ToDo says what to do about an error of a probe.
func ToDo(err error) string {
	switch status.Code(err) {
	case codes.PermissionDenied:
		return "Give the service account of the logshipper roles/logging.logWriter, and whoever reads logs roles/logging.viewer; and enable the Cloud Logging API of the project."
	case codes.Unauthenticated:
		return "Give the dispatcher and the logshipper credentials: Workload Identity for their service accounts, or GOOGLE_APPLICATION_CREDENTIALS."
	case codes.NotFound, codes.InvalidArgument:
		return "Name a project that there is in ROPEWALK_LOG_ARCHIVE (gcplog://PROJECT/LOG)."
	default:
		return "Check the project in ROPEWALK_LOG_ARCHIVE, and that the network lets this machine reach Cloud Logging."
	}
}

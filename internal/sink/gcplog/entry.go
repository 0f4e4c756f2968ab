package gcplog

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"maps"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"cloud.google.com/go/logging/apiv2/loggingpb"
	ltype "google.golang.org/genproto/googleapis/logging/type"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

// The labels of entries; they are contracts.
const (
	labelRun     = "ropewalk.dev/run-id"
	labelQueue   = "ropewalk.dev/queue"
	labelAttempt = "ropewalk.dev/attempt"
	// labelSeq is the line's sequence in so many digits that text sorts as
	// numbers do.
	labelSeq = "ropewalk.dev/seq"
	// labelFlags is what is special about the line, with commas between.
	labelFlags = "ropewalk.dev/flags"
	// labelEncoding is "base64" where the text is not what was written.
	labelEncoding = "ropewalk.dev/encoding"
	// labelEdge is on the first line, and on the entry after the last one.
	labelEdge = "ropewalk.dev/edge"

	edgeFirst = "first"
	edgeEnd   = "end"
	base64ed  = "base64"
	// refused is a flag of what stands in the place of a line that the
	// service did not take.
	refused = "refused"
)

//nolint:gochecknoglobals // they never change
var flagNames = []struct {
	flag logevent.Flags
	name string
}{{logevent.Partial, "partial"}, {logevent.Unended, "unended"}, {logevent.Gap, "gap"}}

func logLabels(log logevent.Log) map[string]string {
	return map[string]string{labelRun: log.Run, labelQueue: log.Queue, labelAttempt: strconv.Itoa(log.Attempt)}
}

func seqText(seq uint64) string { return fmt.Sprintf("%012d", seq) }

// insertID begins with the sequence: entries of the same time are sorted by it.
func insertID(log logevent.Log, seq uint64) string {
	sum := sha256.Sum256([]byte(log.String()))
	return seqText(seq) + "-" + hex.EncodeToString(sum[:8])
}

func lineEntry(log logevent.Log, line *logevent.Line) *loggingpb.LogEntry {
	labels := map[string]string{labelSeq: seqText(line.Seq)}
	text := string(line.Text)
	// What a NUL becomes in Cloud Logging's views is not written anywhere.
	if !utf8.Valid(line.Text) || bytes.IndexByte(line.Text, 0) >= 0 {
		labels[labelEncoding] = base64ed
		text = base64.StdEncoding.EncodeToString(line.Text)
	}
	var flags []string
	for _, f := range flagNames {
		if line.Flags&f.flag != 0 {
			flags = append(flags, f.name)
		}
	}
	if flags != nil {
		labels[labelFlags] = strings.Join(flags, ",")
	}
	if line.Seq == 1 {
		labels[labelEdge] = edgeFirst
	}
	level := severity(line.Text)
	if line.Flags&logevent.Gap != 0 {
		level = ltype.LogSeverity_WARNING
	}
	return &loggingpb.LogEntry{
		Timestamp: timestamppb.New(line.Time), InsertId: insertID(log, line.Seq), Severity: level, Labels: labels,
		Payload: &loggingpb.LogEntry_TextPayload{TextPayload: text},
	}
}

// endEntry tells that the log has no more lines.
func endEntry(log logevent.Log, next uint64, at time.Time) *loggingpb.LogEntry {
	return &loggingpb.LogEntry{
		Timestamp: timestamppb.New(at), InsertId: insertID(log, next),
		Labels:  map[string]string{labelSeq: seqText(next), labelEdge: edgeEnd},
		Payload: &loggingpb.LogEntry_TextPayload{TextPayload: fmt.Sprintf("The log ends here, after %d lines.", next-1)},
	}
}

// refusedEntry stands in the place of an entry that was refused. Its time is now:
// the line's own may be what was wrong.
func refusedEntry(entry *loggingpb.LogEntry, reason error, now time.Time) *loggingpb.LogEntry {
	labels := maps.Clone(entry.GetLabels())
	delete(labels, labelEncoding)
	text := "Cloud Logging does not take the end of the log: " + status.Convert(reason).Message()
	if labels[labelEdge] != edgeEnd {
		labels[labelFlags] = "gap," + refused
		text = fmt.Sprintf("Cloud Logging does not take this line of %s, which has %d bytes: %s",
			entry.GetTimestamp().AsTime().Format(time.RFC3339Nano), len(entry.GetTextPayload()), status.Convert(reason).Message())
	}
	const most = 2000 // whatever it is that was quoted
	return &loggingpb.LogEntry{
		Timestamp: timestamppb.New(now), InsertId: entry.GetInsertId(), Severity: ltype.LogSeverity_WARNING, Labels: labels,
		Payload: &loggingpb.LogEntry_TextPayload{TextPayload: strings.ToValidUTF8(text[:min(len(text), most)], "")},
	}
}

// parseEntry reads an entry back; end tells that it is none of a line's.
func parseEntry(entry *loggingpb.LogEntry) (line logevent.Line, end bool, err error) {
	labels := entry.GetLabels()
	seq, err := strconv.ParseUint(labels[labelSeq], 10, 64)
	if err != nil || seq == 0 {
		return line, false, fmt.Errorf("entry %s has no sequence: %w", entry.GetInsertId(), errDamaged)
	}
	line = logevent.Line{Seq: seq, Time: entry.GetTimestamp().AsTime(), Text: []byte(entry.GetTextPayload())}
	if labels[labelEncoding] == base64ed {
		if line.Text, err = base64.StdEncoding.DecodeString(entry.GetTextPayload()); err != nil {
			return line, false, fmt.Errorf("entry %s is not base64: %w", entry.GetInsertId(), errDamaged)
		}
	}
	for name := range strings.SplitSeq(labels[labelFlags], ",") {
		for _, f := range flagNames {
			if f.name == name {
				line.Flags |= f.flag
			}
		}
	}
	return line, labels[labelEdge] == edgeEnd, nil
}

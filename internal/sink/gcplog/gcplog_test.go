package gcplog_test

import (
	"bytes"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cloud.google.com/go/logging/apiv2/loggingpb"
	"go.uber.org/goleak"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/ropewalk/ropewalk/internal/gcplogtest"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/sink/gcplog"
	"github.com/ropewalk/ropewalk/internal/sinktest"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(wait.Goroutines(m))
}

// counter counts refused lines and requests.
type counter struct {
	mu       sync.Mutex
	refused  []string
	requests int
}

func (c *counter) SinkRequest(string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests++
}

func (c *counter) SinkRefused(reason string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.refused = append(c.refused, reason)
}

var log = logevent.Log{Queue: "default", Run: "r", Attempt: 2, Pod: "run-r-2-abcde", Container: "run"}

func open(t *testing.T) (*gcplog.Logging, *gcplogtest.Server, *counter) {
	t.Helper()
	server, counts := gcplogtest.Start(t), &counter{}
	sink, err := gcplog.New(t.Context(), gcplog.Settings{
		Project: "p", Log: "team/runs", Location: "europe-west1", Cluster: "c", Namespace: "n", Endpoint: server.URL(), Counter: counts,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := sink.Close(); err != nil {
			t.Error(err)
		}
	})
	return sink, server, counts
}

// kept reads a log from the server's own entries, by the documented fields.
func kept(t *testing.T, server *gcplogtest.Server, log logevent.Log) (lines []logevent.Line) {
	t.Helper()
	for _, entry := range server.Entries() {
		labels := entry.GetLabels()
		if labels["ropewalk.dev/run-id"] != log.Run || labels["ropewalk.dev/edge"] == "end" {
			continue
		}
		seq, err := strconv.ParseUint(labels["ropewalk.dev/seq"], 10, 64)
		if err != nil {
			t.Fatal(err)
		}
		line := logevent.Line{Seq: seq, Time: entry.GetTimestamp().AsTime(), Text: []byte(entry.GetTextPayload())}
		if labels["ropewalk.dev/encoding"] == "base64" {
			if line.Text, err = base64.StdEncoding.DecodeString(entry.GetTextPayload()); err != nil {
				t.Fatal(err)
			}
		}
		for i, flag := range []string{"partial", "unended", "gap"} {
			if slices.Contains(strings.Split(labels["ropewalk.dev/flags"], ","), flag) {
				line.Flags |= 1 << i
			}
		}
		lines = append(lines, line)
	}
	return lines
}

// readBack reads a log by the sink.
func readBack(t *testing.T, sink *gcplog.Logging, log logevent.Log, from uint64) (lines []logevent.Line, ended bool) {
	t.Helper()
	_, ended, err := sink.Read(t.Context(), log, from, func(line logevent.Line) bool {
		lines = append(lines, line)
		return true
	})
	if err != nil {
		t.Fatal(err)
	}
	return lines, ended
}

func TestConformance(t *testing.T) {
	sink, server, _ := open(t)
	sinktest.Run(t, sink, false, func(t *testing.T, log logevent.Log) []logevent.Line {
		t.Helper()
		lines := kept(t, server, log)
		read, ended := readBack(t, sink, log, 1)
		if !ended {
			t.Error("what is read back does not end")
		}
		sinktest.Compare(t, read, lines)
		return lines
	})
	stored, err := sink.Logs(t.Context(), "", time.Unix(1_600_000_000, 0))
	if err != nil || len(stored) != 6 {
		t.Fatalf("%+v, %v", stored, err)
	}
	for _, s := range stored {
		if verdict, err := sink.Check(t.Context(), s); err != nil || verdict.Problem != "" || !verdict.Ended || !s.Whole {
			t.Errorf("%+v: %+v, %v", s, verdict, err)
		}
	}
}

// The same suite, while some writes find nobody, some no quota, and of some the
// answer is lost.
func TestConformanceOverFailures(t *testing.T) {
	sink, server, counts := open(t)
	server.Fail(func(write int) error {
		switch write % 13 {
		case 1:
			return status.Error(codes.Unavailable, "away")
		case 3:
			return status.Error(codes.ResourceExhausted, "quota")
		default:
			return nil
		}
	}, func(write int) error {
		if write%13 == 5 {
			return status.Error(codes.Unavailable, "the answer is lost")
		}
		return nil
	})
	sinktest.Run(t, sink, false, func(t *testing.T, log logevent.Log) []logevent.Line {
		t.Helper()
		return kept(t, server, log)
	})
	if counts.requests < 45 || counts.refused != nil {
		t.Errorf("%d requests, refused %v", counts.requests, counts.refused)
	}
}

func TestAnEntrySaysWhoseItIsAndHowSevere(t *testing.T) {
	sink, server, _ := open(t)
	at := time.Unix(1_700_000_000, 123).UTC()
	line := logevent.Line{Seq: 1, Time: at, Text: []byte("ERROR: no")}
	if err := sink.Finish(t.Context(), log, []logevent.Line{line}, 2); err != nil {
		t.Fatal(err)
	}
	entries := server.Entries()
	if len(entries) != 2 {
		t.Fatalf("%d entries", len(entries))
	}
	entry := entries[0]
	if entry.GetLogName() != "projects/p/logs/team%2Fruns" || entry.GetTextPayload() != "ERROR: no" || entry.GetSeverity().String() != "ERROR" ||
		!entry.GetTimestamp().AsTime().Equal(at) || !strings.HasPrefix(entry.GetInsertId(), "000000000001-") {
		t.Errorf("%v", entry)
	}
	for name, want := range map[string]string{
		"project_id": "p", "location": "europe-west1", "cluster_name": "c", "namespace_name": "n", "pod_name": log.Pod, "container_name": "run",
	} {
		if got := entry.GetResource().GetLabels()[name]; got != want {
			t.Errorf("the resource's %s is %q", name, got)
		}
	}
	for name, want := range map[string]string{
		"run-id": "r", "queue": "default", "attempt": "2", "seq": "000000000001", "edge": "first",
	} {
		if got := entry.GetLabels()["ropewalk.dev/"+name]; got != want {
			t.Errorf("the label %s is %q", name, got)
		}
	}
	if end := entries[1].GetLabels(); end["ropewalk.dev/edge"] != "end" || end["ropewalk.dev/seq"] != "000000000002" {
		t.Errorf("the end is %v", entries[1])
	}
}

// The longest lines there are, of bytes that take the most room.
func TestTheLongestLinesFit(t *testing.T) {
	sink, server, counts := open(t)
	var lines []logevent.Line
	for seq := range uint64(200) {
		lines = append(lines, logevent.Line{Seq: seq + 1, Time: time.Unix(int64(seq), 0), Text: bytes.Repeat([]byte{0xff}, logevent.MaxText)})
	}
	if err := sink.Put(t.Context(), log, lines); err != nil {
		t.Fatal(err)
	}
	sinktest.Compare(t, kept(t, server, log), lines)
	if counts.refused != nil || counts.requests < 4 {
		t.Errorf("%d requests, refused %v", counts.requests, counts.refused)
	}
}

func TestALineThatIsRefusedForGoodBecomesAMarkedOne(t *testing.T) {
	for name, one := range map[string]bool{"among others": false, "alone": true} {
		t.Run(name, func(t *testing.T) {
			sink, server, counts := open(t)
			server.Refuse(func(entry *loggingpb.LogEntry) error {
				if strings.Contains(entry.GetTextPayload(), "poison") {
					return status.Error(codes.InvalidArgument, "not this")
				}
				return nil
			})
			lines := sinktest.Lines(1, 10)
			lines[4].Text = []byte("poison")
			if one {
				lines = lines[4:5]
				lines[0].Seq = 1
			}
			last := lines[len(lines)-1].Seq
			if err := sink.Finish(t.Context(), log, lines, last+1); err != nil {
				t.Fatal(err)
			}
			read, ended := readBack(t, sink, log, 1)
			if !ended || len(read) != len(lines) || !slices.Equal(counts.refused, []string{"InvalidArgument"}) {
				t.Fatalf("%d lines, ended %v, refused %v", len(read), ended, counts.refused)
			}
			marked := read[len(read)/2-len(read)/10]
			if marked.Flags != logevent.Gap || !strings.Contains(string(marked.Text), "does not take this line") {
				t.Errorf("the line is %+v %s", marked, marked.Text)
			}
		})
	}
}

func TestNothingIsGivenUpForWhatIsNoFaultOfALine(t *testing.T) {
	sink, server, counts := open(t)
	for _, code := range []codes.Code{codes.PermissionDenied, codes.NotFound, codes.InvalidArgument} {
		server.Fail(func(int) error { return status.Error(code, "set up otherwise") }, nil)
		if err := sink.Put(t.Context(), log, sinktest.Lines(1, 4)); status.Code(err) != code {
			t.Errorf("%s: %v", code, err)
		}
	}
	server.Fail(nil, nil)
	server.Refuse(func(entry *loggingpb.LogEntry) error {
		if strings.HasSuffix(entry.GetLabels()["ropewalk.dev/seq"], "2") {
			return status.Error(codes.PermissionDenied, "not yet")
		}
		return nil
	})
	if err := sink.Put(t.Context(), log, sinktest.Lines(1, 4)); status.Code(err) != codes.PermissionDenied {
		t.Errorf("%v", err)
	}
	if counts.refused != nil || len(server.Entries()) != 3 {
		t.Errorf("refused %v, %d entries", counts.refused, len(server.Entries()))
	}
}

// Times that do not rise, as of two streams of one container or after a clock
// was set, are read by sequence.
func TestLinesAreReadBySequence(t *testing.T) {
	sink, _, _ := open(t)
	lines := sinktest.Lines(1, 3000)
	for i := range lines {
		lines[i].Time = lines[i].Time.Add(time.Duration(i*7919%5000) * time.Millisecond)
	}
	if err := sink.Finish(t.Context(), log, lines, 3001); err != nil {
		t.Fatal(err)
	}
	read, ended := readBack(t, sink, log, 1)
	sinktest.Compare(t, read, lines)
	if read, _ := readBack(t, sink, log, 2990); !ended || len(read) != 11 {
		t.Errorf("ended %v; from line 2990 on there are %d lines", ended, len(read))
	}
	n := 0
	next, ended, err := sink.Read(t.Context(), log, 1, func(logevent.Line) bool { n++; return n < 10 })
	if n != 10 || next != 11 || ended || err != nil {
		t.Errorf("stopped after %d lines: %d, ended %v, %v", n, next, ended, err)
	}
}

func TestACheckSaysWhatIsMissing(t *testing.T) {
	for name, test := range map[string]struct {
		forget func(seq, edge string) bool
		want   string
	}{
		"a line":        {func(seq, _ string) bool { return seq == "000000000011" }, "line 11 is missing, and there are later ones up to 30"},
		"the last line": {func(seq, _ string) bool { return seq == "000000000030" }, "its end tells of lines up to 30, and it goes to line 29"},
		"the end":       {func(_, edge string) bool { return edge == "end" }, "its end is not there; it goes to line 30"},
		"nothing":       {func(string, string) bool { return false }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			sink, server, _ := open(t)
			if err := sink.Finish(t.Context(), log, sinktest.Lines(1, 30), 31); err != nil {
				t.Fatal(err)
			}
			server.Forget(func(entry *loggingpb.LogEntry) bool {
				return test.forget(entry.GetLabels()["ropewalk.dev/seq"], entry.GetLabels()["ropewalk.dev/edge"])
			})
			stored, err := sink.Logs(t.Context(), "r", time.Time{})
			if err != nil || len(stored) != 1 {
				t.Fatalf("%+v, %v", stored, err)
			}
			if verdict, err := sink.Check(t.Context(), stored[0]); err != nil || verdict.Problem != test.want || verdict.Ended != (test.want == "") {
				t.Errorf("%+v, %v", verdict, err)
			}
		})
	}
}

func TestSeverity(t *testing.T) {
	sink, server, _ := open(t)
	var lines []logevent.Line
	want := []string{}
	for text, level := range map[string]string{
		"":                              "DEFAULT",
		"hello":                         "DEFAULT",
		"no error here":                 "DEFAULT",
		`{"level":"warn","msg":"x"}`:    "WARNING",
		`{"severity":"NOTICE"}`:         "NOTICE",
		`{"levelname":"CRITICAL"}`:      "CRITICAL",
		`{"level":50,"msg":"x"}`:        "CRITICAL",
		`{"level":20}`:                  "INFO",
		`{"no":"level"}`:                "DEFAULT",
		`{not JSON ERROR}`:              "DEFAULT",
		"I0102 15:04:05.000000 1 a.go]": "INFO",
		"E0102 15:04:05.000000 1 a.go]": "ERROR",
		"Exxx2 15:04:05":                "DEFAULT",
		"WARNING: old":                  "WARNING",
		"ERROR:root:x":                  "ERROR",
		"[ERROR] no":                    "ERROR",
		"2026-01-02 15:04:05,678 - my.module - DEBUG - x":       "DEBUG",
		"2026-01-02T15:04:05Z INFO x":                           "INFO",
		`time="2026-01-02T15:04:05Z" level=error msg="x"`:       "ERROR",
		"one two three four five six seven ERROR is just prose": "DEFAULT",
	} {
		seq := uint64(len(lines) + 1)
		lines = append(lines, logevent.Line{Seq: seq, Time: time.Unix(int64(seq), 0), Text: []byte(text)})
		want = append(want, level)
	}
	if err := sink.Put(t.Context(), log, lines); err != nil {
		t.Fatal(err)
	}
	for i, entry := range server.Entries() {
		if got := entry.GetSeverity().String(); got != want[i] {
			t.Errorf("%q is %s; want %s", lines[i].Text, got, want[i])
		}
	}
}

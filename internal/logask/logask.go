// Package logask is how the logs of a run are had over NATS, by whoever has
// neither access to the archive nor a reader of its layout: a publisher in
// another language, or the client package. Those who ship logs answer.
//
// A request goes to [Subjects]<run id>, with a [Request] as JSON, or nothing,
// and a reply subject. The answer is any number of messages with lines, each a
// JSON object ([Line]) with a newline, and one last message with the header
// [EndHeader], whose body is a [Summary].
package logask

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

const (
	// Subjects precedes the run id. It is not below the subjects of the
	// stream of logs, which would keep the requests.
	Subjects = "ropewalk.ask.logs."
	// Group is the queue group of those who answer: one of them does.
	Group = "ropewalk-logs"
	// EndHeader marks the last message of an answer.
	EndHeader = "Ropewalk-End"
	// DefaultBytes is about how large an answer is at most: what is on its way
	// is held in memory by the server and by who asks.
	DefaultBytes = 4 << 20
	// MostBytes is how much may be asked for.
	MostBytes = 16 << 20
	// messageBytes is about how large a message with lines becomes. The
	// longest line fits beside that into the servers' default limit of 1 MB,
	// however much of it has to be escaped.
	messageBytes = 128 << 10
)

// Request says what is wanted; empty fields are everything.
type Request struct {
	Attempt   int    `json:"attempt,omitempty"`
	Pod       string `json:"pod,omitempty"`
	Container string `json:"container,omitempty"`
	// From is the sequence of the first line that is wanted of each log.
	From uint64 `json:"from,omitempty"`
	// Bytes is about how large the answer may be, as it is sent; 0 is
	// [DefaultBytes].
	Bytes int `json:"bytes,omitempty"`
	// List wants no lines, only which logs the archive has.
	List bool `json:"list,omitempty"`
	// Last wants to know of each log that is there to its end how long it is.
	Last bool `json:"last,omitempty"`
}

func (r Request) wants(log logevent.Log) bool {
	return (r.Attempt == 0 || r.Attempt == log.Attempt) && (r.Pod == "" || r.Pod == log.Pod) && (r.Container == "" || r.Container == log.Container)
}

// Line is one line of a log on the wire.
type Line struct {
	Attempt   int       `json:"attempt"`
	Pod       string    `json:"pod"`
	Container string    `json:"container"`
	Seq       uint64    `json:"seq"`
	Time      time.Time `json:"time"`
	// Text is the line, unless it is no UTF-8: then Base64 has its bytes.
	Text    string `json:"text"`
	Base64  []byte `json:"base64,omitempty"`
	Partial bool   `json:"partial,omitempty"`
	Unended bool   `json:"unended,omitempty"`
	Gap     bool   `json:"gap,omitempty"`
}

func lineOf(log logevent.Log, line logevent.Line) Line {
	l := Line{
		Attempt: log.Attempt, Pod: log.Pod, Container: log.Container, Seq: line.Seq, Time: line.Time,
		Partial: line.Flags&logevent.Partial != 0, Unended: line.Flags&logevent.Unended != 0, Gap: line.Flags&logevent.Gap != 0,
	}
	if utf8.Valid(line.Text) {
		l.Text = string(line.Text)
	} else {
		l.Base64 = line.Text
	}
	return l
}

// log is the inverse of lineOf.
func (l Line) log() (line logevent.Line) {
	line = logevent.Line{Seq: l.Seq, Time: l.Time, Text: []byte(l.Text)}
	if l.Base64 != nil {
		line.Text = l.Base64
	}
	for flag, set := range map[logevent.Flags]bool{logevent.Partial: l.Partial, logevent.Unended: l.Unended, logevent.Gap: l.Gap} {
		if set {
			line.Flags |= flag
		}
	}
	return line
}

// Summary ends an answer.
type Summary struct {
	// Logs are those that the archive has, in part or as a whole.
	Logs []Stored `json:"logs"`
	// More: the answer stops at its limit of bytes; there are more lines.
	More bool `json:"more,omitempty"`
	// Error says why the answer is not complete.
	Error string `json:"error,omitempty"`
}

// Stored is a log that the archive has.
type Stored struct {
	Attempt   int    `json:"attempt"`
	Pod       string `json:"pod"`
	Container string `json:"container"`
	// Whole: it is there to its end.
	Whole bool `json:"whole"`
	// Last is the sequence of the last line, where that was asked for and the
	// archive can tell; else 0.
	Last uint64 `json:"last,omitempty"`
}

// ErrNobody: no shipper of logs is there to answer.
var ErrNobody = errors.New("nobody answers for the archive of logs; start a logshipper, and have ROPEWALK_LOG_ARCHIVE say where logs are kept")

func decodeRequest(data []byte) (Request, error) {
	var request Request
	if len(data) > 0 {
		if err := json.Unmarshal(data, &request); err != nil {
			return Request{}, fmt.Errorf("the request is not JSON as it should be: %w", err)
		}
	}
	if request.Bytes <= 0 {
		request.Bytes = DefaultBytes
	}
	request.Bytes = min(request.Bytes, MostBytes)
	return request, nil
}

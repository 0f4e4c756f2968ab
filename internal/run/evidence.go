package run

import (
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// The bounds of evidence. A record is read whole by everybody who lists runs,
// and thousands may fail together.
const (
	// EvidenceLines is how many lines of a log are kept.
	EvidenceLines = 20
	// evidenceLine bounds one of them, in bytes, and evidenceText all of them.
	evidenceLine = 500
	evidenceText = 4096
	// EvidenceEvents is how many events are kept, and evidenceWords bounds the
	// message of one, in bytes.
	EvidenceEvents = 5
	evidenceWords  = 300
)

// Evidence is what was to be seen at the end of an attempt that did not
// succeed. It comes from the cluster and from the program, so that it may hold
// anything, control characters too.
type Evidence struct {
	// Attempt is the one that it tells of.
	Attempt int `json:"attempt"`
	// Events are the newest warnings about the attempt's pod, oldest first.
	Events []Event `json:"events,omitempty"`
	// LastLines are the last lines of the program's log, long ones cut.
	LastLines []string `json:"lastLines,omitempty"`
	// Missing says why there is less than there could be.
	Missing string `json:"missing,omitempty"`
}

// Event is a warning of the cluster.
type Event struct {
	// At is when it was last given, Count how often.
	At      time.Time `json:"at"`
	Count   int       `json:"count"`
	Reason  string    `json:"reason"`
	Message string    `json:"message"`
}

// NewEvent returns an event within the bounds.
func NewEvent(at time.Time, count int, reason, message string) Event {
	return Event{At: at, Count: max(count, 1), Reason: shortened(reason, evidenceWords), Message: shortened(strings.Join(strings.Fields(message), " "), evidenceWords)}
}

// LastLines returns the last lines of a log within the bounds: the newest where
// not all have room.
func LastLines(log string) []string {
	log = strings.TrimRight(log, "\r\n")
	var lines []string // newest first
	for room := evidenceText; log != "" && len(lines) < EvidenceLines; {
		var line string
		if cut := strings.LastIndexByte(log, '\n'); cut >= 0 {
			log, line = log[:cut], log[cut+1:]
		} else {
			log, line = "", log
		}
		line = strings.TrimSuffix(line, "\r")
		// What a progress bar has overwritten is not what was seen last.
		line = shortened(line[strings.LastIndexByte(line, '\r')+1:], evidenceLine)
		if room -= len(line) + 1; room < 0 {
			break
		}
		lines = append(lines, line)
	}
	slices.Reverse(lines)
	return lines
}

// shortened makes valid UTF-8 of a text, of at most so many bytes.
func shortened(text string, most int) string {
	const mark = "…"
	text = strings.ToValidUTF8(text, "\uFFFD")
	if len(text) <= most {
		return text
	}
	end := most - len(mark)
	for end > 0 && !utf8.RuneStart(text[end]) {
		end--
	}
	return text[:end] + mark
}

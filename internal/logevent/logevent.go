// Package logevent has the words that all parts of the log pipeline share: a
// log, its lines, the place that a follower has reached in it, and the batch in
// which lines travel. It knows neither where lines come from nor where they go.
package logevent

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"
)

// Log names one log: what one container of one pod of one attempt of a run has
// written. For a process on this machine, the pod is the Job's name.
type Log struct {
	Queue     string `json:"queue"`
	Run       string `json:"run"`
	Attempt   int    `json:"attempt"`
	Pod       string `json:"pod"`
	Container string `json:"container"`
}

// String is the log's path: run/attempt/pod/container. Runs have one queue
// only, so that it is not part of it.
func (l Log) String() string {
	return l.Run + "/" + strconv.Itoa(l.Attempt) + "/" + l.Pod + "/" + l.Container
}

// ParsePath is the inverse of [Log.String].
func ParsePath(path string) (Log, error) {
	parts := strings.Split(path, "/")
	if len(parts) != 4 {
		return Log{}, fmt.Errorf("%q is not run/attempt/pod/container", path)
	}
	attempt, err := strconv.Atoi(parts[1])
	if err != nil || attempt < 1 {
		return Log{}, fmt.Errorf("%q has no attempt", path)
	}
	return Log{Run: parts[0], Attempt: attempt, Pod: parts[2], Container: parts[3]}, nil
}

// mostBuild is how much of a build's content hash its log is named by: a label
// of a pod has room for more.
const mostBuild = 40

// BuildID stands in the place of a run's id in the logs of a build, which is
// no run's own; its attempt is 1. It is made of the hexadecimal content hash.
// No run's id begins like it.
func BuildID(hash string) string { return buildPrefix + hash[:min(len(hash), mostBuild)] }

const buildPrefix = "_build-"

// IsBuildID tells whether an id is one of [BuildID].
func IsBuildID(id string) bool {
	hash, ok := strings.CutPrefix(id, buildPrefix)
	return ok && len(hash) == mostBuild && strings.Trim(hash, "0123456789abcdef") == ""
}

// BuildQueue stands in the queue's place.
const BuildQueue = "builds"

// Flags tell what is special about a line.
type Flags uint8

const (
	// Partial: the line goes on in the next one; together they are one line
	// of the container's, which was longer than [MaxText].
	Partial Flags = 1 << iota
	// Unended: the container ended without a newline after this text.
	Unended
	// Gap: the container did not write this. Lines of the container's are
	// missing here, and the text says why.
	Gap
	knownFlags = Partial | Unended | Gap
)

// MaxText is the longest text of one line in bytes. It bounds what a reader has
// to hold, and lets a line into a NATS message of any common size limit.
const MaxText = 128 << 10

// Line is one line of a log, without its newline.
type Line struct {
	// Seq numbers the lines of a log from 1, without gaps.
	Seq   uint64
	Time  time.Time
	Flags Flags
	Text  []byte
}

// Position is how far a follower has read. Many lines may share a timestamp,
// and the log API resumes by time only.
type Position struct {
	// Time is that of the last line that was taken, and Ordinal its place
	// among neighbours with the same time, from 1. The zero position is the
	// beginning of the log.
	Time    time.Time
	Ordinal uint64
	// Offset, if it is not 0, is how many bytes of that line were taken,
	// which goes on.
	Offset uint64
}

// Batch is some lines that follow one another.
type Batch struct {
	// First is the sequence of the first line; of a batch without lines, the
	// one that the next line would have.
	First uint64
	Lines []Line
	// Reached is where the follower stands after the batch.
	Reached Position
	// End: the log ends with this batch. There will be no other.
	End bool
}

// Next is the sequence that follows the batch.
func (b Batch) Next() uint64 { return b.First + uint64(len(b.Lines)) }

// ErrDamaged tells of bytes that are no batch.
var ErrDamaged = errors.New("not a batch of log lines")

// Place is where a log's follower has to go on: what the last batch on the
// stream says.
type Place struct {
	// Version is the place of that batch in the stream, 0 when there is none.
	// The next batch is accepted only if it still is the last.
	Version uint64
	// Next is the sequence of the next line.
	Next    uint64
	Reached Position
	// Ended: the log has its last batch.
	Ended bool
	// At is when that batch came, by the stream's clock.
	At time.Time
}

// What the stream of logs answers to a follower.
var (
	// ErrOvertaken: another follower has published meanwhile.
	ErrOvertaken = errors.New("another follower writes this log")
	// ErrFull: the stream is full. The batch is taken once the shipper has
	// made room.
	ErrFull = errors.New("the stream of logs is full")
)

// What a source of lines answers to a follower.
var (
	// ErrGone: the log was removed.
	ErrGone = errors.New("the log is gone")
	// ErrNotYet: the container has not started.
	ErrNotYet = errors.New("the container has not started")
)

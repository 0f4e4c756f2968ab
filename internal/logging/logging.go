// Package logging makes the one logger of a process, and holds the names of
// the fields that all messages share, so that a search for a run's id finds
// everything said about it.
//
// It is about what the programs say of themselves. The logs of runs are
// another matter and go another way. The cmd packages call it once; everything
// else is handed a zerolog.Logger.
package logging

import (
	"io"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
)

// The names of fields.
const (
	Component = "component" // the part that speaks: queue, dispatch, k8sjobs, …
	Err       = "err"       // what zerolog's Err method writes
	RunID     = "run_id"
	Queue     = "queue"
	Attempt   = "attempt"
	Job       = "job"
	Namespace = "namespace"
	Image     = "image"
	State     = "state"
	Reason    = "reason"
	Duration  = "duration"
	Address   = "address"
	Server    = "server"
)

// The formats.
const (
	FormatAuto    = "auto" // console on a terminal, JSON elsewhere
	FormatJSON    = "json"
	FormatConsole = "console"
)

// timeFormat has milliseconds: seconds do not tell the order of what happens.
const timeFormat = "2006-01-02T15:04:05.000Z07:00"

// zerolog takes these from package variables only. They are set before
// anything runs and never again.
func init() { //nolint:gochecknoinits // see above
	zerolog.ErrorFieldName = Err //nolint:reassign // the name that all our messages use
	zerolog.TimeFieldFormat = timeFormat
	zerolog.TimestampFunc = func() time.Time { return time.Now().UTC() }
}

// New returns a logger that writes to w, one message at a time, whoever calls.
// An unknown level is info and an unknown format is auto: the settings have
// been checked by then, and a logger is needed even to say that they are wrong.
func New(w io.Writer, level, format string) zerolog.Logger {
	if format == FormatConsole || format != FormatJSON && terminal(w) {
		w = zerolog.ConsoleWriter{Out: w, TimeFormat: "15:04:05.000", NoColor: !terminal(w)}
	}
	least, err := zerolog.ParseLevel(level)
	if err != nil || level == "" {
		least = zerolog.InfoLevel
	}
	return zerolog.New(zerolog.SyncWriter(w)).Level(least).With().Timestamp().Logger()
}

// terminal reports whether people read w as it is written. A terminal that is
// told NO_COLOR gets plain text from zerolog itself.
func terminal(w io.Writer) bool {
	file, ok := w.(interface{ Fd() uintptr })
	return ok && isatty.IsTerminal(file.Fd())
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/run"
)

// The codes that the process ends with.
const (
	exitOK      = 0
	exitFailure = 1
	exitUsage   = 2
)

// usageError tells of a command that was called in a way that cannot work:
// calling it again in the same way is of no use.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// errTold ends a command without success when all that there is to say has
// been said.
var errTold = errors.New("told already")

// report writes what went wrong, if anything did, for the person who called
// the command, and returns the code to end with.
func report(stderr io.Writer, err error) (code int) {
	var (
		usage    *usageError
		settings *config.Error
		invalid  *run.InvalidError
	)
	switch {
	case err == nil:
		return exitOK
	case errors.Is(err, errTold):
		return exitFailure
	case errors.As(err, &settings):
		_, _ = fmt.Fprintf(stderr, "dispatcher: %s in the environment:\n", plural(len(settings.Problems), "mistake"))
		for _, problem := range settings.Problems {
			_, _ = fmt.Fprintf(stderr, "  %s\n", printable(problem.String()))
		}
		return exitFailure
	case errors.Is(err, context.Canceled):
		_, _ = fmt.Fprintln(stderr, "dispatcher: interrupted")
		return exitFailure
	}
	_, _ = fmt.Fprintf(stderr, "dispatcher: %s\n", strings.TrimSpace(printable(err.Error())))
	if errors.As(err, &usage) || errors.As(err, &invalid) {
		return exitUsage
	}
	return exitFailure
}

// plural writes a number of things.
func plural(n int, thing string) string {
	if n == 1 {
		return "1 " + thing
	}
	return fmt.Sprintf("%d %ss", n, thing)
}

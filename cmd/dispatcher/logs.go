package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/spf13/cobra"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/archive"
	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/images"
	"github.com/ropewalk/ropewalk/internal/logask"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logread"
	"github.com/ropewalk/ropewalk/internal/logship"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/natsconn"
	"github.com/ropewalk/ropewalk/internal/run"
)

// logsOptions are what the flags of logs say.
type logsOptions struct {
	follow, timestamps, build bool
	attempt, tail             int
	container                 string
	since                     time.Duration
	output                    format
}

func newLogsCommand(a *app) *cobra.Command {
	var options logsOptions
	cmd := &cobra.Command{
		Use:   "logs ID",
		Short: "Show what a run has written, or follow it",
		Long: `Show what a run has written: what is archived, and what is not yet. With -f, go
on with what comes, until the run is over and all of its lines were shown.

The archive is where ROPEWALK_LOG_ARCHIVE says, and beside "dispatcher dev" the
folder logs under ROPEWALK_DATA_DIR. A run that is over is read from there
without NATS or a cluster. Where neither is known, those who ship logs are asked
over NATS. Where a run has several containers or attempts, each line begins with
whose it is.

A build belongs to an image and not to a run: --build shows what the builders of
the run's image have written, also where another run had it built.`,
		Args: arguments("ID"),
	}
	flags := cmd.Flags()
	flags.BoolVarP(&options.follow, "follow", "f", false, "go on with what comes, to the end of the run")
	flags.IntVar(&options.attempt, "attempt", 0, "show the attempt `N` only (default: all)")
	flags.StringVarP(&options.container, "container", "c", "", "show the container `NAME` only (default: all)")
	flags.BoolVar(&options.build, "build", false, "show how the run's image was built, for it or for another run")
	flags.IntVar(&options.tail, "tail", -1, "of what is there, show the last `N` lines only")
	flags.DurationVar(&options.since, "since", 0, "show lines that are not older than this `TIME`, such as 10m")
	flags.BoolVar(&options.timestamps, "timestamps", false, "begin each line with its time")
	output := outputFlag(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		options.output = *output
		if options.tail >= 0 && options.follow {
			return misused(cmd, "--tail and -f do not go together")
		}
		if options.build && (options.attempt > 0 || options.container != "") {
			return misused(cmd, "--build goes with neither --attempt nor --container")
		}
		return a.logs(cmd.Context(), args[0], options)
	}
	return cmd
}

// logs finds the sources and writes what they have.
func (a *app) logs(ctx context.Context, id string, options logsOptions) error {
	settings, err := config.LoadLogs()
	if err != nil {
		return err
	}
	kept, err := openArchive(ctx, settings)
	if err != nil {
		return err
	}
	wanted := client.LogOptions{Follow: options.follow, Attempt: options.attempt, Container: options.container, Tail: options.tail}
	if options.since > 0 {
		wanted.Since = time.Now().Add(-options.since)
	}
	if kept != nil {
		defer func() { _ = kept.Close() }() // it was only read
		wanted.Archive = logship.Archived{Kept: kept}
	}
	limited, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, js, err := natsconn.Dial(limited, natsOptions(settings, "ropewalk-command"), a.troubleLog())
	if err != nil {
		if kept == nil || options.follow || options.build { // whose build it is, the run's record says
			return err
		}
		_, _ = fmt.Fprintf(a.stderr, "dispatcher: %s; showing what is archived\n", printable(err.Error()))
		query := logread.Query{Run: id, Wanted: options.wants, Since: wanted.Since, Tail: options.tail}
		return a.writeLogs(options, func(take func(logread.Line) error) error {
			return logread.New(wanted.Archive, nil).Read(ctx, query, take)
		})
	}
	defer conn.Close()
	c := client.New(js)
	if options.build {
		return explainMissing(a.buildLogs(ctx, c, id, js, wanted, options), id)
	}
	return explainMissing(a.writeLogs(options, func(take func(logread.Line) error) error {
		return c.Logs(ctx, id, wanted, take)
	}), id)
}

// buildLogs writes what the builders of a run's image have written.
func (a *app) buildLogs(ctx context.Context, c *client.Client, id string, js jetstream.JetStream, wanted client.LogOptions, options logsOptions) error {
	record, err := c.Get(ctx, id)
	if err != nil {
		return err
	}
	if record.Request == nil || record.Request.Image.Build == nil {
		return fmt.Errorf("run %s has no image of its own to be built, or its request is forgotten", id)
	}
	stream, err := logstream.Open(ctx, js)
	if errors.Is(err, logstream.ErrNotSetUp) {
		return client.ErrNoLogs
	}
	if err != nil {
		return err
	}
	if wanted.Archive == nil {
		wanted.Archive = logask.New(js.Conn())
	}
	query := logread.Query{
		Run: logevent.BuildID(images.ContentHash(*record.Request.Image.Build)), Follow: wanted.Follow, Since: wanted.Since, Tail: wanted.Tail,
		Over: func(ctx context.Context, known []logevent.Log) (bool, error) { return buildOver(ctx, c, id, known) },
	}
	return a.writeLogs(options, func(take func(logread.Line) error) error {
		return logread.New(wanted.Archive, logship.Streamed{Stream: stream}).Read(ctx, query, take)
	})
}

// lateLogs is how long after a build's end its followers may take to find what
// it has written.
const lateLogs = 5 * time.Second

// buildOver tells whether a run waits for no build any more.
func buildOver(ctx context.Context, c *client.Client, id string, known []logevent.Log) (bool, error) {
	record, err := c.Get(ctx, id)
	if err != nil || record.State == run.Queued || record.State == run.Preparing {
		return false, err
	}
	return len(known) > 0 || record.FinishedAt == nil || time.Since(*record.FinishedAt) > lateLogs, nil
}

// openArchive opens the archive of the settings, or that of a dispatcher dev
// that keeps its state here; nil if there is neither.
func openArchive(ctx context.Context, settings *config.Config) (logship.Archive, error) {
	if settings.Archive() == (config.Archive{}) {
		where, err := devArchive(settings.Launch.DataDir)
		if err != nil {
			return nil, err
		}
		settings.Logs.Archive = where
		if _, err := os.Stat(settings.Archive().Folder); err != nil {
			settings.Logs.Archive = ""
			return nil, nil //nolint:nilerr // there is none
		}
	}
	return logship.Open(ctx, settings, nil)
}

func (o logsOptions) wants(log logevent.Log) bool {
	return (o.attempt == 0 || log.Attempt == o.attempt) && (o.container == "" || log.Container == o.container)
}

// writeLogs writes lines as they are read, or the last of them.
func (a *app) writeLogs(options logsOptions, read func(take func(logread.Line) error) error) error {
	writer := &logWriter{out: newScreen(a.stdout), options: options}
	take := writer.write
	var last []logread.Line
	if options.tail >= 0 {
		take = func(line logread.Line) error {
			if line.Text = slices.Clone(line.Text); options.tail > 0 {
				last = append(last, line)
			}
			if len(last) > 2*options.tail {
				last = slices.Clone(last[len(last)-options.tail:])
			}
			return nil
		}
	}
	err := read(take)
	if len(last) > options.tail {
		last = last[len(last)-max(options.tail, 0):]
	}
	for _, line := range last {
		if err := writer.write(line); err != nil {
			return err
		}
	}
	return err
}

// logWriter writes lines as the flags say.
type logWriter struct {
	out     screen
	options logsOptions
	first   logevent.Log
	several bool
	within  bool // a line goes on
}

func (w *logWriter) write(line logread.Line) error {
	if w.options.output == formatJSON {
		return w.writeJSON(line)
	}
	if w.first == (logevent.Log{}) {
		w.first = line.Log
	}
	w.several = w.several || line.Log != w.first
	var text strings.Builder
	if !w.within {
		if w.several {
			fmt.Fprintf(&text, "[%d %s] ", line.Log.Attempt, printable(line.Log.Container))
		}
		if w.options.timestamps {
			text.WriteString(line.Time.Format(time.RFC3339Nano) + " ")
		}
	}
	if line.Flags&logevent.Gap != 0 {
		text.WriteString("ropewalk: ")
	}
	if w.out.terminal {
		writeHarmless(&text, line.Text)
	} else {
		text.Write(line.Text)
	}
	w.within = line.Flags&logevent.Partial != 0
	if line.Flags&(logevent.Partial|logevent.Unended) == 0 || line.Flags&logevent.Unended != 0 && w.out.terminal {
		text.WriteByte('\n')
	}
	if _, err := w.out.Write([]byte(text.String())); err != nil {
		return fmt.Errorf("write the logs: %w", err)
	}
	return nil
}

func (w *logWriter) writeJSON(line logread.Line) error {
	entry := archive.AppendJSON(nil, &line.Line)
	whose, err := json.Marshal(struct {
		Run       string `json:"run"`
		Attempt   int    `json:"attempt"`
		Pod       string `json:"pod"`
		Container string `json:"container"`
	}{line.Log.Run, line.Log.Attempt, line.Log.Pod, line.Log.Container})
	if err != nil {
		return fmt.Errorf("write the logs: %w", err)
	}
	whose[len(whose)-1] = ','
	if _, err := w.out.Write(append(whose, entry[1:]...)); err != nil {
		return fmt.Errorf("write the logs: %w", err)
	}
	return nil
}

// writeHarmless writes text for a terminal: what it could obey, but for colours
// and tabs, is shown instead. A carriage return at the end of a line stays away.
func writeHarmless(to *strings.Builder, text []byte) {
	text = []byte(strings.TrimSuffix(string(text), "\r"))
	for len(text) > 0 {
		if size := colour(text); size > 0 {
			to.Write(text[:size])
			text = text[size:]
			continue
		}
		r, size := utf8.DecodeRune(text)
		switch {
		case r == utf8.RuneError && size == 1:
			fmt.Fprintf(to, `\x%02x`, text[0])
		case r == '\t' || unicode.IsPrint(r):
			to.WriteRune(r)
		default:
			to.WriteString(strings.Trim(fmt.Sprintf("%+q", r), "'"))
		}
		text = text[size:]
	}
}

// colour is the length of the sequence at the beginning of a text that sets
// colours and nothing else (ESC [ digits and semicolons m), or 0.
func colour(text []byte) int {
	if len(text) < 3 || text[0] != 0x1b || text[1] != '[' {
		return 0
	}
	for i := 2; i < min(len(text), 24); i++ {
		switch b := text[i]; {
		case b == 'm':
			return i + 1
		case b != ';' && (b < '0' || b > '9'):
			return 0
		}
	}
	return 0
}

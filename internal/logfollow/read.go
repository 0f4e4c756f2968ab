package logfollow

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"time"
	"unicode/utf8"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

const (
	// slack is how much older than the line before it a line may be: two
	// threads of the container runtime write into one file, each its own
	// times.
	slack = 2 * time.Second
	// bufferBytes is the buffer of a connection. There may be thousands.
	bufferBytes = 8 << 10
	// pause is the least time between two tries to open a log.
	pause = 200 * time.Millisecond
	// mostPause is the most.
	mostPause = 5 * time.Second
	// settle is how long after a container's end its last output may take to
	// be in the log: the container runtime may tell of the end first.
	settle = 500 * time.Millisecond
	// mostUnread is how often, with these pauses, an ended log may be
	// something else before it is given up: half a minute.
	mostUnread = 10
)

// read reads the log to its end. It opens it as often as it takes; the end is
// believed only when the container has ended and two readings in a row have come to
// it, of which the second brought nothing more and was begun some time after the
// container's end: a broken connection can look like an end.
func (f *following) read(ctx context.Context) error {
	wait, silence, warned, clean := pause, f.config.Silence, false, false
	var settled time.Time // when a reading must have begun to be the last one
	for {
		ended, changed := f.source.Ended(), f.source.Changed()
		began := time.Now()
		if ended && settled.IsZero() {
			settled = began.Add(settle)
		}
		before := clean
		lines, err := f.once(ctx, !ended, silence)
		clean = ended && err == nil // it came to an end, if there was no more to come
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.Is(err, logevent.ErrGone):
			// Even if a reading has just come to its end: a node that removes
			// a container ends the readings of its log where they are.
			return f.gone(ctx)
		case ended && errors.Is(err, errNoLog):
			// A node says in a log's place that it has removed it.
			if f.unread++; f.unread == mostUnread {
				return f.gone(ctx)
			}
		case ended && errors.Is(err, logevent.ErrNotYet):
			return nil
		case ended && err == nil && lines == 0:
			if before && !began.Before(settled) {
				return nil
			}
			select {
			case <-time.After(settle):
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		case lines > 0 || errors.Is(err, errSilent):
			wait = pause
		}
		if !errors.Is(err, errNoLog) {
			f.unread = 0
		}
		if errors.Is(err, errSilent) {
			silence = min(silence*2, f.config.Silence*8)
		} else {
			silence = f.config.Silence
		}
		if err == nil && ended || errors.Is(err, errSilent) || errors.Is(err, errLostPlace) {
			continue // at once
		}
		if err != nil && !errors.Is(err, logevent.ErrNotYet) && !warned && wait == mostPause {
			warned = true
			f.logger.Warn().Err(err).Msg("cannot read a log, trying until it works")
		}
		select {
		case <-time.After(wait):
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		wait = min(wait*2, mostPause)
	}
}

// gone ends a log whose rest can never be read, and says so in it if there may
// have been more.
func (f *following) gone(ctx context.Context) error {
	reached := f.out.position()
	text := "the pod was removed before the end of its log was seen; lines may be missing here"
	if reached.Time.IsZero() {
		text = "the pod was removed before any of its log was read; all of it is lost"
	}
	return f.gap(ctx, LostGone, text, reached)
}

func (f *following) gap(ctx context.Context, reason, text string, reached logevent.Position) error {
	f.config.Counter.Lost(reason)
	f.logger.Error().Str("reason", reason).Msg("lines of a log are lost")
	at := reached.Time
	if at.IsZero() {
		at = time.Now().UTC()
	}
	return f.out.add(ctx, at, logevent.Gap, []byte(text), reached)
}

var (
	// errSilent: the connection said nothing for too long.
	errSilent = errors.New("the log is silent")
	// errNoLog: what came is no log.
	errNoLog = errors.New("a line begins with something else than its time")
	// errLostPlace: the line that was reached is no longer in the log.
	errLostPlace = errors.New("the log was rotated away")
)

// once opens the log where the reader stands and takes lines until the
// connection ends. It returns how many new ones there were.
func (f *following) once(ctx context.Context, follow bool, silence time.Duration) (lines int, err error) {
	open, hangUp := context.WithCancelCause(ctx)
	defer hangUp(nil)
	watchdog := time.AfterFunc(silence, func() { hangUp(errSilent) })
	defer watchdog.Stop()
	c := &connection{f: f, final: !follow, at: f.out.position()}
	since := time.Time{}
	switch {
	case c.at.Time.IsZero():
	case c.at.Ordinal == 0:
		c.seek, since = forTime, c.at.Time
	default:
		c.seek, since = forLine, c.at.Time.Add(-slack)
	}
	body, err := f.source.Open(open, since, follow)
	if err != nil {
		return 0, firstOf(context.Cause(open), err)
	}
	defer func() { _ = body.Close() }() // it was only read
	c.reader = bufio.NewReaderSize(&watched{body, watchdog, silence}, bufferBytes)
	if !since.IsZero() {
		err = c.passRest()
	}
	if err == nil {
		err = c.take(ctx)
	}
	if err == nil && c.seek == forLine && c.final {
		// A connection that broke off looks the same, so that it is believed
		// when it comes twice.
		if f.missed == c.passed && f.missedOnce {
			f.missedOnce = false
			err = c.misplaced(ctx, "")
		} else {
			f.missed, f.missedOnce = c.passed, true
			c.lines++ // so that the log is read again
		}
	}
	if err != nil {
		err = firstOf(context.Cause(open), err)
	}
	return c.lines, err
}

// firstOf prefers the reason why we hung up to the error that this led to.
func firstOf(cause, err error) error {
	if cause != nil {
		return cause
	}
	return err
}

// watched has the watchdog awake while something is waited for. While lines wait
// for room on the stream nothing is read, and the connection is kept: of a pod
// that is removed meanwhile, it is all that is left.
type watched struct {
	io.Reader
	watchdog *time.Timer
	silence  time.Duration
}

func (w *watched) Read(into []byte) (int, error) {
	w.watchdog.Reset(w.silence)
	defer w.watchdog.Stop()
	return w.Reader.Read(into)
}

// connection is one reading of the log.
type connection struct {
	f      *following
	reader *bufio.Reader
	lines  int
	// final: the container has ended, so that text without a newline is a
	// line too.
	final bool

	// at is where the reader stood when it opened the log.
	at   logevent.Position
	seek seeking
	// now and ordinal are the time of the current line and its place among
	// its neighbours.
	now     time.Time
	ordinal uint64
	// newest is the latest time so far, and ofNewest how many lines had it.
	newest   time.Time
	ofNewest uint64
	// passed is how much has come by.
	passed int
	// first, if it is not zero, is the time of a line whose beginning was read
	// to see whether it is one.
	first time.Time
}

// seeking is how a connection finds what it has not taken yet.
type seeking int

const (
	// found: every line is new.
	found seeking = iota
	// forLine: the line that was taken last has not come by yet.
	forLine
	// forTime: what is not newer than the time has been given up.
	forTime
)

// What of a line to leave out, beside a number of bytes.
const (
	nothing    = 0
	everything = -1
)

// take reads lines to the end of the connection.
func (c *connection) take(ctx context.Context) error {
	for {
		at, err := c.timestamp()
		if err == nil {
			var skip int64
			if skip, err = c.begin(ctx, at); err == nil {
				err = c.text(ctx, skip)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// mostTime is more than the time at the beginning of a line takes.
const mostTime = 40

// passRest lets pass what is left of a line that began before the time from
// which the log was asked for. A container runtime writes a long line in parts,
// each with its own time, and the node leaves out those that are too old and
// gives the others without any time before them. What began that early lies
// before the line that is sought, and was taken or given up long ago.
//
// What is there in the place of a log has no newline, and is none of it.
func (c *connection) passRest() error {
	var text [mostTime]byte
	for n := range text {
		b, err := c.reader.ReadByte()
		if err != nil {
			return c.restEnds(err, n == 0)
		}
		c.passed++
		if text[n] = b; b == '\n' {
			return c.restPassed()
		}
		if b != ' ' {
			continue
		}
		if at, err := time.Parse(time.RFC3339Nano, string(text[:n])); err == nil {
			c.first = at.UTC()
			return nil
		}
	}
	for {
		part, err := c.reader.ReadSlice('\n')
		c.passed += len(part)
		switch {
		case err == nil:
			return c.restPassed()
		case !errors.Is(err, bufio.ErrBufferFull):
			return c.restEnds(err, false)
		}
	}
}

// restPassed is reached after the newline. A line that is sought must follow.
func (c *connection) restPassed() error {
	if _, err := c.reader.Peek(1); errors.Is(err, io.EOF) && c.seek == forLine && c.final {
		return fmt.Errorf("%w: there is only one without its time", errNoLog)
	}
	return nil
}

// restEnds is what it means that a connection ends within its first line.
func (c *connection) restEnds(err error, empty bool) error {
	switch {
	case !errors.Is(err, io.EOF):
		return err
	case empty:
		return nil
	case c.final:
		return fmt.Errorf("%w: it has no newline either", errNoLog)
	default:
		return io.ErrUnexpectedEOF
	}
}

// timestamp reads the beginning of a line.
func (c *connection) timestamp() (time.Time, error) {
	if at := c.first; !at.IsZero() {
		c.first = time.Time{}
		return at, nil
	}
	text, err := c.reader.ReadSlice(' ')
	c.passed += len(text)
	if errors.Is(err, io.EOF) && len(text) > 0 {
		return time.Time{}, io.ErrUnexpectedEOF
	}
	if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
		return time.Time{}, err
	}
	at, parseErr := time.Parse(time.RFC3339Nano, string(bytes.TrimSuffix(text, []byte{' '})))
	if parseErr != nil {
		return time.Time{}, fmt.Errorf("%w: %.80q", errNoLog, text)
	}
	return at.UTC(), nil
}

// begin decides what of the line at the given time to leave out.
func (c *connection) begin(ctx context.Context, at time.Time) (skip int64, err error) {
	c.count(at)
	switch c.seek {
	case forTime:
		if !at.After(c.at.Time) {
			return everything, nil
		}
		c.seek = found
	case forLine:
		if at.After(c.at.Time.Add(slack)) {
			return 0, c.misplaced(ctx, fmt.Sprintf("; the next line that is there is of %s", at.Format(time.RFC3339Nano)))
		}
		if !at.Equal(c.at.Time) || c.ordinal != c.at.Ordinal {
			return everything, nil
		}
		c.seek = found
		if c.at.Offset == 0 {
			return everything, nil
		}
		return int64(c.at.Offset), nil
	case found:
	}
	return nothing, nil
}

// count gives the line its ordinal: its place among the lines with its time,
// which older lines between them do not interrupt.
func (c *connection) count(at time.Time) {
	switch {
	case at.After(c.newest):
		c.newest, c.ofNewest = at, 1
		c.ordinal = 1
	case at.Equal(c.newest):
		c.ofNewest++
		c.ordinal = c.ofNewest
	case at.Equal(c.now):
		c.ordinal++
	default:
		c.ordinal = 1
	}
	c.now = at
}

// misplaced writes a gap: the line that was taken last has gone from the log, as
// when the node has rotated the file meanwhile, and what followed it is not
// known. What is there is then read from the first newer line on.
func (c *connection) misplaced(ctx context.Context, next string) error {
	text := "the node has rotated the log away after " + c.at.Time.Format(time.RFC3339Nano) + "; lines are missing here" + next
	if err := c.f.gap(ctx, LostRotated, text, logevent.Position{Time: c.at.Time}); err != nil {
		return err
	}
	return errLostPlace
}

// text takes the text of the current line but for its first skip bytes, in
// parts if it is long.
func (c *connection) text(ctx context.Context, skip int64) error {
	var line []byte // what was read and not taken
	offset := uint64(max(skip, 0))
	for {
		part, err := c.reader.ReadSlice('\n')
		cut := errors.Is(err, io.EOF) && c.final
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) && !cut {
			return err // the line comes again, as a whole
		}
		c.passed += len(part)
		if skip == everything {
			if err == nil || cut {
				return err
			}
			continue
		}
		part = bytes.TrimSuffix(part, []byte{'\n'})
		left := min(skip, int64(len(part)))
		skip -= left
		part = part[left:]
		if cut && skip > 0 {
			return io.ErrUnexpectedEOF
		}
		if err == nil && line == nil && len(part) <= logevent.MaxText {
			return c.emit(ctx, 0, part, 0) // the common case, without a copy
		}
		line = append(line, part...)
		for len(line) > logevent.MaxText {
			size := wholeRunes(line[:logevent.MaxText])
			offset += uint64(size)
			if err := c.emit(ctx, logevent.Partial, line[:size], offset); err != nil {
				return err
			}
			line = append(line[:0], line[size:]...)
		}
		switch {
		case err == nil:
			return c.emit(ctx, 0, line, 0)
		case cut:
			return c.unended(ctx, line, offset)
		}
	}
}

// unended takes text that the container left without a newline. A connection
// that broke off looks the same, so that it must come twice.
func (c *connection) unended(ctx context.Context, text []byte, offset uint64) error {
	seen := remainder{c.now, c.ordinal, offset + uint64(len(text))}
	if c.f.remainder != seen {
		c.f.remainder = seen
		c.lines++ // so that the log is read again
		return io.EOF
	}
	if err := c.emit(ctx, logevent.Unended, text, 0); err != nil {
		return err
	}
	return io.EOF
}

// remainder is text without a newline at the end of a log.
type remainder struct {
	at      time.Time
	ordinal uint64
	size    uint64
}

func (c *connection) emit(ctx context.Context, flags logevent.Flags, text []byte, offset uint64) error {
	c.lines++
	return c.f.out.add(ctx, c.now, flags, text, logevent.Position{Time: c.now, Ordinal: c.ordinal, Offset: offset})
}

// wholeRunes is how much of a text can be cut off without cutting a character
// in two, if it is text.
func wholeRunes(text []byte) int {
	for back := 1; back < utf8.UTFMax && back < len(text); back++ {
		if start := len(text) - back; utf8.RuneStart(text[start]) {
			if utf8.FullRune(text[start:]) {
				break
			}
			return start
		}
	}
	return len(text)
}

// Package archive is the layout in which logs are kept for years: which objects
// there are, what is in them, and how they are read. Where the objects lie, a
// folder or an S3 bucket, is the business of the sinks.
//
// # Layout, version 1
//
// While a log is written, its lines are in chunks:
//
//	v1/<run>/<attempt>/<pod>/<container>/<first>-<last>.ndjson.zst
//
// with the sequences of their first and last lines, in 12 digits. When it has
// ended, they become one object, and the chunks go:
//
//	v1/<run>/<attempt>/<pod>/<container>.ndjson.zst
//
// A log of one chunk never has another object than that. Each object is
// Zstandard-compressed newline-delimited JSON (zstd -dc shows it), one line of
// the log a line:
//
//	{"seq":1,"time":"2026-01-02T15:04:05.123456789Z","text":"…"}
//
// Sequences rise by one from 1. In place of text there is "base64" where the
// bytes are not UTF-8. "partial":true tells that the line goes on in the next
// one, "unended":true that no newline followed, and "gap":true that the
// container did not write this: lines of its are missing, and the text says why.
//
// An object ends with a skippable frame, which zstd ignores: its content is the
// [Index] as JSON, the length of that in four bytes, little endian, and
// "RWIDX001".
//
// A chunk that is written twice is the same object. Two chunks may overlap when
// a shipper died between writing and saying so; a reader takes each sequence
// once.
package archive

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

// Object is what a listing tells of an object.
type Object struct {
	Key      string
	Size     int64
	Modified time.Time
}

// Objects is a store of objects by key. An object is there as a whole or not at
// all, and once Put has returned nil, for good.
type Objects interface {
	// Put writes an object of known size, over one that is there.
	Put(ctx context.Context, key string, body io.Reader, size int64) error
	// Get reads an object; the error is [fs.ErrNotExist] when there is none.
	Get(ctx context.Context, key string) (io.ReadCloser, error)
	// GetFrom reads an object from an offset on, or, if that is negative, so
	// many bytes at its end, or all of it if it has fewer. The errors are those
	// of Get. Closing it early asks for no more.
	GetFrom(ctx context.Context, key string, offset int64) (io.ReadCloser, error)
	// List returns the objects whose keys begin with prefix, in any order.
	List(ctx context.Context, prefix string) ([]Object, error)
	// Delete removes objects; those that are gone already are no error.
	Delete(ctx context.Context, keys []string) error
}

// Archive keeps logs in a store of objects. It is safe for concurrent use.
type Archive struct {
	objects Objects
	encoder *zstd.Encoder
}

// New returns an archive on a store.
func New(objects Objects) (*Archive, error) {
	// The fastest level leaves little on the table for logs, and a shipper's
	// throughput is what it costs. A window that is smaller than the level's own
	// finds nearly as much in logs; with that, or to save memory, most of the time
	// would go into moving the window about.
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(1<<20))
	if err != nil {
		return nil, fmt.Errorf("set up compression: %w", err)
	}
	return &Archive{objects, encoder}, nil
}

// Close lets go of what compression holds.
func (a *Archive) Close() error { return a.encoder.Close() }

const (
	layout = "v1/"
	suffix = ".ndjson.zst"
)

func finalKey(log logevent.Log) string    { return layout + log.String() + suffix }
func chunkPrefix(log logevent.Log) string { return layout + log.String() + "/" }
func chunkKey(log logevent.Log, first, last uint64) string {
	return fmt.Sprintf("%s%012d-%012d%s", chunkPrefix(log), first, last, suffix)
}

// chunk is what the key of a chunk tells.
type chunk struct {
	key         string
	first, last uint64
	size        int64
	modified    time.Time
}

// parseKey tells which log an object is of, and which part of it: nil for all.
func parseKey(object Object) (logevent.Log, *chunk, bool) {
	path, ok := strings.CutPrefix(strings.TrimSuffix(object.Key, suffix), layout)
	if !ok || !strings.HasSuffix(object.Key, suffix) {
		return logevent.Log{}, nil, false
	}
	if log, err := logevent.ParsePath(path); err == nil {
		return log, nil, true
	}
	slash := strings.LastIndexByte(path, '/')
	if slash < 0 {
		return logevent.Log{}, nil, false
	}
	log, err := logevent.ParsePath(path[:slash])
	from, to, ok := strings.Cut(path[slash+1:], "-")
	first, firstErr := strconv.ParseUint(from, 10, 64)
	last, lastErr := strconv.ParseUint(to, 10, 64)
	if err != nil || !ok || firstErr != nil || lastErr != nil {
		return logevent.Log{}, nil, false
	}
	return log, &chunk{object.Key, first, last, object.Size, object.Modified}, true
}

// chunks lists the chunks of a log by their first lines, the longest first of
// those that begin alike.
func (a *Archive) chunks(ctx context.Context, log logevent.Log) ([]chunk, error) {
	objects, err := a.objects.List(ctx, chunkPrefix(log))
	if err != nil {
		return nil, fmt.Errorf("list the chunks of log %s: %w", log, err)
	}
	var all []chunk
	for _, object := range objects {
		if _, c, ok := parseKey(object); ok && c != nil {
			all = append(all, *c)
		}
	}
	sortChunks(all)
	return all, nil
}

func sortChunks(all []chunk) {
	slices.SortFunc(all, func(a, b chunk) int {
		if order := cmp.Compare(a.first, b.first); order != 0 {
			return order
		}
		return cmp.Compare(b.last, a.last)
	})
}

// needed leaves out chunks that others hold already, and returns the sequence
// that follows the last line without a gap.
func needed(all []chunk) (some []chunk, next uint64) {
	next = 1
	for _, c := range all {
		if c.first > next {
			break
		}
		if c.last >= next {
			some = append(some, c)
			next = c.last + 1
		}
	}
	return some, next
}

// Reached returns the sequence of the next line that the archive lacks, and
// whether the log is there to its end.
func (a *Archive) Reached(ctx context.Context, log logevent.Log) (next uint64, ended bool, err error) {
	index, err := a.Index(ctx, log)
	if err == nil {
		return index.Last + 1, true, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return 0, false, err
	}
	all, err := a.chunks(ctx, log)
	if err != nil {
		return 0, false, err
	}
	_, next = needed(all)
	return next, false, nil
}

// Put keeps lines of a log that goes on.
func (a *Archive) Put(ctx context.Context, log logevent.Log, lines []logevent.Line) error {
	if len(lines) == 0 {
		return nil
	}
	first, last := lines[0].Seq, lines[len(lines)-1].Seq
	return a.put(ctx, chunkKey(log, first, last), a.encode(log, lines, false))
}

// Finish keeps the last lines of a log, and makes all of it one object.
// The sequence that follows is told by the chunks.
func (a *Archive) Finish(ctx context.Context, log logevent.Log, lines []logevent.Line, next uint64) error {
	if len(lines) > 0 && lines[0].Seq == 1 {
		// Chunks that there are nevertheless are another shipper's, of the
		// same lines.
		if err := a.put(ctx, finalKey(log), a.encode(log, lines, true)); err != nil {
			return err
		}
		return nil
	}
	if err := a.Put(ctx, log, lines); err != nil {
		return err
	}
	return a.merge(ctx, log, next)
}

func (a *Archive) put(ctx context.Context, key string, body []byte) error {
	if err := a.objects.Put(ctx, key, bytes.NewReader(body), int64(len(body))); err != nil {
		return fmt.Errorf("write %s: %w", key, err)
	}
	return nil
}

// merge makes the chunks of a log one object, and removes them. Chunks are put
// one behind the other as they are: compressed frames may be. wanted is the
// sequence that follows the last line.
func (a *Archive) merge(ctx context.Context, log logevent.Log, wanted uint64) error {
	all, err := a.chunks(ctx, log)
	if err != nil {
		return err
	}
	if len(all) == 0 {
		if _, err := a.Index(ctx, log); err == nil {
			return nil // merged before
		}
		return a.put(ctx, finalKey(log), a.encode(log, nil, true)) // an empty log
	}
	some, next := needed(all)
	if last := slices.MaxFunc(all, func(a, b chunk) int { return cmp.Compare(a.last, b.last) }).last; next < wanted || last >= next {
		// Another shipper has merged the log meanwhile, or this one has, and
		// the removal of the chunks broke off.
		index, err := a.Index(ctx, log)
		if err == nil && index.Last >= max(last, wanted-1) {
			return a.remove(ctx, all)
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return fmt.Errorf("merge log %s: line %d is missing, and there are later ones up to %d", log, next, max(last, wanted-1))
	}
	index := Index{Version: indexVersion, Log: log, First: 1, Last: next - 1, Ended: true}
	exact, offset := true, int64(0)
	expected := uint64(1)
	for _, c := range some {
		exact = exact && c.first == expected
		expected = c.last + 1
		index.Chunks = append(index.Chunks, Part{First: c.first, Last: c.last, Offset: offset, Size: c.size})
		offset += c.size
	}
	if !exact {
		return a.mergeOverlapping(ctx, log, all, wanted)
	}
	tail := index.frame()
	body := &concatenation{ctx: ctx, objects: a.objects, chunks: some, tail: tail}
	defer body.close()
	if err := a.objects.Put(ctx, finalKey(log), body, offset+int64(len(tail))); err != nil {
		return fmt.Errorf("write %s: %w", finalKey(log), err)
	}
	return a.remove(ctx, all)
}

// mergeOverlapping rewrites the overlapping chunks first, which only a crash
// leaves: each chunk that shares lines with the one before is cut.
func (a *Archive) mergeOverlapping(ctx context.Context, log logevent.Log, all []chunk, wanted uint64) error {
	some, _ := needed(all)
	var stale []chunk
	expected := uint64(1)
	for _, c := range some {
		if c.first < expected {
			var kept []logevent.Line
			err := a.readObject(ctx, c.key, 0, func(line logevent.Line) bool {
				if line.Seq >= expected {
					kept = append(kept, line)
				}
				return true
			})
			if err != nil {
				return err
			}
			if err := a.Put(ctx, log, kept); err != nil {
				return err
			}
			stale = append(stale, c)
		}
		expected = c.last + 1
	}
	if err := a.remove(ctx, stale); err != nil {
		return err
	}
	return a.merge(ctx, log, wanted)
}

func (a *Archive) remove(ctx context.Context, chunks []chunk) error {
	if len(chunks) == 0 {
		return nil
	}
	keys := make([]string, len(chunks))
	for i, c := range chunks {
		keys[i] = c.key
	}
	if err := a.objects.Delete(ctx, keys); err != nil {
		return fmt.Errorf("remove chunks that are merged: %w", err)
	}
	return nil
}

// concatenation reads chunks one after the other, and what follows them.
type concatenation struct {
	ctx     context.Context //nolint:containedctx // a reader has no other way to be interrupted
	objects Objects
	chunks  []chunk
	tail    []byte
	open    io.ReadCloser
}

func (c *concatenation) Read(into []byte) (int, error) {
	for {
		if c.open != nil {
			n, err := c.open.Read(into)
			if !errors.Is(err, io.EOF) {
				return n, err
			}
			c.close()
			if n > 0 {
				return n, nil
			}
		}
		if len(c.chunks) == 0 {
			if len(c.tail) == 0 {
				return 0, io.EOF
			}
			n := copy(into, c.tail)
			c.tail = c.tail[n:]
			return n, nil
		}
		var err error
		if c.open, err = c.objects.Get(c.ctx, c.chunks[0].key); err != nil {
			return 0, fmt.Errorf("read %s: %w", c.chunks[0].key, err)
		}
		c.chunks = c.chunks[1:]
	}
}

func (c *concatenation) close() {
	if c.open != nil {
		_ = c.open.Close() // it was only read
		c.open = nil
	}
}

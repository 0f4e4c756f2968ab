package localexec

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"time"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/run"
)

// containerName stands where a pod's log has the container's.
const containerName = "run"

// Output is the output of one job, as lines of a log; both of its streams are
// in it, in the order in which they were written.
type Output struct {
	folder  folder
	log     logevent.Log
	changed chan struct{}

	mu    sync.Mutex
	ended bool
}

func newOutput(f folder, job spec, name string, ended bool) *Output {
	return &Output{folder: f, ended: ended, changed: make(chan struct{}), log: logevent.Log{
		Queue: job.Queue, Run: job.RunID, Attempt: job.Attempt, Pod: name, Container: containerName,
	}}
}

// Logs calls found with the output of a job, and returns when over is closed or
// ctx ends.
func (l *Launcher) Logs(ctx context.Context, job run.Job, over <-chan struct{}, found func(*Output)) error {
	f := l.folder(job.Name)
	known, err := f.spec()
	if errors.Is(err, errGone) {
		return nil // and so is its output
	}
	if err != nil {
		return fmt.Errorf("find the output of job %s: %w", job.Name, err)
	}
	output := newOutput(f, known, job.Name, false)
	found(output)
	select {
	case <-over:
	case <-ctx.Done():
		return ctx.Err()
	}
	output.mu.Lock()
	output.ended = true
	output.mu.Unlock()
	close(output.changed)
	return nil
}

// Ended calls found with the output of every job that has ended.
func (l *Launcher) Ended(ctx context.Context, found func(*Output)) error {
	entries, err := os.ReadDir(l.jobs)
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	for _, entry := range entries {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		f := l.folder(entry.Name())
		known, err := f.spec()
		if err != nil {
			continue // being made or deleted
		}
		now, err := f.status()
		if err == nil && now.State.Final() {
			found(newOutput(f, known, entry.Name(), true))
		}
	}
	return nil
}

// Gone tells whether a job of that name has left nothing.
func (l *Launcher) Gone(name string) bool {
	_, err := l.folder(name).spec()
	return errors.Is(err, errGone)
}

// Log names the log.
func (o *Output) Log() logevent.Log { return o.log }

// Ended reports whether nothing more will be written.
func (o *Output) Ended() bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.ended
}

// Changed is closed when the job is over.
func (o *Output) Changed() <-chan struct{} { return o.changed }

// Open reads the output as lines of "<time> <text>\n" that are not older than
// since, and with follow waits for more until the job is over or ctx ends.
func (o *Output) Open(ctx context.Context, since time.Time, follow bool) (io.ReadCloser, error) {
	file, err := os.Open(o.folder.file(outputFile))
	if errors.Is(err, fs.ErrNotExist) {
		if _, err := o.folder.spec(); errors.Is(err, errGone) {
			return nil, logevent.ErrGone
		}
		return nil, logevent.ErrNotYet
	}
	if err != nil {
		return nil, fmt.Errorf("open the output: %w", err)
	}
	// The times in the file have a fixed width, so that they compare as text.
	return &outputReader{ctx: ctx, output: o, file: file, lines: bufio.NewReader(file), since: since.UTC().Format(timeFormat), follow: follow}, nil
}

// outputPoll is how often a file is looked at for more. It is the only poll
// here: nothing in the standard library tells of a file that grows.
const outputPoll = 50 * time.Millisecond

// outputReader reads an output file as the follower wants it: the parts of a
// long line put together, unless another stream wrote between them.
type outputReader struct {
	ctx    context.Context //nolint:containedctx // a reader has no other way to be interrupted
	output *Output
	file   *os.File
	lines  *bufio.Reader
	since  string
	follow bool

	half   []byte // of a line that is being written
	ready  []byte
	within []byte // the stream whose line goes on, nil when none does
}

func (r *outputReader) Close() error { return r.file.Close() }

func (r *outputReader) Read(into []byte) (int, error) {
	for len(r.ready) == 0 {
		ended := r.output.Ended() // before the read that may find the end
		part, err := r.lines.ReadSlice('\n')
		r.half = append(r.half, part...)
		switch {
		case err == nil:
			if err := r.line(r.half); err != nil {
				return 0, err
			}
			r.half = r.half[:0]
		case errors.Is(err, bufio.ErrBufferFull):
		case !errors.Is(err, io.EOF):
			return 0, fmt.Errorf("read the output: %w", err)
		case !r.follow || ended:
			return 0, io.EOF
		default:
			select {
			case <-time.After(outputPoll):
			case <-r.output.changed:
			case <-r.ctx.Done():
				return 0, r.ctx.Err()
			}
		}
	}
	n := copy(into, r.ready)
	r.ready = r.ready[n:]
	return n, nil
}

// line turns one line of the file into what is read.
func (r *outputReader) line(line []byte) error {
	fields := bytes.SplitN(line, []byte{' '}, 4)
	if len(fields) != 4 || len(fields[2]) != 1 {
		return fmt.Errorf("read the output: %w: a line is %.40q", errDamaged, line)
	}
	if string(fields[0]) < r.since {
		return nil
	}
	var out []byte
	text := bytes.TrimSuffix(fields[3], []byte{'\n'})
	if !bytes.Equal(r.within, fields[1]) {
		if r.within != nil {
			out = append(out, '\n')
		}
		out = append(append(out, fields[0]...), ' ')
	}
	out = append(out, text...)
	r.within = nil
	if fields[2][0] == 'P' {
		r.within = bytes.Clone(fields[1])
	} else {
		out = append(out, '\n')
	}
	r.ready = out
	return nil
}

package localexec

import (
	"bufio"
	"errors"
	"io"
	"os"
	"sync"
	"time"
)

const (
	// maxLine is the most text that one line of the output file holds, the
	// bound that container runtimes have.
	maxLine = 16 << 10
	// timeFormat has a fixed width, so that times compare as text.
	timeFormat = "2006-01-02T15:04:05.000000000Z"
)

// output writes what a command says to the job's output file, in the format
// that the package comment gives.
type output struct {
	copies  sync.WaitGroup
	sources []*os.File

	mu   sync.Mutex // also keeps lines whole and their times in order
	file *os.File
	last time.Time
	lost lostOutput
}

func openOutput(path string) (*output, error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	return &output{file: file}, nil
}

// pipe returns the end of a pipe for the command to write to. The caller
// closes it once the command has it.
func (o *output) pipe(stream string) (*os.File, error) {
	from, to, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	o.sources = append(o.sources, from)
	o.copies.Go(func() { o.copy(stream, from) })
	return to, nil
}

// close writes what is still on its way, for at most as long as given, and
// returns what could not be written. No process of the job writes any more.
func (o *output) close(patience time.Duration) lostOutput {
	for _, source := range o.sources {
		_ = source.SetReadDeadline(time.Now().Add(patience))
	}
	o.copies.Wait()
	for _, source := range o.sources {
		_ = source.Close()
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	if err := errors.Join(o.file.Sync(), o.file.Close()); err != nil && o.lost.err == nil {
		o.lost.err = err
	}
	return o.lost
}

// copy copies one stream, line by line, until it ends. It reads on when the
// file cannot be written: the command must not stand still for that.
func (o *output) copy(stream string, from io.Reader) {
	reader := bufio.NewReaderSize(from, maxLine)
	var line []byte
	for {
		text, err := reader.ReadSlice('\n')
		kind := byte('F')
		if errors.Is(err, bufio.ErrBufferFull) {
			kind, err = 'P', nil
		}
		if n := len(text); n > 0 && text[n-1] == '\n' {
			text = text[:n-1]
		} else if n == 0 && err != nil {
			return
		}
		line = o.write(line[:0], stream, kind, text)
		if err != nil {
			return
		}
	}
}

// write writes one line, put together in the buffer, which it returns.
func (o *output) write(line []byte, stream string, kind byte, text []byte) []byte {
	o.mu.Lock()
	defer o.mu.Unlock()
	if now := time.Now().UTC(); now.After(o.last) {
		o.last = now // or the clock was set back
	}
	line = o.last.AppendFormat(line, timeFormat)
	line = append(line, ' ')
	line = append(line, stream...)
	line = append(line, ' ', kind, ' ')
	line = append(line, text...)
	line = append(line, '\n')
	if _, err := o.file.Write(line); err != nil {
		o.lost.lines++
		o.lost.err = err
	}
	return line
}

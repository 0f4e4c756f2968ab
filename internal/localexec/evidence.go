package localexec

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/ropewalk/ropewalk/internal/run"
)

// tailBytes holds the last lines of any output file, however long they are.
const tailBytes = run.EvidenceLines * (maxLine + 64)

// lastWords is the end of what a job has written.
func lastWords(ctx context.Context, f folder) *run.Evidence {
	text, err := tail(ctx, f)
	switch {
	case errors.Is(err, fs.ErrNotExist): // it never started
		return nil
	case err != nil:
		return &run.Evidence{LastLines: run.LastLines(text), Missing: fmt.Sprintf("Not all is here: the output cannot be read: %v.", err)}
	case text == "":
		return nil
	}
	return &run.Evidence{LastLines: run.LastLines(text)}
}

// tail reads the last part of an output file, as the lines that were written.
func tail(ctx context.Context, f folder) (string, error) {
	file, err := os.Open(f.file(outputFile))
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }()
	lines := bufio.NewReader(file)
	if size, err := file.Seek(0, io.SeekEnd); err != nil {
		return "", err
	} else if _, err := file.Seek(max(0, size-tailBytes), io.SeekStart); err != nil {
		return "", err
	} else if size > tailBytes {
		if _, err := lines.ReadString('\n'); err != nil { // the first one is not whole
			return "", err
		}
	}
	var text strings.Builder
	reader := bufio.NewScanner(&outputReader{ctx: ctx, output: &Output{ended: true}, file: file, lines: lines})
	reader.Buffer(nil, 2*tailBytes) // a line may have been written in many parts
	for reader.Scan() {
		_, line, _ := strings.Cut(reader.Text(), " ")
		text.WriteString(line + "\n")
	}
	return text.String(), reader.Err()
}

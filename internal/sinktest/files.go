package sinktest

import (
	"bufio"
	"encoding/json"
	"io"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

// Decode reads an object of the archive's layout as a program of somebody
// else's would: Zstandard, and JSON line by line.
func Decode(t *testing.T, object io.Reader) []logevent.Line {
	t.Helper()
	decoder, err := zstd.NewReader(object)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	var lines []logevent.Line
	scanner := bufio.NewScanner(decoder)
	scanner.Buffer(nil, 1<<20)
	for scanner.Scan() {
		var fields struct {
			Seq                   uint64
			Time                  time.Time
			Text                  string
			Base64                []byte
			Partial, Unended, Gap bool
		}
		if err := json.Unmarshal(scanner.Bytes(), &fields); err != nil {
			t.Fatalf("%v in %.100q", err, scanner.Text())
		}
		line := logevent.Line{Seq: fields.Seq, Time: fields.Time, Text: []byte(fields.Text)}
		if fields.Base64 != nil {
			line.Text = fields.Base64
		}
		for i, set := range []bool{fields.Partial, fields.Unended, fields.Gap} {
			if set {
				line.Flags |= 1 << i
			}
		}
		lines = append(lines, line)
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

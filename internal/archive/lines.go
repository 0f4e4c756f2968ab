package archive

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/klauspost/compress/zstd"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

// Index says what is in an object.
type Index struct {
	// Version is that of the layout.
	Version int          `json:"version"`
	Log     logevent.Log `json:"log"`
	// First and Last are the sequences of its lines; Last is First-1 when
	// there are none.
	First uint64 `json:"first"`
	Last  uint64 `json:"last"`
	// Ended: the log has no more lines.
	Ended bool `json:"ended"`
	// Chunks, if there were several, say where their frames are.
	Chunks []Part `json:"chunks,omitempty"`
}

// Part is a range of an object that can be decompressed by itself.
type Part struct {
	First  uint64 `json:"first"`
	Last   uint64 `json:"last"`
	Offset int64  `json:"offset"`
	Size   int64  `json:"size"`
}

const (
	indexVersion = 1
	indexMagic   = "RWIDX001"
	// skippable begins a frame that decoders of Zstandard pass over.
	skippable   = 0x184D2A5E
	frameHeader = 8
	indexFooter = 4 + len(indexMagic)
)

// frame is the index as the end of an object.
func (i Index) frame() []byte {
	text, err := json.Marshal(i)
	if err != nil {
		panic("archive: an index always marshals: " + err.Error())
	}
	size := uint32(len(text))
	frame := binary.LittleEndian.AppendUint32(nil, skippable)
	frame = binary.LittleEndian.AppendUint32(frame, size+uint32(indexFooter))
	frame = append(frame, text...)
	frame = binary.LittleEndian.AppendUint32(frame, size)
	return append(frame, indexMagic...)
}

// ErrDamaged tells of an object that is not in the layout.
var ErrDamaged = errors.New("the object is damaged")

// offset is where the frame begins that has a line, or the end of the last one
// if there is none.
func (i Index) offset(seq uint64) int64 {
	end := int64(0)
	for _, part := range i.Chunks {
		if part.Last >= seq {
			return part.Offset
		}
		end = part.Offset + part.Size
	}
	return end
}

// indexSize is how long the end of an object is that has its index; 0 if there is
// none.
func indexSize(tail []byte) int {
	if len(tail) < indexFooter || string(tail[len(tail)-len(indexMagic):]) != indexMagic {
		return 0
	}
	return int(binary.LittleEndian.Uint32(tail[len(tail)-indexFooter:])) + indexFooter
}

// parseIndex reads the index from the end of an object, of which tail is the
// last part.
func parseIndex(tail []byte) (Index, error) {
	if len(tail) < indexFooter || string(tail[len(tail)-len(indexMagic):]) != indexMagic {
		return Index{}, fmt.Errorf("%w: it does not end with an index", ErrDamaged)
	}
	size := int64(binary.LittleEndian.Uint32(tail[len(tail)-indexFooter:]))
	end := int64(len(tail) - indexFooter)
	if size > end {
		return Index{}, fmt.Errorf("%w: its index is longer than it", ErrDamaged)
	}
	var index Index
	if err := json.Unmarshal(tail[end-size:end], &index); err != nil {
		return Index{}, fmt.Errorf("%w: its index: %w", ErrDamaged, err)
	}
	return index, nil
}

// encode makes an object of lines.
func (a *Archive) encode(log logevent.Log, lines []logevent.Line, ended bool) []byte {
	size := 0
	for _, line := range lines {
		size += len(line.Text) + len(`{"seq":123456,"time":"2026-01-02T15:04:05.123456789Z","text":""}`)
	}
	text := make([]byte, 0, size+size/8)
	for i := range lines {
		text = AppendJSON(text, &lines[i])
	}
	index := Index{Version: indexVersion, Log: log, First: 1, Ended: ended}
	if len(lines) > 0 {
		index.First, index.Last = lines[0].Seq, lines[len(lines)-1].Seq
	}
	return append(a.encoder.EncodeAll(text, make([]byte, 0, len(text)/4)), index.frame()...)
}

// AppendJSON appends a line as the layout has it, with its newline.
func AppendJSON(to []byte, line *logevent.Line) []byte {
	to = append(to, `{"seq":`...)
	to = strconv.AppendUint(to, line.Seq, 10)
	to = append(to, `,"time":"`...)
	to = line.Time.AppendFormat(to, time.RFC3339Nano)
	if utf8.Valid(line.Text) {
		to = append(to, `","text":"`...)
		to = appendEscaped(to, line.Text)
	} else {
		to = append(to, `","base64":"`...)
		to = base64.StdEncoding.AppendEncode(to, line.Text)
	}
	to = append(to, '"')
	for _, flag := range []struct {
		flag logevent.Flags
		text string
	}{{logevent.Partial, `,"partial":true`}, {logevent.Unended, `,"unended":true`}, {logevent.Gap, `,"gap":true`}} {
		if line.Flags&flag.flag != 0 {
			to = append(to, flag.text...)
		}
	}
	return append(to, '}', '\n')
}

// appendEscaped writes UTF-8 as the inside of a JSON string. What terminals
// could obey is escaped too, so that an object can be looked at.
func appendEscaped(to, text []byte) []byte {
	const digits = "0123456789abcdef"
	start := 0
	for i := 0; i < len(text); i++ {
		b := text[i]
		if b >= ' ' && b != '"' && b != '\\' && b != 0x7f && b != 0xc2 {
			continue
		}
		if b == 0xc2 && (i+1 == len(text) || text[i+1] >= 0xa0) {
			continue // not one of the controls from U+0080 to U+009F
		}
		to = append(to, text[start:i]...)
		switch b {
		case '"', '\\':
			to = append(to, '\\', b)
		case '\t':
			to = append(to, '\\', 't')
		case '\r':
			to = append(to, '\\', 'r')
		case 0xc2:
			i++
			to = append(to, '\\', 'u', '0', '0', digits[text[i]>>4], digits[text[i]&15])
		default:
			to = append(to, '\\', 'u', '0', '0', digits[b>>4], digits[b&15])
		}
		start = i + 1
	}
	return append(to, text[start:]...)
}

// jsonLine is a line as it is read.
type jsonLine struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Text    string    `json:"text"`
	Base64  []byte    `json:"base64"`
	Partial bool      `json:"partial"`
	Unended bool      `json:"unended"`
	Gap     bool      `json:"gap"`
}

func parseLine(text []byte) (logevent.Line, error) {
	var j jsonLine
	if err := json.Unmarshal(text, &j); err != nil || j.Seq == 0 {
		return logevent.Line{}, fmt.Errorf("%w: a line is %.60q", ErrDamaged, text)
	}
	line := logevent.Line{Seq: j.Seq, Time: j.Time, Text: j.Base64}
	if line.Text == nil {
		line.Text = []byte(j.Text)
	}
	for _, flag := range []struct {
		set  bool
		flag logevent.Flags
	}{{j.Partial, logevent.Partial}, {j.Unended, logevent.Unended}, {j.Gap, logevent.Gap}} {
		if flag.set {
			line.Flags |= flag.flag
		}
	}
	return line, nil
}

// readObject gives the lines of an object, from the frame at an offset on, to take
// until that returns false.
func (a *Archive) readObject(ctx context.Context, key string, offset int64, take func(logevent.Line) bool) error {
	get := a.objects.Get
	if offset > 0 {
		get = func(ctx context.Context, key string) (io.ReadCloser, error) {
			return a.objects.GetFrom(ctx, key, offset)
		}
	}
	body, err := get(ctx, key)
	if err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	defer func() { _ = body.Close() }() // it was only read
	if err := readLines(body, take); err != nil {
		return fmt.Errorf("read %s: %w", key, err)
	}
	return nil
}

func readLines(body io.Reader, take func(logevent.Line) bool) error {
	decoder, err := zstd.NewReader(body, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		return fmt.Errorf("decompress: %w", err)
	}
	defer decoder.Close()
	scanner := bufio.NewScanner(decoder)
	// Six bytes is the most that one byte of text takes.
	scanner.Buffer(make([]byte, 64<<10), 6*logevent.MaxText+256)
	for scanner.Scan() {
		line, err := parseLine(scanner.Bytes())
		if err != nil {
			return err
		}
		if !take(line) {
			return nil
		}
	}
	if err := scanner.Err(); err != nil {
		return fmt.Errorf("decompress: %w", err)
	}
	return nil
}

package logevent

import (
	"encoding/binary"
	"fmt"
	"time"
)

// The encoding of a batch, all numbers as varints:
//
//	version (one byte, 1), flags (one byte; 1 is End), First, number of lines,
//	Reached.Time in ns, Reached.Ordinal, Reached.Offset,
//	and for each line: ns since the line before (since 1970 for the first),
//	flags (one byte), length of the text, text
//
// Lines are most of what the log pipeline does, so that this is not JSON.

const (
	codecVersion = 1
	endFlag      = 1
)

// Builder puts lines together to an encoded batch. The zero value is empty and
// ready.
type Builder struct {
	lines []byte
	count uint64
	last  int64
}

// Add appends a line; its sequence follows from its place.
func (b *Builder) Add(at time.Time, flags Flags, text []byte) {
	now := at.UnixNano()
	b.lines = binary.AppendVarint(b.lines, now-b.last)
	b.lines = append(b.lines, byte(flags))
	b.lines = binary.AppendUvarint(b.lines, uint64(len(text)))
	b.lines = append(b.lines, text...)
	b.last = now
	b.count++
}

// Size is how many bytes the lines take.
func (b *Builder) Size() int { return len(b.lines) }

// Count is how many lines there are.
func (b *Builder) Count() uint64 { return b.count }

// Reset empties the builder. What is larger than keep is given back.
func (b *Builder) Reset(keep int) {
	if cap(b.lines) > keep {
		b.lines = nil
	}
	b.lines, b.count, b.last = b.lines[:0], 0, 0
}

// Encode returns the batch, which shares nothing with the builder.
func (b *Builder) Encode(first uint64, reached Position, end bool) []byte {
	const header = 2 + 5*binary.MaxVarintLen64
	data := make([]byte, 0, header+len(b.lines))
	flags := byte(0)
	if end {
		flags = endFlag
	}
	data = append(data, codecVersion, flags)
	data = binary.AppendUvarint(data, first)
	data = binary.AppendUvarint(data, b.count)
	data = binary.AppendVarint(data, nanos(reached.Time))
	data = binary.AppendUvarint(data, reached.Ordinal)
	data = binary.AppendUvarint(data, reached.Offset)
	return append(data, b.lines...)
}

// Encode encodes a whole batch.
func (b Batch) Encode() []byte {
	var builder Builder
	for _, line := range b.Lines {
		builder.Add(line.Time, line.Flags, line.Text)
	}
	return builder.Encode(b.First, b.Reached, b.End)
}

// nanos keeps the zero time, which lies outside of what nanoseconds reach.
func nanos(t time.Time) int64 {
	if t.IsZero() {
		return 0
	}
	return t.UnixNano()
}

func fromNanos(n int64) time.Time {
	if n == 0 {
		return time.Time{}
	}
	return time.Unix(0, n).UTC()
}

// decoder reads numbers until the first that is none.
type decoder struct {
	rest []byte
	bad  bool
}

func (d *decoder) byte() byte {
	if len(d.rest) == 0 {
		d.bad = true
		return 0
	}
	b := d.rest[0]
	d.rest = d.rest[1:]
	return b
}

func (d *decoder) uvarint() uint64 {
	n, size := binary.Uvarint(d.rest)
	if size <= 0 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

func (d *decoder) varint() int64 {
	n, size := binary.Varint(d.rest)
	if size <= 0 {
		d.bad = true
		return 0
	}
	d.rest = d.rest[size:]
	return n
}

// Decode reads a batch. The texts of its lines are parts of data.
func Decode(data []byte) (Batch, error) {
	d := &decoder{rest: data}
	if version := d.byte(); d.bad || version != codecVersion {
		return Batch{}, fmt.Errorf("%w: version %d", ErrDamaged, version)
	}
	batch := Batch{End: d.byte()&endFlag != 0}
	batch.First = d.uvarint()
	count := d.uvarint()
	batch.Reached = Position{Time: fromNanos(d.varint()), Ordinal: d.uvarint(), Offset: d.uvarint()}
	// The smallest line takes three bytes, so that a count that lies cannot
	// make us reserve more than the data deserves.
	if d.bad || batch.First == 0 || count > uint64(len(d.rest))/3 {
		return Batch{}, ErrDamaged
	}
	batch.Lines = make([]Line, 0, count)
	last := int64(0)
	for seq := batch.First; seq < batch.First+count; seq++ {
		last += d.varint()
		flags := Flags(d.byte()) & knownFlags
		size := d.uvarint()
		if d.bad || size > uint64(len(d.rest)) {
			return Batch{}, ErrDamaged
		}
		batch.Lines = append(batch.Lines, Line{Seq: seq, Time: time.Unix(0, last).UTC(), Flags: flags, Text: d.rest[:size:size]})
		d.rest = d.rest[size:]
	}
	if len(d.rest) > 0 {
		return Batch{}, ErrDamaged
	}
	return batch, nil
}

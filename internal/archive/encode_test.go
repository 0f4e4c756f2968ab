package archive

import (
	"fmt"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

func BenchmarkEncode(b *testing.B) {
	a, err := New(nil)
	if err != nil {
		b.Fatal(err)
	}
	var lines []logevent.Line
	size := 0
	for i := range 80_000 {
		text := fmt.Appendf(nil, "2026-01-02 15:04:%02d,%03d INFO trainer.loop step=%d loss=%.6f lr=%.3e samples/s=%d", i/1000%60, i%1000, i, 1/float64(i+1), 1e-3/float64(i%97+1), 4000+i*7919%1000)
		lines = append(lines, logevent.Line{Seq: uint64(i + 1), Time: time.Unix(1_700_000_000, int64(i)*12_345).UTC(), Text: text})
		size += len(text)
	}
	b.SetBytes(int64(size))
	for b.Loop() {
		a.encode(logevent.Log{}, lines, false)
	}
}

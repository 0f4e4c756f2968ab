package archive_test

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"testing"

	"github.com/ropewalk/ropewalk/internal/archive"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/sink/file"
	"github.com/ropewalk/ropewalk/internal/sinktest"
)

// meter counts what is read of objects.
type meter struct {
	*file.Folder
	bytes int
}

func (m *meter) Get(ctx context.Context, key string) (io.ReadCloser, error) {
	body, err := m.Folder.Get(ctx, key)
	return metered{body, m}, err
}

func (m *meter) GetFrom(ctx context.Context, key string, offset int64) (io.ReadCloser, error) {
	body, err := m.Folder.GetFrom(ctx, key, offset)
	return metered{body, m}, err
}

// took is what was read since it was last asked for.
func (m *meter) took() int {
	defer func() { m.bytes = 0 }()
	return m.bytes
}

type metered struct {
	io.ReadCloser
	meter *meter
}

func (m metered) Read(into []byte) (int, error) {
	n, err := m.ReadCloser.Read(into)
	m.meter.bytes += n
	return n, err
}

var log = logevent.Log{Run: "r", Attempt: 1, Pod: "p", Container: "run"}

// noise makes lines that do not compress.
func noise(first uint64, n int) []logevent.Line {
	lines := sinktest.Lines(first, n)
	state := first
	for i := range lines {
		lines[i].Text = make([]byte, 1000)
		for j := range lines[i].Text {
			state = state*6364136223846793005 + 1442695040888963407
			lines[i].Text[j] = 'a' + byte(state>>59)%26
		}
	}
	return lines
}

// merged keeps a log in so many chunks, and merges it.
func merged(t *testing.T, chunks, each int) (*archive.Archive, *meter, []logevent.Line) {
	t.Helper()
	folder, err := file.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	objects := &meter{Folder: folder}
	kept, err := archive.New(objects)
	if err != nil {
		t.Fatal(err)
	}
	var all []logevent.Line
	for i := range chunks {
		lines := noise(uint64(i*each+1), each)
		all = append(all, lines...)
		if err := kept.Put(t.Context(), log, lines); err != nil {
			t.Fatal(err)
		}
	}
	if err := kept.Finish(t.Context(), log, nil, uint64(len(all)+1)); err != nil {
		t.Fatal(err)
	}
	objects.took()
	return kept, objects, all
}

func TestOfALargeObjectOnlyWhatIsAskedForIsRead(t *testing.T) {
	const chunks, each = 20, 300
	kept, objects, all := merged(t, chunks, each)
	count := uint64(chunks * each)
	index, err := kept.Index(t.Context(), log)
	if err != nil || index.Last != count || len(index.Chunks) != chunks {
		t.Fatalf("%+v, %v", index, err)
	}
	const tail = 64 << 10
	if n := objects.took(); n > tail {
		t.Errorf("the index cost %d bytes", n)
	}
	if next, ended, err := kept.Reached(t.Context(), log); err != nil || next != count+1 || !ended || objects.took() > tail {
		t.Errorf("it reaches %d, %v, %v", next, ended, err)
	}
	chunk := int(index.Chunks[0].Size)
	for name, from := range map[string]uint64{
		"the last lines": count - 9, "the first line of a chunk": 10*each + 1, "the last line of a chunk": 10 * each,
	} {
		var lines []logevent.Line
		next, ended, err := kept.Read(t.Context(), log, from, func(line logevent.Line) bool {
			lines = append(lines, line)
			return len(lines) < 10
		})
		if err != nil || next != from+10 || ended {
			t.Errorf("%s: %d, %v, %v", name, next, ended, err)
		}
		sinktest.Compare(t, lines, all[from-1:from+9])
		// Two chunks, of which the second may have been read ahead in part.
		if n := objects.took(); n > tail+2*chunk+(256<<10) || n > chunks*chunk/2 {
			t.Errorf("%s: cost %d bytes; a chunk has %d", name, n, chunk)
		}
	}
	if next, ended, err := kept.Read(t.Context(), log, count+1, func(logevent.Line) bool { t.Error("a line after the last one"); return false }); err != nil || next != count+1 || !ended {
		t.Errorf("after the end: %d, %v, %v", next, ended, err)
	}
	if n := objects.took(); n > 2*tail {
		t.Errorf("what is after the end cost %d bytes", n)
	}
}

func TestAnIndexMayBeLarge(t *testing.T) {
	kept, _, all := merged(t, 1500, 1)
	index, err := kept.Index(t.Context(), log)
	if err != nil || len(index.Chunks) != 1500 {
		t.Fatalf("%d chunks, %v", len(index.Chunks), err)
	}
	if last, err := kept.Last(t.Context(), log); err != nil || last != uint64(len(all)) {
		t.Errorf("the last line is %d, %v", last, err)
	}
}

func TestALogThatIsNotThereHasNoIndex(t *testing.T) {
	kept, _, _ := merged(t, 1, 1)
	other := log
	other.Container = "other"
	if _, err := kept.Index(t.Context(), other); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if next, ended, err := kept.Read(t.Context(), other, 5, func(logevent.Line) bool { return true }); err != nil || next != 5 || ended {
		t.Errorf("%d, %v, %v", next, ended, err)
	}
}

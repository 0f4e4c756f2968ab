package file_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/archive"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/sink/file"
	"github.com/ropewalk/ropewalk/internal/sinktest"
)

func TestConformance(t *testing.T) {
	root := t.TempDir()
	folder, err := file.New(root)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := archive.New(folder)
	if err != nil {
		t.Fatal(err)
	}
	sinktest.Run(t, kept, true, func(t *testing.T, log logevent.Log) []logevent.Line {
		t.Helper()
		object, err := os.Open(filepath.Join(root, "v1", filepath.FromSlash(log.String())+".ndjson.zst"))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = object.Close() }()
		if _, err := os.Stat(filepath.Join(root, "v1", filepath.FromSlash(log.String()))); !os.IsNotExist(err) {
			t.Errorf("chunks are left: %v", err)
		}
		return sinktest.Decode(t, object)
	})
	stored, err := kept.Logs(t.Context(), "", time.Time{})
	if err != nil || len(stored) != 6 {
		t.Fatalf("%d logs, %v", len(stored), err)
	}
	for _, s := range stored {
		if verdict, err := kept.Check(t.Context(), s); err != nil || verdict.Problem != "" || !verdict.Ended {
			t.Errorf("%s: %+v, %v", s.Log, verdict, err)
		}
	}
}

func TestACheckSaysWhatIsMissing(t *testing.T) {
	folder, err := file.New(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	kept, err := archive.New(folder)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		put  [][2]int
		want string
	}{
		"open": {[][2]int{{1, 10}}, "its end is not there; it goes to line 10"},
		"hole": {[][2]int{{1, 10}, {21, 10}}, "line 11 is missing, and there are later ones up to 30"},
	} {
		log := logevent.Log{Queue: "q", Run: name, Attempt: 1, Pod: "p", Container: "c"}
		for _, piece := range test.put {
			if err := kept.Put(t.Context(), log, sinktest.Lines(uint64(piece[0]), piece[1])); err != nil {
				t.Fatal(err)
			}
		}
		stored, err := kept.Logs(t.Context(), name, time.Time{})
		if err != nil || len(stored) != 1 {
			t.Fatalf("%+v, %v", stored, err)
		}
		if verdict, err := kept.Check(t.Context(), stored[0]); err != nil || verdict.Problem != test.want {
			t.Errorf("%s: %+v, %v", name, verdict, err)
		}
	}
}

func TestAProbeLeavesNothingBehind(t *testing.T) {
	dir := t.TempDir()
	folder, err := file.New(dir)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := archive.New(folder)
	if err != nil {
		t.Fatal(err)
	}
	if err := kept.Probe(t.Context()); err != nil {
		t.Error(err)
	}
	err = filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			t.Errorf("%s is left", path)
		}
		return err
	})
	if err != nil {
		t.Error(err)
	}
}

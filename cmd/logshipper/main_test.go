package main

import (
	"net/url"
	"strings"
	"testing"

	"github.com/ropewalk/ropewalk/internal/archive"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/sink/file"
	"github.com/ropewalk/ropewalk/internal/sinktest"
)

func TestVerifySaysWhatIsMissing(t *testing.T) {
	root := t.TempDir()
	folder, err := file.New(root)
	if err != nil {
		t.Fatal(err)
	}
	kept, err := archive.New(folder)
	if err != nil {
		t.Fatal(err)
	}
	log := func(run string) logevent.Log {
		return logevent.Log{Queue: "q", Run: run, Attempt: 1, Pod: "p", Container: "run"}
	}
	if err := kept.Finish(t.Context(), log("whole"), sinktest.Lines(1, 10), 11); err != nil {
		t.Fatal(err)
	}
	if err := kept.Put(t.Context(), log("open"), sinktest.Lines(1, 10)); err != nil {
		t.Fatal(err)
	}
	t.Setenv("ROPEWALK_LOG_ARCHIVE", (&url.URL{Scheme: "file", Path: root}).String())
	for args, want := range map[string]struct {
		code int
		says string
	}{
		"verify whole":      {0, "whole/1/p/run: 10 lines, 1 gaps of the cluster's, complete"},
		"verify open":       {1, "NOT COMPLETE: its end is not there; it goes to line 10"},
		"verify --since 1h": {1, "whole/1/p/run: 10 lines"},
		"verify none":       {1, "the archive has nothing of run none"},
		"verify":            {2, "want the ID of a run, or --since TIME"},
		"verify --nonsense": {2, "unknown flag"},
	} {
		var out strings.Builder
		if code := run(t.Context(), strings.Fields(args), &out, &out); code != want.code || !strings.Contains(out.String(), want.says) {
			t.Errorf("%s: code %d, and it says %q", args, code, out.String())
		}
	}
}

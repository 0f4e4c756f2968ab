package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDocumentsAreFresh(t *testing.T) {
	t.Chdir("../..")
	for _, document := range documents() {
		if err := document.check(); err != nil {
			t.Error(err)
		}
	}
}

func TestCheckTellsFreshFromStale(t *testing.T) {
	t.Chdir(t.TempDir())
	page := document{path: "page.md", write: func(w io.Writer) error {
		_, err := io.WriteString(w, "as it should be\n")
		return err
	}}
	for name, test := range map[string]struct {
		content string
		fresh   bool
	}{
		"the same text is fresh":    {"as it should be\n", true},
		"another text is stale":     {"as it was\n", false},
		"an empty file is stale":    {"", false},
		"a text beyond it is stale": {"as it should be\nand more\n", false},
	} {
		t.Run(name, func(t *testing.T) {
			if err := os.WriteFile(page.path, []byte(test.content), 0o600); err != nil {
				t.Fatal(err)
			}
			err := page.check()
			if (err == nil) != test.fresh {
				t.Errorf("check() = %v", err)
			}
			if err != nil && !strings.Contains(err.Error(), page.path) {
				t.Errorf("the error does not name the file: %v", err)
			}
		})
	}
	t.Run("a missing file is stale", func(t *testing.T) {
		if err := os.Remove(page.path); err != nil {
			t.Fatal(err)
		}
		if page.check() == nil {
			t.Error("no error")
		}
	})
}

func TestWriteAllWritesWhatCheckWants(t *testing.T) {
	// The comments are read from the sources, so they must be there too.
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.CopyFS(filepath.Join(dir, "internal/run"), os.DirFS(filepath.Join(root, "internal/run"))); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	var stderr bytes.Buffer
	if err := execute([]string{"-check"}, &stderr); err == nil {
		t.Error("-check accepts an empty folder")
	}
	if err := execute(nil, &stderr); err != nil {
		t.Fatal(err)
	}
	if err := execute([]string{"-check"}, &stderr); err != nil {
		t.Error(err)
	}
}

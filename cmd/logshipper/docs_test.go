package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the page of commands anew")

// The page of commands is what the commands say of themselves. make generate
// writes it.
func TestPageOfCommandsIsFresh(t *testing.T) {
	var page bytes.Buffer
	page.WriteString("# logshipper\n\n<!-- Generated from cmd/logshipper; run make generate after changing it there. -->\n\nEvery command says the same of itself with `--help`.\n")
	for _, command := range []string{"serve", "verify", "ready", "version"} {
		var help strings.Builder
		if code := run(t.Context(), []string{command, "--help"}, &help, &help); code != 0 {
			t.Fatalf("%s --help: %s", command, help.String())
		}
		about, usage, _ := strings.Cut(help.String(), "\nUsage:\n")
		fmt.Fprintf(&page, "\n## logshipper %s\n\n%s\n```text\n%s\n```\n", command, about, strings.TrimSpace(usage))
	}
	path := filepath.Join("..", "..", "docs", "commands", "logshipper.md")
	if *update {
		if err := os.WriteFile(path, page.Bytes(), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	have, err := os.ReadFile(path)
	if err != nil || !bytes.Equal(have, page.Bytes()) {
		t.Errorf("%s is stale (%v): run make generate and commit the result", path, err)
	}
}

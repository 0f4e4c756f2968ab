package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// The page of commands is what the commands say of themselves. make generate
// writes it.
func TestPageOfCommandsIsFresh(t *testing.T) {
	t.Setenv("NO_COLOR", "1")
	var page bytes.Buffer
	page.WriteString("# dispatcher\n\n<!-- Generated from cmd/dispatcher; run make generate after changing it there. -->\n\nEvery command says the same of itself with `--help`. Those that only talk to the queue need `ROPEWALK_NATS_URL` and how to log in there; [settings](../settings.md) has them.\n")
	writeCommands(&page, newRootCommand(&app{stdin: strings.NewReader(""), stdout: &page, stderr: &page}))
	path := filepath.Join("..", "..", "docs", "commands", "dispatcher.md")
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

// writeCommands writes a section for each command that does something.
func writeCommands(page *bytes.Buffer, command *cobra.Command) {
	for _, child := range command.Commands() {
		if child.Name() == "help" || child.Name() == "completion" || child.Hidden {
			continue
		}
		if child.HasSubCommands() {
			writeCommands(page, child)
			continue
		}
		about := child.Long
		if about == "" {
			about = child.Short + "."
		}
		fmt.Fprintf(page, "\n## %s\n\n%s\n\n```text\n%s\n", child.CommandPath(), about, child.UseLine())
		if flags := strings.TrimRight(child.LocalFlags().FlagUsages(), "\n"); flags != "" {
			fmt.Fprintf(page, "\n%s\n", flags)
		}
		page.WriteString("```\n")
		if child.Example != "" {
			fmt.Fprintf(page, "\n```sh\n%s\n```\n", strings.ReplaceAll(strings.TrimSpace(child.Example), "\n  ", "\n"))
		}
	}
}

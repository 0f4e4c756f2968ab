// Command docgen writes the documents that are generated from the code: the
// JSON Schemas of the request and of the run's record, the AsyncAPI document,
// and the pages on states and settings. `make generate` runs it, and with
// -check it only reports which documents are stale; its tests do the same.
//
// It runs in the root of the repository, as it reads the comments of package
// run from their source files.
package main

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/ropewalk/ropewalk/internal/config"
)

func main() {
	if err := execute(os.Args[1:], os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "docgen:", err)
		os.Exit(1)
	}
}

func execute(args []string, stderr io.Writer) error {
	flags := flag.NewFlagSet("docgen", flag.ContinueOnError)
	flags.SetOutput(stderr)
	check := flags.Bool("check", false, "write nothing, and fail when a document is stale")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *check {
		return checkAll()
	}
	return writeAll()
}

// document is one generated file.
type document struct {
	path  string // from the root of the repository
	write func(io.Writer) error
}

func documents() []document {
	return []document{
		{"docs/schema/request.v1.schema.json", writeRequestSchema},
		{"docs/schema/run.v1.schema.json", writeRunSchema},
		{"docs/asyncapi.yaml", writeAsyncAPI},
		{"docs/state-machine.md", writeStateMachine},
		{"docs/troubleshooting.md", writeTroubleshooting},
		{"docs/settings.md", config.WriteMarkdown},
	}
}

func (d document) generate() ([]byte, error) {
	var buffer bytes.Buffer
	if err := d.write(&buffer); err != nil {
		return nil, fmt.Errorf("generate %s: %w", d.path, err)
	}
	return buffer.Bytes(), nil
}

// check returns an error that says what to do when the file is not what would
// be generated now.
func (d document) check() error {
	want, err := d.generate()
	if err != nil {
		return err
	}
	have, err := os.ReadFile(d.path)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if !bytes.Equal(have, want) {
		return fmt.Errorf("%s is stale: run `make generate` and commit the result", d.path)
	}
	return nil
}

func checkAll() error {
	var all []error
	for _, document := range documents() {
		all = append(all, document.check())
	}
	return errors.Join(all...)
}

// writeAll generates everything before it writes anything, so that an error
// leaves no half of it behind.
func writeAll() error {
	texts := map[string][]byte{}
	for _, document := range documents() {
		text, err := document.generate()
		if err != nil {
			return err
		}
		texts[document.path] = text
	}
	for path, text := range texts {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil { //nolint:gosec // documents are for everybody to read
			return err
		}
		if err := os.WriteFile(path, text, 0o644); err != nil { //nolint:gosec // documents are for everybody to read
			return err
		}
	}
	return nil
}

package wait_test

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// clocks are the test files that may use the machine's clock, each with its
// reason. In a synctest bubble the clock is not the machine's.
var clocks = map[string]string{
	"client/main_test.go":               "TestMain has no test that could wait",
	"internal/k8sjobs/evidence_test.go": "runs in the bubble of a test in another file",
	"internal/localexec/crash_test.go":  "the calls under test end at many moments, which are what is tried out",
	"internal/localexec/delete_test.go": "the call under test has a context that ends",
	"test/e2e/cancel_test.go":           "the moment of a cancellation is what is tried out",
}

// A test that has a deadline of its own fails on a machine that is slow for a
// moment, and one that sleeps is slow on every machine.
func TestNoTestHasAClockOfItsOwn(t *testing.T) {
	root := filepath.Join("..", "..", "..")
	used := map[string]bool{}
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if entry.IsDir() && slices.Contains([]string{".git", "bin"}, entry.Name()) {
			return fs.SkipDir
		}
		if entry.IsDir() || !strings.HasSuffix(path, "_test.go") {
			return nil
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		for _, found := range clockCalls(t, path) {
			if clocks[name] == "" {
				t.Errorf("%s: it must wait by package wait, or in a synctest bubble", found)
			}
			used[name] = true
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for name := range clocks {
		if !used[name] {
			t.Errorf("%s uses no clock any more: take it off the list", name)
		}
	}
}

// clockCalls returns the places in a test file that wait by the machine's clock.
func clockCalls(t *testing.T, path string) (found []string) {
	t.Helper()
	files := token.NewFileSet()
	file, err := parser.ParseFile(files, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(file.Imports, func(i *ast.ImportSpec) bool { return i.Path.Value == `"testing/synctest"` }) {
		return nil
	}
	ast.Inspect(file, func(node ast.Node) bool {
		selector, ok := node.(*ast.SelectorExpr)
		if !ok {
			return true
		}
		from, ok := selector.X.(*ast.Ident)
		if !ok {
			return true
		}
		switch call := from.Name + "." + selector.Sel.Name; call {
		case "time.Sleep", "time.After", "time.AfterFunc", "time.NewTimer", "time.NewTicker", "time.Tick",
			"context.WithTimeout", "context.WithTimeoutCause", "context.WithDeadline", "context.WithDeadlineCause":
			found = append(found, files.Position(node.Pos()).String()+" calls "+call)
		}
		return true
	})
	return found
}

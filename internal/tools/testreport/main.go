// Command testreport says what is worth knowing about tests that ran: which were
// the slowest, how much of each package's time was work and how much was
// waiting, and which tests are flaky: they failed, ran again, and passed.
//
// It reads what `go test -json` wrote, of one run or of several, one after the
// other in one file. `.ci/run` ends with it. It fails when a package failed although
// none of its tests did: gotestsum runs failed tests again, and takes such a package
// for one that passed.
//
//	testreport [-slowest N] [-cpu FILE] FILE...
package main

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"
)

func main() {
	if err := execute(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "testreport:", err)
		os.Exit(1)
	}
}

func execute(args []string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("testreport", flag.ContinueOnError)
	flags.SetOutput(stderr)
	slowest := flags.Int("slowest", 20, "how many of the slowest tests to list")
	cpu := flags.String("cpu", "", "the file that test/measure wrote")
	if err := flags.Parse(args); err != nil {
		return err
	}
	var all results
	for _, path := range flags.Args() {
		if err := readFile(path, all.read); err != nil {
			return err
		}
	}
	out := new(strings.Builder)
	if *slowest > 0 {
		all.writeSlowest(out, *slowest)
	}
	if *cpu != "" {
		var packages []usage
		err := readFile(*cpu, func(r io.Reader) (err error) {
			packages, err = readUsage(r)
			return err
		})
		if err != nil {
			return err
		}
		writeUsage(out, packages, *slowest)
	}
	all.writeFlaky(out)
	if _, err := io.WriteString(stdout, out.String()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	if len(all.unexplained) > 0 {
		return fmt.Errorf("failed, although none of their tests did (look for what TestMain says, and for goroutines that were left over): %s", strings.Join(all.unexplained, ", "))
	}
	return nil
}

func readFile(path string, read func(io.Reader) error) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open the tests' results: %w", err)
	}
	if err := errors.Join(read(file), file.Close()); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}

// writeSlowest lists the tests that took longest. A parallel
// test's time begins when it resumes.
func (r *results) writeSlowest(w *strings.Builder, n int) {
	var roots []*test
	for _, t := range r.tests {
		if !t.isSubtest() && len(t.runs) > 0 {
			roots = append(roots, t)
		}
	}
	slices.SortStableFunc(roots, func(a, b *test) int { return cmp.Compare(b.slowest(), a.slowest()) })
	roots = roots[:min(n, len(roots))]
	if len(roots) == 0 {
		return
	}
	fmt.Fprintf(w, "The %d slowest tests:\n", len(roots))
	for _, t := range roots {
		fmt.Fprintf(w, "%10s  %s\n", seconds(t.slowest()), t.name())
	}
}

// writeUsage lists the packages whose tests took longest, with the share of that
// time in which they did not compute.
func writeUsage(w *strings.Builder, packages []usage, n int) {
	slices.SortStableFunc(packages, func(a, b usage) int { return cmp.Compare(b.elapsed, a.elapsed) })
	packages = packages[:min(n, len(packages))]
	fmt.Fprintf(w, "The %d slowest packages, with the processor time of their tests and of what they started:\n", len(packages))
	for _, p := range packages {
		fmt.Fprintf(w, "%10s %10s %3.0f %% waiting  %s\n", seconds(p.elapsed), seconds(p.cpu), 100*p.waiting(), p.name)
	}
}

// mostLines bounds how much of a flaky test's failure is repeated. The whole of
// it stands where the test failed.
const mostLines = 40

// writeFlaky names each test that failed at first and passed in the end, with
// what it said when it failed.
func (r *results) writeFlaky(w *strings.Builder) {
	for _, t := range r.tests {
		if t.isSubtest() || !t.flaky() {
			continue
		}
		fmt.Fprintf(w, "FLAKY %s: it failed, ran again, and passed. Its first failure:\n", t.name())
		lines := t.firstFailure()
		for _, line := range lines[:min(mostLines, len(lines))] {
			fmt.Fprintln(w, "    "+line)
		}
		if more := len(lines) - mostLines; more > 0 {
			fmt.Fprintf(w, "    (%d more lines)\n", more)
		}
	}
}

// short leaves out the part of an import path that all packages here share.
func short(path string) string {
	return strings.TrimPrefix(path, "github.com/ropewalk/ropewalk/")
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.1f s", d.Seconds()) }

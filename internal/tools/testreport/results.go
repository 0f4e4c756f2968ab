package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"time"
)

// event is a line that `go test -json` writes; see `go doc test2json`.
type event struct {
	Action  string
	Package string
	Test    string
	Elapsed float64 // seconds
	Output  string
}

// outcome is how a test ended once.
type outcome struct {
	failed  bool
	elapsed time.Duration
	output  []string
}

// test is one test or subtest and how it ended each time.
type test struct {
	pkg, path string
	runs      []outcome
	output    []string // of the run that goes on
	subtests  []*test  // of all depths, if this is no subtest itself
}

func (t *test) isSubtest() bool { return strings.Contains(t.path, "/") }

func (t *test) name() string { return short(t.pkg) + " " + t.path }

// slowest is the longest time that the test took, or one of its subtests: the
// time of a test does not count subtests that run beside each other.
func (t *test) slowest() (longest time.Duration) {
	for _, run := range t.runs {
		longest = max(longest, run.elapsed)
	}
	for _, sub := range t.subtests {
		longest = max(longest, sub.slowest())
	}
	return longest
}

func (t *test) flaky() bool {
	n := len(t.runs)
	if n == 0 || t.runs[n-1].failed {
		return false
	}
	for _, run := range t.runs {
		if run.failed {
			return true
		}
	}
	return false
}

// results are the tests in the order in which they were first seen.
type results struct {
	tests []*test
	byKey map[string]*test
	// failed counts, for each package that is being tested, the tests that failed.
	failed map[string]int
	// unexplained are packages that failed although none of their tests did: in
	// TestMain, or by goroutines that were left over.
	unexplained []string
}

func (r *results) read(from io.Reader) error {
	if r.byKey == nil {
		r.byKey, r.failed = map[string]*test{}, map[string]int{}
	}
	decoder := json.NewDecoder(from)
	for {
		var e event
		if err := decoder.Decode(&e); err == io.EOF {
			return nil
		} else if err != nil {
			return fmt.Errorf("decode an event of go test -json: %w", err)
		}
		if e.Test == "" {
			r.addPackage(e)
		} else {
			r.add(e)
		}
	}
}

func (r *results) addPackage(e event) {
	switch {
	case e.Action == "start":
		r.failed[e.Package] = 0
	case e.Action == "fail" && r.failed[e.Package] == 0:
		r.unexplained = append(r.unexplained, short(e.Package))
	}
}

func (r *results) add(e event) {
	if e.Action == "fail" {
		r.failed[e.Package]++
	}
	key := e.Package + " " + e.Test
	t := r.byKey[key]
	if t == nil {
		t = &test{pkg: e.Package, path: e.Test}
		r.tests, r.byKey[key] = append(r.tests, t), t
		root, _, _ := strings.Cut(e.Test, "/")
		if parent := r.byKey[e.Package+" "+root]; parent != nil && parent != t {
			parent.subtests = append(parent.subtests, t)
		}
	}
	switch e.Action {
	case "output":
		if line := strings.TrimRight(e.Output, "\n"); tells(line) {
			t.output = append(t.output, line)
		}
	case "pass", "fail", "skip":
		elapsed := time.Duration(e.Elapsed * float64(time.Second))
		t.runs = append(t.runs, outcome{failed: e.Action == "fail", elapsed: elapsed, output: t.output})
		t.output = nil
	}
}

// tells reports whether a line of output says something about the test, rather
// than about when it ran.
func tells(line string) bool {
	for _, prefix := range []string{"=== RUN ", "=== PAUSE ", "=== CONT ", "=== NAME "} {
		if strings.HasPrefix(line, prefix) {
			return false
		}
	}
	return strings.TrimSpace(line) != ""
}

// firstFailure returns what the test and its subtests said when it first failed,
// without the JSON that programs log.
func (t *test) firstFailure() (lines []string) {
	for _, each := range append([]*test{t}, t.subtests...) {
		for _, run := range each.runs {
			if run.failed {
				lines = append(lines, slices.DeleteFunc(slices.Clone(run.output), isJSON)...)
				break
			}
		}
	}
	return lines
}

func isJSON(line string) bool {
	_, logged, found := strings.Cut(line, "{")
	return found && json.Valid([]byte("{"+logged))
}

// usage is how long the tests of a package took, and how much processor time.
type usage struct {
	name         string
	elapsed, cpu time.Duration
}

// waiting is the share of the time in which no processor worked for the tests.
// Where they keep two busy at once, it is none.
func (u usage) waiting() float64 {
	if u.elapsed <= 0 {
		return 0
	}
	return max(0, 1-float64(u.cpu)/float64(u.elapsed))
}

// readUsage reads lines of test/measure: a folder and the seconds that passed,
// that were spent in programs, and in the kernel for them.
func readUsage(from io.Reader) (all []usage, err error) {
	for scanner := bufio.NewScanner(from); ; {
		if !scanner.Scan() {
			return all, scanner.Err()
		}
		fields := strings.Fields(scanner.Text())
		if len(fields) != 4 {
			return nil, fmt.Errorf("%q is not a folder and three numbers of seconds", scanner.Text())
		}
		var spent [3]time.Duration
		for i := range spent {
			number, err := strconv.ParseFloat(fields[i+1], 64)
			if err != nil {
				return nil, fmt.Errorf("read a number of seconds: %w", err)
			}
			spent[i] = time.Duration(number * float64(time.Second))
		}
		all = append(all, usage{name: fields[0], elapsed: spent[0], cpu: spent[1] + spent[2]})
	}
}

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

const events = `{"Action":"start","Package":"github.com/ropewalk/ropewalk/test/e2e"}
{"Action":"run","Package":"github.com/ropewalk/ropewalk/test/e2e","Test":"TestA"}
{"Action":"output","Package":"github.com/ropewalk/ropewalk/test/e2e","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"github.com/ropewalk/ropewalk/test/e2e","Test":"TestA/sub","Output":"    a_test.go:7: the run is queued\n"}
{"Action":"fail","Package":"github.com/ropewalk/ropewalk/test/e2e","Test":"TestA/sub","Elapsed":1.5}
{"Action":"output","Package":"github.com/ropewalk/ropewalk/test/e2e","Test":"TestA","Output":"--- FAIL: TestA (2.00s)\n"}
{"Action":"fail","Package":"github.com/ropewalk/ropewalk/test/e2e","Test":"TestA","Elapsed":2}
{"Action":"run","Package":"github.com/ropewalk/ropewalk/test/e2e","Test":"TestB"}
{"Action":"pass","Package":"github.com/ropewalk/ropewalk/test/e2e","Test":"TestB/beside_others","Elapsed":61.04}
{"Action":"pass","Package":"github.com/ropewalk/ropewalk/test/e2e","Test":"TestB","Elapsed":0}
{"Action":"fail","Package":"github.com/ropewalk/ropewalk/test/e2e","Test":"TestC","Elapsed":0.5}
{"Action":"fail","Package":"github.com/ropewalk/ropewalk/test/e2e","Elapsed":63}
{"Action":"pass","Package":"github.com/ropewalk/ropewalk/test/e2e","Test":"TestA/sub","Elapsed":1}
{"Action":"output","Package":"github.com/ropewalk/ropewalk/test/e2e","Test":"TestA","Output":"--- PASS: TestA (1.00s)\n"}
{"Action":"pass","Package":"github.com/ropewalk/ropewalk/test/e2e","Test":"TestA","Elapsed":1}
{"Action":"fail","Package":"github.com/ropewalk/ropewalk/test/e2e","Test":"TestC","Elapsed":0.25}
`

func write(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func report(t *testing.T, args ...string) string {
	t.Helper()
	var stdout, stderr bytes.Buffer
	if err := execute(args, &stdout, &stderr); err != nil {
		t.Fatalf("%v\n%s", err, &stderr)
	}
	return stdout.String()
}

func TestTheReportOfARun(t *testing.T) {
	got := report(t, "-slowest", "2", "-cpu", write(t, "cpu", "internal/queue 48.0 0.9 0.3\ninternal/run 1.0 1.9 0.1\n"), write(t, "e2e.json", events))
	const want = `The 2 slowest tests:
    61.0 s  test/e2e TestB
     2.0 s  test/e2e TestA
The 2 slowest packages, with the processor time of their tests and of what they started:
    48.0 s      1.2 s  98 % waiting  internal/queue
     1.0 s      2.0 s   0 % waiting  internal/run
FLAKY test/e2e TestA: it failed, ran again, and passed. Its first failure:
    --- FAIL: TestA (2.00s)
        a_test.go:7: the run is queued
`
	if got != want {
		t.Errorf("it is\n%s\nwant\n%s", got, want)
	}
}

// A test that failed both times has failed; one that never failed is not flaky.
func TestOnlyWhatPassedInTheEndIsFlaky(t *testing.T) {
	got := report(t, "-slowest", "0", write(t, "e2e.json", events))
	if strings.Count(got, "FLAKY") != 1 || strings.Contains(got, "TestB") || strings.Contains(got, "TestC") {
		t.Errorf("it is\n%s", got)
	}
}

func TestALongFailureIsCut(t *testing.T) {
	var text strings.Builder
	for range 50 {
		text.WriteString(`{"Action":"output","Package":"p","Test":"TestA","Output":"once more\n"}` + "\n")
	}
	text.WriteString(`{"Action":"fail","Package":"p","Test":"TestA"}` + "\n" + `{"Action":"pass","Package":"p","Test":"TestA"}` + "\n")
	got := report(t, write(t, "a.json", text.String()))
	if strings.Count(got, "once more") != mostLines || !strings.Contains(got, "(10 more lines)") {
		t.Errorf("it is\n%s", got)
	}
}

func TestWhatIsNotAReportIsAnError(t *testing.T) {
	for name, args := range map[string][]string{
		"no JSON":      {write(t, "a", "FAIL\n")},
		"no file":      {filepath.Join(t.TempDir(), "none")},
		"no numbers":   {"-cpu", write(t, "b", "internal/queue fast\n")},
		"no such flag": {"-loud"},
	} {
		var stdout, stderr bytes.Buffer
		if err := execute(args, &stdout, &stderr); err == nil {
			t.Errorf("%s: no error; it writes %q", name, &stdout)
		}
	}
}

// A package may fail in TestMain, or by goroutines that were left over. No test
// that runs again and passes makes up for that.
func TestAPackageThatFailsWithoutAFailedTestIsAnError(t *testing.T) {
	const failed = `{"Action":"start","Package":"p"}
{"Action":"pass","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}
{"Action":"start","Package":"p"}
{"Action":"pass","Package":"p"}
`
	var stdout, stderr bytes.Buffer
	if err := execute([]string{write(t, "a.json", failed)}, &stdout, &stderr); err == nil || !strings.HasSuffix(err.Error(), ": p") {
		t.Errorf("it is %v", err)
	}
}

func TestWhatProgramsLogIsNoFailure(t *testing.T) {
	got := report(t, write(t, "a.json", `{"Action":"output","Package":"p","Test":"TestA","Output":"    a.go:1: {\"level\":\"info\"}\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: map[a:1]{}, want none\n"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p","Test":"TestA"}
`))
	if strings.Contains(got, "level") || !strings.Contains(got, "want none") {
		t.Errorf("it is\n%s", got)
	}
}

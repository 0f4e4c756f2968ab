//go:build linux || darwin

package localexec

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestHowACommandEnds(t *testing.T) {
	t.Parallel()
	for sentence, test := range map[string]struct {
		script string
		code   int
		words  string
	}{
		"with an exit code":                    {"exit 42", 42, "exit code 42"},
		"with an exit code that means nothing": {"exit 200", 200, "exit code 200"},
		"killed, as for want of memory":        {"kill -KILL $$", 137, "SIGKILL"},
		"by a signal of its own":               {"kill -SEGV $$", 139, "SIGSEGV"},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			_, final := ends(t, newLauncher(t, t.TempDir()), script(test.script))
			want(t, final, run.Failed, run.AppError, test.words, run.AppError.ToDo())
			wantCode(t, final, test.code)
		})
	}
}

func TestACommandThatCannotStart(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for name, mode := range map[string]os.FileMode{"not-executable": 0o600, "no-interpreter": 0o700} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/nonexistent/interpreter\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	for sentence, test := range map[string]struct {
		command    string
		workingDir string
		path       string
		code       int
		words      string
	}{
		"a name that is nowhere":             {command: "no-such-command", code: 127, words: `"no-such-command" was not found in PATH`},
		"a name that may not be executed":    {command: "not-executable", path: dir, code: 126, words: "permission denied"},
		"a path that is not there":           {command: "/nonexistent/command", code: 127, words: "/nonexistent/command"},
		"a path that may not be executed":    {command: filepath.Join(dir, "not-executable"), code: 126, words: "permission denied"},
		"a script without its interpreter":   {command: filepath.Join(dir, "no-interpreter"), code: 127, words: "no-interpreter"},
		"a folder":                           {command: dir, code: 126, words: "permission denied"},
		"a working directory that is not":    {command: "true", workingDir: "/nonexistent/dir", code: 126, words: "/nonexistent/dir"},
		"a working directory that is a file": {command: "true", workingDir: filepath.Join(dir, "no-interpreter"), code: 126, words: "no-interpreter"},
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			launcher := newLauncher(t, t.TempDir())
			_, final := ends(t, launcher, script("", func(request *run.Request) {
				request.Command, request.WorkingDir = []string{test.command}, test.workingDir
				if test.path != "" {
					request.Env = map[string]string{"PATH": test.path}
				}
			}))
			want(t, final, run.Failed, run.InvalidPodSpec, test.words, run.InvalidPodSpec.ToDo())
			wantCode(t, final, test.code)
			if !final.StartedAt.IsZero() || final.FinishedAt.IsZero() {
				t.Errorf("the end is %+v, want no start and an end", final)
			}
		})
	}
}

func TestTheEnvironmentIsTheRequestsAndLittleElse(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t, t.TempDir())
	job, _ := ends(t, launcher, script("env", func(request *run.Request) {
		request.Env = map[string]string{"PLAIN": "1", "LANG": "de_DE.UTF-8", jobMark: "forged"}
		request.SecretEnv = map[string]run.Secret{"TOKEN": "hunter2"}
	}))
	got := make(map[string]string)
	for _, line := range outputOf(t, launcher, job) {
		name, value, _ := strings.Cut(line.text, "=")
		got[name] = value
	}
	for _, name := range []string{"PWD", "OLDPWD", "SHLVL", "_"} { // the shell's own
		delete(got, name)
	}
	wanted := map[string]string{
		"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/home/of-the-dispatcher", "LANG": "de_DE.UTF-8",
		"PLAIN": "1", "TOKEN": "hunter2", jobMark: job.UID,
	}
	if fmt.Sprint(got) != fmt.Sprint(wanted) {
		t.Errorf("environment %v, want %v", got, wanted)
	}
}

func TestTheRequestsPathFindsTheCommand(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	tool := filepath.Join(dir, "tool")
	if err := os.WriteFile(tool, []byte("#!/bin/sh\nexit 7\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	for sentence, edit := range map[string]func(*run.Request){
		"by the request's PATH":           func(request *run.Request) { request.Env = map[string]string{"PATH": "/nonexistent:" + dir} },
		"from the working directory":      func(request *run.Request) { request.Command, request.WorkingDir = []string{"./tool"}, dir },
		"by its path":                     func(request *run.Request) { request.Command = []string{tool} },
		"by a shell with the same PATH":   func(request *run.Request) { request.Command = []string{"/bin/sh", "-c", "PATH=" + dir + " tool"} },
		"in the first folder that has it": func(request *run.Request) { request.Env = map[string]string{"PATH": dir + ":/usr/bin"} },
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			_, final := ends(t, newLauncher(t, t.TempDir()), script("", func(request *run.Request) { request.Command = []string{"tool"} }, edit))
			wantCode(t, final, 7)
		})
	}
}

func TestWhereACommandStarts(t *testing.T) {
	t.Parallel()
	elsewhere, err := filepath.EvalSymlinks(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	launcher := newLauncher(t, t.TempDir())
	job, _ := ends(t, launcher, script("pwd -P", func(request *run.Request) { request.WorkingDir = elsewhere }))
	if lines := outputOf(t, launcher, job); len(lines) != 1 || lines[0].text != elsewhere {
		t.Errorf("the command started in %v, want %s", lines, elsewhere)
	}
	job, final := ends(t, launcher, script("echo precious >file && test ! -e ../file", func(request *run.Request) { request.ID = "b" }))
	want(t, final, run.Succeeded, "")
	if _, err := os.Stat(launcher.folder(job.Name).file(filepath.Join(scratchFolder, "file"))); err != nil {
		t.Errorf("without a working directory it starts in a folder of its own: %v", err)
	}
}

func TestATimeoutEndsEverything(t *testing.T) {
	t.Parallel()
	for sentence, text := range map[string]string{
		"a command that ends when it is told":          "sleep 600",
		"a command that ends well when it is told":     "trap 'exit 0' TERM; sleep 600 & wait",
		"a command that does not listen":               "trap '' TERM; sleep 600 & sleep 601; sleep 602",
		"a command whose children are in other groups": "set -m; sleep 600 & sleep 601 & wait",
	} {
		t.Run(sentence, func(t *testing.T) {
			t.Parallel()
			launcher := newLauncher(t, t.TempDir(), func(settings *Settings) { settings.Grace = 300 * time.Millisecond })
			job, final := ends(t, launcher, script(text, func(request *run.Request) { request.Timeout = run.Duration(time.Second) }))
			want(t, final, run.TimedOut, run.DeadlineExceeded, "timeout of 1s", run.DeadlineExceeded.ToDo())
			if took := final.FinishedAt.Sub(final.StartedAt); took < time.Second {
				t.Errorf("it was stopped after %s", took)
			}
			if left := left(t, job.UID); len(left) > 0 {
				t.Errorf("processes %v are left", left)
			}
		})
	}
}

func TestWhatACommandLeavesInTheBackgroundGoesWithIt(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t, t.TempDir())
	job, final := ends(t, launcher, script("sleep 600 & set -m; sleep 601 & exit 0"))
	want(t, final, run.Succeeded, "")
	if left := left(t, job.UID); len(left) > 0 {
		t.Errorf("processes %v are left", left)
	}
}

// A daemon is beyond our reach by its own wish, but it may hold up nobody,
// though it holds the pipe of the output and once saw our descriptors.
func TestADaemonHoldsUpNobody(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t, t.TempDir())
	job, _, err := launcher.Launch(wait.Context(t, "the launch"), script("", func(request *run.Request) { request.Command = []string{self(t), sessionLeaver} }))
	if err != nil {
		t.Fatal(err)
	}
	final := follow(t, launcher, job)
	want(t, final, run.Succeeded, "")
	pid := 0
	for _, line := range outputOf(t, launcher, job) {
		if number, ok := strings.CutPrefix(line.text, "daemon "); ok {
			pid, err = strconv.Atoi(number)
		}
	}
	if err != nil || !runs(pid) {
		t.Fatalf("daemon %d is not there (%v)", pid, err)
	}
	if err := launcher.Delete(wait.Context(t, "the job to be deleted"), job); err != nil {
		t.Errorf("Delete: %v", err)
	}
	if err := kill(pid, pid); err != nil {
		t.Error(err)
	}
}

func TestNoSecretLiesOnTheDiskOrInACommandLine(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "data")
	launcher := newLauncher(t, dir)
	job := launch(t, launcher, script("echo ready; sleep 600", func(request *run.Request) {
		request.Env = map[string]string{"PLAIN": "of-the-environment"}
		request.SecretEnv = map[string]run.Secret{"TOKEN": "hunter2"}
	}))
	printed(t, launcher, job, "ready")
	search := func(where string, text []byte) {
		for _, secret := range []string{"hunter2", "of-the-environment", "of-the-dispatcher"} {
			if strings.Contains(string(text), secret) {
				t.Errorf("%s holds %s", where, secret)
			}
		}
	}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s may be read by others (%s)", path, info.Mode())
		}
		if entry.IsDir() {
			return nil
		}
		text, err := os.ReadFile(path)
		search(path, text)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, pid := range left(t, job.UID) {
		search(fmt.Sprintf("the command line of process %d", pid), commandLine(t, pid))
	}
}

func TestOutputIsKeptLineByLine(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t, t.TempDir())
	long, begun := 2*maxLine+100, time.Now()
	job, final := ends(t, launcher, script(fmt.Sprintf(
		`echo one; echo two >&2; echo; printf 'a\r b\377\n'; head -c %d /dev/zero | tr '\0' x; echo; printf unfinished`, long)))
	want(t, final, run.Succeeded, "")
	var stdout, stderr []string
	part := ""
	var last time.Time
	for _, line := range outputOf(t, launcher, job) {
		if line.at.Before(last) || line.at.Before(begun) || line.at.After(final.FinishedAt) {
			t.Errorf("line at %s after one at %s, of a command that was launched at %s and ended at %s", line.at, last, begun, final.FinishedAt)
		}
		last = line.at
		if len(line.text) > maxLine {
			t.Errorf("a line of %d bytes", len(line.text))
		}
		switch {
		case line.stream == "stderr":
			stderr = append(stderr, line.text)
		case line.kind == "P":
			part += line.text
		default:
			stdout = append(stdout, part+line.text)
			part = ""
		}
	}
	if wanted := []string{"one", "", "a\r b\377", strings.Repeat("x", long), "unfinished"}; !slices.Equal(stdout, wanted) {
		t.Errorf("stdout %.200q, want %.200q", stdout, wanted)
	}
	if !slices.Equal(stderr, []string{"two"}) {
		t.Errorf("stderr %q", stderr)
	}
}

func TestOutputThatCannotBeWrittenIsCounted(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "output.log")
	output, err := openOutput(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := output.file.Close(); err != nil {
		t.Fatal(err)
	}
	to, err := output.pipe("stdout")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := to.WriteString("one\ntwo\nthree\n"); err != nil {
		t.Fatal(err)
	}
	if err := to.Close(); err != nil {
		t.Fatal(err)
	}
	lost := output.close(wait.Limit)
	if lost.lines != 3 || !strings.Contains(lost.String(), "3 lines") {
		t.Errorf("%d lines are lost (%s), want 3", lost.lines, lost)
	}
}

// line is one line of an output file.
type line struct {
	at                 time.Time
	stream, kind, text string
}

func outputOf(t *testing.T, launcher *Launcher, job run.Job) (lines []line) {
	t.Helper()
	file, err := os.Open(launcher.folder(job.Name).file(outputFile))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	scanner := bufio.NewScanner(file)
	scanner.Split(func(data []byte, atEOF bool) (int, []byte, error) { // ScanLines, carriage returns kept
		if i := slices.Index(data, '\n'); i >= 0 {
			return i + 1, data[:i], nil
		}
		if atEOF && len(data) > 0 {
			return 0, nil, fmt.Errorf("the file ends in the middle of line %.60q", data)
		}
		return 0, nil, nil
	})
	for scanner.Scan() {
		fields := strings.SplitN(scanner.Text(), " ", 4)
		if len(fields) != 4 {
			t.Fatalf("line %.80q is not in the format", scanner.Text())
		}
		at, err := time.Parse(timeFormat, fields[0])
		if err != nil {
			t.Fatal(err)
		}
		lines = append(lines, line{at, fields[1], fields[2], fields[3]})
	}
	if err := scanner.Err(); err != nil {
		t.Fatal(err)
	}
	return lines
}

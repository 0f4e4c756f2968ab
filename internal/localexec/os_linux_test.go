package localexec

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestStateOf(t *testing.T) {
	t.Parallel()
	for stat, want := range map[string]rune{
		"12 (sh) S 1 12 12 0 -1":               'S',
		"12 (a) Z 9 (b c) R 1 12 12 0 -1":      'R',
		"12 (defunct) Z 1 12 12 0 -1 4":        'Z',
		"12 (name\nwith a line) D 1 12 12 0 1": 'D',
		"":                                     'X',
		"12 (cut off)":                         'X',
	} {
		if got := stateOf([]byte(stat)); got != want {
			t.Errorf("stateOf(%q) = %q, want %q", stat, got, want)
		}
	}
}

// A command that inherited a lock could hold it beyond the life of its job;
// a supervisor with secrets in its environment would show them to ps.
func TestWhatTheProcessesOfAJobHold(t *testing.T) {
	t.Parallel()
	launcher := newLauncher(t, t.TempDir())
	job := launch(t, launcher, script("echo ready; exec sleep 600", func(request *run.Request) {
		request.SecretEnv = map[string]run.Secret{"TOKEN": "hunter2"}
	}))
	printed(t, launcher, job, "ready")
	now := statusOf(t, launcher, job)
	// A program that is being loaded has its libraries open for a moment; what was
	// inherited stays.
	wait.Success(t, "the command to have descriptors 0, 1 and 2", func() error {
		if open := descriptorsOf(t, now.Group); !slices.Equal(open, []string{"0", "1", "2"}) {
			return fmt.Errorf("it has %v", open)
		}
		return nil
	})
	environ, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(now.Session), "environ"))
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(environ, []byte("hunter2")) || bytes.Contains(environ, []byte("ROPEWALK_NATS")) {
		t.Errorf("the supervisor's environment holds a secret: %q", environ)
	}
}

func descriptorsOf(t *testing.T, process int) []string {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", process))
	if err != nil {
		t.Fatal(err)
	}
	var open []string
	for _, entry := range entries {
		open = append(open, entry.Name())
	}
	slices.Sort(open)
	return open
}

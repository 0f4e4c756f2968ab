//go:build e2e

package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// apiServer finds the process of the API server, which must be on this
// machine to be stopped.
func apiServer(t *testing.T) int {
	t.Helper()
	file := os.Getenv("E2E_APISERVER_PID_FILE")
	if file == "" {
		state := os.Getenv("TESTCLUSTER_STATE")
		if state == "" {
			home, err := os.UserHomeDir()
			must(t, err)
			state = filepath.Join(home, ".cache", "testcluster")
		}
		file = filepath.Join(state, "cluster", "pid", "kube-apiserver")
	}
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatalf("this test stops the API server's process for a while; set E2E_APISERVER_PID_FILE to a file that holds its process id: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		t.Fatalf("%s holds no process id: %v", file, err)
	}
	return pid
}

// pause stops a process for a time. A shell of its own does it, so that the
// process goes on even if this test is killed meanwhile.
func pause(t *testing.T, pid int, length time.Duration) {
	t.Helper()
	line := fmt.Sprintf("kill -STOP %d && sleep %d; kill -CONT %d", pid, int(length.Seconds()), pid)
	if text, err := exec.Command("setsid", "--wait", "sh", "-c", line).CombinedOutput(); err != nil {
		t.Fatalf("pause process %d: %v\n%s", pid, err, text)
	}
}

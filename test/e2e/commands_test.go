//go:build e2e

package e2e

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestSubmitWaitsAndTellsTheOutcome(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("2"))
	w.serve(1)
	good := w.command("submit", "--image", parts.image, "--id", "good", "--env", "A=1", "--secret-env", "B=2", "--wait", "--", "sh", "-c", `test "$A$B" = 12`)
	if lines := strings.Split(strings.TrimSpace(good.stdout), "\n"); good.code != 0 || lines[0] != "good" {
		t.Errorf("submit of a run that succeeds: exit code %d, %q, %q", good.code, good.stdout, good.stderr)
	}
	bad := w.command("submit", "--image", parts.image, "--id", "bad", "--wait", "--", "sh", "-c", "exit 3")
	said := bad.stdout + bad.stderr
	if bad.code != 1 || !strings.Contains(said, "failed") || !strings.Contains(said, "AppError") {
		t.Errorf("submit of a run that fails: exit code %d, %q, %q", bad.code, bad.stdout, bad.stderr)
	}
	refused := w.command("submit", "-f", w.file("unreasonable.json", `{"version": 1, "image": {"reference": "busybox"}, "pod": {"serviceAccount": "admin"}}`), "--id", "refused", "--wait")
	said = refused.stdout + refused.stderr
	if refused.code != 1 || !strings.Contains(said, "rejected") || !strings.Contains(said, "PolicyRefused") {
		t.Errorf("submit of a run that policy refuses: exit code %d, %q, %q", refused.code, refused.stdout, refused.stderr)
	}
	w.awaitNoMessages()
	w.check(load{ids: []string{"good", "bad"}, code: map[string]int{"bad": failing}})

	var record map[string]any
	got := w.command("get", "bad", "-o", "json")
	must(t, json.Unmarshal([]byte(got.stdout), &record))
	for _, field := range []string{"id", "queue", "state", "reason", "message", "exitCode", "attempt", "image", "job", "queuedAt", "startedAt", "finishedAt"} {
		if _, there := record[field]; !there {
			t.Errorf("a run in JSON lacks %q: %s", field, got.stdout)
		}
	}
}

func TestRequestOverThePayloadLimitFailsAtThePublisher(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("1"))
	w.serve(1)
	request, err := json.Marshal(script("exit 0").with("env", map[string]string{"BIG": strings.Repeat("x", 2<<20)}))
	must(t, err)
	big := w.command("submit", "-f", w.file("big.json", string(request)), "--id", "big")
	if big.code == 0 || !strings.Contains(big.stderr, "payload") {
		t.Errorf("submit of a request of 2 MiB: exit code %d, %q", big.code, big.stderr)
	}
}

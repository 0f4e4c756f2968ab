package k8sjobs

import (
	"strings"
	"testing"
	"unicode/utf8"
)

func TestSentencesAreBounded(t *testing.T) {
	if got := sentence("It failed", " a\n\tb. "); got != "It failed: a b." {
		t.Errorf("got %q", got)
	}
	if got := sentence("It failed", ""); got != "It failed." {
		t.Errorf("got %q", got)
	}
	long := sentence("It failed", strings.Repeat("é", maxWords))
	if len(long) > maxWords+30 || !utf8.ValidString(long) {
		t.Errorf("%d bytes, valid: %v", len(long), utf8.ValidString(long))
	}
}

func TestExitCodesNameTheirSignal(t *testing.T) {
	for code, want := range map[int]string{
		0: "exit code 0", 1: "exit code 1", 128: "exit code 128", 137: "exit code 137 (SIGKILL)", 143: "exit code 143 (SIGTERM)", 255: "exit code 255",
	} {
		if got := exitCode(code); got != want {
			t.Errorf("exitCode(%d) = %q, want %q", code, got, want)
		}
	}
}

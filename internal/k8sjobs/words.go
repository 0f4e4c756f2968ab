package k8sjobs

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxWords bounds what is quoted of the cluster's words: a scheduler names
// every kind of node, a webhook may say anything.
const maxWords = 600

// sentence makes one sentence of what happened and the cluster's own words.
func sentence(happened, words string) string {
	words = clipped(strings.Join(strings.Fields(words), " "))
	if words != "" {
		happened += ": " + words
	}
	if !strings.HasSuffix(happened, ".") {
		happened += "."
	}
	return happened
}

// clipped cuts text to at most maxWords bytes, between two characters.
func clipped(text string) string {
	limit := maxWords
	if len(text) <= limit {
		return text
	}
	for limit > 0 && !utf8.RuneStart(text[limit]) {
		limit--
	}
	return text[:limit] + " …"
}

// exitCode names an exit code, and the signal that it stands for, if any.
func exitCode(code int) string {
	if name := signal(code - 128); name != "" {
		return fmt.Sprintf("exit code %d (%s)", code, name)
	}
	return fmt.Sprintf("exit code %d", code)
}

// signal names the signals that end programs, by their numbers on Linux, which
// is what nodes run; the machine that this runs on may number them otherwise.
func signal(number int) string {
	names := map[int]string{
		1: "SIGHUP", 2: "SIGINT", 3: "SIGQUIT", 4: "SIGILL", 6: "SIGABRT", 7: "SIGBUS", 8: "SIGFPE",
		9: "SIGKILL", 11: "SIGSEGV", 13: "SIGPIPE", 14: "SIGALRM", 15: "SIGTERM", 24: "SIGXCPU", 31: "SIGSYS",
	}
	return names[number]
}

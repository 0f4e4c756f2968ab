package main

import (
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestPrintable(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"plain text stays":                    {"exit code 3: größer, 生命 ✓", "exit code 3: größer, 生命 ✓"},
		"white space becomes blanks":          {"a\nb\tc\rd", "a b c d"},
		"an escape sequence shows":            {"\x1b[31mred\x1b[0m", `\x1b[31mred\x1b[0m`},
		"a title, a bell and a backspace":     {"\x1b]0;mine\a\b", `\x1b]0;mine\a\b`},
		"control characters of eight bits":    {"\u009b31m", `\u009b31m`},
		"text that runs backwards":            {"abc\u202edef", `abc\u202edef`},
		"what is not UTF-8":                   {"a\xffb\x9bc", `a\xffb\x9bc`},
		"the replacement character is itself": {"\ufffd", "\ufffd"},
		"quotes stay":                         {`'"`, `'"`},
	} {
		t.Run(name, func(t *testing.T) {
			if got := printable(c.text); got != c.want {
				t.Errorf("printable(%q) = %q, want %q", c.text, got, c.want)
			}
		})
	}
	if got, want := printableLines("a\r\nb\x1b\nc"), "a\nb\\x1b\nc"; got != want {
		t.Errorf("printableLines = %q, want %q", got, want)
	}
}

func FuzzPrintable(f *testing.F) {
	f.Add("a\x1b[31m\u009b\xff\u202e")
	f.Fuzz(func(t *testing.T, text string) {
		safe := printable(text)
		if !utf8.ValidString(safe) || strings.ContainsFunc(safe, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("printable(%q) = %q", text, safe)
		}
	})
}

func TestLengthsOfTime(t *testing.T) {
	for _, c := range []struct {
		d         time.Duration
		age, took string
	}{
		{-time.Second, "0s", "0s"},
		{0, "0s", "0s"},
		{400 * time.Microsecond, "0s", "<1ms"},
		{340*time.Millisecond + 900*time.Microsecond, "0s", "340ms"},
		{1290 * time.Millisecond, "1s", "1.2s"},
		{59*time.Second + 999*time.Millisecond, "59s", "59.9s"},
		{119 * time.Second, "119s", "1m59s"},
		{2 * time.Minute, "2m", "2m00s"},
		{119 * time.Minute, "119m", "1h59m"},
		{47 * time.Hour, "47h", "47h00m"},
		{72 * time.Hour, "3d", "72h00m"},
	} {
		if got := age(c.d); got != c.age {
			t.Errorf("age(%s) = %s, want %s", c.d, got, c.age)
		}
		if got := took(c.d); got != c.took {
			t.Errorf("took(%s) = %s, want %s", c.d, got, c.took)
		}
	}
}

func TestShortImage(t *testing.T) {
	for reference, want := range map[string]string{
		"":                                "",
		"busybox":                         "busybox",
		"example.com:5000/team/train:1.4": "train:1.4",
		"example.com/train@sha256:0123456789abcdef0123456789abcdef": "train@0123456789ab",
		"example.com/train@sha256:0123":                             "train@sha256:0123",
	} {
		if got := shortImage(reference); got != want {
			t.Errorf("shortImage(%q) = %q, want %q", reference, got, want)
		}
	}
}

func TestShellWords(t *testing.T) {
	words := []string{"sh", "-c", "echo $A; echo 'b'", "", "--rate=0.1", "größe"}
	if got, want := shellWords(words), `sh -c 'echo $A; echo '\''b'\''' '' --rate=0.1 größe`; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

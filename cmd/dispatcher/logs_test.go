package main

import (
	"strings"
	"testing"
)

func TestAPodCannotTakeOverTheTerminal(t *testing.T) {
	for text, want := range map[string]string{
		"plain äöü €\tx":                         "plain äöü €\tx",
		"\x1b[1;31mred\x1b[0m":                   "\x1b[1;31mred\x1b[0m",
		"\x1b]0;title\x07":                       `\x1b]0;title\a`,
		"\x1b[2J\x1b[H":                          `\x1b[2J\x1b[H`,
		"\x1b[6n":                                `\x1b[6n`,
		"\u009b31mred":                           `\u009b31mred`,
		"back\b\rover\r":                         `back\b\rover`,
		"\xff\x00":                               `\xff\x00`,
		"right\u202eto left":                     `right\u202eto left`,
		"\x1b[" + strings.Repeat("1;", 20) + "m": `\x1b[` + strings.Repeat("1;", 20) + "m",
	} {
		var got strings.Builder
		writeHarmless(&got, []byte(text))
		if got.String() != want {
			t.Errorf("%q is shown as %q; want %q", text, got.String(), want)
		}
	}
}

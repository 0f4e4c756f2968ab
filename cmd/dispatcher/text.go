package main

import (
	"fmt"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// printable makes a text safe to show in one line on a terminal: white space
// becomes a blank, and every other character that does not print is shown as
// Go would write it. Messages, labels and commands come from whoever submitted
// a run, and a terminal obeys control characters.
func printable(text string) string {
	var safe strings.Builder
	for len(text) > 0 {
		r, size := utf8.DecodeRuneInString(text)
		switch {
		case r == utf8.RuneError && size == 1:
			_, _ = fmt.Fprintf(&safe, `\x%02x`, text[0])
		case r == '\n' || r == '\t' || r == '\r':
			safe.WriteByte(' ')
		case unicode.IsPrint(r):
			safe.WriteRune(r)
		default:
			safe.WriteString(strings.Trim(strconv.QuoteRuneToASCII(r), "'"))
		}
		text = text[size:]
	}
	return safe.String()
}

// printableLines is [printable] for a text that may have several lines.
func printableLines(text string) string {
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, line := range lines {
		lines[i] = printable(line)
	}
	return strings.Join(lines, "\n")
}

// age writes a length of time in one unit, as precise as a list needs it.
func age(d time.Duration) string {
	switch {
	case d < time.Second:
		return "0s"
	case d < 2*time.Minute:
		return fmt.Sprintf("%ds", d/time.Second)
	case d < 2*time.Hour:
		return fmt.Sprintf("%dm", d/time.Minute)
	case d < 48*time.Hour:
		return fmt.Sprintf("%dh", d/time.Hour)
	default:
		return fmt.Sprintf("%dd", d/(24*time.Hour))
	}
}

// took writes a length of time in at most three digits or two units.
func took(d time.Duration) string {
	switch {
	case d <= 0:
		return "0s"
	case d < time.Millisecond:
		return "<1ms"
	case d < time.Second:
		return d.Truncate(time.Millisecond).String()
	case d < time.Minute:
		return strconv.FormatFloat(d.Truncate(100*time.Millisecond).Seconds(), 'f', -1, 64) + "s"
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", d/time.Minute, d%time.Minute/time.Second)
	default:
		return fmt.Sprintf("%dh%02dm", d/time.Hour, d%time.Hour/time.Minute)
	}
}

// shortImage leaves of an image's reference what tells it from others in a
// list: not the registry and path, and the beginning of a digest.
func shortImage(reference string) string {
	short := reference[strings.LastIndexByte(reference, '/')+1:]
	if name, digest, ok := strings.Cut(short, "@sha256:"); ok && len(digest) > 12 {
		return name + "@" + digest[:12]
	}
	return short
}

// shellWords writes a command as it could be typed.
func shellWords(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = word
		if word == "" || strings.ContainsFunc(word, func(r rune) bool {
			return !unicode.IsLetter(r) && !unicode.IsDigit(r) && !strings.ContainsRune("-_./:=@%+,", r)
		}) {
			quoted[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
		}
	}
	return strings.Join(quoted, " ")
}

package run

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"pgregory.net/rapid"
)

func TestLastLines(t *testing.T) {
	numbered := func(from, to int) (lines []string) {
		for i := from; i <= to; i++ {
			lines = append(lines, fmt.Sprintf("line %d", i))
		}
		return lines
	}
	for says, c := range map[string]struct {
		log  string
		want []string
	}{
		"nothing":                         {"", nil},
		"only ends of lines":              {"\n\r\n\n", nil},
		"a line without its end":          {"a\nb", []string{"a", "b"}},
		"blank lines between are kept":    {"a\n\n  b\n", []string{"a", "", "  b"}},
		"the last twenty":                 {strings.Join(numbered(1, 35), "\n") + "\n", numbered(16, 35)},
		"the newest state of a progress":  {"1%\r50%\r100%\r\ndone\r\n", []string{"100%", "done"}},
		"what is no text is made some":    {"a\xffb\n", []string{"a\uFFFDb"}},
		"a long line loses its end":       {strings.Repeat("ä", 400), []string{strings.Repeat("ä", 248) + "…"}},
		"control characters are the same": {"\x1b[31mred\x1b[0m\n", []string{"\x1b[31mred\x1b[0m"}},
	} {
		t.Run(says, func(t *testing.T) {
			if got := LastLines(c.log); !reflect.DeepEqual(got, c.want) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestLastLinesAreBounded(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		log := rapid.Custom(func(t *rapid.T) string {
			lines := rapid.SliceOfN(rapid.StringN(0, 1200, 3000), 0, 40).Draw(t, "lines")
			return strings.Join(lines, "\n")
		}).Draw(t, "log")
		lines, size := LastLines(log), 0
		for _, line := range lines {
			size += len(line)
			if len(line) > evidenceLine || !utf8.ValidString(line) || strings.Contains(line, "\n") {
				t.Errorf("a line is %q", line)
			}
		}
		if len(lines) > EvidenceLines || size > evidenceText {
			t.Errorf("%d lines have %d bytes", len(lines), size)
		}
	})
}

func TestNewEventIsBounded(t *testing.T) {
	at := time.Unix(1, 0)
	event := NewEvent(at, 0, "BackOff", strings.Repeat("word\n ", 200))
	if event.Count != 1 || len(event.Message) > evidenceWords || strings.Contains(event.Message, "\n") || !event.At.Equal(at) {
		t.Errorf("the event is %+v", event)
	}
}

func TestEvidenceIsOfTheNewestAttemptThatDidNotSucceed(t *testing.T) {
	r := Run{ID: "a", State: Running, Attempt: 1, History: []Change{{State: Running, Attempt: 1}}}
	seen := &Evidence{LastLines: []string{"oh no"}}
	if !r.Observe(Observation{State: Failed, Reason: AppError, Evidence: seen}, time.Unix(5, 0)) {
		t.Error("nothing was observed")
	}
	if r.Evidence == nil || r.Evidence.Attempt != 1 || r.Evidence.LastLines[0] != "oh no" || seen.Attempt != 0 {
		t.Errorf("the evidence is %+v", r.Evidence)
	}
	if err := r.Again(time.Unix(6, 0), time.Unix(6, 0)); err != nil {
		t.Fatal(err)
	}
	r.Observe(Observation{State: Pending}, time.Unix(7, 0))
	if r.Evidence == nil || r.Evidence.Attempt != 1 {
		t.Errorf("while the next attempt is under way, the evidence is %+v", r.Evidence)
	}
}

package run

import (
	"encoding/json"
	"errors"
	"regexp"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// anyID draws ids that are valid, short and long, and text that is not one.
var anyID = rapid.OneOf(
	rapid.StringMatching(`[A-Za-z0-9]([A-Za-z0-9_-]{0,61}[A-Za-z0-9])?`),
	rapid.StringMatching(`pipeline-of-the-training-team-for-every-night-[a-zA-Z]{1,17}`),
	rapid.String(),
)

func TestJobNames(t *testing.T) {
	for id, want := range map[string]string{
		"a":                                    "run-a-1",
		"01JZX7Q5":                             "run-01jzx7q5-",
		"a_b":                                  "run-a-b-",
		strings.Repeat("x", maxPlainID):        "run-" + strings.Repeat("x", maxPlainID) + "-1",
		strings.Repeat("x", maxPlainID+1):      "run-" + strings.Repeat("x", maxPlainID-17) + "-",
		"0194c2b6-5f5e-7d2a-b1a0-8a2f8c9f3b11": "run-0194c2b6-5f5e-7d2a-b1a0-8a2f8c9f3b11-1",
	} {
		if got := JobName(id, 1); !strings.HasPrefix(got, want) {
			t.Errorf("JobName(%q, 1) = %q, want %q…", id, got, want)
		}
	}
}

func TestJobNamesAreLabelsOfDNSAndTellRunsApart(t *testing.T) {
	label := regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	rapid.Check(t, func(t *rapid.T) {
		one, two := anyID.Draw(t, "one"), anyID.Draw(t, "two")
		first, second := rapid.IntRange(1, 99999).Draw(t, "first"), rapid.IntRange(1, 99999).Draw(t, "second")
		name := JobName(one, first)
		if len(name) > 63 || !label.MatchString(name) {
			t.Errorf("JobName(%q, %d) = %q is no DNS label", one, first, name)
		}
		if name != JobName(one, first) {
			t.Errorf("JobName(%q, %d) is not always the same", one, first)
		}
		if other := JobName(two, second); (name == other) != (one == two && first == second) {
			t.Errorf("%q, attempt %d and %q, attempt %d are called %q and %q", one, first, two, second, name, other)
		}
		if upper := strings.ToUpper(one); upper != one && JobName(upper, first) == name {
			t.Errorf("%q and %q are both called %q", one, upper, name)
		}
	})
}

func TestStandInIDsAreValidAndDistinct(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		one, two := rapid.String().Draw(t, "one"), rapid.String().Draw(t, "two")
		if !ValidID(StandInID(one)) {
			t.Errorf("StandInID(%q) = %q", one, StandInID(one))
		}
		if (StandInID(one) == StandInID(two)) != (one == two) {
			t.Errorf("%q and %q stand in as %q and %q", one, two, StandInID(one), StandInID(two))
		}
	})
}

func TestDurationsAreReadInBothForms(t *testing.T) {
	for text, want := range map[string]time.Duration{
		`"90s"`: 90 * time.Second, `"1h30m"`: 90 * time.Minute, `"1.5h"`: 90 * time.Minute, `"0"`: 0, `"-1s"`: -time.Second,
		`90`: 90 * time.Second, `1.5`: 1500 * time.Millisecond, `0`: 0, `1e3`: 1000 * time.Second, `-1`: -time.Second, `null`: 0,
		`9223372036`: 9223372036 * time.Second,
	} {
		var got Duration
		if err := json.Unmarshal([]byte(text), &got); err != nil || time.Duration(got) != want {
			t.Errorf("%s is read as %s, %v; want %s", text, got, err, want)
		}
	}
	for _, text := range []string{`""`, `"90"`, `"soon"`, `"1d"`, `true`, `[90]`, `{}`, `1e300`, `-1e300`, `9223372037`} {
		var got Duration
		if err := json.Unmarshal([]byte(text), &got); err == nil {
			t.Errorf("%s is read as %s, want an error", text, got)
		}
	}
}

func TestDurationsAreWrittenAsTheyAreRead(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		want := Duration(rapid.Int64().Draw(t, "nanoseconds"))
		text, err := json.Marshal(want)
		if err != nil {
			t.Fatal(err)
		}
		var got Duration
		if err := json.Unmarshal(text, &got); err != nil || got != want {
			t.Errorf("%d ns is written %s and read as %d, %v", int64(want), text, int64(got), err)
		}
	})
}

func TestInvalidErrorListsEveryProblem(t *testing.T) {
	err := &InvalidError{Problems: []Problem{{"id", "is empty"}, {"", "the payload is odd"}, {"env[A]", "is odd"}}}
	if got, want := err.Error(), "id is empty; the payload is odd; env[A] is odd"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestLaunchErrorTellsItsCause(t *testing.T) {
	var err error = &LaunchError{Reason: QuotaExceeded, Message: "exceeded quota", Err: ErrConflict}
	if !errors.Is(err, ErrConflict) || err.Error() != "QuotaExceeded: exceeded quota" {
		t.Errorf("%v, caused by %v", err, errors.Unwrap(err))
	}
}

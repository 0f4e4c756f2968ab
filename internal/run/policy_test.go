package run

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestAPolicyKeepsNothingApartFromNone(t *testing.T) {
	for name, policy := range map[string]Policy{"no list": {}, "an empty list": {MayOverride: []string{}}, "a wait": {Retry: Retry{First: 1}}} {
		text, err := json.Marshal(policy)
		var back Policy
		if err != nil || json.Unmarshal(text, &back) != nil || (back.MayOverride == nil) != (policy.MayOverride == nil) || back.IsZero() != policy.IsZero() {
			t.Errorf("%s: %s comes back as %+v, %v", name, text, back, err)
		}
	}
}

func TestAPolicyRefusesWhatItDoesNotList(t *testing.T) {
	request := Request{Timeout: Duration(time.Minute), Retry: Retry{Attempts: 2}}
	for want, policy := range map[string]Policy{
		"":                        {},
		"sets timeout and retry,": {MayOverride: []string{}},
		"sets retry,":             {MayOverride: []string{"timeout", "resources"}},
	} {
		if got := policy.Refuses(request); !strings.Contains(got, want) || want == "" && got != "" {
			t.Errorf("%v refuses %q; want %q", policy.MayOverride, got, want)
		}
		if got := policy.Refuses(Request{}); got != "" {
			t.Errorf("%v refuses a request that sets nothing: %s", policy.MayOverride, got)
		}
	}
	if fields, known := (Policy{MayOverride: []string{"timeout", "resources"}}).MayOverridePod(); !known || len(fields) != 1 || fields[0] != "resources" {
		t.Errorf("of the pod may be set: %v, %v", fields, known)
	}
}

func TestWhatIsWrongWithAPolicyIsNamed(t *testing.T) {
	wrong := Policy{
		Namespace: "Team", ServiceAccount: "a b", PodTemplatePatch: json.RawMessage(`[]`), Timeout: 1, Retry: Retry{Attempts: -1},
		ImageAllow: []string{"a b"}, ImageDeny: []string{""}, MayOverride: []string{"image"},
	}
	var invalid *InvalidError
	if err := wrong.Validate(); !errors.As(err, &invalid) {
		t.Fatal(err)
	}
	named := map[string]bool{}
	for _, problem := range invalid.Problems {
		named[problem.Field] = true
	}
	for _, field := range []string{"namespace", "serviceAccount", "podTemplatePatch", "timeout", "retry.attempts", "imageAllow", "imageDeny", "mayOverride"} {
		if !named[field] {
			t.Errorf("%s is not named in %v", field, invalid)
		}
	}
	if err := (Policy{Namespace: "team-1", Timeout: Duration(time.Hour), MayOverride: Overridable()}).Validate(); err != nil {
		t.Errorf("a good policy: %v", err)
	}
}

func TestAScheduleGoesToItsBucketAndBackWithItsSecrets(t *testing.T) {
	at := time.Date(2026, 1, 31, 2, 0, 0, 0, time.FixedZone("", 3600))
	schedule := Schedule{Name: "s", At: &at, Overlap: SkipOverlap, Request: Request{Version: 1, Queue: "q", Command: []string{"true"}, SecretEnv: map[string]Secret{"TOKEN": "hunter2"}}}
	text, err := schedule.Encode()
	var back Schedule
	if err != nil || json.Unmarshal(text, &back) != nil || back.Request.SecretEnv["TOKEN"].Reveal() != "hunter2" || back.Validate() != nil {
		t.Errorf("%s comes back as %+v, %v", text, back, err)
	}
	if shown, err := json.Marshal(schedule); err != nil || strings.Contains(string(shown), "hunter2") {
		t.Errorf("shown it is %s, %v", shown, err)
	}
	if id := schedule.RunID(at); id != "s-20260131t010000z" || !ValidID(id) {
		t.Errorf("the run is called %s", id)
	}
}

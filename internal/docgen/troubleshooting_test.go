package main

import (
	"regexp"
	"strings"
	"testing"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/run"
)

func TestTroubleshootingHasEveryReasonAndNoSettingThatThereIsNot(t *testing.T) {
	var page strings.Builder
	if err := writeTroubleshooting(&page); err != nil {
		t.Fatal(err)
	}
	for _, reason := range run.Reasons() {
		if strings.Count(page.String(), "\n### "+string(reason)+"\n") != 1 {
			t.Errorf("%s has no section of its own", reason)
		}
	}
	var settings strings.Builder
	if err := config.WriteMarkdown(&settings); err != nil {
		t.Fatal(err)
	}
	for _, name := range regexp.MustCompile("(ROPEWALK|ZENML)_[A-Z_]+").FindAllString(page.String(), -1) {
		if !strings.Contains(settings.String(), "`"+name+"`") {
			t.Errorf("there is no setting %s", name)
		}
	}
}

package doctor

import (
	"context"
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(wait.Goroutines(m)) }

func finds(finding Finding) func(context.Context) Finding {
	return func(context.Context) Finding { return finding }
}

func TestExamineSkipsWhatNeedsWhatFailed(t *testing.T) {
	checks := []Check{
		{Name: "server", Look: finds(Bad("Start it.", "No server\nanswers."))},
		{Name: "stream", Needs: []string{"server"}, Look: func(context.Context) Finding { panic("looked at") }},
		{Name: "consumer", Needs: []string{"stream"}, Look: func(context.Context) Finding { panic("looked at") }},
		{Name: "disk", Look: finds(Doubtful("Sync.", "It is not synced."))},
		{Name: "after a doubt", Needs: []string{"disk"}, Look: finds(Good("Fine."))},
	}
	var told []Finding
	got, err := Examine(t.Context(), checks, func(f Finding) { told = append(told, f) })
	want := []Finding{
		{"server", Failed, "No server answers.", "Start it."},
		{"stream", Skipped, "Not looked at, because it needs this first: server.", ""},
		{"consumer", Skipped, "Not looked at, because it needs this first: stream.", ""},
		{"disk", Warning, "It is not synced.", "Sync."},
		{"after a doubt", OK, "Fine.", ""},
	}
	if err != nil || !reflect.DeepEqual(got, want) || !reflect.DeepEqual(told, want) {
		t.Errorf("got %+v, told %+v, %v\nwant %+v", got, told, err, want)
	}
	if Healthy(got) || !Healthy(got[3:]) {
		t.Error("one failure makes an installation unhealthy, and a doubt does not")
	}
}

func TestACheckThatHangsIsGivenUpAndTheNextOneIsMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		checks := []Check{
			{Name: "slow", Look: func(ctx context.Context) Finding {
				<-ctx.Done()
				return Bad("Look.", "It does not answer.")
			}},
			{Name: "next", Look: finds(Hidden("Ask.", "Who knows."))},
		}
		begun := time.Now()
		got, err := Examine(t.Context(), checks, func(Finding) {})
		if err != nil || len(got) != 2 || !strings.Contains(got[0].Found, "no answer within 15s") || got[1].Status != Unknown {
			t.Errorf("got %+v, %v", got, err)
		}
		if took := time.Since(begun); took != limit {
			t.Errorf("it took %s", took)
		}
	})
}

func TestExamineEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	checks := []Check{{Name: "a", Look: func(context.Context) Finding {
		cancel()
		return Good("Too late.")
	}}}
	if got, err := Examine(ctx, checks, func(Finding) { t.Error("told") }); !errors.Is(err, context.Canceled) || got != nil {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestANeedThatComesLaterIsAFault(t *testing.T) {
	defer func() {
		if recover() == nil {
			t.Error("it did not panic")
		}
	}()
	_, _ = Examine(t.Context(), []Check{{Name: "a", Needs: []string{"b"}}}, func(Finding) {})
}

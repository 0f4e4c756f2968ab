package wait_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

// recorder is a test that notes how it failed. A failure ends its goroutine, as
// that of a real test.
type recorder struct {
	testing.TB
	failure string
}

// failing runs f as a test that is expected to fail and returns its message.
func failing(t *testing.T, f func(*recorder)) string {
	t.Helper()
	r := &recorder{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil && p != any(r) {
				panic(p)
			}
		}()
		f(r)
	}()
	<-done
	return r.failure
}

func (r *recorder) Fatal(args ...any) {
	r.failure = fmt.Sprint(args...)
	panic(r)
}

func (r *recorder) Fatalf(format string, args ...any) { r.Fatal(fmt.Sprintf(format, args...)) }

func TestEveryWaitEndsAndNamesWhatItWaitedFor(t *testing.T) {
	for name, waits := range map[string]func(*recorder){
		"a condition": func(t *recorder) { wait.Until(t, "the tide", func() bool { return false }) },
		"a call":      func(t *recorder) { wait.Success(t, "the tide", func() error { return errors.New("still low") }) },
		"a value":     func(t *recorder) { wait.Receive(t, "the tide", make(chan int)) },
		"an end":      func(t *recorder) { wait.Closed(t, "the tide", make(chan int)) },
		"a context": func(t *recorder) {
			ctx := wait.Context(t, "the tide")
			<-ctx.Done()
			t.Fatal(context.Cause(ctx))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begun := time.Now()
				failure := failing(t, waits)
				if !strings.HasPrefix(failure, "waited 5m0s for the tide") {
					t.Errorf("it fails with %q", failure)
				}
				if name == "a call" && !strings.HasSuffix(failure, ": still low") {
					t.Errorf("the last error is missing from %q", failure)
				}
				if waited := time.Since(begun); waited != wait.Limit {
					t.Errorf("it waited %s", waited)
				}
			})
		})
	}
}

func TestAWaitEndsWithWhatItWaitsFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		wait.Until(t, "a minute to pass", func() bool { return time.Since(begun) >= time.Minute })
		tries := 0
		wait.Success(t, "the third try", func() error {
			if tries++; tries < 3 {
				return errors.New("not yet")
			}
			return nil
		})
		values := make(chan string, 1)
		values <- "a"
		close(values)
		if got := wait.Receive(t, "a value", values); got != "a" {
			t.Errorf("received %q", got)
		}
		wait.Closed(t, "the channel's end", values)
		if failure := failing(t, func(t *recorder) { wait.Receive(t, "value", values) }); failure != "the channel is closed; there is no value" {
			t.Errorf("from a closed channel: %q", failure)
		}
	})
}

func TestACleanupMayStillWait(t *testing.T) {
	t.Run("inner", func(t *testing.T) {
		t.Cleanup(func() {
			if err := wait.Context(t, "an answer").Err(); err != nil {
				t.Error(err)
			}
		})
	})
}

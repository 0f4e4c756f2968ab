package retry

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

var errAway = errors.New("the server is away")

func TestItTriesUntilItWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		tries, told := 0, 0
		err := Do(t.Context(), Network, func() error {
			if tries++; tries < 5 {
				return errAway
			}
			return nil
		}, func(error, time.Duration) { told++ })
		if err != nil || tries != 5 || told != 4 {
			t.Errorf("%d tries, told %d times, %v; want 5, 4 and no error", tries, told, err)
		}
	})
}

// The library would give up after 15 minutes.
func TestItDoesNotGiveUpByItself(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		err := Do(t.Context(), Network, func() error {
			if time.Since(begun) < time.Hour {
				return errAway
			}
			return nil
		}, nil)
		if err != nil {
			t.Errorf("after an hour: %v", err)
		}
	})
}

func TestAPermanentErrorEndsItAtOnce(t *testing.T) {
	tries := 0
	err := Do(t.Context(), Network, func() error { tries++; return Permanent(errAway) }, nil)
	if tries != 1 || !errors.Is(err, errAway) {
		t.Errorf("%d tries, %v", tries, err)
	}
}

func TestTheContextsEndKeepsTheLastError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		err := Do(ctx, Network, func() error { return errAway }, nil)
		if !errors.Is(err, errAway) || !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%v; want both what went wrong and that time ran out", err)
		}
	})
}

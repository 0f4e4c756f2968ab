package queue

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// place takes one of the places, as a pull does before it has a message for it.
func place(w *workers) *turn {
	w.all <- struct{}{}
	return &turn{workers: w}
}

func TestMoreRunsAreMadeReadyThanAreLaunched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorkers(2)
		turns := []*turn{place(w), place(w), place(w)}
		select {
		case w.all <- struct{}{}:
			t.Fatal("there are more than three places")
		default:
		}
		launching := make(chan *turn, len(turns))
		for _, turn := range turns {
			go func() {
				if err := turn.Await(t.Context()); err != nil {
					t.Error(err)
				}
				launching <- turn
			}()
		}
		synctest.Wait()
		if len(launching) != 2 {
			t.Fatalf("%d runs are launched at once, not 2", len(launching))
		}
		first := <-launching
		first.Done()
		first.Done() // says nothing new
		synctest.Wait()
		if len(launching) != 2 {
			t.Errorf("%d runs are launched once one has been, not 2", len(launching))
		}
		if err := first.Await(t.Context()); err != nil {
			t.Errorf("a run that was launched waits for its turn: %v", err)
		}
		for _, turn := range turns {
			turn.Done()
		}
		free(t, w)
	})
}

// waiting is a turn that is awaited until ctx ends, since another one is launched.
func waiting(ctx context.Context, t *testing.T) (w *workers, launched, awaited *turn, waited <-chan error) {
	t.Helper()
	w = newWorkers(1)
	launched, awaited = place(w), place(w)
	if err := launched.Await(t.Context()); err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { over <- awaited.Await(ctx) }()
	synctest.Wait()
	return w, launched, awaited, over
}

func free(t *testing.T, w *workers) {
	t.Helper()
	if len(w.all) != 0 || len(w.launching) != 0 {
		t.Errorf("of the places, %d and %d are still taken", len(w.all), len(w.launching))
	}
}

func TestWhoeverGivesUpItsTurnTakesNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		w, launched, awaited, waited := waiting(ctx, t)
		cancel()
		if err := <-waited; !errors.Is(err, context.Canceled) {
			t.Errorf("the error is %v", err)
		}
		awaited.Done()
		launched.Done()
		free(t, w)
	})
}

// A run that has its image built is done with its turn before it comes to it.
func TestDoneWhileItsTurnIsAwaitedTakesNoPlace(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, launched, awaited, waited := waiting(t.Context(), t)
		awaited.Done()
		launched.Done()
		if err := <-waited; err != nil {
			t.Error(err)
		}
		free(t, w)
	})
}

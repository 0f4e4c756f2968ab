package main

import (
	"context"
	"errors"
	"testing"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

// part is a runner that tells when it runs, and ends when it is told to.
type part struct {
	runs chan string
	name string
	fail chan error
}

func (p part) Run(ctx context.Context) error {
	p.runs <- p.name
	select {
	case <-ctx.Done():
		return nil
	case err := <-p.fail:
		return err
	}
}

func TestWhatIsOpenedLaterRunsToo(t *testing.T) {
	runs, fail := make(chan string, 10), make(chan error)
	all := newOpened[part]()
	open := func(name string) func() (part, error) {
		return func() (part, error) { return part{runs, name, fail}, nil }
	}
	if _, err := all.get("early", open("early")); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- all.run(t.Context(), part{runs, "first", fail}) }()
	for range 2 { // the second time it is there already
		if _, err := all.get("late", open("late")); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := all.get("never", func() (part, error) { return part{}, errors.New("no") }); err == nil {
		t.Error("what cannot be opened is there")
	}
	seen := map[string]int{}
	for range 3 {
		seen[wait.Receive(t, "part that runs", runs)]++
	}
	if seen["first"] != 1 || seen["early"] != 1 || seen["late"] != 1 || len(all.all) != 2 {
		t.Errorf("running are %v, of which were opened %d", seen, len(all.all))
	}
	fail <- errors.New("broken")
	if err := wait.Receive(t, "end of them all after one has failed", ended); err == nil {
		t.Error("the failure of one is not told")
	}
}

package main

import "testing"

func TestGarbageMayLieAboutWhileLittleIsHeld(t *testing.T) {
	for held, want := range map[uint64]int{
		0: 400, 1 << 20: 400, 8 << 20: 400, 16 << 20: 200, 30 << 20: 100, 64 << 20: 50, 100 << 20: 30, 1 << 30: 30,
	} {
		if got := garbageAllowed(held); got != want {
			t.Errorf("%d MiB are held: %d %%, not %d", held>>20, got, want)
		}
	}
}

package main

import "testing"

func TestGarbageMayLieAboutWhileLittleIsHeld(t *testing.T) {
	for held, want := range map[uint64]int{
		0: 400, 1 << 20: 400, 6 << 20: 400, 16 << 20: 150, 30 << 20: 80, 64 << 20: 35, 90 << 20: 25, 1 << 30: 25,
	} {
		if got := garbageAllowed(held); got != want {
			t.Errorf("%d MiB are held: %d %%, not %d", held>>20, got, want)
		}
	}
}

package main

import (
	"context"
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// garbageRoom is how much garbage may lie about in a process that holds
	// little.
	garbageRoom = 24 << 20
	// garbagePercent is the least, in percent of what the process holds: most of
	// that is runs that wait, of which there may be thousands, and Go's default
	// would let as much garbage again lie about.
	garbagePercent = 25
	// garbageMost is the most, so that a process that holds next to nothing is
	// no surprise.
	garbageMost = 400
)

// collectGarbage sets when garbage is collected, until ctx ends. To collect often
// is what a process with thousands of runs owes its machine, and cheap there as
// long as they wait; one that launches as fast as it can spends a third of its
// time on it unless some garbage may lie about. A GOGC in the environment rules.
func collectGarbage(ctx context.Context) {
	if os.Getenv("GOGC") != "" {
		return
	}
	// What the collector's percentage is of; see https://go.dev/doc/gc-guide.
	held := []metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	set := 0
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		metrics.Read(held)
		var size uint64
		for _, part := range held {
			size += part.Value.Uint64()
		}
		if wanted := garbageAllowed(size); wanted != set {
			debug.SetGCPercent(wanted)
			set = wanted
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}

// garbageAllowed is how much garbage may lie about, in percent of what is held.
// It goes in steps, since each change halts the process for a moment.
func garbageAllowed(held uint64) int {
	const step = 5
	percent := garbageMost
	if held > 0 {
		percent = int(min(100*garbageRoom/held, garbageMost))
	}
	return max(percent/step*step, garbagePercent)
}

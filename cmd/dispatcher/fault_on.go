//go:build faultpoints

package main

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
)

// passes counts how often the chosen point was passed.
var passes atomic.Int64

// fault ends the process, as if by a power cut, when it passes the point that
// FAULT_POINT names for the nth time ("launched:3"; the first if no
// number is given). It exists in builds with the tag faultpoints only.
func fault(point string) {
	name, number, _ := strings.Cut(os.Getenv("FAULT_POINT"), ":")
	if name != point {
		return
	}
	nth, err := strconv.ParseInt(number, 10, 64)
	if err != nil {
		nth = 1
	}
	if passes.Add(1) == nth {
		_ = syscall.Kill(os.Getpid(), syscall.SIGKILL) // cannot fail for ourselves
		select {}
	}
}

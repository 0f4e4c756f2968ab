// Command idmap is newuidmap and newgidmap in the rootless image of builders
// that the end-to-end tests make: what is in its name is what it writes. Those
// of Linux distributions are tied to the libraries of the machine that the tests
// run on. It asks nobody whether the range may be used, so that it is of no use
// outside of a test.
package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

func main() {
	if len(os.Args) < 5 || len(os.Args)%3 != 2 {
		fail("usage: newuidmap|newgidmap PID (INSIDE OUTSIDE COUNT)...")
	}
	var lines strings.Builder
	for ranges := os.Args[2:]; len(ranges) > 0; ranges = ranges[3:] {
		fmt.Fprintln(&lines, strings.Join(ranges[:3], " "))
	}
	file := strings.TrimPrefix(strings.TrimSuffix(filepath.Base(os.Args[0]), "map"), "new") + "_map"
	// The kernel takes a map in one write only.
	if err := os.WriteFile(filepath.Join("/proc", os.Args[1], file), []byte(lines.String()), 0); err != nil {
		fail(err.Error())
	}
}

func fail(why string) {
	fmt.Fprintf(os.Stderr, "%s: %s\n", filepath.Base(os.Args[0]), why)
	os.Exit(1)
}

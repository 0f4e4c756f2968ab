//go:build !faultpoints

package main

// fault is for tests that end the process between two steps; see fault_on.go.
var fault func(point string) //nolint:gochecknoglobals // never set in this build

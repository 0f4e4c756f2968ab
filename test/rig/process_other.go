//go:build !linux

package rig

import "syscall"

// ownGroup keeps a terminal's Ctrl-C from the processes of a test, which ends
// them in its own order.
func ownGroup() *syscall.SysProcAttr { return &syscall.SysProcAttr{Setpgid: true} }

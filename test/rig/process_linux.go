package rig

import "syscall"

// ownGroup keeps a terminal's Ctrl-C from the processes of a test, which ends
// them in its own order, and ends them when the test itself is killed.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

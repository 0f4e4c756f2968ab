package localexec

import (
	"bytes"
	"slices"

	"golang.org/x/sys/unix"
)

// zombie is SZOMB of <sys/proc.h>.
const zombie = 5

// processes lists the ids of all processes.
func processes() ([]int, error) {
	all, err := unix.SysctlKinfoProcSlice("kern.proc.all")
	if err != nil {
		return nil, err
	}
	pids := make([]int, len(all))
	for i, process := range all {
		pids[i] = int(process.Proc.P_pid)
	}
	return pids, nil
}

// runs reports whether a process is there and more than a zombie, which only
// waits for its parent to take note.
func runs(pid int) bool {
	process, err := unix.SysctlKinfoProc("kern.proc.pid", pid)
	return err == nil && process.Proc.P_stat != zombie
}

// marked reports whether a process has the job's mark in its environment. The
// kernel gives arguments and environment as one text with NULs between.
func marked(pid int, uid string) bool {
	text, err := unix.SysctlRaw("kern.procargs2", pid)
	if err != nil {
		return false
	}
	return slices.ContainsFunc(bytes.Split(text, []byte{0}), func(variable []byte) bool {
		return string(variable) == jobMark+"="+uid
	})
}

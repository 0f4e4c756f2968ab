package localexec

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
)

// processes lists the ids of all processes.
func processes() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, entry := range entries {
		if pid, err := strconv.Atoi(entry.Name()); err == nil {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// runs reports whether a process is there and more than a zombie, which only
// waits for its parent to take note.
func runs(pid int) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	return err == nil && !bytes.ContainsRune([]byte("ZX"), stateOf(text))
}

// stateOf reads the state of a process from its /proc/<pid>/stat. It is the
// first field behind the program's name, which stands in parentheses and may
// hold anything, spaces and parentheses too.
func stateOf(stat []byte) rune {
	rest := bytes.TrimLeft(stat[bytes.LastIndexByte(stat, ')')+1:], " ")
	if len(rest) == 0 {
		return 'X'
	}
	return rune(rest[0])
}

// marked reports whether a process has the job's mark in its environment.
func marked(pid int, uid string) bool {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return false
	}
	return slices.ContainsFunc(bytes.Split(text, []byte{0}), func(variable []byte) bool {
		return string(variable) == jobMark+"="+uid
	})
}

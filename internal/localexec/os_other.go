//go:build !linux && !darwin

package localexec

import (
	"errors"
	"os"
	"syscall"
)

// supported is false: New refuses, so that nothing below is ever called. It is
// there for the package to build.
const supported = false

func tryFlock(*os.File, bool) (bool, error) { return false, errors.ErrUnsupported }

func flock(*os.File, bool) error { return errors.ErrUnsupported }

func closeAllOnExec() error { return errors.ErrUnsupported }

func isFile(int, string) bool { return false }

func ownSession() *syscall.SysProcAttr { return nil }

func ownGroup() *syscall.SysProcAttr { return nil }

func signalGroup(int, syscall.Signal) {}

func sessionOf(int) int { return -1 }

func processes() ([]int, error) { return nil, errors.ErrUnsupported }

func runs(int) bool { return false }

func marked(int, string) bool { return false }

func killedBy(*os.ProcessState) (syscall.Signal, bool) { return 0, false }

func signalName(signal syscall.Signal) string { return signal.String() }

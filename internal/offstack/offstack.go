// Package offstack keeps the stacks of goroutines small that wait for long. Go
// leaves a goroutine's stack as large as the deepest call has made it, unless
// three quarters of it are unused: 8 or 16 KiB for each of thousands of runs
// that are waited for, where 4 are enough to wait.
package offstack

import "runtime"

// Do calls work on the stack of another goroutine, and returns when it has
// returned. A call of [runtime.Goexit] in work ends the caller's goroutine too;
// a panic ends the process, as anywhere.
func Do(work func()) {
	returned := false
	done := make(chan struct{})
	go func() {
		defer close(done)
		work()
		returned = true
	}()
	<-done
	if !returned { // the other goroutine was ended, and we with it
		runtime.Goexit()
	}
}

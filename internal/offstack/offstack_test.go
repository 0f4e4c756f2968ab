package offstack

import (
	"runtime"
	"testing"
)

func TestDoReturnsAfterTheWork(t *testing.T) {
	worked := false
	Do(func() { worked = true })
	if !worked {
		t.Error("Do returned before the work was done")
	}
}

func TestGoexitEndsTheCallerToo(t *testing.T) {
	ended := make(chan bool)
	go func() {
		defer close(ended)
		Do(runtime.Goexit)
		ended <- false
	}()
	if _, wentOn := <-ended; wentOn {
		t.Error("the caller went on")
	}
}

package wait

import (
	"time"

	"go.uber.org/goleak"
)

// goroutineLimit is how long goroutines may take to end after the last test. It is
// no [Limit]: one that is left over may end by itself in a minute or two, as an idle
// connection does, and must be found before.
const goroutineLimit = 30 * time.Second

// Goroutines wraps the tests of a package so that [goleak.VerifyTestMain] finds
// their goroutines ended: it looks for half a second only, which a busy machine
// may take to end the last of them. Give both the same goroutines to ignore.
func Goroutines(tests goleak.TestingM, ignored ...goleak.Option) goleak.TestingM {
	return endingGoroutines{tests, ignored}
}

type endingGoroutines struct {
	tests   goleak.TestingM
	ignored []goleak.Option
}

// Run returns when no goroutine is left, or after half a minute; what is left then,
// goleak reports.
func (e endingGoroutines) Run() int {
	code := e.tests.Run()
	for deadline := time.Now().Add(goroutineLimit); code == 0 && goleak.Find(e.ignored...) != nil && time.Now().Before(deadline); {
	}
	return code
}

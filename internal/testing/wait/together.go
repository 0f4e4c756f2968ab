package wait

import (
	"flag"
	"fmt"
	"strconv"
)

// Together lets n parallel tests of this process run at a time, unless the go
// command was given a number. The default is the number of processors, which
// suits tests that compute; tests that mostly wait leave those idle. Call it in
// TestMain.
func Together(n int) error {
	const name = "test.parallel"
	flag.Parse()
	given := false
	flag.Visit(func(f *flag.Flag) { given = given || f.Name == name })
	if given {
		return nil
	}
	if err := flag.Set(name, strconv.Itoa(n)); err != nil {
		return fmt.Errorf("let %d tests run at a time: %w", n, err)
	}
	return nil
}

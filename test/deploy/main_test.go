package deploy

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/ropewalk/ropewalk/test/rig"
)

// programs is the folder of the programs that tests have built.
var programs string

func TestMain(m *testing.M) {
	var err error
	if programs, err = os.MkdirTemp("", "ropewalk-deploy-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(programs)
	os.Exit(code)
}

// dispatcher builds the dispatcher once, and returns its path.
func dispatcher(t *testing.T) string {
	t.Helper()
	if err := buildDispatcher(); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(programs, "dispatcher")
}

var buildDispatcher = sync.OnceValue(func() error {
	return rig.Build(context.Background(), filepath.Join(programs, "dispatcher"), "github.com/ropewalk/ropewalk/cmd/dispatcher")
})

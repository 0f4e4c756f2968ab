//go:build !e2e

package k8sjobs

import (
	"testing"

	"go.uber.org/goleak"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(wait.Goroutines(m)) }

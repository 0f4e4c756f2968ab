//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// parts are what all tests use. TestMain sets them before the first test and
// nothing changes them afterwards.
var parts struct {
	cluster *rig.Cluster
	// The programs: the dispatcher as it ships, the same with fault points in
	// it, and nats-server.
	dispatcher, faulty, logshipper, natsServer string
	image                                      string
	// helm is the program that the chart is installed with.
	helm string
}

func TestMain(m *testing.M) {
	dir, err := prepare()
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(wait.Goroutines(closing{m}), goleak.Cleanup(func(code int) {
		_ = os.RemoveAll(dir)
		os.Exit(code)
	}))
}

// together is how many tests run at a time. They mostly wait for pods, of which
// the cluster starts a few a second, and for dispatchers to be missed.
const together = 4

// closing runs the tests and then closes what they shared, so that what is
// still there was left over by one of them.
type closing struct{ *testing.M }

func (c closing) Run() int {
	code := c.M.Run()
	parts.cluster.Close()
	return code
}

// prepare opens the cluster and builds the programs into a directory that the
// caller removes.
func prepare() (dir string, err error) {
	if err := wait.Together(together); err != nil {
		return "", err
	}
	if parts.cluster, err = rig.OpenCluster(os.Getenv("KUBECONFIG")); err != nil {
		return "", err
	}
	if parts.image = os.Getenv("E2E_IMAGE"); parts.image == "" {
		parts.image = "busybox"
	}
	if dir, err = os.MkdirTemp("", "ropewalk-e2e-bin-"); err != nil {
		return "", err
	}
	parts.dispatcher = filepath.Join(dir, "dispatcher")
	parts.faulty = filepath.Join(dir, "dispatcher-faultpoints")
	parts.logshipper = filepath.Join(dir, "logshipper")
	parts.natsServer = filepath.Join(dir, "nats-server")
	parts.helm = filepath.Join(dir, "helm")
	ctx := context.Background()
	err = rig.Build(ctx, dir, "github.com/ropewalk/ropewalk/cmd/dispatcher", "github.com/ropewalk/ropewalk/cmd/logshipper", "github.com/nats-io/nats-server/v2")
	if err != nil {
		return "", err
	}
	if err := rig.Build(ctx, parts.faulty, "-tags", "faultpoints", "github.com/ropewalk/ropewalk/cmd/dispatcher"); err != nil {
		return "", err
	}
	return dir, rig.BuildTool(ctx, parts.helm, filepath.Join(root, "tools", "helm"), "helm.sh/helm/v4/cmd/helm")
}

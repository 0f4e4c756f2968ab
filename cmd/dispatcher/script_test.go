package main

import (
	"errors"
	"flag"
	"fmt"
	"net"
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/rs/zerolog"
	"go.uber.org/goleak"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/localexec"
	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/runstore"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

var update = flag.Bool("update", false, "rewrite what the scripts compare with")

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == localexec.SupervisorCommand {
		main() // a dispatcher in this process starts this program for each run
	}
	testscript.Main(leakChecked{m}, map[string]func(){"dispatcher": main})
}

// leakChecked fails when a goroutine is left over: goleak.VerifyTestMain ends
// the process, as testscript.Main wants to do itself.
type leakChecked struct{ m *testing.M }

func (l leakChecked) Run() int {
	code := wait.Goroutines(l.m).Run()
	if err := goleak.Find(); code == 0 && err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return code
}

// TestScripts runs the real commands, each in a process of its own. Beside
// testscript's own commands, scripts have these:
//
//	exits CODE COMMAND ARG...  run a command, which must end with this code
//	eventually COMMAND ARG...  run a command until it succeeds
//	until PATTERN COMMAND ARG...  run a command until it prints a pattern
//	nats [nojetstream]         start a bare NATS server
//	queues NAME=LIMIT...       make what a dispatcher makes on the NATS server
//	publish SUBJECT FILE       publish a file as it stands
//	dev                        start a dispatcher with all that it needs
//	freeport NAME              set NAME to an address that nobody listens on
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir: "testdata/script", RequireExplicitExec: true, RequireUniqueNames: true, UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			env.Setenv("TZ", "UTC")
			env.Setenv("ESC", "\x1b")
			env.Values[thisTest{}] = env.T()
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":      scriptExits,
			"eventually": scriptEventually,
			"until":      scriptUntil,
			"nats":       scriptNATS,
			"queues":     scriptQueues,
			"publish":    scriptPublish,
			"dev":        scriptDev,
			"freeport":   scriptFreePort,
		},
	})
}

// thisTest is the key under which a script's own test is kept.
type thisTest struct{}

// testOf is the test that a script runs in.
func testOf(ts *testscript.TestScript) testing.TB {
	t, ok := ts.Value(thisTest{}).(testing.TB)
	if !ok {
		ts.Fatalf("testscript does not keep its promise that a script's T is a testing.TB")
	}
	return t
}

func scriptExits(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	code := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		code = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if code != want {
		ts.Fatalf("exit code %d, want %d", code, want)
	}
}

func scriptEventually(ts *testscript.TestScript, _ bool, args []string) {
	wait.Success(testOf(ts), strings.Join(args, " ")+" to succeed", func() error { return ts.Exec(args[0], args[1:]...) })
}

// scriptUntil runs a command again and again until its output matches a
// pattern: until PATTERN COMMAND ARG...
func scriptUntil(ts *testscript.TestScript, _ bool, args []string) {
	pattern, err := regexp.Compile("(?m)" + args[0])
	ts.Check(err)
	wait.Until(testOf(ts), strings.Join(args[1:], " ")+" to print "+args[0], func() bool {
		return ts.Exec(args[1], args[2:]...) == nil && pattern.MatchString(ts.ReadFile("stdout"))
	})
}

func scriptNATS(ts *testscript.TestScript, _ bool, args []string) {
	conn, _ := natstest.Start(testOf(ts), func(options *server.Options) {
		options.JetStream = !slices.Contains(args, "nojetstream")
		options.MaxPayload = 64 << 10 // small, so that a request can be too large
	})
	ts.Setenv("ROPEWALK_NATS_URL", conn.ConnectedUrl())
}

func connect(ts *testscript.TestScript) jetstream.JetStream {
	_, js := natstest.Connect(testOf(ts), ts.Getenv("ROPEWALK_NATS_URL"))
	return js
}

func scriptQueues(ts *testscript.TestScript, _ bool, args []string) {
	ctx, js := testOf(ts).Context(), connect(ts)
	definitions, err := queue.CreateDefinitions(ctx, js, 1)
	ts.Check(err)
	for _, arg := range args {
		name, limit, _ := strings.Cut(arg, "=")
		concurrency, err := strconv.Atoi(limit)
		ts.Check(err)
		ts.Check(definitions.Seed(ctx, queue.Definition{Name: name, Concurrency: concurrency}, true))
	}
	_, err = queue.CreateDue(ctx, js, 1)
	ts.Check(err)
	_, err = queue.CreateSchedules(ctx, js, 1)
	ts.Check(err)
	_, err = runstore.Create(ctx, js, runstore.Config{Retention: time.Hour, RequestRetention: time.Hour, Replicas: 1})
	ts.Check(err)
}

func scriptPublish(ts *testscript.TestScript, _ bool, args []string) {
	_, err := connect(ts).Publish(testOf(ts).Context(), args[0], []byte(ts.ReadFile(args[1])))
	ts.Check(err)
}

func scriptDev(ts *testscript.TestScript, _ bool, _ []string) {
	dev := startTestDev(testOf(ts))
	ts.Setenv("ROPEWALK_NATS_URL", dev.URL)
}

// startTestDev starts a dispatcher in this process for the length of the test.
func startTestDev(t testing.TB) *devServer {
	t.Helper()
	settings, err := config.LoadDev()
	if err != nil {
		t.Fatal(err)
	}
	settings.HTTP.Addr = "127.0.0.1:0"
	dev, err := startDev(t.Context(), settings, devOptions{dataDir: t.TempDir(), natsAddr: "127.0.0.1:0"}, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := dev.Close(); err != nil {
			t.Error(err)
		}
	})
	return dev
}

func scriptFreePort(ts *testscript.TestScript, _ bool, args []string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	ts.Setenv(args[0], listener.Addr().String())
	ts.Check(listener.Close())
}

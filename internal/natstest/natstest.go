// Package natstest runs a real nats-server with JetStream inside a test.
package natstest

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

// Start runs a server for the length of the test and returns a connection to
// it. Options may change the server's options before it starts.
func Start(t testing.TB, options ...func(*server.Options)) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	opts := &server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(),
		NoLog: true, NoSigs: true, SyncAlways: false, // tests lose nothing with a crash of the machine
	}
	for _, option := range options {
		option(opts)
	}
	natsServer, err := server.NewServer(opts)
	if err != nil {
		t.Fatal(err)
	}
	natsServer.Start()
	t.Cleanup(func() {
		natsServer.Shutdown()
		natsServer.WaitForShutdown()
	})
	if !natsServer.ReadyForConnections(wait.Limit) {
		t.Fatal("nats-server does not start")
	}
	return Connect(t, natsServer.ClientURL())
}

// StartCluster runs three servers that hold streams together, for the length of
// the test, and returns a connection to each.
func StartCluster(t testing.TB) []jetstream.JetStream {
	t.Helper()
	var routes []*url.URL
	for _, address := range freeAddresses(t, 3) {
		routes = append(routes, &url.URL{Scheme: "nats", Host: address})
	}
	var servers []*server.Server
	for i, own := range routes {
		port, err := strconv.Atoi(own.Port())
		if err != nil {
			t.Fatal(err)
		}
		one, err := server.NewServer(&server.Options{
			ServerName: fmt.Sprintf("nats-%d", i), Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: t.TempDir(),
			NoLog: true, NoSigs: true, Routes: routes,
			Cluster: server.ClusterOpts{Name: "test", Host: own.Hostname(), Port: port},
		})
		if err != nil {
			t.Fatal(err)
		}
		one.Start()
		t.Cleanup(func() {
			one.Shutdown()
			one.WaitForShutdown()
		})
		servers = append(servers, one)
	}
	for _, one := range servers {
		if !one.ReadyForConnections(wait.Limit) {
			t.Fatal("nats-server does not start")
		}
	}
	AwaitLeader(t, servers)
	var all []jetstream.JetStream
	for _, one := range servers {
		_, js := Connect(t, one.ClientURL())
		all = append(all, js)
	}
	return all
}

// AwaitLeader returns once servers have found each other and chosen who leads.
func AwaitLeader(t testing.TB, servers []*server.Server) {
	t.Helper()
	wait.Success(t, "servers that have found each other and have a leader", func() error {
		if !slices.ContainsFunc(servers, (*server.Server).JetStreamIsLeader) {
			return errors.New("the servers have no leader")
		}
		for _, one := range servers {
			if !one.JetStreamIsCurrent() {
				return fmt.Errorf("%s is not current", one.Name())
			}
		}
		return nil
	})
}

// Serve runs a server that keeps its state in dir, for examples and TestMain,
// which have no test to end with. The caller calls stop.
func Serve(dir string) (url string, stop func(), err error) {
	natsServer, err := server.NewServer(&server.Options{
		Host: "127.0.0.1", Port: server.RANDOM_PORT, JetStream: true, StoreDir: dir, NoLog: true, NoSigs: true,
	})
	if err != nil {
		return "", nil, fmt.Errorf("set up nats-server: %w", err)
	}
	natsServer.Start()
	stop = func() {
		natsServer.Shutdown()
		natsServer.WaitForShutdown()
	}
	if !natsServer.ReadyForConnections(wait.Limit) {
		stop()
		return "", nil, errors.New("nats-server does not start")
	}
	return natsServer.ClientURL(), stop, nil
}

// VerifyTestMain runs a package's tests and fails if they leave goroutines behind,
// but for what a server does in the background, which outlives its shutdown.
func VerifyTestMain(m *testing.M) {
	ignored := []goleak.Option{
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startGoRoutine.func1"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"),
	}
	goleak.VerifyTestMain(wait.Goroutines(m, ignored...), ignored...)
}

// freeAddresses returns addresses that nobody listens on. All are taken before
// any is given back, so that no two are the same.
func freeAddresses(t testing.TB, count int) []string {
	t.Helper()
	var addresses []string
	for range count {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = listener.Close() }() // it has no connection
		addresses = append(addresses, listener.Addr().String())
	}
	return addresses
}

// Connect returns a connection for the length of the test.
func Connect(t testing.TB, url string) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	// The server runs in this process or beside it. It loses no request, so that
	// an answer that takes long says only that the machine is busy.
	conn, err := nats.Connect(url, nats.Timeout(wait.Limit))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn, jetstream.WithDefaultTimeout(wait.Limit))
	if err != nil {
		t.Fatal(err)
	}
	return conn, js
}

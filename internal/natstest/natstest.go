// Package natstest runs a real nats-server with JetStream inside a test.
package natstest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"slices"
	"strconv"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/retry"
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
	if !natsServer.ReadyForConnections(10 * time.Second) {
		t.Fatal("nats-server does not start")
	}
	return Connect(t, natsServer.ClientURL())
}

// StartCluster runs three servers that hold streams together, for the length of
// the test, and returns a connection to each.
func StartCluster(t testing.TB) []jetstream.JetStream {
	t.Helper()
	var routes []*url.URL
	for range 3 {
		routes = append(routes, &url.URL{Scheme: "nats", Host: freeAddress(t)})
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
		if !one.ReadyForConnections(time.Minute) {
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
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err := retry.Do(ctx, retry.Policy{First: 20 * time.Millisecond, Most: 20 * time.Millisecond}, func() error {
		if !slices.ContainsFunc(servers, (*server.Server).JetStreamIsLeader) {
			return errors.New("the servers have no leader")
		}
		for _, one := range servers {
			if !one.JetStreamIsCurrent() {
				return fmt.Errorf("%s is not current", one.Name())
			}
		}
		return nil
	}, nil)
	if err != nil {
		t.Fatal(err)
	}
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
	if !natsServer.ReadyForConnections(10 * time.Second) {
		stop()
		return "", nil, errors.New("nats-server does not start")
	}
	return natsServer.ClientURL(), stop, nil
}

func freeAddress(t testing.TB) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }() // it has no connection
	return listener.Addr().String()
}

// Connect returns a connection for the length of the test.
func Connect(t testing.TB, url string) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	conn, err := nats.Connect(url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(conn.Close)
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	return conn, js
}

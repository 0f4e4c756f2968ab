// Package natstest runs a real nats-server with JetStream inside a test.
package natstest

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
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

// Package natstest runs a real nats-server with JetStream inside a test.
package natstest

import (
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

package rig

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// NATS is a nats-server process with JetStream on disk, synced on every write
// as every deployment of Ropewalk is. It keeps its address and its store over
// restarts.
type NATS struct {
	program, dir string
	address      string
	process      *Process
}

// StartNATS starts program, a nats-server, with its configuration, store and
// log in dir, and waits until JetStream answers.
func StartNATS(ctx context.Context, program, dir string) (*NATS, error) {
	address, err := FreeAddress()
	if err != nil {
		return nil, err
	}
	config := fmt.Sprintf(`listen: %q
jetstream {
  store_dir: %q
  sync_interval: always
}
`, address, filepath.Join(dir, "store"))
	if err := os.WriteFile(filepath.Join(dir, "nats.conf"), []byte(config), 0o600); err != nil {
		return nil, fmt.Errorf("write the configuration of nats-server: %w", err)
	}
	n := &NATS{program: program, dir: dir, address: address}
	if err := n.Start(ctx); err != nil {
		return nil, err
	}
	return n, nil
}

// URL is where clients connect; it stays the same over restarts.
func (n *NATS) URL() string { return "nats://" + n.address }

// Log is the file that the server logs to.
func (n *NATS) Log() string { return filepath.Join(n.dir, "nats.log") }

// Start starts the server again after Kill.
func (n *NATS) Start(ctx context.Context) error {
	process, err := Start(n.program, []string{"-c", filepath.Join(n.dir, "nats.conf")}, os.Environ(), n.Log())
	if err != nil {
		return err
	}
	n.process = process
	err = Poll(ctx, 10*time.Millisecond, func() error {
		select {
		case <-process.Done():
			return Stop(errors.New("it ended"))
		default:
		}
		conn, js, err := n.Connect(ctx)
		if err != nil {
			return err
		}
		defer conn.Close()
		_, err = js.AccountInfo(ctx)
		return err
	})
	if err != nil {
		process.Kill()
		return fmt.Errorf("start nats-server at %s, whose log is %s: %w", n.address, n.Log(), err)
	}
	return nil
}

// Kill ends the server with SIGKILL; its store stays.
func (n *NATS) Kill() { n.process.Kill() }

// State tells in words whether the server runs, and how it ended if it does not.
func (n *NATS) State() string { return n.process.State() }

// Connect returns a connection that survives restarts of the server.
func (n *NATS) Connect(ctx context.Context) (*nats.Conn, jetstream.JetStream, error) {
	patience := time.Minute
	if deadline, ok := ctx.Deadline(); ok {
		patience = time.Until(deadline) // nats.go takes no context
	}
	conn, err := nats.Connect(n.URL(), nats.Timeout(patience), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
	if err != nil {
		return nil, nil, fmt.Errorf("connect to nats-server: %w", err)
	}
	js, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		return nil, nil, fmt.Errorf("open JetStream: %w", err)
	}
	return conn, js, nil
}

// FreeAddress returns a loopback address that nothing listens on at the moment.
// Its port is none that the system gives to a connection that is opened, so that
// a server that was killed finds its port free again, and none of a Service of
// type NodePort.
func FreeAddress() (string, error) { return freeAddressOn("127.0.0.1") }

func freeAddressOn(host string) (string, error) {
	const first, ports, tries = 15_000, 15_000, 100
	var err error
	for range tries {
		address := net.JoinHostPort(host, strconv.Itoa(first+rand.IntN(ports)))
		var listener net.Listener
		if listener, err = net.Listen("tcp", address); err != nil {
			continue
		}
		if err := listener.Close(); err != nil {
			return "", fmt.Errorf("give the free port back: %w", err)
		}
		return address, nil
	}
	return "", fmt.Errorf("find a free port: %w", err)
}

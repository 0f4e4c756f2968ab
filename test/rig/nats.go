package rig

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
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
	ctx, cancel := context.WithTimeoutCause(ctx, 20*time.Second, fmt.Errorf("nats-server at %s does not answer; its log is %s", n.address, n.Log()))
	defer cancel()
	err = Poll(ctx, 10*time.Millisecond, func() error {
		select {
		case <-process.Done():
			return Stop(fmt.Errorf("nats-server ended; its log is %s", n.Log()))
		default:
		}
		conn, err := nats.Connect(n.URL(), nats.Timeout(time.Second))
		if err != nil {
			return err
		}
		defer conn.Close()
		js, err := jetstream.New(conn)
		if err != nil {
			return Stop(err)
		}
		_, err = js.AccountInfo(ctx)
		return err
	})
	if err != nil {
		process.Kill()
		return fmt.Errorf("start nats-server: %w", err)
	}
	return nil
}

// Kill ends the server with SIGKILL; its store stays.
func (n *NATS) Kill() { n.process.Kill() }

// Connect returns a connection that survives restarts of the server.
func (n *NATS) Connect() (*nats.Conn, jetstream.JetStream, error) {
	conn, err := nats.Connect(n.URL(), nats.MaxReconnects(-1), nats.ReconnectWait(100*time.Millisecond))
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
func FreeAddress() (string, error) { return freeAddressOn("127.0.0.1") }

func freeAddressOn(host string) (string, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(host, "0"))
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	address := listener.Addr().String()
	if err := listener.Close(); err != nil {
		return "", fmt.Errorf("give the free port back: %w", err)
	}
	return address, nil
}

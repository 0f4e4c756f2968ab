package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"sync"
)

// Proxy passes TCP connections on to a server, and can be cut.
type Proxy struct {
	address, target string
	done            sync.WaitGroup

	mu       sync.Mutex
	listener net.Listener
	open     map[net.Conn]bool
}

// NewProxy listens on a free loopback address and passes connections on to the
// host of a URL.
func NewProxy(server string) (*Proxy, error) { return NewProxyOn("127.0.0.1", server) }

// NewProxyOn is NewProxy on another address of this machine, such as one that
// pods can reach.
func NewProxyOn(address, server string) (*Proxy, error) {
	target, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("read the server's address: %w", err)
	}
	port := target.Port()
	if port == "" {
		port = "443"
	}
	p := &Proxy{target: net.JoinHostPort(target.Hostname(), port), open: map[net.Conn]bool{}}
	if p.address, err = freeAddressOn(address); err != nil {
		return nil, err
	}
	return p, p.Mend()
}

// Address is where the proxy listens; it stays the same.
func (p *Proxy) Address() string { return p.address }

// Mend listens again after Cut.
func (p *Proxy) Mend() error {
	listener, err := net.Listen("tcp", p.address)
	if err != nil {
		return fmt.Errorf("listen as a proxy: %w", err)
	}
	p.mu.Lock()
	p.listener = listener
	p.mu.Unlock()
	p.done.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return // cut
			}
			p.done.Go(func() { p.pass(client) })
		}
	})
	return nil
}

// Cut breaks all connections and refuses new ones.
func (p *Proxy) Cut() error {
	p.mu.Lock()
	err := p.listener.Close()
	for conn := range p.open {
		err = errors.Join(err, conn.Close())
	}
	p.open = map[net.Conn]bool{}
	p.mu.Unlock()
	p.done.Wait()
	if err != nil {
		return fmt.Errorf("cut connections: %w", err)
	}
	return nil
}

// pass copies both ways until either side ends.
func (p *Proxy) pass(client net.Conn) {
	server, err := new(net.Dialer).DialContext(context.Background(), "tcp", p.target)
	if err != nil {
		_ = client.Close()
		return
	}
	p.mu.Lock()
	p.open[client], p.open[server] = true, true
	p.mu.Unlock()
	var both sync.WaitGroup
	both.Go(func() { p.copy(server, client) })
	both.Go(func() { p.copy(client, server) })
	both.Wait()
}

// copy ends both directions, since a connection that is half open serves
// nobody here.
func (p *Proxy) copy(to, from net.Conn) {
	// How a connection ended is for its two ends to say.
	_, _ = io.Copy(to, from)
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, conn := range []net.Conn{to, from} {
		if p.open[conn] {
			delete(p.open, conn)
			_ = conn.Close()
		}
	}
}

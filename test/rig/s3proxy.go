package rig

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"sync"
	"time"
)

// S3Proxy stands in front of an S3 server, and misbehaves as it is told.
type S3Proxy struct {
	address string
	pass    *httputil.ReverseProxy
	server  *http.Server
	done    sync.WaitGroup

	mu   sync.Mutex
	mood mood
	// met is how many requests were refused, left hanging, or found the server
	// away since the last change of mood.
	met int
	// changed is closed with the next change of mood.
	changed chan struct{}
}

type mood int

const (
	obliging mood = iota
	slowDown
	hanging
)

// NewS3Proxy starts a proxy on a free loopback address.
func NewS3Proxy(server string) (*S3Proxy, error) {
	target, err := url.Parse(server)
	if err != nil {
		return nil, fmt.Errorf("read the S3 server's address: %w", err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("listen as a proxy: %w", err)
	}
	p := &S3Proxy{address: listener.Addr().String(), changed: make(chan struct{})}
	p.pass = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // it is signed
		},
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			p.mu.Lock()
			p.met++
			p.mu.Unlock()
			w.WriteHeader(http.StatusBadGateway)
		},
	}
	p.server = &http.Server{Handler: p, ReadHeaderTimeout: time.Minute}
	p.done.Go(func() { _ = p.server.Serve(listener) }) // it always ends with an error: that it was closed
	return p, nil
}

// URL is where clients connect.
func (p *S3Proxy) URL() string { return "http://" + p.address }

// Oblige passes requests on. Those that hang are not answered any more.
func (p *S3Proxy) Oblige() { p.become(obliging) }

// SlowDown answers every request as S3 does to those who ask too much.
func (p *S3Proxy) SlowDown() { p.become(slowDown) }

// Hang takes requests and answers none.
func (p *S3Proxy) Hang() { p.become(hanging) }

// Met is how many requests had trouble since the last change: were refused, left
// hanging, or passed on to a server that is away.
func (p *S3Proxy) Met() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.met
}

func (p *S3Proxy) become(next mood) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.mood, p.met = next, 0
	close(p.changed)
	p.changed = make(chan struct{})
}

// Close ends the proxy with all its connections.
func (p *S3Proxy) Close() error {
	err := p.server.Close()
	p.done.Wait()
	return err
}

// ServeHTTP answers one request.
func (p *S3Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	now, changed := p.mood, p.changed
	if now != obliging {
		p.met++
	}
	p.mu.Unlock()
	switch now {
	case slowDown:
		w.WriteHeader(http.StatusServiceUnavailable)
		_, _ = io.WriteString(w, `<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>`)
	case hanging:
		select {
		case <-r.Context().Done():
		case <-changed:
			panic(http.ErrAbortHandler) // hangs up
		}
	case obliging:
		p.pass.ServeHTTP(w, r)
	}
}

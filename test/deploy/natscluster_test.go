package deploy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"maps"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/crypto/bcrypt"

	"github.com/ropewalk/ropewalk/internal/natsconn"
	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

var roles = []string{"dispatcher", "logshipper", "server", "zenml", "operator", "reader", "system"}

// natsCluster is three servers with the files of deploy/nats, as they are.
type natsCluster struct {
	t    *testing.T
	urls string
	ca   string
}

func startNATS(t *testing.T) *natsCluster {
	t.Helper()
	dir := t.TempDir()
	certify(t, dir)
	var routes, clients []string
	for range 3 {
		routes, clients = append(routes, freeAddress(t)), append(clients, freeAddress(t))
	}
	environment := map[string]string{
		"NATS_TLS_CERT": filepath.Join(dir, "tls.crt"), "NATS_TLS_KEY": filepath.Join(dir, "tls.key"), "NATS_TLS_CA": filepath.Join(dir, "ca.crt"),
		"NATS_ROUTES": "[nats://" + strings.Join(routes, ", nats://") + "]",
	}
	for _, role := range roles {
		hash, err := bcrypt.GenerateFromPassword([]byte(role+"-password"), bcrypt.MinCost)
		if err != nil {
			t.Fatal(err)
		}
		environment["NATS_"+strings.ToUpper(role)+"_PASSWORD"] = string(hash)
	}
	var servers []*server.Server
	for i := range 3 {
		maps.Copy(environment, map[string]string{
			"NATS_NAME": fmt.Sprintf("nats-%d", i), "NATS_LISTEN": clients[i], "NATS_MONITOR": freeAddress(t),
			"NATS_CLUSTER": routes[i], "NATS_STORE": filepath.Join(dir, fmt.Sprintf("store-%d", i)),
		})
		for name, value := range environment {
			t.Setenv(name, value)
		}
		options, err := server.ProcessConfigFile(filepath.Join(root, "deploy", "nats", "ropewalk.conf"))
		if err != nil {
			t.Fatal(err)
		}
		if !options.SyncAlways || options.TLSConfig == nil || options.Cluster.TLSConfig.ClientAuth != tls.RequireAndVerifyClientCert {
			t.Fatal("a server must sync every write, and speak TLS to clients and to servers that show who they are")
		}
		options.NoSigs, options.NoLog = true, true
		started, err := server.NewServer(options)
		if err != nil {
			t.Fatal(err)
		}
		started.Start()
		t.Cleanup(func() { started.Shutdown(); started.WaitForShutdown() })
		servers = append(servers, started)
	}
	natstest.AwaitLeader(t, servers)
	return &natsCluster{t, "tls://" + strings.Join(clients, ",tls://"), filepath.Join(dir, "ca.crt")}
}

// settings are how a process of ours logs in.
func (c *natsCluster) settings(role string) rig.Settings {
	return rig.Settings{
		"ROPEWALK_NATS_URL": c.urls, "ROPEWALK_NATS_USER": role, "ROPEWALK_NATS_PASSWORD": role + "-password",
		"ROPEWALK_NATS_TLS_CA": c.ca, "ROPEWALK_NATS_INBOX": "_INBOX." + role, "ROPEWALK_NATS_REPLICAS": "3",
	}
}

// violations are what the server told a connection that it may not do.
type violations struct {
	mu  sync.Mutex
	all []string
}

func (v *violations) take() []string {
	v.mu.Lock()
	defer v.mu.Unlock()
	taken := v.all
	v.all = nil
	return taken
}

// dial connects as our own packages do.
func (c *natsCluster) dial(role string) (*nats.Conn, jetstream.JetStream, *violations) {
	c.t.Helper()
	conn, js, err := natsconn.Dial(wait.Context(c.t, "a connection as "+role), natsconn.Options{
		URL: c.urls, Name: role, User: role, Password: run.Secret(role + "-password"), CAFile: c.ca, Inbox: "_INBOX." + role,
	}, zerolog.Nop())
	if err != nil {
		c.t.Fatalf("connect as %s: %v", role, err)
	}
	c.t.Cleanup(conn.Close)
	told := &violations{}
	conn.SetErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
		told.mu.Lock()
		defer told.mu.Unlock()
		told.all = append(told.all, err.Error())
	})
	return conn, js, told
}

func freeAddress(t *testing.T) string {
	t.Helper()
	address, err := rig.FreeAddress()
	if err != nil {
		t.Fatal(err)
	}
	return address
}

// certify makes an authority, and a certificate of it for 127.0.0.1.
func certify(t *testing.T, dir string) {
	t.Helper()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "authority"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	authorityKey, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: "nats"}, NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	write := func(name, kind string, data []byte, err error) {
		t.Helper()
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: data}), 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	signed, err := x509.CreateCertificate(rand.Reader, authority, authority, &authorityKey.PublicKey, authorityKey)
	write("ca.crt", "CERTIFICATE", signed, err)
	signed, err = x509.CreateCertificate(rand.Reader, leaf, authority, &key.PublicKey, authorityKey)
	write("tls.crt", "CERTIFICATE", signed, err)
	encoded, err := x509.MarshalECPrivateKey(key)
	write("tls.key", "EC PRIVATE KEY", encoded, err)
}

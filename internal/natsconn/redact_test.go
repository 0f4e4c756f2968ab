package natsconn

import "testing"

func TestNoCredentialIsShown(t *testing.T) {
	for servers, want := range map[string]string{
		"nats://bob:s3cret@127.0.0.1:1": "nats://127.0.0.1:1",
		"bob:s3cret@127.0.0.1:1":        "nats://127.0.0.1:1",
		"10.0.0.1:4222, tls://t0ken@b":  "nats://10.0.0.1:4222,tls://b",
		"nats://a b":                    "(an address that is not a URL)",
	} {
		if got := redact(servers); got != want {
			t.Errorf("redact(%q) = %q; want %q", servers, got, want)
		}
	}
}

func TestServersThatAreTooOldAreRefused(t *testing.T) {
	for version, accepted := range map[string]bool{"2.12.0": true, "2.15.2": true, "3.0.0": true, "2.11.9": false, "1.9": false, "x": false} {
		if err := RequireVersion(version); (err == nil) != accepted {
			t.Errorf("RequireVersion(%q) = %v", version, err)
		}
	}
}

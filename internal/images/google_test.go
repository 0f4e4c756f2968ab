package images

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/ropewalk/ropewalk/internal/run"
)

const artifacts = "europe-docker.pkg.dev/project/images"

// googleCloud is the metadata server of a node with workload identity, and the
// registry, which takes the newest token only.
type googleCloud struct {
	mu       sync.Mutex
	lifetime int // of a token, in seconds
	bound    bool
	tokens   int
	registry http.Handler
}

func (g *googleCloud) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if strings.HasPrefix(r.URL.Path, "/v2/") {
		if user, password, _ := r.BasicAuth(); user != "_token" || password != fmt.Sprintf("token-%d", g.tokens) {
			w.Header().Set("WWW-Authenticate", `Basic realm="artifacts"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		g.registry.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Metadata-Flavor", "Google")
	if r.Header.Get("Metadata-Flavor") != "Google" || !g.bound || !strings.HasSuffix(r.URL.Path, "/service-accounts/default/token") {
		w.WriteHeader(http.StatusNotFound)
		return
	}
	g.tokens++
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"access_token": fmt.Sprintf("token-%d", g.tokens), "expires_in": g.lifetime, "token_type": "Bearer"})
}

// newGoogle makes this process one that runs on Google's cloud, and returns the
// transport to its registry.
func newGoogle(t *testing.T, lifetime int) (*googleCloud, http.RoundTripper) {
	t.Helper()
	g := &googleCloud{lifetime: lifetime, bound: true, registry: registry.New(registry.Logger(discard()))}
	metadata, server := httptest.NewServer(g), httptest.NewTLSServer(g)
	t.Cleanup(metadata.Close)
	t.Cleanup(server.Close)
	t.Setenv("GCE_METADATA_HOST", strings.TrimPrefix(metadata.URL, "http://"))
	t.Setenv("GOOGLE_APPLICATION_CREDENTIALS", "")
	t.Setenv("HOME", t.TempDir()) // where a developer's own login would be
	transport := server.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.ServerName = "example.com" // whose certificate httptest brings
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return g, transport
}

func TestGoogleTokensComeByWorkloadIdentityAndAreRefreshed(t *testing.T) {
	for name, test := range map[string]struct{ lifetime, atLeast, most int }{
		"a fresh token serves again":    {3600, 1, 1},
		"one that expires is refreshed": {1, 3, 100},
	} {
		t.Run(name, func(t *testing.T) {
			g, transport := newGoogle(t, test.lifetime)
			r := resolver(t, Config{ResolveDigest: true, Transport: transport})
			for range 3 {
				_, err := r.Resolve(t.Context(), wants(run.Image{Reference: artifacts + "/x:1"}), quiet)
				// Having been let in, it is told that there is no such image.
				if why, message := reason(t, err); why != run.ImagePullFailed || !strings.Contains(message, "has no image") {
					t.Fatalf("%s: %s", why, message)
				}
			}
			if g.tokens < test.atLeast || g.tokens > test.most {
				t.Errorf("%d tokens; want %d to %d", g.tokens, test.atLeast, test.most)
			}
		})
	}
}

func TestBuildersAreGivenGooglesToken(t *testing.T) {
	_, transport := newGoogle(t, 3600)
	c := &cluster{t: t, ends: []end{ends(run.Failed, run.AppError, 0)}}
	r := resolver(t, Config{Transport: transport, Default: run.BuildImage, Builder: &Builder{Jobs: c, Registry: artifacts, Repository: "runner"}})
	_, err := r.Resolve(t.Context(), wants(run.Image{Build: plainBuild}), quiet)
	if why, message := reason(t, err); why != run.ImageBuildFailed || !strings.Contains(message, "exit code 1") {
		t.Fatalf("%s: %s", why, message)
	}
	if config := string(c.secret.Data["config.json"]); !strings.Contains(config, `"europe-docker.pkg.dev":{"username":"_token","password":"token-1"}`) {
		t.Errorf("the builder is given %s", config)
	}
	if spec, err := json.Marshal(c.job); err != nil || strings.Contains(string(spec), "token-1") {
		t.Errorf("the Job shows the token (%v)", err)
	}
}

func TestAnIdentityThatIsBoundLaterIsUsed(t *testing.T) {
	g, transport := newGoogle(t, 3600)
	g.bound = false
	r := resolver(t, Config{ResolveDigest: true, Transport: transport})
	reference := run.Image{Reference: artifacts + "/x:1"}
	_, err := r.Resolve(t.Context(), wants(reference), quiet)
	if _, message := reason(t, err); !strings.Contains(message, "asks for a login") || !strings.Contains(message, "there are no credentials for it") {
		t.Errorf("without an identity it says %s", message)
	}
	g.mu.Lock()
	g.bound = true
	g.mu.Unlock()
	_, err = r.Resolve(t.Context(), wants(reference), quiet)
	if _, message := reason(t, err); !strings.Contains(message, "has no image") {
		t.Errorf("with one it says %s", message)
	}
}

package images

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"

	"github.com/ropewalk/ropewalk/internal/run"
)

const amazon = "123456789012.dkr.ecr.eu-central-1.amazonaws.com"

// amazonECR speaks the two calls that are made of ECR, and is the registry
// behind them, which takes the newest token only.
type amazonECR struct {
	mu       sync.Mutex
	lifetime time.Duration
	tokens   int
	created  []string
	regions  map[string]bool
	broken   bool
	registry http.Handler
}

func (a *amazonECR) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if strings.HasPrefix(r.URL.Path, "/v2/") {
		if user, password, _ := r.BasicAuth(); user != "AWS" || password != fmt.Sprintf("token-%d", a.tokens) {
			w.Header().Set("WWW-Authenticate", `Basic realm="ecr"`)
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		a.registry.ServeHTTP(w, r)
		return
	}
	answer := func(code int, body map[string]any) {
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(body)
	}
	if _, credential, signed := strings.Cut(r.Header.Get("Authorization"), "Credential="); !signed || a.broken {
		answer(http.StatusBadRequest, map[string]any{"__type": "AccessDeniedException", "message": "who are you?"})
		return
	} else if parts := strings.Split(credential, "/"); len(parts) > 2 {
		a.regions[parts[2]] = true
	}
	switch _, call, _ := strings.Cut(r.Header.Get("X-Amz-Target"), "."); call {
	case "GetAuthorizationToken":
		a.tokens++
		token := base64.StdEncoding.EncodeToString(fmt.Appendf(nil, "AWS:token-%d", a.tokens))
		answer(http.StatusOK, map[string]any{"authorizationData": []any{map[string]any{
			"authorizationToken": token, "expiresAt": time.Now().Add(a.lifetime).Unix(), "proxyEndpoint": "https://" + amazon,
		}}})
	case "CreateRepository":
		var asked struct{ RepositoryName, RegistryID string }
		_ = json.NewDecoder(r.Body).Decode(&asked)
		if slices.Contains(a.created, asked.RepositoryName) {
			answer(http.StatusBadRequest, map[string]any{"__type": "RepositoryAlreadyExistsException", "message": "it exists"})
			return
		}
		a.created = append(a.created, asked.RepositoryName)
		answer(http.StatusOK, map[string]any{"repository": map[string]any{"repositoryName": asked.RepositoryName}})
	default:
		w.WriteHeader(http.StatusNotImplemented)
	}
}

// newAmazon starts it, points the SDK at it, and returns a transport for which
// every host is this one, over TLS as the SDK's registries are.
func newAmazon(t *testing.T, lifetime time.Duration) (*amazonECR, *http.Transport) {
	t.Helper()
	a := &amazonECR{lifetime: lifetime, regions: map[string]bool{}, registry: registry.New(registry.Logger(discard()))}
	api, server := httptest.NewServer(a), httptest.NewTLSServer(a)
	t.Cleanup(api.Close)
	t.Cleanup(server.Close)
	for key, value := range map[string]string{
		"AWS_ENDPOINT_URL_ECR": api.URL, "AWS_ACCESS_KEY_ID": "id", "AWS_SECRET_ACCESS_KEY": "key",
		"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
	} {
		t.Setenv(key, value)
	}
	transport := server.Client().Transport.(*http.Transport).Clone()
	transport.TLSClientConfig.ServerName = "example.com" // whose certificate httptest brings
	transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, server.Listener.Addr().String())
	}
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(http.DefaultClient.CloseIdleConnections)
	return a, transport
}

func TestECRTokensAreKeptWhileTheyAreGoodForAWhile(t *testing.T) {
	for name, test := range map[string]struct {
		lifetime time.Duration
		tokens   int
	}{
		"a fresh token serves again":             {12 * time.Hour, 1},
		"one that soon expires is not given out": {tokenMargin / 2, 3},
	} {
		t.Run(name, func(t *testing.T) {
			a, transport := newAmazon(t, test.lifetime)
			r := resolver(t, Config{ResolveDigest: true, Transport: transport, ECR: &ECR{Region: "us-east-1"}})
			for range 3 {
				_, err := r.Resolve(t.Context(), wants(run.Image{Reference: amazon + "/team/x:1"}), quiet)
				// Having been let in, it is told that there is no such image.
				if why, message := reason(t, err); why != run.ImagePullFailed || !strings.Contains(message, "has no image") {
					t.Fatalf("%s: %s", why, message)
				}
			}
			if a.tokens != test.tokens {
				t.Errorf("%d tokens; want %d", a.tokens, test.tokens)
			}
			if !a.regions["eu-central-1"] || len(a.regions) != 1 {
				t.Errorf("asked in %v; want the registry's own region", a.regions)
			}
		})
	}
}

func TestECRRepositoriesAreMadeAndBuildersLogIn(t *testing.T) {
	a, transport := newAmazon(t, 12*time.Hour)
	c := &cluster{t: t, ends: []end{ends(run.Failed, run.AppError, 0)}}
	for range 2 { // the second process finds that it is there already
		r := resolver(t, Config{Transport: transport, Default: run.BuildImage, Builder: &Builder{Jobs: c, Registry: amazon, Repository: "ml/runner", FailureMemory: time.Hour}})
		_, err := r.Resolve(t.Context(), wants(run.Image{Build: plainBuild}), quiet)
		if why, message := reason(t, err); why != run.ImageBuildFailed || !strings.Contains(message, "exit code 1") {
			t.Fatalf("%s: %s", why, message)
		}
	}
	if len(a.created) != 1 || a.created[0] != "ml/runner" {
		t.Errorf("made the repositories %v", a.created)
	}
	var config struct {
		Auths map[string]struct{ Username, Password string }
	}
	if err := json.Unmarshal(c.secret.Data["config.json"], &config); err != nil {
		t.Fatal(err)
	}
	if got := config.Auths[amazon]; got.Username != "AWS" || got.Password != "token-1" {
		t.Errorf("the builder is given %v", config.Auths)
	}
	if spec, err := json.Marshal(c.job); err != nil || strings.Contains(string(spec), "token-1") {
		t.Errorf("the Job shows the token (%v)", err)
	}
}

func TestECRThatRefusesSaysSo(t *testing.T) {
	a, transport := newAmazon(t, time.Hour)
	a.broken = true
	r := resolver(t, Config{ResolveDigest: true, Transport: transport})
	_, err := r.Resolve(t.Context(), wants(run.Image{Reference: amazon + "/team/x:1"}), quiet)
	if _, message := reason(t, err); !strings.Contains(message, "ask ECR for a token") || !strings.Contains(message, "who are you?") {
		t.Errorf("it says %s", message)
	}
}

func TestOtherRegistriesAreNotAmazons(t *testing.T) {
	for _, host := range []string{"docker.io/x", "evil.com/" + amazon, amazon + ".evil.com/x", "public.ecr.aws/x"} {
		parsed, err := name.ParseReference(host)
		if err != nil {
			t.Fatal(err)
		}
		if ecrHost.MatchString(parsed.Context().RegistryStr()) {
			t.Errorf("%s counts as Amazon's", host)
		}
	}
}

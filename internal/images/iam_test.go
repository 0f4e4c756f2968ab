package images

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/ropewalk/ropewalk/internal/run"
)

// allowed are the actions that the shipped policies allow.
func allowed(t *testing.T, policies ...string) map[string]bool {
	t.Helper()
	all := map[string]bool{}
	for _, policy := range policies {
		text, err := os.ReadFile(filepath.Join("..", "..", "deploy", "iam", "aws", policy))
		if err != nil {
			t.Fatal(err)
		}
		var document struct {
			Statement []struct{ Action any }
		}
		if err := json.Unmarshal(text, &document); err != nil {
			t.Fatal(err)
		}
		for _, statement := range document.Statement {
			switch action := statement.Action.(type) {
			case string:
				all[action] = true
			case []any:
				for _, one := range action {
					all[one.(string)] = true
				}
			}
		}
	}
	return all
}

// calls notes the permissions that requests need: those of ECR's API by their
// own name, those of the registry protocol by what Amazon says each of its
// requests stands for.
type calls struct {
	mu   sync.Mutex
	made map[string]bool
	next http.Handler
}

var protocol = []struct {
	request *regexp.Regexp
	action  string
}{
	{regexp.MustCompile(`^(GET|HEAD) .*/manifests/`), "ecr:BatchGetImage"},
	{regexp.MustCompile(`^PUT .*/manifests/`), "ecr:PutImage"},
	{regexp.MustCompile(`^HEAD .*/blobs/sha256:`), "ecr:BatchCheckLayerAvailability"},
	{regexp.MustCompile(`^GET .*/blobs/sha256:`), "ecr:GetDownloadUrlForLayer"},
	{regexp.MustCompile(`^POST .*/blobs/uploads/`), "ecr:InitiateLayerUpload"},
	{regexp.MustCompile(`^PATCH .*/blobs/uploads/`), "ecr:UploadLayerPart"},
	{regexp.MustCompile(`^PUT .*/blobs/uploads/`), "ecr:CompleteLayerUpload"},
}

func (c *calls) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	action := ""
	if _, call, ok := strings.Cut(r.Header.Get("X-Amz-Target"), "."); ok {
		action = "ecr:" + call
	}
	for _, known := range protocol {
		if known.request.MatchString(r.Method + " " + r.URL.Path) {
			action = known.action
		}
	}
	c.mu.Lock()
	if action != "" {
		c.made[action] = true
	} else if r.URL.Path != "/v2/" {
		c.made[r.Method+" "+r.URL.Path] = true // which no policy allows
	}
	c.mu.Unlock()
	c.next.ServeHTTP(w, r)
}

// needs compares what was called with what is allowed.
func needs(t *testing.T, c *calls, policies ...string) {
	t.Helper()
	allowed := allowed(t, policies...)
	c.mu.Lock()
	defer c.mu.Unlock()
	for call := range c.made {
		if !allowed[call] {
			t.Errorf("%s is needed, and %v do not allow it", call, policies)
		}
	}
	for action := range allowed {
		if !c.made[action] {
			t.Errorf("%v allow %s, which nothing needs", policies, action)
		}
	}
}

// The dispatcher looks images up by its policy alone; with that of builders it
// makes repositories, and who has its token pushes and pulls.
func TestPoliciesAllowWhatIsCalled(t *testing.T) {
	a, transport := newAmazon(t, 12*time.Hour)
	looking := &calls{made: map[string]bool{}, next: a}
	front := func(seen *calls) {
		api, tls := httptest.NewServer(seen), httptest.NewTLSServer(seen)
		t.Cleanup(api.Close)
		t.Cleanup(tls.Close)
		t.Setenv("AWS_ENDPOINT_URL_ECR", api.URL)
		transport.DialContext = func(ctx context.Context, network, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, network, tls.Listener.Addr().String())
		}
		transport.TLSClientConfig.RootCAs = tls.Client().Transport.(*http.Transport).TLSClientConfig.RootCAs
	}
	front(looking)
	r := resolver(t, Config{ResolveDigest: true, Transport: transport, ECR: &ECR{Region: "us-east-1"}})
	_, err := r.Resolve(t.Context(), wants(run.Image{Reference: amazon + "/team/x:1"}), quiet)
	if why, message := reason(t, err); why != run.ImagePullFailed || !strings.Contains(message, "has no image") {
		t.Fatalf("%s: %s", why, message)
	}
	needs(t, looking, "dispatcher.json")

	building := &calls{made: map[string]bool{}, next: a}
	front(building)
	c := &cluster{t: t, ends: []end{ends(run.Failed, run.AppError, 0)}}
	r = resolver(t, Config{Transport: transport, Default: run.BuildImage, Builder: &Builder{Jobs: c, Registry: amazon, Repository: "ml/runner", FailureMemory: time.Hour}})
	_, err = r.Resolve(t.Context(), wants(run.Image{Build: plainBuild}), quiet)
	if why, _ := reason(t, err); why != run.ImageBuildFailed {
		t.Fatal(err)
	}
	pushAndPull(t, building)
	needs(t, building, "dispatcher.json", "builder.json")
}

// pushAndPull is what a builder does with an image and its cache, in the
// registry protocol that all of them speak.
func pushAndPull(t *testing.T, seen *calls) {
	t.Helper()
	seen.next = registry.New(registry.Logger(discard()))
	server := httptest.NewServer(seen)
	defer server.Close()
	tag, err := name.NewTag(fmt.Sprintf("%s/ml/runner:1", strings.TrimPrefix(server.URL, "http://")))
	if err != nil {
		t.Fatal(err)
	}
	image, err := random.Image(100, 2)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(tag, image, remote.WithContext(t.Context())); err != nil {
		t.Fatal(err)
	}
	pulled, err := remote.Image(tag, remote.WithContext(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := pulled.Layers()
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range layers {
		content, err := layer.Compressed()
		if err != nil {
			t.Fatal(err)
		}
		if err := content.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

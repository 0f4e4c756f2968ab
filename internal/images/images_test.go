package images

import (
	"context"
	"errors"
	"io"
	"log" //nolint:depguard // what the registry in memory takes
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"go.uber.org/goleak"

	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(wait.Goroutines(m)) }

// place is a registry in memory that counts the questions for manifests, and may
// answer them otherwise.
type place struct {
	host  string
	heads atomic.Int32
	// answer, if set, is the status of every answer.
	answer atomic.Int32
}

func newPlace(t *testing.T) *place {
	t.Helper()
	p := &place{}
	inner := registry.New(registry.Logger(discard()))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodHead && strings.Contains(r.URL.Path, "/manifests/") {
			p.heads.Add(1)
		}
		if code := p.answer.Load(); code != 0 {
			w.WriteHeader(int(code))
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(server.Close)
	p.host = strings.TrimPrefix(server.URL, "http://")
	return p
}

// push puts an image under a name, and returns its digest.
func (p *place) push(t *testing.T, reference string) string {
	t.Helper()
	image, err := random.Image(100, 1)
	if err != nil {
		t.Fatal(err)
	}
	parsed, err := name.ParseReference(p.host + "/" + reference)
	if err != nil {
		t.Fatal(err)
	}
	transport, asked := closing(t), p.heads.Load()
	defer func() { p.heads.Store(asked) }() // pushing asks too
	if err := remote.Write(parsed, image, remote.WithTransport(transport)); err != nil {
		t.Fatal(err)
	}
	digest, err := image.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return digest.String()
}

// closing is a transport whose connections end with the test.
func closing(t *testing.T) *http.Transport {
	t.Helper()
	transport := remote.DefaultTransport.(*http.Transport).Clone()
	t.Cleanup(transport.CloseIdleConnections)
	return transport
}

func resolver(t *testing.T, config Config) *Resolver {
	t.Helper()
	if config.Transport == nil {
		config.Transport = closing(t)
	}
	if config.Modes == nil {
		config.Modes = []run.ImageMode{run.ReuseImage, run.PrebuiltImage, run.BuildImage}
	}
	if config.Default == "" {
		config.Default = run.ReuseImage
	}
	r, err := New(config)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func wants(image run.Image) run.ImageRequest {
	return run.ImageRequest{Request: run.Request{Image: image}, Attempt: 1, PublishedAt: time.Now()}
}

func quiet(string) {}

// reason is why an image is not had: that of a LaunchError, or InvalidRequest.
func reason(t *testing.T, err error) (run.Reason, string) {
	t.Helper()
	if invalid, ok := errors.AsType[*run.InvalidError](err); ok {
		return run.InvalidRequest, invalid.Error()
	}
	var refused *run.LaunchError
	if !errors.As(err, &refused) {
		t.Fatalf("the error is a %T: %v", err, err)
	}
	return refused.Reason, refused.Message
}

func TestModes(t *testing.T) {
	both := run.Image{Reference: "example.com/a:1", Build: &run.Build{Dockerfile: "FROM scratch"}}
	for name, test := range map[string]struct {
		config Config
		image  run.Image
		want   run.ImageMode
		reason run.Reason
		says   string
	}{
		"a reference is reused":                   {Config{}, run.Image{Reference: "a"}, run.ReuseImage, "", ""},
		"nothing is the prebuilt image":           {Config{Prebuilt: "a"}, run.Image{}, run.PrebuiltImage, "", ""},
		"nothing, and no prebuilt image":          {Config{}, run.Image{}, "", run.InvalidRequest, settingPrebuilt},
		"a reference beats a prebuilt default":    {Config{Prebuilt: "a", Default: run.PrebuiltImage}, run.Image{Reference: "b"}, run.ReuseImage, "", ""},
		"both, where building is the default":     {Config{Default: run.BuildImage, Builder: &Builder{Registry: "r.example.com", Repository: "x"}}, both, run.BuildImage, "", ""},
		"both, where it is not":                   {Config{Builder: &Builder{Registry: "r.example.com", Repository: "x"}}, both, run.ReuseImage, "", ""},
		"a mode that is asked for":                {Config{Prebuilt: "a"}, run.Image{Mode: run.PrebuiltImage, Reference: "b"}, run.PrebuiltImage, "", ""},
		"a mode that the operator does not allow": {Config{Modes: []run.ImageMode{run.PrebuiltImage}, Default: run.PrebuiltImage, Prebuilt: "a"}, run.Image{Reference: "b"}, "", run.PolicyRefused, settingModes},
		"the default needs no leave":              {Config{Modes: []run.ImageMode{run.BuildImage}, Default: run.PrebuiltImage, Prebuilt: "a"}, run.Image{}, run.PrebuiltImage, "", ""},
		"a build where none are set up":           {Config{}, run.Image{Build: both.Build}, "", run.PolicyRefused, settingBuild},
		"nothing to build and nothing prebuilt":   {Config{Default: run.BuildImage, Builder: &Builder{Registry: "r.example.com", Repository: "x"}}, run.Image{}, "", run.InvalidRequest, "neither a reference nor a build"},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := resolver(t, test.config).mode(test.image)
			if test.reason != "" {
				why, message := reason(t, err)
				if why != test.reason || !strings.Contains(message, test.says) {
					t.Errorf("%s: %s; want %s with %q", why, message, test.reason, test.says)
				}
				return
			}
			if err != nil || got != test.want {
				t.Errorf("%s, %v; want %s", got, err, test.want)
			}
		})
	}
}

func TestPolicy(t *testing.T) {
	for name, test := range map[string]struct {
		allow, deny []string
		reference   string
		says        string // "" when it is allowed
	}{
		"without patterns all is allowed":        {nil, nil, "busybox", ""},
		"Docker Hub's short names are docker.io": {[]string{"docker.io/library/*"}, nil, "busybox", ""},
		"one part":                               {[]string{"r.example.com/a/*"}, nil, "r.example.com/a/b/c:1", `match no pattern of ROPEWALK_IMAGE_ALLOW, which are r.example.com/a/*`},
		"many parts":                             {[]string{"r.example.com/a/**"}, nil, "r.example.com/a/b/c:1", ""},
		"a star in the host":                     {[]string{"*.dkr.ecr.*.amazonaws.com/**"}, nil, "1.dkr.ecr.eu-central-1.amazonaws.com/x", ""},
		"a dot is a dot":                         {[]string{"r.example.com/**"}, nil, "rxexample.com/x", "match no pattern"},
		"denied before allowed":                  {[]string{"**"}, []string{"docker.io/**"}, "docker.io/x/y", `refused by the pattern "docker.io/**" of ROPEWALK_IMAGE_DENY`},
		"no way around by a digest":              {nil, []string{"docker.io/**"}, "busybox@sha256:" + strings.Repeat("0", 64), "refused by the pattern"},
	} {
		t.Run(name, func(t *testing.T) {
			r := resolver(t, Config{Policy: NewPolicy(test.allow, test.deny)})
			_, err := r.Resolve(t.Context(), wants(run.Image{Reference: test.reference}), quiet)
			if test.says == "" {
				if err != nil {
					t.Errorf("refused: %v", err)
				}
				return
			}
			if why, message := reason(t, err); why != run.PolicyRefused || !strings.Contains(message, test.says) {
				t.Errorf("%s: %s; want %q", why, message, test.says)
			}
		})
	}
}

func TestAQueuesPatternsCountBesideTheOperators(t *testing.T) {
	r := resolver(t, Config{Policy: NewPolicy([]string{"registry.example.com/**"}, nil), Default: run.ReuseImage})
	for image, want := range map[string]string{
		"registry.example.com/team/a:1":  "",
		"registry.example.com/other/a:1": "no pattern of its queue's --image-allow",
		"registry.example.com/team/b:1":  "of its queue's --image-deny",
		"elsewhere.example.com/team/a:1": "ROPEWALK_IMAGE_ALLOW",
	} {
		wanted := wants(run.Image{Reference: image})
		wanted.Allow, wanted.Deny = []string{"registry.example.com/team/**", "elsewhere.example.com/**"}, []string{"registry.example.com/team/b"}
		_, err := r.Resolve(t.Context(), wanted, quiet)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v; want %q", image, err, want)
		}
	}
}

func TestReferencesBecomeDigestsAndStayThem(t *testing.T) {
	p := newPlace(t)
	first := p.push(t, "team/train:1")
	r := resolver(t, Config{ResolveDigest: true, DigestCache: time.Hour})
	reference := p.host + "/team/train:1"
	resolve := func(r *Resolver, wanted run.ImageRequest) string {
		t.Helper()
		image, err := r.Resolve(t.Context(), wanted, quiet)
		if err != nil {
			t.Fatal(err)
		}
		return image
	}
	if got := resolve(r, wants(run.Image{Reference: reference})); got != reference+"@"+first {
		t.Fatalf("%s; want the digest %s", got, first)
	}
	second := p.push(t, "team/train:1")
	if got := resolve(r, wants(run.Image{Reference: reference})); got != reference+"@"+first || p.heads.Load() != 1 {
		t.Errorf("%s after %d questions; want the cached answer", got, p.heads.Load())
	}
	fresh := resolver(t, Config{ResolveDigest: true, Prebuilt: reference})
	if got := resolve(fresh, wants(run.Image{})); got != reference+"@"+second {
		t.Errorf("the prebuilt image is %s; want the moved tag's %s", got, second)
	}
	retry := wants(run.Image{Reference: reference})
	retry.Attempt, retry.Known = 2, reference+"@"+first
	if got := resolve(fresh, retry); got != reference+"@"+first {
		t.Errorf("the next attempt has %s; want the bytes of the first", got)
	}
	asked := p.heads.Load()
	if got := resolve(fresh, wants(run.Image{Reference: reference + "@" + first})); got != reference+"@"+first || p.heads.Load() != asked {
		t.Errorf("a digest became %s, %d questions later", got, p.heads.Load()-asked)
	}
	off := resolver(t, Config{})
	if got := resolve(off, wants(run.Image{Reference: "nowhere.invalid/x"})); got != "nowhere.invalid/x" {
		t.Errorf("with resolving switched off it is %s", got)
	}
}

func TestManyAskingAtOnceAreOneQuestion(t *testing.T) {
	p := newPlace(t)
	p.push(t, "x:1")
	r := resolver(t, Config{ResolveDigest: true, DigestCache: time.Hour})
	var all sync.WaitGroup
	for range 50 {
		all.Go(func() {
			if _, err := r.Resolve(t.Context(), wants(run.Image{Reference: p.host + "/x:1"}), quiet); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	if heads := p.heads.Load(); heads != 1 {
		t.Errorf("%d questions; want 1", heads)
	}
}

func TestWhatRegistriesAnswer(t *testing.T) {
	p := newPlace(t)
	for name, test := range map[string]struct {
		answer    int
		temporary bool
		says      string
	}{
		"an image that is not there":       {0, false, "The registry has no image " + p.host + "/no:1"},
		"a registry that wants a login":    {http.StatusUnauthorized, false, "asks for a login"},
		"a registry that is overloaded":    {http.StatusTooManyRequests, true, "answers 429"},
		"a registry that is out of order":  {http.StatusBadGateway, true, "answers 502"},
		"a registry that speaks otherwise": {http.StatusTeapot, false, "refuses"},
	} {
		t.Run(name, func(t *testing.T) {
			p.answer.Store(int32(test.answer))
			r := resolver(t, Config{ResolveDigest: true})
			_, err := r.Resolve(t.Context(), wants(run.Image{Reference: p.host + "/no:1"}), quiet)
			why, message := reason(t, err)
			if why != run.ImagePullFailed || !strings.Contains(message, test.says) {
				t.Errorf("%s: %s; want %q", why, message, test.says)
			}
			var refused *run.LaunchError
			if errors.As(err, &refused); refused.Temporary != test.temporary {
				t.Errorf("temporary: %t", refused.Temporary)
			}
		})
	}
	t.Run("a registry that is away", func(t *testing.T) {
		server := httptest.NewServer(http.NotFoundHandler())
		server.Close()
		r := resolver(t, Config{ResolveDigest: true})
		_, err := r.Resolve(t.Context(), wants(run.Image{Reference: strings.TrimPrefix(server.URL, "http://") + "/x"}), quiet)
		var refused *run.LaunchError
		if !errors.As(err, &refused) || !refused.Temporary || !strings.Contains(refused.Message, "ROPEWALK_IMAGE_RESOLVE_DIGEST") {
			t.Errorf("%v; want a reason to wait, and how to do without", err)
		}
	})
	t.Run("a registry that is away, where the digest is optional", func(t *testing.T) {
		server := httptest.NewServer(http.NotFoundHandler())
		server.Close()
		r := resolver(t, Config{ResolveDigest: true, DigestOptional: true})
		reference := strings.TrimPrefix(server.URL, "http://") + "/x:1"
		for range 2 { // the second time it is not even asked
			if got, err := r.Resolve(t.Context(), wants(run.Image{Reference: reference}), quiet); err != nil || got != reference {
				t.Errorf("Resolve = %q, %v; want the reference as it is", got, err)
			}
		}
		p.answer.Store(0)
		if _, err := r.Resolve(t.Context(), wants(run.Image{Reference: p.host + "/no:1"}), quiet); err == nil {
			t.Error("an image that a registry says it does not have is accepted")
		}
	})
	t.Run("whoever stops to wait", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		_, err := resolver(t, Config{ResolveDigest: true}).Resolve(ctx, wants(run.Image{Reference: p.host + "/x"}), quiet)
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%v; want the context's error", err)
		}
	})
}

func discard() *log.Logger { return log.New(io.Discard, "", 0) }

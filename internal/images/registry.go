package images

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/sync/singleflight"

	"github.com/ropewalk/ropewalk/internal/run"
)

const (
	// answerTimeout bounds one question to a registry, a cloud or the cluster.
	answerTimeout = 20 * time.Second
	// mostDigests bounds the cache: about 300 bytes each.
	mostDigests = 10_000
)

// errAbsent: the registry has no such image.
var errAbsent = errors.New("the registry has no such image")

// registries asks registries for digests, and remembers them for a while.
type registries struct {
	transport http.RoundTripper
	plain     []string
	secrets   *PullSecrets
	ecr       *ECR
	google    googleIdentity
	keep      time.Duration

	asking singleflight.Group
	mu     sync.Mutex
	known  map[string]digest    // by reference
	away   map[string]time.Time // registries that are not to be asked before
}

type digest struct {
	text  string
	until time.Time
}

// newTransport trusts the authorities of a PEM file besides the system's.
func newTransport(caFile string) (http.RoundTripper, error) {
	own := remote.DefaultTransport.(*http.Transport).Clone()
	if caFile == "" {
		return own, nil
	}
	pem, err := os.ReadFile(caFile)
	if err != nil {
		return nil, fmt.Errorf("read the registries' authorities: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		pool = x509.NewCertPool()
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("ROPEWALK_IMAGE_CA_FILE: %s holds no certificate in PEM form", caFile)
	}
	own.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	return own, nil
}

// parse reads a reference as the cluster would.
func (r *registries) parse(reference string) (name.Reference, error) {
	parsed, err := name.ParseReference(reference)
	if err == nil && slices.Contains(r.plain, parsed.Context().RegistryStr()) {
		parsed, err = name.ParseReference(reference, name.Insecure)
	}
	return parsed, err
}

// digest returns the digest of a reference, or [errAbsent], or a
// [*run.LaunchError] that tells why it cannot be had. Many who ask at once share
// one question. Fresh passes over what is remembered.
func (r *registries) digest(ctx context.Context, reference name.Reference, fresh bool) (string, error) {
	key := reference.Name()
	if !fresh {
		if text, ok := r.remembered(key); ok {
			return text, nil
		}
	}
	if fresh {
		// An answer that is on its way may be from before the build was pushed.
		r.asking.Forget(key)
	}
	answer := r.asking.DoChan(key, func() (any, error) {
		// Its own time limit: whoever asked first may go away before the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), answerTimeout)
		defer cancel()
		text, err := r.head(ctx, reference)
		if err == nil {
			r.remember(key, text)
		}
		return text, err
	})
	select {
	case result := <-answer:
		text, _ := result.Val.(string)
		return text, result.Err
	case <-ctx.Done():
		return "", ctx.Err()
	}
}

func (r *registries) remembered(key string) (string, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.known[key]
	return known.text, ok && time.Now().Before(known.until)
}

func (r *registries) remember(key, text string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.known == nil || len(r.known) >= mostDigests {
		r.known = map[string]digest{} // asking anew is cheap
	}
	r.known[key] = digest{text, time.Now().Add(r.keep)}
}

// awayFor is how long a registry that did not answer is not asked again.
const awayFor = time.Minute

func (r *registries) isAway(registry string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return time.Now().Before(r.away[registry])
}

func (r *registries) noteAway(registry string) {
	const most = 1000 // a publisher can name any number of registries
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.away == nil || len(r.away) >= most {
		r.away = map[string]time.Time{}
	}
	r.away[registry] = time.Now().Add(awayFor)
}

func (r *registries) head(ctx context.Context, reference name.Reference) (string, error) {
	options, read, err := r.options(ctx)
	if err != nil {
		return "", unanswered(ctx, reference.Context(), err)
	}
	descriptor, err := remote.Head(reference, options...)
	if err != nil {
		return "", r.refused(ctx, reference, read, err)
	}
	return descriptor.Digest.String(), nil
}

// tag gives an image that exists a further tag.
func (r *registries) tag(ctx context.Context, image name.Digest, tag name.Tag) error {
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	options, read, err := r.options(ctx)
	if err != nil {
		return unanswered(ctx, image.Context(), err)
	}
	descriptor, err := remote.Get(image, options...)
	if err == nil {
		err = remote.Tag(tag, descriptor, options...)
	}
	if err != nil {
		return r.refused(ctx, tag, read, err)
	}
	return nil
}

// options is how registries are spoken to. The library's own repeats sleep
// without looking at the context; whoever asks here repeats it himself.
func (r *registries) options(ctx context.Context) ([]remote.Option, *pullSecrets, error) {
	keychain, read, err := r.keychain(ctx)
	if err != nil {
		return nil, nil, err
	}
	return []remote.Option{
		remote.WithContext(ctx), remote.WithTransport(r.transport), remote.WithAuthFromKeychain(keychain),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}), remote.WithUserAgent("ropewalk-dispatcher"),
	}, read, nil
}

// keychain tries the pull secrets first, as the node does, then what the
// process itself may do: Amazon's registries by the AWS SDK, Google's by
// workload identity.
func (r *registries) keychain(ctx context.Context) (authn.Keychain, *pullSecrets, error) {
	clouds := authn.NewMultiKeychain(r.ecr, &r.google)
	if r.secrets == nil {
		return clouds, nil, nil
	}
	read, err := r.secrets.get(ctx)
	if err != nil {
		return nil, nil, err
	}
	return authn.NewMultiKeychain(read.keychain, clouds), read, nil
}

// refused says what a registry's error means for a run, and decides alone
// whether it may pass.
func (r *registries) refused(ctx context.Context, reference name.Reference, read *pullSecrets, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	repository := canonical(reference.Context())
	var answered *transport.Error
	if !errors.As(err, &answered) {
		return unanswered(ctx, reference.Context(), err)
	}
	switch code := answered.StatusCode; {
	case code == http.StatusNotFound:
		return errAbsent
	case code == http.StatusUnauthorized, code == http.StatusForbidden:
		return &run.LaunchError{Reason: run.ImagePullFailed, Message: r.login(ctx, reference.Context(), read, code), Err: err}
	case code == http.StatusTooManyRequests, code >= http.StatusInternalServerError:
		return &run.LaunchError{
			Reason: run.ImagePullFailed, Temporary: true, Err: err,
			Message: fmt.Sprintf("The registry of %s answers %d %s at the moment.", repository, code, http.StatusText(code)),
		}
	default:
		return &run.LaunchError{Reason: run.ImagePullFailed, Message: fmt.Sprintf("The registry refuses %s: %s.", reference.Name(), plainly(err)), Err: err}
	}
}

// login says whether a registry wants credentials where there are none, or
// other ones.
func (r *registries) login(ctx context.Context, repository name.Repository, read *pullSecrets, code int) string {
	where := ""
	if read != nil {
		where = " (" + r.secrets.told(read) + ")"
	}
	keychain, _, err := r.keychain(ctx)
	if err == nil {
		if auth, err := authn.Resolve(ctx, keychain, repository); err == nil && auth != authn.Anonymous {
			return fmt.Sprintf("The registry %s does not accept the credentials that there are for %s: it answers %d %s%s.",
				repository.RegistryStr(), canonical(repository), code, http.StatusText(code), where)
		}
	}
	return fmt.Sprintf("The registry %s asks for a login to read %s, and there are no credentials for it%s.", repository.RegistryStr(), canonical(repository), where)
}

// unanswered is the error of a registry, or of what is needed to ask it, that
// gave no answer; it may pass.
func unanswered(ctx context.Context, repository name.Repository, err error) error {
	if errors.Is(ctx.Err(), context.Canceled) {
		return ctx.Err()
	}
	return &run.LaunchError{
		Reason: run.ImagePullFailed, Temporary: true, Err: err,
		Message: fmt.Sprintf("The registry of %s cannot be asked about the image: %s.", canonical(repository), plainly(err)),
	}
}

// plainly puts an error in one line of bounded length.
func plainly(err error) string {
	const most = 400
	text := strings.Join(strings.Fields(err.Error()), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + " …"
	}
	return strings.TrimSuffix(text, ".")
}

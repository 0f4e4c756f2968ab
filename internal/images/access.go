package images

import (
	"context"
	"errors"
	"net/http"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
)

// Examine reads the pull secrets anew. Found names those that can be used;
// lacking says of the service account and of the other secrets why not.
func (p *PullSecrets) Examine(ctx context.Context) (found, lacking []string, err error) {
	read, err := p.fetch(ctx)
	if err != nil {
		return nil, nil, err
	}
	return read.found, read.lacking, nil
}

// ErrNothing tells that there is nothing to check: the settings neither name a
// runner image nor have images built.
var ErrNothing = errors.New("the settings name no registry")

// ErrNoRepository tells that the repository for built images is not there yet,
// which the first build makes in Amazon's registries.
var ErrNoRepository = errors.New("the repository does not exist yet")

// CheckPull finds out whether the runner image, or without one the repository of
// built images, can be read. It returns what it has asked for. Errors are a
// [*run.LaunchError], the context's, or [ErrNothing]. An image that is not there
// is [ErrAbsent], and no error in a repository that is yet to be filled.
func (r *Resolver) CheckPull(ctx context.Context) (reference string, err error) {
	reference = r.config.Prebuilt
	if reference == "" && r.config.Builder != nil {
		reference = r.config.Builder.probe()
	}
	if reference == "" {
		return "", ErrNothing
	}
	parsed, err := r.registries.parse(reference)
	if err != nil {
		return reference, err
	}
	_, err = r.registries.digest(ctx, parsed, true)
	if errors.Is(err, errAbsent) && r.config.Prebuilt == "" {
		err = nil
	}
	return reference, err
}

// ErrAbsent: the registry answers, and has no such image.
var ErrAbsent = errAbsent

// CheckPush finds out whether built images can be pushed: it begins an upload
// and gives it up. It returns the repository. Errors are as for
// [Resolver.CheckPull], or [ErrNoRepository].
func (r *Resolver) CheckPush(ctx context.Context) (repository string, err error) {
	if r.config.Builder == nil {
		return "", ErrNothing
	}
	parsed, err := r.registries.parse(r.config.Builder.probe())
	if err != nil {
		return "", err
	}
	repository = parsed.Context().Name()
	keychain, read, err := r.registries.keychain(ctx)
	if err != nil {
		return repository, unanswered(ctx, parsed.Context(), err)
	}
	// The library does not take a context here, its keychains and requests do.
	resolved := resolvedFor{keychain, func(keychain authn.Keychain, target authn.Resource) (authn.Authenticator, error) {
		return authn.Resolve(ctx, keychain, target)
	}}
	err = remote.CheckPushPermission(parsed, resolved, roundTrip(func(request *http.Request) (*http.Response, error) {
		return r.registries.transport.RoundTrip(request.WithContext(ctx))
	}))
	var answered *transport.Error
	switch {
	case err == nil:
		return repository, nil
	case errors.As(err, &answered) && answered.StatusCode == http.StatusNotFound && ecrHost.MatchString(parsed.Context().RegistryStr()):
		return repository, ErrNoRepository
	}
	return repository, r.registries.refused(ctx, parsed, read, err)
}

// probe is a reference in the repository of built images under which there is
// no image.
func (b *Builder) probe() string { return b.Registry + "/" + b.Repository + ":ropewalk-doctor" }

// roundTrip is a transport made of a function.
type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(request *http.Request) (*http.Response, error) { return f(request) }

// resolvedFor is a keychain that resolves as the function says.
type resolvedFor struct {
	keychain authn.Keychain
	resolve  func(authn.Keychain, authn.Resource) (authn.Authenticator, error)
}

// Resolve implements [authn.Keychain].
func (r resolvedFor) Resolve(target authn.Resource) (authn.Authenticator, error) {
	return r.resolve(r.keychain, target)
}

// Package images decides which image a run uses, and makes it if need be: the
// one that its request refers to, the operator's prebuilt one, or one that is
// built from the request's Dockerfile, once for all runs that want it.
//
// References are held against the operator's policy and resolved to a digest,
// so that every attempt of a run has the same bytes. Registries are spoken to
// by go-containerregistry. The package pulls and builds nothing itself: nodes
// pull, and builder Jobs build (see [Builder]). internal/dispatch calls it.
package images

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/ropewalk/ropewalk/internal/run"
)

// The settings that messages of this package name.
const (
	settingPrebuilt = "ZENML_KUBERNETES_WORKLOAD_MANAGER_RUNNER_IMAGE"
	settingBuild    = "ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE"
	settingModes    = "ROPEWALK_IMAGE_MODES"
)

// Config is what a [Resolver] works with.
type Config struct {
	// Prebuilt is the operator's runner image; it may be empty.
	Prebuilt string
	// Default is the mode of requests that leave it open, and Modes are those
	// that a request may ask for besides.
	Default run.ImageMode
	Modes   []run.ImageMode
	Policy  Policy
	// ResolveDigest: ask the registry for digests, and take one for that of its
	// tag for as long as DigestCache.
	ResolveDigest bool
	// DigestOptional: a registry that cannot be asked is no reason to wait; the
	// node pulls what the reference says then.
	DigestOptional bool
	DigestCache    time.Duration
	// PlainHTTP are registries without TLS; CAFile are more authorities.
	PlainHTTP []string
	CAFile    string
	// Transport replaces the one to registries, for tests; CAFile goes unused.
	Transport http.RoundTripper
	// PullSecrets may be nil, where there is no cluster.
	PullSecrets *PullSecrets
	ECR         *ECR
	// Builder is nil unless images are built.
	Builder *Builder
}

// Resolver resolves the image of each request. It is safe for concurrent use.
type Resolver struct {
	config     Config
	registries *registries
}

// New returns a resolver. It reaches nothing yet.
func New(config Config) (*Resolver, error) {
	transport := config.Transport
	if transport == nil {
		var err error
		if transport, err = newTransport(config.CAFile); err != nil {
			return nil, err
		}
	}
	if config.ECR == nil {
		config.ECR = &ECR{}
	}
	r := &Resolver{config, &registries{
		transport: transport, plain: config.PlainHTTP, secrets: config.PullSecrets, ecr: config.ECR, keep: config.DigestCache,
	}}
	if config.Prebuilt != "" {
		if _, err := r.registries.parse(config.Prebuilt); err != nil {
			return nil, fmt.Errorf("%s: %w", settingPrebuilt, err)
		}
	}
	if config.Builder != nil {
		if err := config.Builder.compile(r.registries); err != nil {
			return nil, err
		}
	}
	return r, nil
}

// Resolve returns the reference that the request's container is to run. A
// [*run.InvalidError] or a [*run.LaunchError] says why there is none. As long as
// it waits for a build it calls waits with the news.
func (r *Resolver) Resolve(ctx context.Context, wanted run.ImageRequest, waits func(message string)) (string, error) {
	mode, err := r.mode(wanted.Request.Image)
	if err != nil {
		return "", err
	}
	if mode == run.BuildImage {
		return r.build(ctx, wanted, waits)
	}
	reference, parsed, err := r.existing(mode, wanted)
	if err != nil || !r.config.ResolveDigest {
		return reference, err
	}
	if _, pinned := parsed.(name.Digest); pinned {
		return reference, nil
	}
	if strings.HasPrefix(wanted.Known, reference+"@") {
		return wanted.Known, nil
	}
	found, err := r.find(ctx, parsed)
	if errors.Is(err, errUnknown) {
		return reference, nil
	}
	if errors.Is(err, errAbsent) {
		return "", &run.LaunchError{Reason: run.ImagePullFailed, Message: fmt.Sprintf("The registry has no image %s.", reference)}
	}
	var refusal *run.LaunchError
	if errors.As(err, &refusal) && refusal.Temporary {
		hinted := *refusal
		hinted.Message += " Where registries cannot be reached, ROPEWALK_IMAGE_RESOLVE_DIGEST=false launches without asking."
		err = &hinted
	}
	if err != nil {
		return "", err
	}
	return reference + "@" + found, nil
}

// errUnknown: the digest cannot be had, and need not be.
var errUnknown = errors.New("the digest is not known")

// find asks for the digest of an image. Where that is optional, a registry that
// does not answer us soon, or does not let us in, is left to the node, which may
// have a mirror or credentials that we do not have; it is not asked again for a
// while, so that not every run waits for it.
func (r *Resolver) find(ctx context.Context, image name.Reference) (string, error) {
	if !r.config.DigestOptional {
		return r.registries.digest(ctx, image, false)
	}
	registry := image.Context().RegistryStr()
	if r.registries.isAway(registry) {
		return "", errUnknown
	}
	const soon = 3 * time.Second
	limited, cancel := context.WithTimeout(ctx, soon)
	defer cancel()
	found, err := r.registries.digest(limited, image, false)
	if err == nil || errors.Is(err, errAbsent) || ctx.Err() != nil {
		return found, err
	}
	r.registries.noteAway(registry)
	return "", errUnknown
}

// mode is the way in which a request comes to its image: the one that it asks
// for, else the operator's, if the request has what that takes, else the one
// that it has something for.
func (r *Resolver) mode(image run.Image) (run.ImageMode, error) {
	mode := image.Mode
	if mode == "" {
		has := map[run.ImageMode]bool{run.ReuseImage: image.Reference != "", run.BuildImage: image.Build != nil, run.PrebuiltImage: false}
		switch {
		case has[r.config.Default]:
			mode = r.config.Default
		case has[run.ReuseImage]:
			mode = run.ReuseImage
		case has[run.BuildImage]:
			mode = run.BuildImage
		default:
			mode = run.PrebuiltImage
		}
	}
	if mode != r.config.Default && !slices.Contains(r.config.Modes, mode) {
		return "", policyRefused("The request asks for an image by mode %s, which %s does not let a request ask for.", mode, settingModes)
	}
	switch {
	case mode == run.BuildImage && r.config.Builder == nil:
		return "", policyRefused("The request asks for an image to be built, and the operator has not set up building (%s).", settingBuild)
	case mode == run.PrebuiltImage && r.config.Prebuilt == "" && r.config.Builder != nil:
		return "", invalid("image", "has neither a reference nor a build, and the operator has set no prebuilt runner image (%s)", settingPrebuilt)
	case mode == run.PrebuiltImage && r.config.Prebuilt == "":
		return "", invalid("image", "is missing, and the operator has set no prebuilt runner image (%s)", settingPrebuilt)
	}
	return mode, nil
}

// existing is the reference of an image that is not built here.
func (r *Resolver) existing(mode run.ImageMode, wanted run.ImageRequest) (string, name.Reference, error) {
	reference := wanted.Request.Image.Reference
	if mode == run.PrebuiltImage {
		reference = r.config.Prebuilt
	}
	parsed, err := r.registries.parse(reference)
	if err != nil {
		return "", nil, invalid("image.reference", "%q is not an image reference such as registry.example.com/team/name:tag: %v", reference, err)
	}
	if mode == run.ReuseImage {
		if refusal := r.refuses(parsed.Context(), wanted); refusal != "" {
			return "", nil, policyRefused("%s", refusal)
		}
	}
	return reference, parsed, nil
}

// refuses holds a repository that a request names against the operator's
// patterns and those of the request's queue.
func (r *Resolver) refuses(repository name.Repository, wanted run.ImageRequest) string {
	if refusal := r.config.Policy.refuses(repository); refusal != "" {
		return refusal
	}
	return r.refusesOfQueue(repository, wanted)
}

// refusesOfQueue is refuses by the patterns of the run's queue alone.
func (r *Resolver) refusesOfQueue(repository name.Repository, wanted run.ImageRequest) string {
	return NewPolicy(wanted.Allow, wanted.Deny).ofQueue().refuses(repository)
}

func invalid(field, format string, args ...any) error {
	return &run.InvalidError{Problems: []run.Problem{{Field: field, Message: fmt.Sprintf(format, args...)}}}
}

func policyRefused(format string, args ...any) error {
	return &run.LaunchError{Reason: run.PolicyRefused, Message: fmt.Sprintf(format, args...)}
}

// Unused is the resolver of launchers that run no images, such as processes on
// this machine: it takes every request and resolves to what it names.
type Unused struct{}

// Resolve returns the request's own reference, if any.
func (Unused) Resolve(_ context.Context, wanted run.ImageRequest, _ func(string)) (string, error) {
	return wanted.Request.Image.Reference, nil
}

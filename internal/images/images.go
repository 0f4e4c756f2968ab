// Package images decides which image a run uses: the one that its request
// names, or the prebuilt runner image of the operator. It makes sure that what
// is given to the cluster is an image reference; it does not pull anything.
package images

import (
	"context"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Resolver resolves the image of each request. The zero value knows no
// prebuilt image.
type Resolver struct{ prebuilt string }

// New returns a resolver. Prebuilt is the image of requests that name none; it
// may be empty. A reference that is not one is an error.
func New(prebuilt string) (*Resolver, error) {
	if prebuilt != "" {
		if _, err := name.ParseReference(prebuilt); err != nil {
			return nil, fmt.Errorf("prebuilt runner image: %w", err)
		}
	}
	return &Resolver{prebuilt}, nil
}

// Resolve returns the reference that the request's container is to run. An
// [*run.InvalidError] says why there is none.
func (r *Resolver) Resolve(_ context.Context, request run.Request) (string, error) {
	reference := request.Image.Reference
	if reference == "" {
		if r.prebuilt == "" {
			return "", &run.InvalidError{Problems: []run.Problem{{
				Field: "image", Message: "is missing, and the operator has set no prebuilt runner image (ZENML_KUBERNETES_WORKLOAD_MANAGER_RUNNER_IMAGE)",
			}}}
		}
		return r.prebuilt, nil
	}
	if _, err := name.ParseReference(reference); err != nil {
		return "", &run.InvalidError{Problems: []run.Problem{{
			Field: "image.reference", Message: fmt.Sprintf("%q is not an image reference such as registry.example.com/team/name:tag: %v", reference, err),
		}}}
	}
	return reference, nil
}

// Unused is the resolver of launchers that run no images, such as processes on
// this machine: it takes every request and resolves to what it names.
type Unused struct{}

// Resolve returns the request's own reference, if any.
func (Unused) Resolve(_ context.Context, request run.Request) (string, error) {
	return request.Image.Reference, nil
}

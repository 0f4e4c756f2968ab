package images

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Outcome is what would become of a request's image.
type Outcome string

// The outcomes.
const (
	Reused    Outcome = "reused"
	Built     Outcome = "already built"
	ToBeBuilt Outcome = "to be built"
	Refused   Outcome = "refused"
	// Unknown: a registry does not answer, so that a run would wait.
	Unknown Outcome = "unknown"
)

// Verdict is what would happen to a request's image now, and why.
type Verdict struct {
	Outcome Outcome `json:"outcome"`
	// Mode is the way to the image; empty if it was refused.
	Mode run.ImageMode `json:"mode,omitempty"`
	// Image is the reference that would be run, or that would be built.
	Image string `json:"image,omitempty"`
	// Job is the builder Job that would be made or joined.
	Job    string     `json:"job,omitempty"`
	Why    string     `json:"why"`
	Reason run.Reason `json:"reason,omitempty"`
}

// Check tells what Resolve would do with an image, and does none of it. Its
// error is the context's.
func (r *Resolver) Check(ctx context.Context, image run.Image) (Verdict, error) {
	mode, err := r.mode(image)
	if err != nil {
		return refusal(ctx, mode, err)
	}
	if mode == run.BuildImage {
		return r.checkBuild(ctx, image)
	}
	reference, parsed, err := r.existing(mode, run.ImageRequest{Request: run.Request{Image: image}})
	if err != nil {
		return refusal(ctx, mode, err)
	}
	verdict := Verdict{Outcome: Reused, Mode: mode, Image: reference, Why: "The request refers to it, and no pattern refuses it."}
	if mode == run.PrebuiltImage {
		verdict.Why = "It is the operator's runner image (" + settingPrebuilt + ")."
	}
	if _, pinned := parsed.(name.Digest); pinned {
		verdict.Why += " Its digest is given, so that the registry is not asked."
		return verdict, nil
	}
	if !r.config.ResolveDigest {
		verdict.Why += " Its digest is left to the node (ROPEWALK_IMAGE_RESOLVE_DIGEST is false)."
		return verdict, nil
	}
	resolved, err := r.Resolve(ctx, run.ImageRequest{Request: run.Request{Image: image}}, func(string) {})
	if err != nil {
		return refusal(ctx, mode, err)
	}
	verdict.Image = resolved
	if resolved == reference {
		verdict.Why += " The registry could not be asked for its digest, so that the node pulls what the tag stands for then."
		return verdict, nil
	}
	verdict.Why += " The registry says that this is its digest."
	return verdict, nil
}

func (r *Resolver) checkBuild(ctx context.Context, image run.Image) (Verdict, error) {
	t, err := r.target(run.ImageRequest{Request: run.Request{Image: image}})
	if err != nil {
		return refusal(ctx, run.BuildImage, err)
	}
	verdict := Verdict{Mode: run.BuildImage, Image: t.image.Name()}
	found, err := r.registries.digest(ctx, t.image, true)
	switch {
	case err == nil:
		verdict.Outcome, verdict.Image = Built, t.image.Name()+"@"+found
		verdict.Why = "The registry has the image of this Dockerfile, arguments, platform and context."
	case errors.Is(err, errAbsent):
		verdict.Outcome, verdict.Job = ToBeBuilt, r.config.Builder.jobName(t)
		verdict.Why = fmt.Sprintf("The registry has no image with this content hash; Job %s would build it, whoever asks first.", verdict.Job)
	default:
		return refusal(ctx, run.BuildImage, err)
	}
	return verdict, nil
}

// refusal is the verdict that an error of Resolve stands for.
func refusal(ctx context.Context, mode run.ImageMode, err error) (Verdict, error) {
	var (
		invalid *run.InvalidError
		refused *run.LaunchError
	)
	switch {
	case ctx.Err() != nil:
		return Verdict{}, ctx.Err()
	case errors.As(err, &invalid):
		return Verdict{Outcome: Refused, Mode: mode, Reason: run.InvalidRequest, Why: invalid.Error()}, nil
	case errors.As(err, &refused) && refused.Temporary:
		return Verdict{Outcome: Unknown, Mode: mode, Reason: refused.Reason, Why: refused.Message}, nil
	case errors.As(err, &refused):
		return Verdict{Outcome: Refused, Mode: mode, Reason: refused.Reason, Why: refused.Message}, nil
	default:
		return Verdict{}, err
	}
}

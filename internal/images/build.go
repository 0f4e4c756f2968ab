package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/name"

	"github.com/ropewalk/ropewalk/internal/run"
)

// buildFormat is part of every content hash. Whatever changes what is made of
// the same request must change it.
const buildFormat = 1

// mostTries bounds how often one run makes a builder Job anew because the one
// before it was lost, or was left over from an image that is gone again.
const mostTries = 5

// ContentHash is the SHA-256, in hexadecimal, over everything of a build that
// decides what the image becomes. The wished-for name is not among it, nor are
// the values of secrets: a hash stands where everybody may read it, and whoever
// guesses a short secret could prove it by the hash. Their ids count, because a
// Dockerfile may do without one that is not there.
func ContentHash(build run.Build) string {
	if len(build.BuildArgs) == 0 {
		build.BuildArgs = nil // {} is as good as none, and a record keeps none
	}
	text, err := json.Marshal(struct {
		Format     int
		Dockerfile string
		Args       map[string]string // encoding/json sorts the keys
		Platform   string
		Context    string
		Secrets    []string `json:",omitempty"`
	}{buildFormat, build.Dockerfile, build.BuildArgs, build.Platform, build.Context, slices.Sorted(maps.Keys(build.Secrets))})
	if err != nil {
		panic("images: a build always marshals: " + err.Error())
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// target is where a build's image belongs.
type target struct {
	hash string
	// image has the content hash as its tag; extra, if the caller wished for
	// one, is a second tag in the same repository.
	image name.Tag
	extra *name.Tag
}

// cacheTag is where layers are kept beside the images of a repository.
const cacheTag = "buildcache"

// ownTag are the tags that nobody may wish for: whoever could give an image the
// content hash of another build would choose what that build's runs run.
var ownTag = regexp.MustCompile(`^(?:[0-9a-f]{64}|` + cacheTag + `)$`)

func (r *Resolver) target(wanted run.ImageRequest) (target, error) {
	build := *wanted.Request.Image.Build
	repository, tag, tagged := strings.Cut(build.Name, ":")
	if repository == "" {
		repository = r.config.Builder.Repository
	}
	t := target{hash: ContentHash(build)}
	parsed, err := r.registries.parse(r.config.Builder.Registry + "/" + repository + ":" + t.hash)
	if err != nil {
		return t, invalid("image.build.name", "makes no image reference below %s: %v", r.config.Builder.Registry, err)
	}
	t.image = parsed.(name.Tag) // it has a tag and no digest
	// Where builds go that have no name, the operator has said; but a queue that
	// is held to images of its own neither runs nor makes those of others.
	refusal := r.refusesOfQueue(t.image.Context(), wanted)
	if build.Name != "" {
		refusal = r.refuses(t.image.Context(), wanted)
	}
	if refusal != "" {
		return t, policyRefused("%s", refusal)
	}
	if tagged && tag != t.hash {
		if ownTag.MatchString(tag) {
			return t, invalid("image.build.name", "has a tag that is kept for what Ropewalk builds; choose one that is not %s and not 64 hexadecimal digits", cacheTag)
		}
		extra := t.image.Context().Tag(tag)
		t.extra = &extra
	}
	return t, nil
}

// build returns the image of a request's build. It is there already, or a
// builder Job makes it, the same one for all who ask. Every step may be
// repeated, by this process or by another.
func (r *Resolver) build(ctx context.Context, wanted run.ImageRequest, waits func(string)) (string, error) {
	build := *wanted.Request.Image.Build
	t, err := r.target(wanted)
	if err != nil {
		return "", err
	}
	var trouble string
	for try := range mostTries {
		found, err := r.registries.digest(ctx, t.image, try > 0)
		if err == nil {
			image, err := r.built(ctx, t, found)
			if !errors.Is(err, errAbsent) {
				return image, err
			}
			trouble = "the image was in the registry, and was gone when it was to be tagged"
			continue // what was remembered of it is not asked again
		}
		if !errors.Is(err, errAbsent) {
			return "", err
		}
		job, err := r.config.Builder.ensure(ctx, r.registries, build, t)
		if err != nil {
			return "", err
		}
		waits(fmt.Sprintf("The image is being built by Job %s.", job.Name))
		seen, err := r.config.Builder.Jobs.Follow(ctx, job, func(seen run.Observation) {
			message := fmt.Sprintf("The image is being built by Job %s.", job.Name)
			if seen.State == run.Pending && seen.Message != "" {
				message = fmt.Sprintf("The image is to be built by Job %s, which waits: %s", job.Name, seen.Message)
			}
			waits(message)
		})
		if err != nil {
			return "", err
		}
		if seen.State == run.Succeeded {
			// A Job from before may have succeeded long ago, and its image be
			// gone since. One that has just succeeded has its image.
			if found, err := r.registries.digest(ctx, t.image, true); err == nil {
				return r.built(ctx, t, found)
			} else if !errors.Is(err, errAbsent) {
				return "", err
			}
			trouble = "the builder reported success, but the registry does not have the image"
		} else if !seen.Reason.Infrastructure() && !r.config.Builder.outdated(seen, wanted) {
			return "", r.config.Builder.failure(ctx, job, t, build, seen)
		} else {
			trouble = seen.Message
		}
		if err := r.config.Builder.Jobs.Delete(ctx, job); err != nil {
			if ctx.Err() != nil {
				return "", ctx.Err()
			}
			return "", &run.LaunchError{Reason: run.ImageBuildFailed, Temporary: true, Message: fmt.Sprintf("An earlier builder Job cannot be removed yet: %s.", plainly(err)), Err: err}
		}
	}
	return "", &run.LaunchError{
		Reason:  run.ImageBuildFailed,
		Message: fmt.Sprintf("The image was not built in %d tries, the last of which ended so: %s.", mostTries, strings.TrimSuffix(trouble, ".")),
	}
}

// built is the reference of an image that exists, after it has been given the
// tag that its caller wished for.
func (r *Resolver) built(ctx context.Context, t target, found string) (string, error) {
	if t.extra != nil {
		current, err := r.registries.digest(ctx, *t.extra, false)
		if err == nil && current != found {
			current, err = r.registries.digest(ctx, *t.extra, true) // it may have been moved since
		}
		if err != nil && !errors.Is(err, errAbsent) {
			return "", err
		}
		if current != found {
			if err := r.registries.tag(ctx, t.image.Context().Digest(found), *t.extra); err != nil {
				return "", err
			}
			r.registries.remember(t.extra.Name(), found)
		}
	}
	return t.image.Name() + "@" + found, nil
}

// outdated reports whether a build that failed has no say in what is wanted
// now: it ended before that was asked for, and either somebody asks for another
// attempt, or it is long enough ago. In between, new runs share the failure: a
// server that keeps submitting what cannot be built must not keep builders busy.
func (b *Builder) outdated(seen run.Observation, wanted run.ImageRequest) bool {
	if seen.FinishedAt.IsZero() || !seen.FinishedAt.Before(wanted.PublishedAt) {
		return false
	}
	return wanted.Attempt > 1 || time.Since(seen.FinishedAt) > b.FailureMemory
}

// failure is what the waiters of a failed build are told, with its last lines, in
// which a program may have shown one of the secrets.
func (b *Builder) failure(ctx context.Context, job run.Job, t target, build run.Build, seen run.Observation) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	happened := fmt.Sprintf("The builder Job %s of image %s failed", job.Name, t.image.Name())
	switch {
	case seen.ExitCode != nil && seen.Reason == run.AppError:
		happened += fmt.Sprintf(" with exit code %d.", *seen.ExitCode)
	default:
		message, _, _ := strings.Cut(seen.Message, seen.Reason.ToDo())
		happened += ": " + strings.TrimSpace(message)
	}
	words, err := b.Jobs.LastWords(ctx, job)
	words = redact(words, build.Secrets)
	if advice := b.advice(happened + "\n" + words); advice != "" {
		happened += " " + advice
	}
	if err == nil && words != "" {
		happened += " Its last lines:\n" + lastLines(words) + "\n"
	}
	return &run.LaunchError{Reason: run.ImageBuildFailed, Message: happened}
}

// advice says what the operator can do about a builder that never got to build.
// It goes by the words of the builder's own programs, to which a Dockerfile can
// add: all that it decides is a sentence.
func (b *Builder) advice(said string) string {
	switch {
	case strings.Contains(said, "violates PodSecurity"):
		return "Builders need a namespace that enforces the pod security level privileged: " +
			"without privileges too, for system calls that the other levels do not leave to them."
	case b.Privileged:
		return ""
	case strings.Contains(said, "[rootlesskit:"):
		return "Builders run rootless here, and this node or their image does not let them map users. " +
			"Nodes must allow user namespaces to ordinary users (sysctl user.max_user_namespaces above 0, " +
			"kernel.apparmor_restrict_unprivileged_userns 0 where there is one), and ROPEWALK_BUILDER_IMAGE must bring " +
			"newuidmap and newgidmap that have their capability by their file; where they rely on being root's, they would need more. " +
			"Else ROPEWALK_BUILDER_PRIVILEGED=true lets builders run with the rights of root on their node."
	case strings.Contains(said, "rootless mode requires"), strings.Contains(said, "rootlesskit: not found"):
		return "Builders run rootless here, and their image is not made for that: ROPEWALK_BUILDER_IMAGE must be a rootless one, " +
			"or ROPEWALK_BUILDER_PRIVILEGED be true, which lets builders run with the rights of root on their node."
	}
	return ""
}

// shortSecret is what is too short to be looked for: it would be found everywhere.
const shortSecret = 4

// redact hides the values of secrets. Programs quote them by the line, as in the
// address that could not be reached.
func redact(text string, secrets map[string]run.Secret) string {
	for _, secret := range secrets {
		for line := range strings.Lines(secret.Reveal()) {
			if line = strings.TrimSpace(line); len(line) >= shortSecret {
				text = strings.ReplaceAll(text, line, run.Redacted)
			}
		}
	}
	return text
}

// lastLines bounds what is quoted of a build.
func lastLines(text string) string {
	const most = 25
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-most):], "\n")
}

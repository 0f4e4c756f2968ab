package run

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// ImageMode is one of the ways in which a run comes to its image.
type ImageMode string

// The modes.
const (
	// ReuseImage: the image that the request refers to.
	ReuseImage ImageMode = "reuse"
	// PrebuiltImage: the runner image that the operator has set.
	PrebuiltImage ImageMode = "prebuilt"
	// BuildImage: one that is built from the request's Dockerfile, unless it
	// has been built before.
	BuildImage ImageMode = "build"
)

// Image says which image a run uses. The zero value is the prebuilt runner
// image.
type Image struct {
	// Mode says which of the ways is meant, for requests that leave it open:
	// "reuse", "prebuilt" or "build". Left out, a request that has a reference
	// or a build means that; one that has both means the operator's default.
	Mode ImageMode `json:"mode,omitempty"`
	// Reference is an image that exists, such as
	// "registry.example.com/team/train:1.4" or one with a digest.
	Reference string `json:"reference,omitempty"`
	// Build says how to make an image that may not exist yet.
	Build *Build `json:"build,omitempty"`
}

// Build is all that decides what an image becomes, but for Name and the values
// of Secrets: two builds that differ in nothing else share one image.
type Build struct {
	// Dockerfile is the text of the Dockerfile.
	Dockerfile string `json:"dockerfile"`
	// BuildArgs are values for the Dockerfile's ARG instructions. They stay
	// readable in the image's history: they are no place for secrets.
	BuildArgs map[string]string `json:"buildArgs,omitempty"`
	// Secrets are for the Dockerfile's RUN --mount=type=secret,id=…, by id.
	// Their values are in no Job, log, record or image, unless the Dockerfile
	// puts them there, and decide nothing about which image it is: two builds
	// that differ in them alone are one.
	Secrets map[string]Secret `json:"secrets,omitempty"`
	// Platform is what the image is for, such as "linux/arm64"; left out, what
	// the node that builds it is.
	Platform string `json:"platform,omitempty"`
	// Context names the files that COPY and ADD find: "sha256:" and the
	// hexadecimal SHA-256 of a tar file, plain or with gzip, that was stored
	// for builds. Left out, there are none.
	Context string `json:"context,omitempty"`
	// Name is a repository below the operator's registry, and perhaps a tag
	// that the image shall have besides its own, such as "zenml-runner:1f3a".
	Name string `json:"name,omitempty"`
}

// ImageRequest is what a resolver of images is asked.
type ImageRequest struct {
	Request Request
	Attempt int
	// PublishedAt is when this attempt was asked for. A build that failed
	// before is not its failure.
	PublishedAt time.Time
	// Allow and Deny are the queue's patterns of repositories, which count
	// beside the operator's for all queues.
	Allow, Deny []string
	// Known is the image that an earlier attempt ran, with its digest, so that
	// the next one runs the same bytes; empty when there is none.
	Known string
}

const (
	// maxDockerfile leaves room in a Secret, and in a message, for the rest.
	maxDockerfile = 256 << 10
	// maxBuildSecrets is for all of a build's secrets together, ids included:
	// they share the room with the Dockerfile and its context.
	maxBuildSecrets  = 32 << 10
	maxBuildSecretID = 128
	// maxBuildName is what registries take for a repository's path, less a
	// registry's own part in front.
	maxBuildName = 200
)

var (
	buildArgPattern = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]*$`)
	// secretIDPattern keeps to what a Secret's key and BuildKit's own notation,
	// in which commas separate, have in common.
	secretIDPattern  = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*$`)
	platformPattern  = regexp.MustCompile(`^[a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?$`)
	contextPattern   = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	buildNamePattern = regexp.MustCompile(`^[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?$`)
)

// prebuilt reports whether an image can only be the prebuilt one.
func (i Image) prebuilt() bool {
	return i.Mode == PrebuiltImage || i.Reference == "" && i.Build == nil
}

func (v *validation) image(image Image) {
	if strings.ContainsAny(image.Reference, " \t\r\n\x00") {
		v.add("image.reference", "holds white space; an image reference looks like registry.example.com/team/name:tag")
	}
	switch image.Mode {
	case "", PrebuiltImage:
	case ReuseImage:
		if image.Reference == "" {
			v.add("image.reference", "is missing, which mode reuse needs")
		}
	case BuildImage:
		if image.Build == nil {
			v.add("image.build", "is missing, which mode build needs")
		}
	default:
		v.add("image.mode", "%.40q is not one of reuse, prebuilt and build", string(image.Mode))
	}
	if image.Build != nil {
		v.build(*image.Build)
	}
}

func (v *validation) build(build Build) {
	switch {
	case strings.TrimSpace(build.Dockerfile) == "":
		v.add("image.build.dockerfile", "is empty")
	case len(build.Dockerfile) > maxDockerfile:
		v.add("image.build.dockerfile", "has %d bytes, of which %d are allowed", len(build.Dockerfile), maxDockerfile)
	case strings.ContainsRune(build.Dockerfile, 0):
		v.add("image.build.dockerfile", "holds a NUL byte")
	}
	for _, name := range slices.Sorted(maps.Keys(build.BuildArgs)) {
		field := fmt.Sprintf("image.build.buildArgs[%s]", name)
		if !buildArgPattern.MatchString(name) {
			v.add(field, "is not a name that an ARG can have: letters, digits and '_', not beginning with a digit")
		}
		if strings.ContainsRune(build.BuildArgs[name], 0) {
			v.add(field, "holds a NUL byte")
		}
	}
	v.buildSecrets(build.Secrets)
	if build.Platform != "" && !platformPattern.MatchString(build.Platform) {
		v.add("image.build.platform", "%.60q is not one platform such as linux/amd64 or linux/arm64/v8", build.Platform)
	}
	if build.Context != "" && !contextPattern.MatchString(build.Context) {
		v.add("image.build.context", `is not "sha256:" and 64 hexadecimal digits in lower case`)
	}
	if build.Name != "" && (len(build.Name) > maxBuildName || !buildNamePattern.MatchString(build.Name)) {
		v.add("image.build.name", "%.80q is not a repository and perhaps a tag, such as team/runner or zenml-runner:1f3a; the registry is the operator's", build.Name)
	}
}

func (v *validation) buildSecrets(secrets map[string]Secret) {
	total := 0
	for _, id := range slices.Sorted(maps.Keys(secrets)) {
		field := fmt.Sprintf("image.build.secrets[%s]", id)
		if len(id) > maxBuildSecretID || !secretIDPattern.MatchString(id) {
			v.add(field, "is not an id that a build's secret can have: at most %d letters, digits, '_', '-' and '.', beginning with a letter, a digit or '_'", maxBuildSecretID)
		}
		if strings.ContainsRune(secrets[id].Reveal(), 0) {
			v.add(field, "holds a NUL byte")
		}
		total += len(id) + len(secrets[id])
	}
	if total > maxBuildSecrets {
		v.add("image.build.secrets", "have %d bytes together, of which %d are allowed", total, maxBuildSecrets)
	}
}

// clone shares nothing with the image that a caller would change.
func (i Image) clone() Image {
	if i.Build != nil {
		build := *i.Build
		build.BuildArgs, build.Secrets = maps.Clone(build.BuildArgs), maps.Clone(build.Secrets)
		i.Build = &build
	}
	return i
}

// wire is the image with the values of its secrets, for [Request.Encode]; nil
// if there is none.
func (i Image) wire() any {
	type (
		bareImage Image
		bareBuild Build
		wireBuild struct {
			bareBuild
			Secrets map[string]string `json:"secrets,omitempty"`
		}
	)
	if i == (Image{}) {
		return nil
	}
	if i.Build == nil {
		return i
	}
	return struct {
		bareImage
		Build wireBuild `json:"build"`
	}{bareImage(i), wireBuild{bareBuild(*i.Build), reveal(i.Build.Secrets)}}
}

package images

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Jobs makes builder Jobs and tells what becomes of them.
type Jobs interface {
	// Ensure makes the Job and the Secret of its name, or finds them. It may
	// be repeated, by any number of processes at once. The Job belongs to no
	// run; its namespace, and the labels by which it is found, are added.
	Ensure(ctx context.Context, job *batchv1.Job, secret *corev1.Secret) (run.Job, error)
	Follow(ctx context.Context, job run.Job, report func(run.Observation)) (run.Observation, error)
	Delete(ctx context.Context, job run.Job) error
	// LastWords is the end of what the Job's container wrote.
	LastWords(ctx context.Context, job run.Job) (string, error)
}

// Contexts holds the files of builds.
type Contexts interface {
	// Get returns the tar file of a reference such as "sha256:…", at most so
	// many bytes. A missing or larger one is a [*run.InvalidError].
	Get(ctx context.Context, reference string, most int) ([]byte, error)
}

// mostFiles is what Kubernetes takes for one Secret. One that is refused would
// leave a Job whose pod waits for it.
const mostFiles = corev1.MaxSecretSize

// mostContext leaves room for the rest in a Secret, which may have 1 MiB.
const mostContext = 700 << 10

// Builder builds images by BuildKit, each in a Job of its own that is named
// after the content hash: however many replicas want the same image at once,
// the cluster takes only one Job of the name, and that is the lock.
//
// What the Job needs is in a Secret that goes with it, and not in its spec: the
// Dockerfile, the build's arguments and secrets, and the credentials to pull and
// push.
type Builder struct {
	Jobs     Jobs
	Contexts Contexts
	// Instance tells the Jobs of two installations in one namespace apart.
	Instance string
	// Registry, with a path if need be, is what built images are below, and
	// Repository the one there of requests that name none.
	Registry, Repository string
	// Image is BuildKit's, with buildctl-daemonless.sh in it. Empty, it is the
	// published one that suits Privileged.
	Image      string
	Privileged bool
	// CacheInRegistry keeps layers under the tag buildcache beside the image.
	CacheInRegistry bool
	Timeout         time.Duration
	// FailureMemory is how long a failed build answers for new runs.
	FailureMemory time.Duration
	// TTLSecondsAfterFinished is how long the cluster keeps a finished Job.
	TTLSecondsAfterFinished int32
	ServiceAccount          string
	ImagePullSecrets        []string
	Resources               corev1.ResourceRequirements
	NodeSelector            map[string]string
	Tolerations             []corev1.Toleration
	Labels, Annotations     map[string]string
	// PlainHTTP, Mirrors and CAFile are for buildkitd's configuration.
	PlainHTTP []string
	Mirrors   map[string]string
	CAFile    string
	// PodTemplatePatch is a strategic merge patch, JSON or YAML, or empty.
	PodTemplatePatch string

	patch      []byte // as JSON
	ca         []byte
	registries *registries
}

// BuildKit's published images, for builders that are set no other.
const (
	rootlessImage   = "moby/buildkit:v0.25.2-rootless"
	privilegedImage = "moby/buildkit:v0.25.2"
)

// compile finds what is wrong with the settings.
func (b *Builder) compile(registries *registries) error {
	b.registries = registries
	if b.Image == "" {
		b.Image = rootlessImage
		if b.Privileged {
			b.Image = privilegedImage
		}
	}
	if _, err := registries.parse(b.Image); err != nil {
		return fmt.Errorf("ROPEWALK_BUILDER_IMAGE: %w", err)
	}
	if _, err := registries.parse(b.Registry + "/" + b.Repository + ":tag"); err != nil {
		return fmt.Errorf("ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY or ROPEWALK_BUILDER_REPOSITORY: %w", err)
	}
	var err error
	if b.CAFile != "" {
		if b.ca, err = os.ReadFile(b.CAFile); err != nil {
			return fmt.Errorf("ROPEWALK_IMAGE_CA_FILE: %w", err)
		}
	}
	if b.PodTemplatePatch != "" {
		if b.patch, err = yaml.YAMLToJSONStrict([]byte(b.PodTemplatePatch)); err != nil {
			return fmt.Errorf("ROPEWALK_BUILDER_POD_TEMPLATE_PATCH: is neither JSON nor YAML: %w", err)
		}
	}
	if _, err := b.job(target{hash: strings.Repeat("0", sha256.Size*2)}); err != nil {
		return fmt.Errorf("ROPEWALK_BUILDER_POD_TEMPLATE_PATCH: %w", err)
	}
	return nil
}

// jobName is the content hash, as much of it as a name has room for, and what
// tells this place for the image from another for the same content.
func (b *Builder) jobName(t target) string {
	place := ""
	if t.image.TagStr() != "" {
		place = t.image.Name()
	}
	sum := sha256.Sum256([]byte(b.Instance + "\n" + place))
	return "build-" + t.hash[:40] + "-" + hex.EncodeToString(sum[:4])
}

// ensure makes the builder Job, or finds the one that there is.
func (b *Builder) ensure(ctx context.Context, registries *registries, build run.Build, t target) (run.Job, error) {
	files, err := b.files(ctx, registries, build, t)
	if err != nil {
		return run.Job{}, err
	}
	if err := registries.ecr.prepare(ctx, t.image.Context()); err != nil {
		if ctx.Err() != nil {
			return run.Job{}, ctx.Err()
		}
		return run.Job{}, &run.LaunchError{Reason: run.ImageBuildFailed, Message: fmt.Sprintf("The image has no repository to go to: %s.", plainly(err)), Err: err}
	}
	job, err := b.job(t)
	if err != nil {
		return run.Job{}, &run.LaunchError{Reason: run.InvalidPodSpec, Message: err.Error() + ".", Err: err}
	}
	if size := total(files); size > mostFiles {
		return run.Job{}, invalid("image.build", "has %d bytes with all that its builder needs, of which %d are allowed; its arguments are too long", size, mostFiles)
	}
	secret := &corev1.Secret{Data: files, Type: corev1.SecretTypeOpaque}
	secret.Name = job.Name
	return b.Jobs.Ensure(ctx, job, secret)
}

func total(files map[string][]byte) (bytes int) {
	for _, file := range files {
		bytes += len(file)
	}
	return bytes
}

// files are what the builder finds in its Secret.
func (b *Builder) files(ctx context.Context, registries *registries, build run.Build, t target) (map[string][]byte, error) {
	credentials, err := credentials(ctx, registries, build, t)
	if err != nil {
		return nil, err
	}
	files := map[string][]byte{
		"Dockerfile":     []byte(build.Dockerfile),
		"build.sh":       []byte(b.script(build, t)),
		"config.json":    credentials,
		"buildkitd.toml": []byte(b.configuration(t)),
	}
	if b.ca != nil {
		files["ca.pem"] = b.ca
	}
	for id, value := range build.Secrets {
		files[secretFile(id)] = []byte(value.Reveal())
	}
	if build.Context != "" {
		if b.Contexts == nil {
			return nil, invalid("image.build.context", "cannot be had here")
		}
		if files["context.tar"], err = b.Contexts.Get(ctx, build.Context, mostContext); err != nil {
			return nil, err
		}
		if err := checkContext(files["context.tar"], mostUnpacked); err != nil {
			return nil, err
		}
	}
	return files, nil
}

// fromPattern finds the images that a Dockerfile builds on. Stages and
// variables among them are no images, and have no credentials.
var fromPattern = regexp.MustCompile(`(?im)^[ \t]*FROM[ \t]+(?:--[^ \t]+[ \t]+)*([^ \t\r\n]+)`)

// credentials are docker's configuration for the builder: those of the pull
// secrets, and those of the clouds for what is pushed to and built on.
func credentials(ctx context.Context, registries *registries, build run.Build, t target) ([]byte, error) {
	keychain, read, err := registries.keychain(ctx)
	if err != nil {
		return nil, unanswered(ctx, t.image.Context(), err)
	}
	type entry struct {
		Username      string `json:"username,omitempty"`
		Password      string `json:"password,omitempty"`
		Auth          string `json:"auth,omitempty"`
		IdentityToken string `json:"identitytoken,omitempty"`
		RegistryToken string `json:"registrytoken,omitempty"`
	}
	auths := map[string]entry{}
	add := func(host string, auth authn.AuthConfig) {
		if auth != (authn.AuthConfig{}) {
			if auth.Username != "" {
				auth.Auth = "" // it says the same
			}
			auths[host] = entry(auth)
		}
	}
	if read != nil {
		for host, auth := range read.auths {
			add(host, auth)
		}
	}
	places := []name.Repository{t.image.Context()}
	for _, from := range fromPattern.FindAllStringSubmatch(build.Dockerfile, -1) {
		base, err := registries.parse(from[1])
		known := func(place name.Repository) bool { return place.RegistryStr() == base.Context().RegistryStr() }
		if err == nil && len(places) < mostRegistries && !slices.ContainsFunc(places, known) {
			places = append(places, base.Context())
		}
	}
	for i, place := range slices.Backward(places) { // the one to push to has the last word
		auth, err := authn.Resolve(ctx, keychain, place)
		var config *authn.AuthConfig
		if err == nil {
			config, err = authn.Authorization(ctx, auth)
		}
		if err != nil {
			if i > 0 {
				continue // a base image that cannot be pulled shows in the build
			}
			return nil, unanswered(ctx, place, err)
		}
		host := place.RegistryStr()
		if host == name.DefaultRegistry {
			host = "https://index.docker.io/v1/" // where docker keeps it
		}
		add(host, *config)
	}
	return json.Marshal(map[string]any{"auths": auths})
}

// mostRegistries bounds how many registries one build is logged in to; each may
// have to be asked for a token.
const mostRegistries = 20

// secretFile keeps the ids that callers choose apart from the builder's files.
func secretFile(id string) string { return "secret-" + id }

// script is what the builder runs. It is in the Secret too, because arguments of
// builds are nobody's business who may read Jobs.
func (b *Builder) script(build run.Build, t target) string {
	words := []string{
		"buildctl-daemonless.sh", "build", "--progress=plain", "--frontend=dockerfile.v0",
		"--local=context=context", "--local=dockerfile=.",
		"--output=type=image,name=" + t.image.Name() + ",push=true",
	}
	if build.Platform != "" {
		words = append(words, "--opt=platform="+build.Platform)
	}
	for _, key := range slices.Sorted(maps.Keys(build.BuildArgs)) {
		words = append(words, "--opt=build-arg:"+key+"="+build.BuildArgs[key])
	}
	for _, id := range slices.Sorted(maps.Keys(build.Secrets)) {
		words = append(words, "--secret=id="+id+",src="+mounted+"/"+secretFile(id))
	}
	// Layers are kept by the steps that made them, whatever secrets these had, and
	// for whoever builds in the same repository.
	if b.CacheInRegistry && len(build.Secrets) == 0 {
		cache := t.image.Context().Tag(cacheTag).Name()
		words = append(words, "--import-cache=type=registry,ref="+cache,
			// A cache that cannot be written is no reason to fail.
			"--export-cache=type=registry,mode=max,image-manifest=true,oci-mediatypes=true,ignore-error=true,ref="+cache)
	}
	for i, word := range words {
		words[i] = "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	lines := []string{
		"set -eu",
		"cd \"$(mktemp -d)\"",
		"mkdir context",
		"cp " + mounted + "/Dockerfile Dockerfile",
	}
	if build.Context != "" {
		lines = append(lines, "tar -xf "+mounted+"/context.tar -C context || tar -xzf "+mounted+"/context.tar -C context")
	}
	return strings.Join(append(lines, "exec "+strings.Join(words, " "), ""), "\n")
}

// configuration is buildkitd's: which registries are plain, mirrored, or need
// other authorities.
func (b *Builder) configuration(t target) string {
	hosts := map[string][]string{}
	for _, host := range b.PlainHTTP {
		hosts[host] = append(hosts[host], "http = true")
	}
	if host := t.image.Context().RegistryStr(); b.ca != nil {
		hosts[host] = append(hosts[host], fmt.Sprintf("ca = [%q]", mounted+"/ca.pem"))
	}
	for host, mirror := range b.Mirrors {
		hosts[host] = append(hosts[host], fmt.Sprintf("mirrors = [%q]", mirror))
	}
	var text strings.Builder
	for _, host := range slices.Sorted(maps.Keys(hosts)) {
		fmt.Fprintf(&text, "[registry.%q]\n  %s\n", host, strings.Join(hosts[host], "\n  "))
	}
	return text.String()
}

var errNoBuilder = errors.New(`leaves no container "run", which builds`)

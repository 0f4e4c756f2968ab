package images

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"

	"github.com/ropewalk/ropewalk/internal/run"
)

// cluster stands for the one in which builder Jobs run: it has at most one Job
// of a name, and each goes as the next of ends says. That real ones do is shown
// in test/e2e.
type cluster struct {
	t *testing.T
	// ends are called in turn as Jobs are followed to their end.
	ends  []end
	words string

	job     *batchv1.Job
	secret  *corev1.Secret
	made    int
	deleted []string
	ended   *run.Observation
}

// end makes the end of a builder, which may push the image first.
type end func(image string) run.Observation

func (c *cluster) Ensure(_ context.Context, job *batchv1.Job, secret *corev1.Secret) (run.Job, error) {
	if c.job == nil {
		c.made++
		c.job, c.secret, c.ended = job, secret, nil
	}
	return run.Job{Namespace: "runs", Name: job.Name, UID: fmt.Sprint(c.made)}, nil
}

func (c *cluster) Follow(_ context.Context, _ run.Job, report func(run.Observation)) (run.Observation, error) {
	report(run.Observation{State: run.Running})
	if c.ended == nil {
		seen := c.ends[0](c.job.Annotations[AnnotationImage])
		c.ends, c.ended = c.ends[1:], &seen
	}
	return *c.ended, nil
}

func (c *cluster) Delete(_ context.Context, job run.Job) error {
	c.deleted = append(c.deleted, job.UID)
	c.job = nil
	return nil
}

func (c *cluster) LastWords(context.Context, run.Job) (string, error) { return c.words, nil }

func building(t *testing.T, p *place, ends ...end) (*Resolver, *cluster) {
	t.Helper()
	c := &cluster{t: t, ends: ends, words: "step 1\nERROR: it went wrong\n"}
	r := resolver(t, Config{Default: run.BuildImage, DigestCache: time.Hour, Builder: &Builder{
		Jobs: c, Instance: "ropewalk", Registry: p.host + "/built", Repository: "runner", Timeout: time.Minute, FailureMemory: time.Hour,
	}})
	return r, c
}

// pushes is the end of a builder that did its work.
func (p *place) pushes(t *testing.T) end {
	t.Helper()
	return func(image string) run.Observation {
		p.push(t, strings.TrimPrefix(image, p.host+"/"))
		return run.Observation{State: run.Succeeded, FinishedAt: time.Now()}
	}
}

func ends(state run.State, reason run.Reason, ago time.Duration) end {
	return func(string) run.Observation {
		return run.Observation{State: state, Reason: reason, Message: "as it happened", ExitCode: new(1), FinishedAt: time.Now().Add(-ago)}
	}
}

var plainBuild = &run.Build{Dockerfile: "FROM scratch\n"}

func TestBuildIsMadeOnceAndThenFound(t *testing.T) {
	p := newPlace(t)
	r, c := building(t, p, p.pushes(t))
	var news []string
	image, err := r.Resolve(t.Context(), wants(run.Image{Build: plainBuild}), func(message string) { news = append(news, message) })
	if err != nil {
		t.Fatal(err)
	}
	if want := p.host + "/built/runner:" + ContentHash(*plainBuild) + "@sha256:"; !strings.HasPrefix(image, want) {
		t.Errorf("the image is %s; want %s…", image, want)
	}
	if len(news) == 0 || !strings.Contains(news[0], c.job.Name) {
		t.Errorf("while it waited it said %q", news)
	}
	again, err := r.Resolve(t.Context(), wants(run.Image{Build: plainBuild}), func(string) { t.Error("the second run waited") })
	if err != nil || again != image || c.made != 1 {
		t.Errorf("%s, %v, after %d Jobs; want the same image and no further Job", again, err, c.made)
	}
}

func TestBuildersThatAreLostOrLeftOver(t *testing.T) {
	for name, test := range map[string]struct {
		ends   func(pushes end) []end
		wanted func(*run.ImageRequest)
		made   int
		says   string // "" when the image is built in the end
	}{
		"a builder whose node was lost is made anew": {
			func(pushes end) []end {
				return []end{ends(run.Failed, run.NodeLost, 0), ends(run.Failed, run.Evicted, 0), pushes}
			}, nil, 3, "",
		},
		"nodes that are lost forever are given up": {
			func(end) []end {
				return slices.Repeat([]end{ends(run.Failed, run.NodeLost, 0)}, mostTries)
			}, nil, mostTries, "not built in 5 tries",
		},
		"a success whose image is gone again is made anew": {
			func(pushes end) []end {
				return []end{ends(run.Succeeded, "", time.Hour), pushes}
			}, nil, 2, "",
		},
		"a failure is the failure of all who wait": {
			func(end) []end {
				return []end{ends(run.Failed, run.AppError, 0)}
			}, nil, 1, "failed with exit code 1. Its last lines:\nstep 1\nERROR: it went wrong",
		},
		"a new run shares a failure of just now": {
			func(end) []end {
				return []end{ends(run.Failed, run.AppError, 30*time.Second)}
			}, nil, 1, "it went wrong",
		},
		"but not one of long ago": {
			func(pushes end) []end {
				return []end{ends(run.Failed, run.AppError, 2*time.Hour), pushes}
			}, nil, 2, "",
		},
		"a replay tries again at once": {
			func(pushes end) []end {
				return []end{ends(run.Failed, run.AppError, 30*time.Second), pushes}
			}, func(wanted *run.ImageRequest) { wanted.Attempt = 2 }, 2, "",
		},
		"a builder that took too long": {
			func(end) []end {
				return []end{ends(run.TimedOut, run.DeadlineExceeded, 0)}
			}, nil, 1, "failed: as it happened",
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			r, c := building(t, p, test.ends(p.pushes(t))...)
			wanted := wants(run.Image{Build: plainBuild})
			if test.wanted != nil {
				test.wanted(&wanted)
			}
			_, err := r.Resolve(t.Context(), wanted, quiet)
			if test.says == "" && err != nil {
				t.Errorf("the image was not built: %v", err)
			}
			if test.says != "" {
				if why, message := reason(t, err); why != run.ImageBuildFailed || !strings.Contains(message, test.says) {
					t.Errorf("%s: %s; want %q", why, message, test.says)
				}
			}
			if c.made != test.made {
				t.Errorf("%d Jobs; want %d", c.made, test.made)
			}
		})
	}
}

func TestBuilderThatNeverGotToBuildIsExplained(t *testing.T) {
	for name, test := range map[string]struct {
		privileged bool
		words      string
		says, not  string
	}{
		"users cannot be mapped":         {false, "[rootlesskit:parent] error: failed to setup UID/GID map: newuidmap 24 failed", "ROPEWALK_BUILDER_PRIVILEGED=true", ""},
		"the image is for root":          {false, "buildkitd: rootless mode requires to be executed as the mapped root", "must be a rootless one", ""},
		"the Dockerfile fails":           {false, "ERROR: process \"/bin/sh -c false\" did not complete", "did not complete", "ROPEWALK_BUILDER"},
		"privileged, there is no advice": {true, "[rootlesskit:parent] error: it is quoted", "it is quoted", "ROPEWALK_BUILDER"},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			r, c := building(t, p, ends(run.Failed, run.AppError, 0))
			c.words, r.config.Builder.Privileged = test.words, test.privileged
			_, err := r.Resolve(t.Context(), wants(run.Image{Build: plainBuild}), quiet)
			why, message := reason(t, err)
			if why != run.ImageBuildFailed || !strings.Contains(message, test.says) || test.not != "" && strings.Contains(message, test.not) {
				t.Errorf("%s: %s; want %q and not %q", why, message, test.says, test.not)
			}
		})
	}
}

func TestContentHashIsOverAllThatDecidesTheResult(t *testing.T) {
	base := run.Build{Dockerfile: "FROM a", BuildArgs: map[string]string{"A": "1", "B": "2"}}
	seen := map[string]string{ContentHash(base): "the base"}
	for name, build := range map[string]run.Build{
		"the Dockerfile": {Dockerfile: "FROM b", BuildArgs: base.BuildArgs},
		"an argument":    {Dockerfile: base.Dockerfile, BuildArgs: map[string]string{"A": "1", "B": "3"}},
		"no arguments":   {Dockerfile: base.Dockerfile},
		"the platform":   {Dockerfile: base.Dockerfile, BuildArgs: base.BuildArgs, Platform: "linux/arm64"},
		"a secret":       {Dockerfile: base.Dockerfile, BuildArgs: base.BuildArgs, Secrets: map[string]run.Secret{"A": "1"}},
		"the context":    {Dockerfile: base.Dockerfile, BuildArgs: base.BuildArgs, Context: "sha256:" + strings.Repeat("0", 64)},
	} {
		if other, twice := seen[ContentHash(build)]; twice {
			t.Errorf("%s and %s have one hash", name, other)
		}
		seen[ContentHash(build)] = name
	}
	named := base
	named.Name = "zenml-runner:1f"
	if ContentHash(named) != ContentHash(base) {
		t.Error("the name that is wished for changes the hash")
	}
	one, other := base, base
	one.Secrets, other.Secrets = map[string]run.Secret{"token": "1"}, map[string]run.Secret{"token": "2"}
	if ContentHash(one) != ContentHash(other) {
		t.Error("the value of a secret can be guessed by the hash")
	}
}

func TestWishedForNameIsARepositoryAndAFurtherTag(t *testing.T) {
	p := newPlace(t)
	r, c := building(t, p, p.pushes(t))
	build := *plainBuild
	build.Name = "zenml-runner:1f3a"
	image, err := r.Resolve(t.Context(), wants(run.Image{Build: &build}), quiet)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(image, p.host+"/built/zenml-runner:"+ContentHash(build)) {
		t.Errorf("the image is %s", image)
	}
	_, digest, _ := strings.Cut(image, "@")
	reuse := resolver(t, Config{ResolveDigest: true})
	wished, err := reuse.Resolve(t.Context(), wants(run.Image{Reference: p.host + "/built/zenml-runner:1f3a"}), quiet)
	if err != nil || !strings.HasSuffix(wished, digest) {
		t.Errorf("the wished-for tag is %s, %v; want %s", wished, err, digest)
	}
	build.Name = "zenml-runner:later"
	if _, err := r.Resolve(t.Context(), wants(run.Image{Build: &build}), quiet); err != nil || c.made != 1 {
		t.Errorf("a second tag made %d Jobs: %v", c.made, err)
	}
	if _, err := reuse.Resolve(t.Context(), wants(run.Image{Reference: p.host + "/built/zenml-runner:later"}), quiet); err != nil {
		t.Errorf("the second tag: %v", err)
	}
}

// A build's name is what a request can reach other builds by.
func TestNamesThatABuildMayNotHave(t *testing.T) {
	p := newPlace(t)
	r, c := building(t, p, p.pushes(t))
	other := run.Build{Dockerfile: "FROM scratch\n# somebody else's\n"}
	for name, test := range map[string]struct {
		build  string
		wanted run.ImageRequest
		reason run.Reason // "" when the request is not valid
		says   string
	}{
		"the hash of another build":       {"runner:" + ContentHash(other), run.ImageRequest{}, "", "kept for what Ropewalk builds"},
		"the layers' cache":               {"runner:" + cacheTag, run.ImageRequest{}, "", "kept for what Ropewalk builds"},
		"a repository out of the queue's": {"team-b/runner", run.ImageRequest{Allow: []string{p.host + "/built/team-a/**"}}, run.PolicyRefused, "its queue's --image-allow"},
		"no name, beside the queue's":     {"", run.ImageRequest{Allow: []string{p.host + "/built/team-a/**"}}, run.PolicyRefused, "its queue's --image-allow"},
		"one that the queue refuses":      {"team-b/runner", run.ImageRequest{Deny: []string{"**/team-b/**"}}, run.PolicyRefused, "its queue's --image-deny"},
	} {
		t.Run(name, func(t *testing.T) {
			build := *plainBuild
			build.Name = test.build
			test.wanted.Request = wants(run.Image{Build: &build}).Request
			_, err := r.Resolve(t.Context(), test.wanted, quiet)
			var invalid *run.InvalidError
			if test.reason == "" {
				if !errors.As(err, &invalid) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("%v; want %q", err, test.says)
				}
			} else if why, message := reason(t, err); why != test.reason || !strings.Contains(message, test.says) {
				t.Errorf("%s: %s; want %s: %q", why, message, test.reason, test.says)
			}
			if c.made != 0 {
				t.Error("a builder Job was made")
			}
		})
	}
}

func TestBuilderJobShowsNothingOfTheBuild(t *testing.T) {
	p := newPlace(t)
	r, c := building(t, p, p.pushes(t), p.pushes(t))
	r.config.Builder.CacheInRegistry = true
	r.config.Builder.PlainHTTP, r.config.Builder.Mirrors = []string{p.host}, map[string]string{"docker.io": "mirror.example.com"}
	build := run.Build{Dockerfile: "FROM scratch\n# in the Dockerfile\n", BuildArgs: map[string]string{"TOKEN": "it's an argument"}, Platform: "linux/arm64", Secrets: map[string]run.Secret{"netrc": "hunter2"}}
	if _, err := r.Resolve(t.Context(), wants(run.Image{Build: &build}), quiet); err != nil {
		t.Fatal(err)
	}
	spec, err := json.Marshal(c.job)
	if err != nil {
		t.Fatal(err)
	}
	for _, hidden := range []string{"in the Dockerfile", "TOKEN", "an argument", "netrc", "hunter2"} {
		if strings.Contains(string(spec), hidden) {
			t.Errorf("the Job shows %q", hidden)
		}
	}
	script := string(c.secret.Data["build.sh"])
	if strings.Contains(script, "hunter2") || string(c.secret.Data["secret-netrc"]) != "hunter2" {
		t.Errorf("the build's secret is not in a file of its own:\n%s", script)
	}
	for _, part := range []string{`'--opt=build-arg:TOKEN=it'\''s an argument'`, "'--opt=platform=linux/arm64'", "'--secret=id=netrc,src=/ropewalk/secret-netrc'", "push=true"} {
		if !strings.Contains(script, part) {
			t.Errorf("the script lacks %s:\n%s", part, script)
		}
	}
	// Others would find the layers that a secret has opened.
	if strings.Contains(script, "-cache=") {
		t.Errorf("a build with secrets has a cache:\n%s", script)
	}
	build.Secrets = nil
	if _, err := r.Resolve(t.Context(), wants(run.Image{Build: &build}), quiet); err != nil {
		t.Fatal(err)
	}
	if script := string(c.secret.Data["build.sh"]); strings.Count(script, "ref="+p.host+"/built/runner:buildcache") != 2 {
		t.Errorf("a build without has none:\n%s", script)
	}
	want := fmt.Sprintf("[registry.%q]\n  http = true\n[registry.\"docker.io\"]\n  mirrors = [\"mirror.example.com\"]\n", p.host)
	if got := string(c.secret.Data["buildkitd.toml"]); got != want {
		t.Errorf("buildkitd is configured\n%s\nwant\n%s", got, want)
	}
	pod := c.job.Spec.Template.Spec
	if security := pod.Containers[0].SecurityContext; security.Privileged != nil || *security.RunAsUser != 1000 || pod.Containers[0].Image != rootlessImage {
		t.Errorf("the default builder is not rootless: %+v, %s", security, pod.Containers[0].Image)
	}
}

func TestBuildThatNoSecretHasRoomForMakesNoJob(t *testing.T) {
	p := newPlace(t)
	r, c := building(t, p)
	build := run.Build{Dockerfile: "FROM scratch\n", BuildArgs: map[string]string{"LONG": strings.Repeat("x", 1<<20)}}
	_, err := r.Resolve(t.Context(), wants(run.Image{Build: &build}), quiet)
	var refused *run.InvalidError
	if !errors.As(err, &refused) || !strings.Contains(err.Error(), "1048576 are allowed") || c.made != 0 {
		t.Errorf("%v, after %d Jobs; want none, and to be told the bound", err, c.made)
	}
}

func TestBuilderPodCanBePatched(t *testing.T) {
	for name, test := range map[string]struct{ patch, says string }{
		"a runtime class":            {`{"spec": {"runtimeClassName": "gvisor"}}`, ""},
		"a field that is none":       {`{"spec": {"runtimeClass": "gvisor"}}`, "ROPEWALK_BUILDER_POD_TEMPLATE_PATCH: makes no pod template"},
		"a patch without builder":    {`{"spec": {"containers": [{"name": "run", "$patch": "delete"}, {"name": "x"}]}}`, errNoBuilder.Error()},
		"a patch that restarts pods": {`{"spec": {"restartPolicy": "OnFailure"}}`, "changes restartPolicy"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(Config{Builder: &Builder{Registry: "r.example.com", Repository: "x", PodTemplatePatch: test.patch}})
			if test.says == "" && err != nil || test.says != "" && (err == nil || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("%v; want %q", err, test.says)
			}
		})
	}
}

func TestCheckSaysWhatWouldHappen(t *testing.T) {
	p := newPlace(t)
	r, c := building(t, p, p.pushes(t))
	check := func(image run.Image) Verdict {
		t.Helper()
		verdict, err := r.Check(t.Context(), image)
		if err != nil {
			t.Fatal(err)
		}
		return verdict
	}
	image := run.Image{Build: plainBuild}
	if v := check(image); v.Outcome != ToBeBuilt || !strings.HasSuffix(v.Image, ContentHash(*plainBuild)) || v.Job == "" || c.made != 0 {
		t.Errorf("before it is built: %+v", v)
	}
	ran, err := r.Resolve(t.Context(), wants(image), quiet)
	if err != nil {
		t.Fatal(err)
	}
	if v := check(image); v.Outcome != Built || v.Image != ran {
		t.Errorf("after it was built: %+v; want %s", v, ran)
	}
	if v := check(run.Image{Reference: "not a reference"}); v.Outcome != Refused || v.Reason != run.InvalidRequest {
		t.Errorf("of no reference: %+v", v)
	}
	if v := check(run.Image{Mode: run.PrebuiltImage}); v.Outcome != Refused {
		t.Errorf("of no prebuilt image: %+v", v)
	}
	if v := check(run.Image{Reference: "example.com/a:1"}); v.Outcome != Reused || v.Image != "example.com/a:1" {
		t.Errorf("of a reference: %+v", v)
	}
}

func TestSecretsAreHiddenInTheWordsOfAFailedBuild(t *testing.T) {
	for name, test := range map[string]struct{ secret, said, want string }{
		"as it is":            {"hunter2\n", "cannot reach https://hunter2@host/x", "cannot reach https://[redacted]@host/x"},
		"one line of several": {"machine h\npassword hunter2\n", "got password hunter2", "got [redacted]"},
		"too short to find":   {"a", "a banana", "a banana"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := redact(test.said, map[string]run.Secret{"id": run.Secret(test.secret)}); got != test.want {
				t.Errorf("%q; want %q", got, test.want)
			}
		})
	}
}

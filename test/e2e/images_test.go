//go:build e2e

package e2e

import (
	"cmp"
	"crypto/rand"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// imagesManifest is what an operator applies besides, for the pull secrets of
// service accounts.
var imagesManifest = filepath.Join("..", "..", "deploy", "manifests", "rbac-images.yaml")

// registry is one that pods and this process reach under the same name, over
// plain HTTP.
func registry() string { return cmp.Or(os.Getenv("E2E_REGISTRY"), "10.88.0.1:5000") }

// building are the settings of dispatchers that build, into repositories that
// only this test uses.
func building() rig.Settings {
	return rig.Settings{
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE": "true",
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY":    registry() + "/" + strings.ToLower("e2e-"+rand.Text()[:8]),
		"ROPEWALK_IMAGE_PLAIN_HTTP":                            registry(),
		"ROPEWALK_IMAGE_RESOLVE_DIGEST":                        "true",
		"ROPEWALK_BUILDER_PRIVILEGED":                          "true",
		"ROPEWALK_BUILDER_IMAGE":                               cmp.Or(os.Getenv("E2E_BUILDKIT"), "moby/buildkit:v0.25.2"),
	}
}

// newImageWorld is a world in which images are built.
func newImageWorld(t *testing.T, more rig.Settings) *world {
	t.Helper()
	w := newWorld(t, building().With(more))
	must(t, parts.cluster.ApplyRBAC(w.call(), w.namespace, imagesManifest))
	return w
}

// base is the first line of a Dockerfile.
func base() string {
	return "FROM " + cmp.Or(os.Getenv("E2E_BASE"), registry()+"/library/busybox") + "\n"
}

// built is a request to run a line of shell in an image of a Dockerfile.
func built(dockerfile, line string) request {
	return request{
		"version": 1,
		"image":   map[string]any{"build": map[string]any{"dockerfile": dockerfile}},
		"command": []string{"sh", "-c", line},
	}
}

// builders lists the builder Jobs of the namespace.
func (w *world) builders() []batchv1.Job {
	w.t.Helper()
	jobs, err := parts.cluster.Client.BatchV1().Jobs(w.namespace).List(w.call(), metav1.ListOptions{LabelSelector: "ropewalk.dev/build"})
	must(w.t, err)
	return jobs.Items
}

// onlyBuilder is the one builder Job that there shall be.
func (w *world) onlyBuilder() batchv1.Job {
	w.t.Helper()
	jobs := w.builders()
	if len(jobs) != 1 {
		w.t.Fatalf("%d builder Jobs; want 1", len(jobs))
	}
	return jobs[0]
}

// succeeds waits for a run to end well.
func (w *world) succeeds(id string) rig.Record {
	w.t.Helper()
	record := w.over(id)
	if record.State != "succeeded" {
		w.t.Fatalf("run %s is %s: %s %s", id, record.State, record.Reason, record.Message)
	}
	return record
}

func TestImageIsBuiltPushedPulledAndRunAndThenReused(t *testing.T) {
	t.Parallel()
	w := newImageWorld(t, nil)
	w.serve(1)
	mark := rand.Text()
	first := built(base()+"ARG WHO\nRUN echo "+mark+"-$WHO > /made\n", "grep "+mark+"-me /made")
	build := first["image"].(map[string]any)["build"].(map[string]any)
	build["buildArgs"], build["name"] = map[string]string{"WHO": "me"}, "zenml-runner:0a1b2c"

	started := time.Now()
	w.publish("default", "first", first)
	// What it waits for is in the record until the builder has ended.
	w.awaitRun("first", "the run to wait for its builder", func(r rig.Record) bool {
		return r.State == "preparing" && strings.Contains(r.Message, "is being built")
	})
	one := w.succeeds("first")
	t.Logf("built, pushed, pulled and run in %s as %s", time.Since(started).Round(100*time.Millisecond), one.Image)
	job := w.onlyBuilder()
	if text := fmt.Sprint(job.Spec); strings.Contains(text, mark) || strings.Contains(text, "WHO") {
		t.Error("the Job's spec shows the build")
	}
	named := slices.ContainsFunc(w.records.Updates("first"), func(u rig.Update) bool {
		return u.Record.State == "preparing" && strings.Contains(u.Record.Message, job.Name)
	})
	if !named {
		t.Error("the record never named the builder that the run waits for")
	}

	started = time.Now()
	w.publish("default", "second", first)
	two := w.succeeds("second")
	t.Logf("reused in %s", time.Since(started).Round(100*time.Millisecond))
	if two.Image != one.Image || !strings.Contains(one.Image, "@sha256:") {
		t.Errorf("the runs ran %s and %s; want the same, by digest", one.Image, two.Image)
	}
	if again := w.onlyBuilder(); again.UID != job.UID {
		t.Error("the second request made a builder Job")
	}

	repository, _, _ := strings.Cut(one.Image, "@")
	repository = repository[:strings.LastIndex(repository, ":")]
	wished, err := name.ParseReference(repository+":0a1b2c", name.Insecure)
	must(t, err)
	transport := remote.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true // so that no idle connection outlives the test
	descriptor, err := remote.Head(wished, remote.WithTransport(transport))
	must(t, err)
	if !strings.HasSuffix(one.Image, descriptor.Digest.String()) {
		t.Errorf("the tag that was wished for is %s; the run ran %s", descriptor.Digest, one.Image)
	}
}

func TestFailedBuildShowsItsLastLinesAndIsTriedAgainByAReplayOnly(t *testing.T) {
	t.Parallel()
	w := newImageWorld(t, nil)
	w.serve(1)
	request := built(base()+"RUN echo "+rand.Text()+"; echo the cause stands here >&2; exit 7\n", "true")
	fails := func(id string) {
		t.Helper()
		record := w.over(id)
		if record.State != "failed" || record.Reason != "ImageBuildFailed" {
			t.Fatalf("run %s is %s: %s %s", id, record.State, record.Reason, record.Message)
		}
		for _, words := range []string{"the cause stands here", "exit code: 7", "Dockerfile:2"} {
			if !strings.Contains(record.Message, words) {
				t.Errorf("the message of %s lacks %q: %s", id, words, record.Message)
			}
		}
	}
	w.publish("default", "first", request)
	fails("first")
	job := w.onlyBuilder()

	started := time.Now()
	w.publish("default", "second", request)
	fails("second")
	t.Logf("a second request failed after %s", time.Since(started).Round(10*time.Millisecond))
	if again := w.onlyBuilder(); again.UID != job.UID {
		t.Error("a second request tried the build again at once")
	}

	w.publish("default", "first.2", request)
	w.awaitRun("first", "the end of the replay", func(r rig.Record) bool { return r.Attempt == 2 && r.Final() })
	fails("first")
	if again := w.onlyBuilder(); again.UID == job.UID {
		t.Error("the replay did not try the build again")
	}
}

func TestDispatcherKilledDuringABuildLosesNothing(t *testing.T) {
	t.Parallel()
	w := newImageWorld(t, rig.Settings{"ROPEWALK_ACK_WAIT": ackWait.String()})
	first := w.serve(1)[0]
	// The build is long enough that it cannot end before its dispatcher does, which
	// is at once.
	w.publish("default", "run", built(base()+"RUN sleep 12; echo "+rand.Text()+" > /made\n", "test -s /made"))
	w.awaitRun("run", "the build to begin", func(r rig.Record) bool { return strings.Contains(r.Message, "is being built") })
	job := w.onlyBuilder()
	first.Kill()
	w.serve(1)
	record := w.succeeds("run")
	if owns(first, record.Owner) {
		t.Error("the run is still the dead dispatcher's")
	}
	if again := w.onlyBuilder(); again.UID != job.UID {
		t.Error("the build was begun anew")
	}
}

func TestFiftyRequestsOverThreeDispatchersMakeOneBuild(t *testing.T) {
	t.Parallel()
	const runs = 50
	w := newImageWorld(t, rig.Settings{"ZENML_SERVER_MAX_CONCURRENT_TEMPLATE_RUNS": fmt.Sprint(runs)})
	w.serve(3)
	// A dispatcher that is slow to ask for its first run may find none left.
	ctx := wait.Context(t, "all dispatchers to ask for runs")
	must(t, rig.Poll(ctx, 20*time.Millisecond, func() error {
		consumer, err := w.js.Consumer(ctx, "RUNS", "dispatch-default")
		if err == nil && consumer.CachedInfo().NumWaiting < 3 {
			err = fmt.Errorf("%d ask", consumer.CachedInfo().NumWaiting)
		}
		return err
	}))
	request := built(base()+"RUN sleep 3; echo "+rand.Text()+" > /made\n", "test -s /made")
	var ids []string
	started := time.Now()
	for i := range runs {
		ids = append(ids, fmt.Sprintf("run-%d", i))
		w.publish("default", ids[i], request)
	}
	w.awaitFinal(ids)
	owners := map[string]int{}
	for _, id := range ids {
		record := w.succeeds(id)
		owners[record.Owner]++
	}
	// Whoever would have built too would have done so before the runs were
	// launched, and the observer sees Jobs in the order of their creation.
	w.awaitJobs("", "the Jobs of all runs", func(rig.Counts) bool { return w.jobsEnded(ids) })
	builders := 0
	for _, job := range w.observer.Jobs() {
		if !slices.Contains(ids, job.RunID) {
			builders++
		}
	}
	if builders != 1 {
		t.Errorf("%d builder Jobs were made; want 1", builders)
	}
	if len(owners) != 3 {
		t.Errorf("%d dispatchers took part; want 3", len(owners))
	}
	t.Logf("%d runs over %d dispatchers, %d builder Job, all over in %s", runs, len(owners), builders, time.Since(started).Round(100*time.Millisecond))
}

// A builder whose pod is lost with its node is replaced. A pod that is evicted
// ends in the same way as one whose node is drained.
func TestBuilderThatWasEvictedIsReplaced(t *testing.T) {
	t.Parallel()
	w := newImageWorld(t, nil)
	w.serve(1)
	w.publish("default", "run", built(base()+"RUN sleep 6; echo "+rand.Text()+" > /made\n", "test -s /made"))
	var lost string
	must(t, rig.Poll(wait.Context(t, "the builder's pod to run"), 100*time.Millisecond, func() error {
		pods, err := parts.cluster.Client.CoreV1().Pods(w.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "ropewalk.dev/build"})
		if err != nil {
			return err
		}
		for _, pod := range pods.Items {
			if pod.Status.Phase == corev1.PodRunning {
				lost = pod.Name
				return nil
			}
		}
		return fmt.Errorf("no builder runs among %d", len(pods.Items))
	}))
	must(t, parts.cluster.Evict(w.call(), w.namespace, lost))
	w.succeeds("run")
}

//go:build e2e

package e2e

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/remote/transport"
	"golang.org/x/crypto/bcrypt"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// guarded starts a registry that lets nobody in but user:h0rse-battery, and puts the
// image team/train:1 there. It needs the docker-registry of Debian, or another
// build of distribution by that name.
func guarded(t *testing.T, dir, address string) (host string) {
	t.Helper()
	program, err := exec.LookPath("docker-registry")
	if err != nil {
		t.Fatalf("this test needs a registry that asks for a login; install docker-registry: %v", err)
	}
	host, err = rig.FreeAddress()
	must(t, err)
	if address != "" {
		host = address + host[strings.LastIndex(host, ":"):]
	}
	hash, err := bcrypt.GenerateFromPassword([]byte("h0rse-battery"), bcrypt.MinCost)
	must(t, err)
	must(t, os.WriteFile(filepath.Join(dir, "htpasswd"), fmt.Appendf(nil, "user:%s\n", hash), 0o600))
	config := fmt.Sprintf(`version: 0.1
log: {level: warn}
storage: {filesystem: {rootdirectory: %q}}
http: {addr: %q}
auth: {htpasswd: {realm: test, path: %q}}
`, filepath.Join(dir, "registry"), host, filepath.Join(dir, "htpasswd"))
	file := filepath.Join(dir, "registry.yml")
	must(t, os.WriteFile(file, []byte(config), 0o600))
	process, err := rig.Start(program, []string{"serve", file}, os.Environ(), filepath.Join(dir, "registry.log"))
	must(t, err)
	t.Cleanup(process.Kill)
	image, err := random.Image(1000, 1)
	must(t, err)
	reference, err := name.ParseReference(host + "/team/train:1")
	must(t, err)
	transport := remote.DefaultTransport.(*http.Transport).Clone()
	transport.DisableKeepAlives = true
	ctx := wait.Context(t, "the registry to take an image")
	must(t, rig.Poll(ctx, 100*time.Millisecond, func() error {
		return remote.Write(reference, image, remote.WithContext(ctx), remote.WithTransport(transport),
			remote.WithAuth(&authn.Basic{Username: "user", Password: "h0rse-battery"}))
	}))
	return host
}

// pullSecret makes one in the namespace.
func (w *world) pullSecret(name, host, password string) {
	w.t.Helper()
	config, err := json.Marshal(map[string]any{"auths": map[string]any{host: map[string]string{"username": "user", "password": password}}})
	must(w.t, err)
	_, err = parts.cluster.Client.CoreV1().Secrets(w.namespace).Create(w.call(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name}, Type: corev1.SecretTypeDockerConfigJson,
		Data: map[string][]byte{corev1.DockerConfigJsonKey: config},
	}, metav1.CreateOptions{})
	must(w.t, err)
}

// imageCheck runs `dispatcher image check` with the settings of this world's
// dispatchers.
func (w *world) imageCheck(more rig.Settings, args ...string) answer {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(wait.Context(w.t, "dispatcher image check"), parts.dispatcher, append([]string{"image", "check"}, args...)...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + w.dir, "NO_COLOR=1"}
	for name, value := range w.settings.With(more) {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	_ = cmd.Run() // its code is in the answer
	return answer{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

func TestRegistryThatAsksForALogin(t *testing.T) {
	t.Parallel()
	w := newImageWorld(t, nil)
	host := guarded(t, w.dir, "")
	w.pullSecret("right", host, "h0rse-battery")
	w.pullSecret("wrong", host, "wr0ng")
	w.pullSecret("elsewhere", "registry.example.com", "h0rse-battery")
	reference := host + "/team/train:1"
	for name, test := range map[string]struct {
		secrets string
		code    int
		says    []string
	}{
		"the right login":       {"right", 0, []string{"reused: " + reference + "@sha256:"}},
		"a wrong login":         {"wrong", 1, []string{"refused ImagePullFailed", "does not accept the credentials", "401", "pull secrets read in namespace " + w.namespace + ": wrong"}},
		"a login for elsewhere": {"elsewhere", 1, []string{"asks for a login", "there are no credentials for it", ": elsewhere"}},
		"no such secret":        {"gone", 1, []string{"asks for a login", "pull secret gone: does not exist"}},
		"no secret at all":      {"", 1, []string{"asks for a login", "have no pull secret"}},
	} {
		t.Run(name, func(t *testing.T) {
			said := w.imageCheck(rig.Settings{"ROPEWALK_IMAGE_PULL_SECRETS": test.secrets}, reference)
			if said.code != test.code || said.stderr != "" {
				t.Errorf("exit code %d, %s", said.code, said.stderr)
			}
			for _, words := range test.says {
				if !strings.Contains(said.stdout, words) {
					t.Errorf("it lacks %q:\n%s", words, said.stdout)
				}
			}
			if strings.Contains(said.stdout, "wr0ng") {
				t.Error("it shows the password")
			}
			t.Log(strings.TrimSpace(said.stdout))
		})
	}

	// The pull secret of the service account, which a run is refused without.
	w.serve(1)
	w.publish("default", "run", script("true").with("image", map[string]any{"reference": reference}))
	if record := w.over("run"); record.Reason != "ImagePullFailed" || !strings.Contains(record.Message, "asks for a login") {
		t.Errorf("the run is %s %s: %s", record.State, record.Reason, record.Message)
	}
	account, err := parts.cluster.Client.CoreV1().ServiceAccounts(w.namespace).Get(w.call(), rig.Runner, metav1.GetOptions{})
	must(t, err)
	account.ImagePullSecrets = []corev1.LocalObjectReference{{Name: "right"}}
	_, err = parts.cluster.Client.CoreV1().ServiceAccounts(w.namespace).Update(w.call(), account, metav1.UpdateOptions{})
	must(t, err)
	if said := w.imageCheck(nil, reference); said.code != 0 {
		t.Errorf("with the service account's pull secret it says %s", said.stdout)
	}
}

func TestImageCheckSaysWhatWouldBecomeOfARequest(t *testing.T) {
	t.Parallel()
	w := newImageWorld(t, rig.Settings{"ROPEWALK_IMAGE_DENY": "docker.io/**"})
	file := w.file("request.yaml", "image:\n  build:\n    dockerfile: |\n      FROM scratch\n")
	said := w.imageCheck(nil, "-f", file)
	if said.code != 0 || !strings.HasPrefix(said.stdout, "to be built: "+registry()) {
		t.Errorf("exit code %d: %s%s", said.code, said.stdout, said.stderr)
	}
	said = w.imageCheck(nil, "busybox")
	if said.code != 1 || !strings.Contains(said.stdout, `refused PolicyRefused`) || !strings.Contains(said.stdout, `pattern "docker.io/**"`) {
		t.Errorf("exit code %d: %s%s", said.code, said.stdout, said.stderr)
	}
	if jobs := w.builders(); len(jobs) != 0 {
		t.Errorf("checking made %d Jobs", len(jobs))
	}
}

// The files that a Dockerfile copies travel through NATS, from the folder that
// submit is given.
func TestBuildCopiesFromTheSubmittedFolder(t *testing.T) {
	t.Parallel()
	w := newImageWorld(t, nil)
	w.serve(1)
	folder := filepath.Join(w.dir, "context")
	must(t, os.MkdirAll(filepath.Join(folder, "src"), 0o750))
	must(t, os.WriteFile(filepath.Join(folder, "src", "hello.sh"), []byte("echo hello from the folder\n"), 0o600))
	dockerfile := w.file("Dockerfile", base()+"ARG OUT\nCOPY src /src\nRUN sh /src/hello.sh > /$OUT\n")
	said := w.command("submit", "--wait", "--id", "run", "--dockerfile", dockerfile, "--context", folder, "--build-arg", "OUT=made",
		"--", "grep", "hello from the folder", "/made")
	if said.code != 0 {
		t.Fatalf("exit code %d: %s%s", said.code, said.stdout, said.stderr)
	}
	first := w.succeeds("run")
	must(t, os.Chtimes(filepath.Join(folder, "src", "hello.sh"), time.Unix(1, 0), time.Unix(1, 0)))
	said = w.command("submit", "--wait", "--id", "again", "--dockerfile", dockerfile, "--context", folder, "--build-arg", "OUT=made", "--", "true")
	if again := w.succeeds("again"); said.code != 0 || again.Image != first.Image {
		t.Errorf("the same files made %s; want %s", again.Image, first.Image)
	}
	w.onlyBuilder()
}

// A builder pushes to a registry that asks for a login with what the pull secret
// says, and shows it nowhere. That the node then pulls from there is not asked:
// it would need to be told of a registry over plain HTTP.
func TestBuilderPushesWithTheLoginOfThePullSecret(t *testing.T) {
	t.Parallel()
	address, _, _ := strings.Cut(registry(), ":")
	w := newImageWorld(t, rig.Settings{"ROPEWALK_IMAGE_PULL_SECRETS": "login", "ROPEWALK_IMAGE_PULL_GRACE": "1s"})
	host := guarded(t, w.dir, address)
	w.pullSecret("login", host, "h0rse-battery")
	w.settings["ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY"] = host + "/built"
	w.settings["ROPEWALK_IMAGE_PLAIN_HTTP"] = registry() + "," + host
	w.serve(1)
	request := built(base()+"RUN echo it is made\n", "true")
	w.publish("default", "run", request)
	record := w.over("run")
	if record.Reason == "ImageBuildFailed" || !strings.HasPrefix(record.Image, host+"/built/runner:") || !strings.Contains(record.Image, "@sha256:") {
		t.Fatalf("the run is %s %s with image %s: %s", record.State, record.Reason, record.Image, record.Message)
	}
	job := w.onlyBuilder()
	pods, err := parts.cluster.Client.CoreV1().Pods(w.namespace).List(w.call(), metav1.ListOptions{LabelSelector: "ropewalk.dev/build"})
	must(t, err)
	log, err := parts.cluster.Client.CoreV1().Pods(w.namespace).GetLogs(pods.Items[0].Name, &corev1.PodLogOptions{}).DoRaw(w.call())
	must(t, err)
	if !strings.Contains(string(log), "it is made") {
		t.Errorf("the builder's log is not the build's:\n%s", log)
	}
	for place, text := range map[string]string{"the Job": fmt.Sprintf("%+v", job), "the pods": fmt.Sprintf("%+v", pods.Items), "the log": string(log)} {
		if strings.Contains(text, "h0rse-battery") {
			t.Errorf("%s shows the password", place)
		}
	}
}

// What a build is given in secret is used in it, and found nowhere but in the
// Secret that goes with the builder Job.
func TestSecretOfABuildIsUsedAndShownNowhere(t *testing.T) {
	t.Parallel()
	w := newImageWorld(t, nil)
	w.serve(1)
	secret := rand.Text()
	sum := fmt.Sprintf("%x", sha256.Sum256([]byte(secret)))
	// Its sum shows that it was there, without it being in a layer.
	request := built(base()+"RUN --mount=type=secret,id=token,required sha256sum </run/secrets/token | cut -c1-64 >/made\n",
		"grep -x "+sum+" /made && ! test -e /run/secrets/token")
	build := request["image"].(map[string]any)["build"].(map[string]any)
	build["secrets"] = map[string]string{"token": secret}
	w.publish("default", "first", request)
	first := w.succeeds("first")
	job := w.onlyBuilder()

	core := parts.cluster.Client.CoreV1()
	kept, err := core.Secrets(w.namespace).Get(w.call(), job.Name, metav1.GetOptions{})
	must(t, err)
	if owner := metav1.GetControllerOf(kept); owner == nil || owner.UID != job.UID || string(kept.Data["secret-token"]) != secret {
		t.Errorf("the builder's Secret is owned by %v and does not hold the secret", owner)
	}
	shown := map[string]any{}
	jobs, err := parts.cluster.Client.BatchV1().Jobs(w.namespace).List(w.call(), metav1.ListOptions{})
	must(t, err)
	shown["the Jobs"] = jobs
	pods, err := core.Pods(w.namespace).List(w.call(), metav1.ListOptions{})
	must(t, err)
	shown["the pods"] = pods
	shown["the events"], err = core.Events(w.namespace).List(w.call(), metav1.ListOptions{})
	must(t, err)
	for _, pod := range pods.Items {
		shown["the log of "+pod.Name], err = core.Pods(w.namespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(w.call())
		must(t, err)
	}
	shown["the image"] = contents(t, first.Image)
	tagged, _, _ := strings.Cut(first.Image, "@")
	cache, err := name.ParseReference(tagged[:strings.LastIndex(tagged, ":")]+":buildcache", name.Insecure)
	must(t, err)
	_, err = remote.Head(cache, remote.WithContext(t.Context()), remote.WithTransport(passing()))
	if answer, ok := errors.AsType[*transport.Error](err); !ok || answer.StatusCode != http.StatusNotFound {
		t.Errorf("others may find the layers that the secret has opened: %v", err)
	}
	shown["the records"] = w.records.Updates("first")
	bucket, err := w.js.KeyValue(w.call(), "ropewalk-runs")
	must(t, err)
	entry, err := bucket.Get(w.call(), "default.first")
	must(t, err)
	shown["the record as it is kept"] = entry.Value()
	shown["what get says"] = w.command("get", "-o", "json", "first").stdout
	shown["what get says to people"] = w.command("get", "first").stdout
	logs, err := filepath.Glob(filepath.Join(w.dir, "dispatcher-*.log"))
	must(t, err)
	for _, file := range logs {
		shown["the dispatcher's log"], err = os.ReadFile(file)
		must(t, err)
	}
	for place, what := range shown {
		text, isBytes := what.([]byte)
		if !isBytes {
			text, err = json.Marshal(what)
			must(t, err)
		}
		if len(text) < 10 {
			t.Errorf("%s: nothing is there to look through", place)
		}
		for _, form := range []string{secret, base64.StdEncoding.EncodeToString([]byte(secret))} {
			if bytes.Contains(text, []byte(form)) {
				t.Errorf("%s shows the secret", place)
			}
		}
	}

	// Another value makes no other image: it is not in the content hash.
	build["secrets"] = map[string]string{"token": rand.Text()}
	w.publish("default", "second", request)
	if second := w.succeeds("second"); second.Image != first.Image {
		t.Errorf("with another secret the image is %s; want %s", second.Image, first.Image)
	}
	w.onlyBuilder()
}

// passing are connections that nothing is left of.
func passing() *http.Transport {
	connections := remote.DefaultTransport.(*http.Transport).Clone()
	connections.DisableKeepAlives = true
	return connections
}

// contents is all that a registry has of an image: manifest, configuration with
// its history, and files.
func contents(t *testing.T, reference string) []byte {
	t.Helper()
	parsed, err := name.ParseReference(reference, name.Insecure)
	must(t, err)
	image, err := remote.Image(parsed, remote.WithContext(t.Context()), remote.WithTransport(passing()))
	must(t, err)
	all, err := image.RawManifest()
	must(t, err)
	config, err := image.RawConfigFile()
	must(t, err)
	all = append(all, config...)
	layers, err := image.Layers()
	must(t, err)
	for _, layer := range layers {
		files, err := layer.Uncompressed()
		must(t, err)
		text, err := io.ReadAll(files)
		must(t, err)
		must(t, files.Close())
		all = append(all, text...)
	}
	return all
}

//go:build e2e

package k8sjobs

import (
	"bytes"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"sigs.k8s.io/yaml"

	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

const (
	// shippedRole is what the launchers under test may do.
	shippedRole = "../../deploy/manifests/rbac.yaml"
	// image is on every node of the test cluster.
	image = "busybox"
	// long is a patience that no test comes to the end of.
	long = time.Hour
	// waitForTerm is a script that ends at once when it is told to, which a
	// container's first process does not do by itself.
	waitForTerm = `trap 'exit 143' TERM; sleep 600 & wait $!`
)

// used are the rights that the launchers have made use of, over all tests.
var used rights

type rights struct {
	mu  sync.Mutex
	all map[string]bool
}

func (r *rights) count(verb, resource string, code int) {
	if resource == "" || code == 0 {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.all == nil {
		r.all = make(map[string]bool)
	}
	r.all[verb+" "+resource] = true
}

// unused compares the rights that the Role gives with those that were used.
func (r *rights) unused() (missing []string, err error) {
	documents, err := manifests("ropewalk")
	if err != nil {
		return nil, err
	}
	for _, document := range documents {
		var role rbacv1.Role
		if err := yaml.Unmarshal(document, &role); err != nil || role.Kind != "Role" {
			continue
		}
		for _, rule := range role.Rules {
			for _, resource := range rule.Resources {
				for _, verb := range rule.Verbs {
					// This one is no request: the API server asks for it when
					// an owner reference is made, if it is told to.
					if resource != "jobs/finalizers" && !r.all[verb+" "+resource] {
						missing = append(missing, verb+" "+resource)
					}
				}
			}
		}
	}
	return missing, nil
}

// manifests are the documents of the shipped file, for a namespace.
func manifests(namespace string) ([][]byte, error) {
	text, err := os.ReadFile(shippedRole)
	if err != nil {
		return nil, err
	}
	text = bytes.ReplaceAll(text, []byte("namespace: ropewalk\n"), []byte("namespace: "+namespace+"\n"))
	return bytes.Split(text, []byte("\n---\n")), nil
}

// scope is a namespace of a test's own, in which launchers have the shipped
// Role and nothing else.
type scope struct {
	*testing.T
	namespace string
	admin     *kubernetes.Clientset
	cluster   *rest.Config // the admin's way to it
	dispatch  *rest.Config // the launchers'
}

// newScope makes a namespace with these labels, and takes it away again.
func newScope(t *testing.T, labels map[string]string) *scope {
	t.Helper()
	t.Parallel()
	kubeconfig := os.Getenv("KUBECONFIG") //nolint:forbidigo // which cluster to test on is no setting of the dispatcher
	if kubeconfig == "" {
		t.Fatal("KUBECONFIG is not set; these tests need a cluster")
	}
	where, err := locate(kubeconfig)
	if err != nil {
		t.Fatal(err)
	}
	s := &scope{T: t, cluster: where, namespace: "k8sjobs-" + strings.ToLower(rand.Text()[:10])}
	admin, lines := wired(where)
	t.Cleanup(lines.cut)
	if s.admin, err = kubernetes.NewForConfig(tuned(admin, ClientConfig{QPS: 1000, Burst: 1000})); err != nil {
		t.Fatal(err)
	}
	namespace := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: s.namespace, Labels: labels}}
	if _, err := s.admin.CoreV1().Namespaces().Create(s.Context(), namespace, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		err := s.admin.CoreV1().Namespaces().Delete(context.WithoutCancel(s.Context()), s.namespace, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("delete the namespace: %v", err)
		}
	})
	t.Cleanup(s.explain)
	s.grant()
	token, err := s.admin.CoreV1().ServiceAccounts(s.namespace).CreateToken(s.Context(), "ropewalk-dispatcher", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	s.dispatch = rest.AnonymousClientConfig(where)
	s.dispatch.BearerToken = token.Status.Token
	// Pods cannot be made before their service account is.
	wait.Until(s, "the namespace to have its service account", func() bool {
		_, err := s.admin.CoreV1().ServiceAccounts(s.namespace).Get(s.Context(), "default", metav1.GetOptions{})
		return err == nil
	})
	return s
}

// grant applies the shipped manifest, as far as it is not there.
func (s *scope) grant() {
	s.Helper()
	documents, err := manifests(s.namespace)
	if err != nil {
		s.Fatal(err)
	}
	for _, document := range documents {
		var kind metav1.TypeMeta
		if err := yaml.Unmarshal(document, &kind); err != nil {
			s.Fatal(err)
		}
		switch kind.Kind {
		case "ServiceAccount":
			_, err = s.admin.CoreV1().ServiceAccounts(s.namespace).Create(s.Context(), decoded[corev1.ServiceAccount](s, document), metav1.CreateOptions{})
		case "Role":
			_, err = s.admin.RbacV1().Roles(s.namespace).Create(s.Context(), decoded[rbacv1.Role](s, document), metav1.CreateOptions{})
		case "RoleBinding":
			_, err = s.admin.RbacV1().RoleBindings(s.namespace).Create(s.Context(), decoded[rbacv1.RoleBinding](s, document), metav1.CreateOptions{})
		default:
			err = fmt.Errorf("%s holds a %s, of which this test knows nothing", shippedRole, kind.Kind)
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			s.Fatal(err)
		}
	}
}

func decoded[T any](s *scope, document []byte) *T {
	s.Helper()
	object := new(T)
	data, err := yaml.YAMLToJSONStrict(document)
	if err == nil {
		err = decodeStrictly(data, object)
	}
	if err != nil {
		s.Fatalf("%s: %v", shippedRole, err)
	}
	return object
}

// wires are the connections of one client, which a test can cut.
type wires struct {
	mu   sync.Mutex
	open []net.Conn
}

func wired(where *rest.Config) (*rest.Config, *wires) {
	w, where := &wires{}, rest.CopyConfig(where)
	where.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		conn, err := new(net.Dialer).DialContext(ctx, network, address)
		if err == nil {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.open = append(w.open, conn)
		}
		return conn, err
	}
	return where, w
}

func (w *wires) cut() {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, conn := range w.open {
		_ = conn.Close() // it may be closed already
	}
	w.open = nil
}

// settings are those of an operator whose images run as whom they like.
func (s *scope) settings(edits ...func(*Settings)) Settings {
	settings := restricted()
	settings.Namespace, settings.ServiceAccount = s.namespace, ""
	settings.Patience = Patience{Start: long, ImagePull: long, Unschedulable: long}
	settings.PodTemplatePatch = rig.GatePatch
	for _, edit := range edits {
		edit(&settings)
	}
	return settings
}

// launcher starts a launcher, which ends with the test.
func (s *scope) launcher(edits ...func(*Settings)) *Launcher {
	s.Helper()
	launcher, _ := s.wiredLauncher(edits...)
	return launcher
}

func (s *scope) wiredLauncher(edits ...func(*Settings)) (*Launcher, *wires) {
	s.Helper()
	where, lines := wired(s.dispatch)
	client, err := kubernetes.NewForConfig(tuned(where, ClientConfig{QPS: 1000, Burst: 2000, Version: "e2e", Count: used.count}))
	if err != nil {
		s.Fatal(err)
	}
	launcher, err := New(Config{Client: client, Settings: s.settings(edits...), Log: zerolog.New(zerolog.NewTestWriter(s))})
	if err != nil {
		s.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(s.Context()))
	done := make(chan error, 1)
	go func() { done <- launcher.Run(ctx) }()
	s.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			s.Errorf("Run: %v", err)
		}
		lines.cut()
	})
	return launcher, lines
}

// script is a launch of a shell script under an id of its own.
func (s *scope) script(text string, edits ...func(*run.Request)) run.Launch {
	request := run.Request{
		Version: run.Version, ID: strings.ToLower(rand.Text()[:12]), Queue: "default",
		Image: run.Image{Reference: image}, Command: []string{"sh", "-c", text},
	}
	for _, edit := range edits {
		edit(&request)
	}
	return run.Launch{Request: request, Attempt: 1, Image: request.Image.Reference}
}

// held is script for what shall not run before [scope.letGo]. Launchers give every
// pod the gate.
func (s *scope) held(text string, edits ...func(*run.Request)) run.Launch {
	return s.script(rig.AwaitGate+"; "+text, edits...)
}

// letGo lets a run go that is held.
func (s *scope) letGo(job run.Job) {
	s.Helper()
	id := s.podsOf(job)[0].Labels[LabelRunID]
	if err := rig.OpenGate(wait.Context(s, "the run to be let go"), s.admin, s.namespace, id); err != nil {
		s.Fatal(err)
	}
}

// explain prints, if the test failed, what the cluster says of it. What the
// launchers logged is in the test's output.
func (s *scope) explain() {
	if !s.Failed() {
		return
	}
	events, err := rig.Events(wait.Context(s, "the cluster's account of what happened"), s.admin, s.namespace, "run-")
	s.Logf("events of %s: %v\n%s", s.namespace, err, strings.Join(events, "\n"))
}

// launch launches and demands that it works.
func (s *scope) launch(launcher *Launcher, launch run.Launch) run.Job {
	s.Helper()
	job, adopted, err := launcher.Launch(s.Context(), launch)
	if err != nil {
		s.Fatalf("Launch: %v", err)
	}
	if adopted {
		s.Fatalf("Job %s was there already", job.Name)
	}
	return job
}

// tail is a Follow in the background.
type tail struct {
	scope *scope
	done  chan struct{}
	final run.Observation
	err   error

	mu   sync.Mutex
	told []run.Observation
	news chan struct{} // closed and replaced with every report
}

func (s *scope) follow(launcher *Launcher, job run.Job) *tail {
	ctx, cancel := context.WithCancel(s.Context())
	f := &tail{scope: s, done: make(chan struct{}), news: make(chan struct{})}
	go func() {
		defer close(f.done)
		f.final, f.err = launcher.Follow(ctx, job, func(seen run.Observation) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.told = append(f.told, seen)
			close(f.news)
			f.news = make(chan struct{})
		})
	}()
	s.Cleanup(func() {
		cancel()
		<-f.done
	})
	return f
}

// await waits for an observation that is not final.
func (f *tail) await(state run.State, words string) {
	f.scope.Helper()
	ctx := wait.Context(f.scope, fmt.Sprintf("Follow to tell of %s %q", state, words))
	for {
		f.mu.Lock()
		news := f.news
		found := slices.ContainsFunc(f.told, func(seen run.Observation) bool {
			return seen.State == state && strings.Contains(seen.Message, words)
		})
		f.mu.Unlock()
		if found {
			return
		}
		select {
		case <-news:
		case <-f.done:
			f.scope.Fatalf("Follow returned %+v, %v before it told of %s %q; it told %+v", f.final, f.err, state, words, f.told)
		case <-ctx.Done():
			f.scope.Fatalf("%v; it told %+v", context.Cause(ctx), f.seen())
		}
	}
}

// seen is what Follow has told so far.
func (f *tail) seen() []run.Observation {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Clone(f.told)
}

// end waits for the run to be over.
func (f *tail) end(state run.State, reason run.Reason, says ...string) run.Observation {
	f.scope.Helper()
	ctx := wait.Context(f.scope, fmt.Sprintf("the run to be %s %s", state, reason))
	select {
	case <-f.done:
	case <-ctx.Done():
		f.scope.Fatalf("%v; Follow told %+v", context.Cause(ctx), f.seen())
	}
	if f.err != nil || f.final.State != state || f.final.Reason != reason {
		f.scope.Fatalf("Follow returned %+v, %v; want %s %s; it told %+v", f.final, f.err, state, reason, f.told)
	}
	for _, words := range says {
		if !strings.Contains(f.final.Message, words) {
			f.scope.Errorf("the message does not say %q: %s", words, f.final.Message)
		}
	}
	if !strings.HasSuffix(f.final.Message, reason.ToDo()) {
		f.scope.Errorf("the message does not say what to do: %s", f.final.Message)
	}
	f.scope.Logf("%s %s: %s", f.final.State, f.final.Reason, f.final.Message)
	return f.final
}

// left lists what the cluster holds of a Job.
func (s *scope) left(job run.Job) (names []string) {
	s.Helper()
	ctx := context.WithoutCancel(s.Context())
	if _, err := s.admin.BatchV1().Jobs(s.namespace).Get(ctx, job.Name, metav1.GetOptions{}); err == nil {
		names = append(names, "job "+job.Name)
	} else if !apierrors.IsNotFound(err) {
		s.Fatal(err)
	}
	if _, err := s.admin.CoreV1().Secrets(s.namespace).Get(ctx, job.Name, metav1.GetOptions{}); err == nil {
		names = append(names, "secret "+job.Name)
	} else if !apierrors.IsNotFound(err) {
		s.Fatal(err)
	}
	for _, pod := range s.podsOf(job) {
		names = append(names, "pod "+pod.Name)
	}
	return names
}

func (s *scope) podsOf(job run.Job) []corev1.Pod {
	s.Helper()
	pods, err := s.admin.CoreV1().Pods(s.namespace).List(context.WithoutCancel(s.Context()), metav1.ListOptions{LabelSelector: "job-name=" + job.Name})
	if err != nil {
		s.Fatal(err)
	}
	return pods.Items
}

// log is what the Job's only pod has written.
func (s *scope) log(job run.Job) string {
	s.Helper()
	pods := s.podsOf(job)
	if len(pods) != 1 {
		s.Fatalf("the Job has %d pods", len(pods))
	}
	stream, err := s.admin.CoreV1().Pods(s.namespace).GetLogs(pods[0].Name, &corev1.PodLogOptions{}).Stream(s.Context())
	if err != nil {
		s.Fatal(err)
	}
	defer func() { _ = stream.Close() }()
	text, err := io.ReadAll(stream)
	if err != nil {
		s.Fatal(err)
	}
	return string(text)
}

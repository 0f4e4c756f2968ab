//go:build e2e

package e2e

import (
	"cmp"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

var root = filepath.Join("..", "..")

// podHost is the address by which pods reach this machine.
func podHost() string { return cmp.Or(os.Getenv("E2E_HOST"), "10.88.0.1") }

// release is a chart in the cluster, as its user sees it.
type release struct {
	t                     *testing.T
	name, namespace, runs string
}

// newRelease makes a namespace whose pods must be restricted, and names one for
// the runs, which is the chart's to make. Nothing is installed.
func newRelease(t *testing.T) *release {
	t.Helper()
	ctx := wait.Context(t, "a namespace for the chart")
	namespace, err := parts.cluster.NewNamespace(ctx, "e2e-chart")
	must(t, err)
	r := &release{t: t, name: "rw" + namespace[len("e2e-chart-"):], namespace: namespace, runs: namespace + "-runs"}
	t.Cleanup(func() {
		ctx := wait.Context(t, "the chart's namespaces to be deleted")
		for _, namespace := range []string{r.namespace, r.runs} {
			if err := parts.cluster.DeleteNamespace(ctx, namespace); err != nil {
				t.Error(err)
			}
		}
	})
	t.Cleanup(r.explain)
	restricted := `{"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}`
	_, err = parts.cluster.Client.CoreV1().Namespaces().Patch(ctx, namespace, "application/merge-patch+json", []byte(restricted), metav1.PatchOptions{})
	must(t, err)
	return r
}

// waits has Helm wait as long as a test waits for anything. It then says itself
// what it waited for.
func waits(command string) []string {
	return []string{command, "--wait", "--timeout", wait.Limit.String()}
}

// helm runs Helm as the cluster's administrator.
func (r *release) helm(args ...string) string {
	r.t.Helper()
	command := exec.CommandContext(r.t.Context(), parts.helm, append(args, "--namespace", r.namespace)...)
	var stderr strings.Builder
	command.Stderr = &stderr
	stdout, err := command.Output()
	if err != nil {
		r.t.Fatalf("helm %s: %v\n%s", strings.Join(args, " "), err, stderr.String())
	}
	return string(stdout)
}

// values are what a test sets besides a flavour's own file.
type values map[string]any

func (r *release) args(flavour string, more values) []string {
	r.t.Helper()
	text, err := yaml.Marshal(more)
	must(r.t, err)
	file := filepath.Join(r.t.TempDir(), "values.yaml")
	must(r.t, os.WriteFile(file, text, 0o600))
	return []string{r.name, filepath.Join(root, "deploy", "helm", "ropewalk"), "--values", filepath.Join(root, "deploy", "helm", "values", flavour+".yaml"), "--values", file}
}

// environment is the block of the server's values with this test's namespace.
func (r *release) environment(more values) values {
	environment := values{"ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE": r.runs}
	maps.Copy(environment, more)
	return values{"environment": environment}
}

// objects decodes what Helm has rendered.
func objects(t *testing.T, rendered string) []unstructured.Unstructured {
	t.Helper()
	var all []unstructured.Unstructured
	for document := range strings.SplitSeq(rendered, "\n---\n") {
		var object map[string]any
		must(t, yaml.UnmarshalStrict([]byte(document), &object))
		if object != nil {
			all = append(all, unstructured.Unstructured{Object: object})
		}
	}
	return all
}

// resource is where the API server keeps objects like this one.
func (r *release) resource(client dynamic.Interface, object *unstructured.Unstructured) dynamic.ResourceInterface {
	kind := object.GroupVersionKind()
	plural := map[string]string{"NetworkPolicy": "networkpolicies"}[kind.Kind]
	plural = cmp.Or(plural, strings.ToLower(kind.Kind)+"s")
	resource := client.Resource(schema.GroupVersionResource{Group: kind.Group, Version: kind.Version, Resource: plural})
	if object.GetNamespace() == "" {
		return resource
	}
	return resource.Namespace(object.GetNamespace())
}

// What the chart makes of each flavour's values is what the API server takes:
// every field known, every pod restricted, with a server of its own or not.
func TestChartIsAcceptedInEachFlavour(t *testing.T) {
	t.Parallel()
	client, err := dynamic.NewForConfig(parts.cluster.Config)
	must(t, err)
	for _, flavour := range []string{"kubernetes", "aws", "gcp"} {
		t.Run(flavour, func(t *testing.T) {
			r := newRelease(t)
			_, err := parts.cluster.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: r.runs}}, metav1.CreateOptions{})
			must(t, err)
			// The operator's own kinds are checked by decoding, without a cluster.
			args := append([]string{"template"}, r.args(flavour, values{
				"zenml":      r.environment(nil),
				"logshipper": values{"enabled": true},
				"monitoring": values{"serviceMonitor": values{"enabled": false}, "rules": values{"enabled": false}},
				"nats":       values{"url": "", "server": values{"enabled": true}},
			})...)
			kinds := map[string]int{}
			for _, object := range objects(t, r.helm(args...)) {
				kinds[object.GetKind()]++
				if object.GetKind() == "Namespace" {
					continue // it is there, to take the others
				}
				// Pod templates are held to the namespace's standard by a pod
				// that is made of them.
				_, err := r.resource(client, &object).Create(t.Context(), &object, metav1.CreateOptions{DryRun: []string{"All"}, FieldValidation: "Strict"})
				if err != nil {
					t.Errorf("%s %s: %v", object.GetKind(), object.GetName(), err)
				}
				r.tryPod(client, &object)
			}
			for kind, least := range map[string]int{
				"Deployment": 2, "StatefulSet": 1, "ServiceAccount": 3, "Role": 1, "RoleBinding": 1, "PodDisruptionBudget": 2,
				"NetworkPolicy": 4, "Service": 3, "ConfigMap": 3, "Namespace": 1,
			} {
				if kinds[kind] < least {
					t.Errorf("there are %d objects of kind %s, want at least %d", kinds[kind], kind, least)
				}
			}
		})
	}
}

// Whoever has NATS, S3 or a registry on a port of their own need not find out
// that the policies do not know it.
func TestPoliciesLetOutToWhatSettingsName(t *testing.T) {
	t.Parallel()
	r := newRelease(t)
	rendered := r.helm(append([]string{"template", "--show-only", "templates/networkpolicies.yaml"}, r.args("aws", values{
		"nats":     values{"url": "tls://a.nats:4223,tls://b.nats:4224"},
		"settings": values{"ROPEWALK_S3_ENDPOINT": "http://s3.storage.svc:9000/"},
		"zenml":    r.environment(values{"ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY": "registry.example.com:5000/zenml"}),
	})...)...)
	for _, port := range []string{"443", "4222", "6443", "4223", "4224", "9000", "5000"} {
		if found := strings.Count(rendered, "{port: "+port+", protocol: TCP}"); found != 2 {
			t.Errorf("%d of the 2 processes may reach port %s", found, port)
		}
	}
}

// The pages' own commands install what the cluster takes.
func TestCommandsThatInstallAreAccepted(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "docs", "install.md"))
	must(t, err)
	commands := regexp.MustCompile(`(?m)^ *helm (install (?:.*\\\n)*.*)$`).FindAllStringSubmatch(string(text), -1)
	if len(commands) < 2 {
		t.Fatalf("the page installs by %q", commands)
	}
	for _, command := range commands {
		r := newRelease(t)
		line := strings.NewReplacer("\\\n", " ", "--namespace ropewalk", "", "deploy/helm", filepath.Join(root, "deploy", "helm"),
			"my-values.yaml", filepath.Join(root, "deploy", "helm", "values", "gcp.yaml"), "install ropewalk ", "install "+r.name+" ").Replace(command[1])
		// What the operator's own kinds need is not in every cluster.
		r.helm(append(strings.Fields(line), "--dry-run=server", "--set", "monitoring.serviceMonitor.enabled=false,monitoring.rules.enabled=false")...)
	}
}

// tryPod asks whether the pod of a template would be let in.
func (r *release) tryPod(client dynamic.Interface, object *unstructured.Unstructured) {
	r.t.Helper()
	template, found, err := unstructured.NestedMap(object.Object, "spec", "template")
	must(r.t, err)
	if !found {
		return
	}
	pod := &unstructured.Unstructured{Object: map[string]any{"apiVersion": "v1", "kind": "Pod", "metadata": map[string]any{"name": "trial"}, "spec": template["spec"]}}
	must(r.t, unstructured.SetNestedField(pod.Object, "default", "spec", "serviceAccountName"))
	pod.SetNamespace(r.namespace)
	claims, _, err := unstructured.NestedSlice(object.Object, "spec", "volumeClaimTemplates")
	must(r.t, err)
	volumes, _, err := unstructured.NestedSlice(pod.Object, "spec", "volumes")
	must(r.t, err)
	for range claims { // of which the StatefulSet would make a volume
		volumes = append(volumes, map[string]any{"name": "data", "emptyDir": map[string]any{}})
	}
	must(r.t, unstructured.SetNestedSlice(pod.Object, volumes, "spec", "volumes"))
	if _, err := r.resource(client, pod).Create(r.t.Context(), pod, metav1.CreateOptions{DryRun: []string{"All"}}); err != nil {
		r.t.Errorf("the pod of %s %s: %v", object.GetKind(), object.GetName(), err)
	}
}

// Dispatchers in the cluster, with the rights of the chart's account and no
// others, run 50 runs while they are replaced by an upgrade: each once. Then
// all is uninstalled, and what is left is what the chart says.
func TestChartRunsRunsAndUpgradesUnderLoad(t *testing.T) {
	t.Parallel()
	r := newRelease(t)
	tag := r.pushImages()
	w := r.world()
	const limit = 10
	settings := values{
		"image": values{"repository": registry() + "/" + r.namespace, "tag": tag},
		"zenml": r.environment(values{"ZENML_SERVER_MAX_CONCURRENT_TEMPLATE_RUNS": limit}),
		"settings": values{
			"ROPEWALK_POD_TEMPLATE_PATCH": rig.GatePatch, "ROPEWALK_IMAGE_RESOLVE_DIGEST": "false", "ROPEWALK_LOG_ARCHIVE": "file:///tmp/logs", "ROPEWALK_RUN_RETENTION": 2592000,
		},
		"nats":       values{"url": w.settings["ROPEWALK_NATS_URL"], "replicas": 1, "auth": "none", "tls": values{"ca": false}},
		"monitoring": values{"serviceMonitor": values{"enabled": false}, "rules": values{"enabled": false}},
		"logshipper": values{"replicas": 1},
	}
	r.helm(append(waits("install"), r.args("kubernetes", settings)...)...)
	r.noneRestarted()
	w.watchRecords()
	var err error
	w.observer, err = rig.Observe(w.call(), parts.cluster.Client, r.runs, true)
	must(t, err)
	t.Cleanup(w.observer.Stop)

	// Some runs are held over the whole upgrade, while others come and go.
	heldRuns := span(0, limit/2)
	runs := w.publishLoad("default", 50, 500*time.Millisecond, 3*time.Second, heldRuns...)
	owners := map[string]string{}
	w.awaitRecords("the runs that are held to be under way", func(records map[string]rig.Record) bool {
		return !slices.ContainsFunc(heldRuns, func(i int) bool {
			owners[runs.ids[i]] = records[runs.ids[i]].Owner
			return records[runs.ids[i]].State != "running"
		})
	})
	settings["dispatcher"] = values{"podAnnotations": map[string]string{"round": "two"}}
	r.helm(append(waits("upgrade"), r.args("kubernetes", settings)...)...)
	t.Logf("%d runs had begun when the upgrade was over", len(w.records.Now()))
	for _, i := range heldRuns {
		id := runs.ids[i]
		w.awaitRun(id, "a run to be handed over from a dispatcher that was replaced", func(record rig.Record) bool { return record.Owner != owners[id] })
		w.letGo(id)
	}
	w.awaitFinal(runs.ids)
	w.check(runs)
	if most := w.observer.Counts("default").Most; most > limit {
		t.Errorf("at most %d Jobs were active at once, want %d", most, limit)
	}
	r.forbiddenNothing()
	r.uninstall()
}

// pushImages puts the images of this source where the cluster finds them.
func (r *release) pushImages() (tag string) {
	r.t.Helper()
	ctx := wait.Context(r.t, "the images to be made")
	nodes, err := parts.cluster.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{Limit: 1})
	must(r.t, err)
	tag = "e2e"
	command := exec.CommandContext(ctx, "go", "run", "./internal/imagegen", "-out", r.t.TempDir(), "-tag", tag, "-buildflags", "",
		"-platforms", "linux/"+nodes.Items[0].Status.NodeInfo.Architecture, "-push", registry()+"/"+r.namespace)
	command.Dir = root
	text, err := command.CombinedOutput()
	if err != nil {
		r.t.Fatalf("make the images: %v\n%s", err, text)
	}
	return tag
}

// world is a NATS server that pods can reach, and who watches it.
func (r *release) world() *world {
	r.t.Helper()
	w := &world{t: r.t, dir: r.t.TempDir(), namespace: r.runs}
	ctx := wait.Context(r.t, "nats-server to answer")
	var err error
	w.nats, err = rig.StartNATS(ctx, parts.natsServer, w.dir)
	must(r.t, err)
	r.t.Cleanup(w.endProcesses)
	r.t.Cleanup(w.explain)
	w.conn, w.js, err = w.nats.Connect(ctx)
	must(r.t, err)
	r.t.Cleanup(w.conn.Close)
	reachable, err := rig.NewProxyOn(podHost(), w.nats.URL())
	must(r.t, err)
	r.t.Cleanup(func() { _ = reachable.Cut() }) // the connections may have ended before
	w.settings = rig.Settings{"ROPEWALK_NATS_URL": "nats://" + reachable.Address()}
	return w
}

func (r *release) pods(component string) []corev1.Pod {
	r.t.Helper()
	list, err := parts.cluster.Client.CoreV1().Pods(r.namespace).List(r.t.Context(), metav1.ListOptions{
		LabelSelector: "app.kubernetes.io/instance=" + r.name + ",app.kubernetes.io/component=" + component,
	})
	must(r.t, err)
	return list.Items
}

func (r *release) noneRestarted() {
	r.t.Helper()
	for component, want := range map[string]int{"dispatcher": 2, "logshipper": 1} {
		pods := r.pods(component)
		if len(pods) != want {
			r.t.Errorf("there are %d pods of the %s, want %d", len(pods), component, want)
		}
		for _, pod := range pods {
			if restarts := pod.Status.ContainerStatuses[0].RestartCount; restarts > 0 {
				r.t.Errorf("%s was restarted %d times", pod.Name, restarts)
			}
		}
	}
}

// forbiddenNothing demands that the Role was enough.
func (r *release) forbiddenNothing() {
	r.t.Helper()
	for _, pod := range r.pods("dispatcher") {
		log, err := parts.cluster.Client.CoreV1().Pods(r.namespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(r.t.Context())
		must(r.t, err)
		if strings.Contains(strings.ToLower(string(log)), "forbidden") {
			r.t.Errorf("a dispatcher needs more than the Role of the chart: %s", log)
		}
		if !strings.Contains(string(log), "reached the cluster") {
			r.t.Errorf("the log of %s is not what is looked for: %s", pod.Name, log)
		}
	}
}

// uninstall demands that nothing of the release is left but the namespace of
// the runs, with the Jobs in it.
func (r *release) uninstall() {
	r.t.Helper()
	client, err := dynamic.NewForConfig(parts.cluster.Config)
	must(r.t, err)
	made := objects(r.t, r.helm("get", "manifest", r.name))
	r.helm(append(waits("uninstall"), r.name)...)
	var left []string
	for _, object := range made {
		_, err := r.resource(client, &object).Get(r.t.Context(), object.GetName(), metav1.GetOptions{})
		if err == nil {
			left = append(left, fmt.Sprintf("%s %s", object.GetKind(), object.GetName()))
		} else if !apierrors.IsNotFound(err) {
			r.t.Error(err)
		}
	}
	if want := []string{"Namespace " + r.runs}; !slices.Equal(left, want) {
		r.t.Errorf("%v is left, want %v", left, want)
	}
	jobs, err := parts.cluster.Client.BatchV1().Jobs(r.runs).List(r.t.Context(), metav1.ListOptions{})
	must(r.t, err)
	if len(jobs.Items) != 50 {
		r.t.Errorf("%d Jobs are left, want the 50 that ran", len(jobs.Items))
	}
}

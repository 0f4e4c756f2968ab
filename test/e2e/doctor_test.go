//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// finding is a line of doctor's, as scripts read it.
type finding struct {
	Check, Status, Found, ToDo string
}

// doctor runs dispatcher doctor in the dispatcher's environment, changed by
// more, and returns its findings by check and its exit code.
func (w *world) doctor(more rig.Settings, args ...string) (map[string]finding, int) {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(wait.Context(w.t, "dispatcher doctor"), parts.dispatcher, append([]string{"doctor", "-o", "json"}, args...)...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Env = []string{"HOME=" + w.dir, "TMPDIR=" + os.TempDir()}
	for name, value := range w.settings.With(more) {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatal(err)
	}
	var report struct{ Findings []finding }
	if err := json.Unmarshal(stdout.Bytes(), &report); err != nil {
		w.t.Fatalf("%v: %s%s", err, stdout.String(), stderr.String())
	}
	findings := map[string]finding{}
	for _, f := range report.Findings {
		findings[f.Check] = f
	}
	return findings, cmd.ProcessState.ExitCode()
}

// names demands that doctor fails, and finds this and nothing else.
func (w *world) doctorNames(more rig.Settings, check, says string, args ...string) {
	w.t.Helper()
	findings, code := w.doctor(more, args...)
	if f := findings[check]; code != 1 || f.Status != "failed" || !strings.Contains(f.Found+" "+f.ToDo, says) || f.ToDo == "" {
		w.t.Errorf("doctor ends with %d and finds %+v, want it to name %s: %s", code, f, check, says)
	}
	for _, f := range findings {
		if f.Status == "failed" && f.Check != check {
			w.t.Errorf("with %s broken, doctor also finds %+v", check, f)
		}
	}
}

func TestDoctorOnAClusterNamesWhatIsBroken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("3"))
	must(t, parts.cluster.ApplyRBAC(w.call(), w.namespace, imagesManifest))
	w.settings = w.settings.With(rig.Settings{
		"ROPEWALK_IMAGE_PLAIN_HTTP":                            registry(),
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE": "true",
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY":    registry() + "/e2e-doctor",
		"ROPEWALK_LOG_ARCHIVE":                                 "file://" + filepath.Join(w.dir, "archive"),
	})
	w.serve(1)
	// One run, so that the queue has its consumer for certain.
	w.publish("default", "first", script("exit 0"))
	w.awaitFinal([]string{"first"})
	reachable := "http://" + registry() + "/v2/"

	t.Run("nothing", func(t *testing.T) {
		findings, code := w.doctor(nil, "--server-url", reachable, "--probe-image", parts.image)
		for name, f := range findings {
			if f.Status == "failed" || f.Status == "skipped" || f.Status == "warning" {
				t.Errorf("on a healthy cluster doctor finds %+v", f)
			}
			if f.Status == "ok" && f.ToDo != "" {
				t.Errorf("%s is well and there is something to do: %s", name, f.ToDo)
			}
		}
		if code != 0 || findings["server url"].Status != "ok" || findings["registry: push"].Status != "ok" {
			t.Errorf("exit code %d, %+v", code, findings)
		}
		jobs, err := parts.cluster.Client.BatchV1().Jobs(w.namespace).List(w.call(), metav1.ListOptions{LabelSelector: "ropewalk.dev/queue=doctor"})
		if err != nil || len(jobs.Items) > 0 {
			t.Errorf("the probe has left %d Jobs, %v", len(jobs.Items), err)
		}
	})
	t.Run("by what the environment says", func(t *testing.T) {
		empty := filepath.Join(w.dir, "no-kubeconfig")
		for check, c := range map[string]struct {
			more rig.Settings
			says string
		}{
			"nats":            {rig.Settings{"ROPEWALK_NATS_URL": "nats://127.0.0.1:1"}, "ROPEWALK_NATS_URL"},
			"cluster":         {rig.Settings{"KUBECONFIG": empty}, "KUBECONFIG"},
			"service account": {rig.Settings{"ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT": "nobody"}, "create serviceaccount nobody"},
			"pull secrets":    {rig.Settings{"ROPEWALK_IMAGE_PULL_SECRETS": "missing"}, "pull secret missing: does not exist"},
			"registry: pull":  {rig.Settings{"ZENML_KUBERNETES_WORKLOAD_MANAGER_RUNNER_IMAGE": registry() + "/no/such:image"}, "no image " + registry() + "/no/such:image"},
			"admission of jobs": {
				rig.Settings{"ROPEWALK_POD_TEMPLATE_PATCH": `{"spec": {"containers": [{"name": "run", "imagePullPolicy": "Perhaps"}]}}`}, "Perhaps",
			},
			"log archive": {rig.Settings{"ROPEWALK_LOG_ARCHIVE": "file:///proc/archive"}, "Make the folder writable"},
			"queues":      {rig.Settings{"ROPEWALK_ACK_WAIT": "40s"}, "waits 15s for a sign of life, not 40s"},
		} {
			w.doctorNames(c.more, check, c.says)
		}
		w.doctorNames(nil, "server url", "Connection refused", "--server-url", "http://127.0.0.1:1/", "--probe-image", parts.image)
	})
	t.Run("by a registry that lets nobody in", func(t *testing.T) {
		host := guarded(t, w.dir, "")
		closed := rig.Settings{
			"ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY": host + "/e2e-doctor", "ROPEWALK_IMAGE_PLAIN_HTTP": registry() + "," + host,
		}
		findings, code := w.doctor(closed)
		if code != 1 || findings["registry: push"].Status != "failed" || findings["registry: pull"].Status != "failed" ||
			!strings.Contains(findings["registry: push"].Found, "asks for a login") {
			t.Errorf("exit code %d, %+v, %+v", code, findings["registry: push"], findings["registry: pull"])
		}
		w.pullSecret("credentials", host, "h0rse-battery")
		if findings, code = w.doctor(closed.With(rig.Settings{"ROPEWALK_IMAGE_PULL_SECRETS": "credentials"})); code != 0 {
			t.Errorf("with credentials: exit code %d, %+v", code, findings)
		}
	})
	t.Run("by what is in the cluster", w.doctorNamesWhatTheClusterHas)
}

// doctorNamesWhatTheClusterHas breaks the namespace for good, step by step.
func (w *world) doctorNamesWhatTheClusterHas(t *testing.T) {
	ctx := wait.Context(w.t, "doctor to find what the cluster has")
	labelled := func(value string) {
		t.Helper()
		text := fmt.Sprintf(`{"metadata": {"labels": {"pod-security.kubernetes.io/enforce": %s}}}`, value)
		_, err := parts.cluster.Client.CoreV1().Namespaces().Patch(ctx, w.namespace, types.MergePatchType, []byte(text), metav1.PatchOptions{})
		must(t, err)
	}
	labelled(`"restricted"`)
	w.doctorNames(nil, "admission of jobs", "ROPEWALK_POD_RUN_AS_NON_ROOT")
	labelled("null")

	quotas := parts.cluster.Client.CoreV1().ResourceQuotas(w.namespace)
	_, err := quotas.Create(ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "full"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")}},
	}, metav1.CreateOptions{})
	must(t, err)
	must(t, rig.Poll(ctx, 100*time.Millisecond, func() error {
		// Until the quota is in force, doctor finds nothing.
		findings, code := w.doctor(nil)
		if f := findings["admission of jobs"]; code != 0 || f.Status != "warning" || !strings.Contains(f.Found, "exceeded quota") {
			return fmt.Errorf("exit code %d, %+v", code, f)
		}
		return nil
	}))
	must(t, quotas.Delete(ctx, "full", metav1.DeleteOptions{}))

	must(t, parts.cluster.RevokeRBAC(ctx, w.namespace, w.account))
	findings, code := w.doctor(nil)
	for _, check := range []string{"right to create jobs", "right to watch pods", "right to create secrets", "right to list events"} {
		if f := findings[check]; code != 1 || f.Status != "failed" || !strings.Contains(f.ToDo, "rbac.yaml") {
			t.Errorf("without rights: exit code %d, %s is %+v", code, check, f)
		}
	}
	if f := findings["admission of jobs"]; f.Status != "skipped" {
		t.Errorf("without rights, admission is %+v", f)
	}
}

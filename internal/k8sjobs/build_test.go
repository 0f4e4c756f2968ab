package k8sjobs

import (
	"bytes"
	"errors"
	"flag"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"pgregory.net/rapid"
	"sigs.k8s.io/yaml"

	"github.com/ropewalk/ropewalk/internal/run"
)

var update = flag.Bool("update", false, "write the golden files anew")

// restricted is what an operator has who has set nothing but what must be.
func restricted() Settings {
	return Settings{
		Namespace: "runs", Instance: "ropewalk", ServiceAccount: "runner", Security: Restricted(),
		TTLSecondsAfterFinished: 172800, RequestMaySet: []string{"resources", "nodeSelector", "tolerations"},
	}
}

// plain is the least that a request can be.
func plain() run.Launch {
	return run.Launch{
		Attempt: 1, Image: "registry.example.com/runner:1",
		Request: run.Request{Version: run.Version, ID: "nightly-7", Queue: "default", Command: []string{"python", "-m", "train"}},
	}
}

// elaborate settings and an elaborate launch set everything that can be set.
func elaborate() (Settings, run.Launch) {
	settings := restricted()
	settings.ImagePullSecrets = []string{"registry-login"}
	settings.Resources = run.Resources{
		Requests: map[string]string{"cpu": "100m", "memory": "400Mi"},
		Limits:   map[string]string{"memory": "700Mi"},
	}
	settings.NodeSelector = map[string]string{"node-pool": "cpu", "zone": "a"}
	settings.Tolerations = []run.Toleration{{Key: "node-pool", Operator: "Equal", Value: "runs", Effect: "NoSchedule"}}
	settings.Labels = map[string]string{"team": "ml", LabelRunID: "forged"}
	settings.Annotations = map[string]string{"sidecar.istio.io/inject": "false"}
	settings.Security.RunAsUser = new(int64(1000))
	settings.BackoffLimit = 2
	settings.PodFailurePolicy = `{"rules": [
		{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]},
		{"action": "FailJob", "onExitCodes": {"containerName": "run", "operator": "In", "values": [42]}}]}`
	settings.RequestMaySet = podFields()
	settings.MaxTimeout = time.Hour
	settings.PodTemplatePatch = `
metadata:
  annotations: {patched: "yes"}
spec:
  runtimeClassName: gvisor
  automountServiceAccountToken: false
  containers:
  - name: run
    volumeMounts: [{name: scratch, mountPath: /scratch}]
    env: [{name: SCRATCH, value: /scratch}]
  volumes:
  - name: scratch
    emptyDir: {}
`
	launch := plain()
	launch.Attempt = 3
	launch.Request.ID = "Nightly_7"
	launch.Request.Args = []string{"--out", "$(OUT)", "--price", "$5"}
	launch.Request.WorkingDir = "/app"
	launch.Request.Env = map[string]string{"OUT": "s3://bucket/out", "ALSO": "$(OUT)/x", "A": ""}
	launch.Request.SecretEnv = map[string]run.Secret{"ZENML_STORE_API_TOKEN": "hunter2", "B": "$(OUT)"}
	launch.Request.Pod = run.Pod{
		Resources:         run.Resources{Requests: map[string]string{"memory": "1Gi"}, Limits: map[string]string{"memory": "2Gi", "nvidia.com/gpu": "1"}},
		NodeSelector:      map[string]string{"node-pool": "gpu"},
		Tolerations:       []run.Toleration{{Key: "gpu", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: new(int64(60))}},
		ServiceAccount:    "trainer",
		PriorityClassName: "nightly",
	}
	launch.Request.Timeout = run.Duration(90 * time.Second)
	launch.Request.Labels = map[string]string{"team": "somebody", "app.kubernetes.io/managed-by": "forged", "project": "churn"}
	launch.Request.Annotations = map[string]string{"note": "from the request"}
	return settings, launch
}

func TestBuildMakesTheseObjects(t *testing.T) {
	elaborateSettings, elaborateLaunch := elaborate()
	relaxed := restricted()
	relaxed.Security = Security{AllowPrivilegeEscalation: true, SeccompProfile: "none", RunAsUser: new(int64(0))}
	unconfined := restricted()
	unconfined.Security = Security{SeccompProfile: "Unconfined", DropCapabilities: []string{"NET_RAW"}, RunAsNonRoot: true}
	timed := plain()
	timed.Request.Timeout = run.Duration(1500 * time.Millisecond)
	for name, test := range map[string]struct {
		settings Settings
		launch   run.Launch
	}{
		"plain":      {restricted(), plain()},
		"elaborate":  {elaborateSettings, elaborateLaunch},
		"relaxed":    {relaxed, plain()},
		"unconfined": {unconfined, timed},
	} {
		t.Run(name, func(t *testing.T) {
			job, secret := build(t, test.settings, test.launch)
			golden(t, name+".job.yaml", job, &batchv1.Job{})
			if secret != nil {
				golden(t, name+".secret.yaml", secret, &corev1.Secret{})
			}
		})
	}
}

// golden compares an object with its file, and decodes the file strictly back
// into the same object: a field that Kubernetes does not know cannot hide there.
func golden[T any](t *testing.T, name string, object, empty T) {
	t.Helper()
	text, err := yaml.Marshal(object)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, text, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(text, want) {
		t.Errorf("%s differs; if it should, run the test with -update\ngot:\n%s", path, text)
	}
	data, err := yaml.YAMLToJSONStrict(want)
	if err != nil {
		t.Fatal(err)
	}
	if err := decodeStrictly(data, empty); err != nil {
		t.Errorf("%s: %v", path, err)
	}
	if !equality.Semantic.DeepEqual(empty, object) {
		t.Errorf("%s decodes to something else: %+v", path, empty)
	}
}

func build(t *testing.T, settings Settings, launch run.Launch) (*batchv1.Job, *corev1.Secret) {
	t.Helper()
	template, err := Compile(settings)
	if err != nil {
		t.Fatal(err)
	}
	before := launch.Request.Hash()
	job, secret, err := template.Build(launch)
	if err != nil {
		t.Fatal(err)
	}
	again, _, err := template.Build(launch)
	if err != nil || !reflect.DeepEqual(job, again) || launch.Request.Hash() != before {
		t.Errorf("Build is not pure: %v", err)
	}
	return job, secret
}

func TestBuildRefuses(t *testing.T) {
	settings := restricted()
	settings.RequestMaySet = []string{"resources"}
	settings.MaxTimeout = time.Minute
	for sentence, test := range map[string]struct {
		edit   func(*run.Launch)
		reason run.Reason
		says   []string
	}{
		"a pod field that requests may not set": {
			func(l *run.Launch) { l.Request.Pod.NodeSelector = map[string]string{"a": "b"} },
			run.PolicyRefused,
			[]string{"pod.nodeSelector", "ROPEWALK_REQUEST_MAY_SET"},
		},
		"every pod field that requests may not set": {
			func(l *run.Launch) {
				l.Request.Pod = run.Pod{ServiceAccount: "admin", PriorityClassName: "high", Tolerations: []run.Toleration{{Operator: "Exists"}}}
			},
			run.PolicyRefused,
			[]string{"pod.tolerations and pod.serviceAccount and pod.priorityClassName"},
		},
		"a timeout above the operator's": {
			func(l *run.Launch) { l.Request.Timeout = run.Duration(time.Minute + 1) },
			run.PolicyRefused,
			[]string{"1m0", "ROPEWALK_MAX_TIMEOUT"},
		},
		"an annotation that turns AppArmor off": {
			func(l *run.Launch) {
				l.Request.Annotations = map[string]string{"container.apparmor.security.beta.kubernetes.io/run": "unconfined"}
			},
			run.PolicyRefused,
			[]string{"container.apparmor.security.beta.kubernetes.io/run"},
		},
		"a run without an image": {
			func(l *run.Launch) { l.Image = "" }, run.InvalidRequest, []string{"image"},
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			template, err := Compile(settings)
			if err != nil {
				t.Fatal(err)
			}
			launch := plain()
			test.edit(&launch)
			_, _, err = template.Build(launch)
			var refused *run.LaunchError
			if !errors.As(err, &refused) || refused.Reason != test.reason || refused.Temporary {
				t.Fatalf("Build: %v, want it refused with %s", err, test.reason)
			}
			for _, words := range test.says {
				if !strings.Contains(refused.Message, words) {
					t.Errorf("message %q does not say %q", refused.Message, words)
				}
			}
		})
	}
}

func TestBuildNamesAQuantityThatIsNone(t *testing.T) {
	template, err := Compile(restricted())
	if err != nil {
		t.Fatal(err)
	}
	launch := plain()
	launch.Request.Pod.Resources.Limits = map[string]string{"memory": "1.5.5Gi"}
	_, _, err = template.Build(launch)
	var invalid *run.InvalidError
	if !errors.As(err, &invalid) || !strings.Contains(err.Error(), "limits[memory]") {
		t.Errorf("Build: %v, want the limit named", err)
	}
}

func TestTimeoutBecomesADeadline(t *testing.T) {
	for sentence, test := range map[string]struct {
		asked, most  time.Duration
		backoffLimit int32
		pod, job     *int64
	}{
		"none asked for, none set":    {pod: nil},
		"asked for":                   {asked: time.Minute, pod: new(int64(60))},
		"not a whole second":          {asked: 1001 * time.Millisecond, pod: new(int64(2))},
		"none asked for, so the most": {most: time.Hour, pod: new(int64(3600))},
		"as much as allowed":          {asked: time.Hour, most: time.Hour, pod: new(int64(3600))},
		"several pods share it":       {asked: time.Minute, backoffLimit: 1, pod: new(int64(60)), job: new(int64(60))},
	} {
		t.Run(sentence, func(t *testing.T) {
			settings, launch := restricted(), plain()
			settings.MaxTimeout, settings.BackoffLimit = test.most, test.backoffLimit
			launch.Request.Timeout = run.Duration(test.asked)
			job, _ := build(t, settings, launch)
			if got := job.Spec.Template.Spec.ActiveDeadlineSeconds; !reflect.DeepEqual(got, test.pod) {
				t.Errorf("the pod's deadline is %v, want %v", got, test.pod)
			}
			if got := job.Spec.ActiveDeadlineSeconds; !reflect.DeepEqual(got, test.job) {
				t.Errorf("the Job's deadline is %v, want %v", got, test.job)
			}
		})
	}
}

func TestSecretsStayOutOfTheJob(t *testing.T) {
	settings, launch := elaborate()
	job, secret := build(t, settings, launch)
	text, err := yaml.Marshal(job)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte("hunter2")) {
		t.Error("the Job holds a secret's value")
	}
	if string(secret.Data["ZENML_STORE_API_TOKEN"]) != "hunter2" || secret.Name != job.Name {
		t.Errorf("the Secret %s does not hold the secret of Job %s", secret.Name, job.Name)
	}
	owner := ownedBy(run.Job{Name: job.Name, UID: "u1"})[0]
	if owner.Kind != "Job" || owner.Name != job.Name || owner.UID != "u1" || !*owner.BlockOwnerDeletion {
		t.Errorf("the Secret's owner is %+v", owner)
	}
}

// TestNothingIsExpanded holds literal against the rules that Kubernetes
// documents for $(NAME): a known name gives its value, an unknown one stays, $$
// gives $.
func TestNothingIsExpanded(t *testing.T) {
	alphabet := rapid.StringOfN(rapid.SampledFrom([]rune("$()AB x")), 0, 12, -1)
	rapid.Check(t, func(t *rapid.T) {
		text := alphabet.Draw(t, "text")
		if got := expand(literal(text), map[string]string{"A": "value", "AB": "value"}); got != text {
			t.Fatalf("%q was written %q and comes out as %q", text, literal(text), got)
		}
	})
}

func expand(text string, values map[string]string) string {
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		rest := text[i+1:]
		switch {
		case text[i] == '$' && strings.HasPrefix(rest, "$"):
			out.WriteByte('$')
			i++
		case text[i] == '$' && strings.HasPrefix(rest, "(") && strings.Contains(rest, ")"):
			name, _, _ := strings.Cut(rest[1:], ")")
			value, known := values[name]
			if !known {
				value = "$(" + name + ")"
			}
			out.WriteString(value)
			i += len(name) + 2
		default:
			out.WriteByte(text[i])
		}
	}
	return out.String()
}

func TestCompileNamesWhatIsWrong(t *testing.T) {
	for sentence, test := range map[string]struct {
		edit func(*Settings)
		says []string
	}{
		"nothing is set": {
			func(s *Settings) { *s = Settings{} },
			[]string{"ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE", "ROPEWALK_INSTANCE", "ROPEWALK_POD_SECCOMP_PROFILE"},
		},
		"a pod failure policy with a misspelt field": {
			func(s *Settings) {
				s.PodFailurePolicy = `{"rules": [{"action": "Ignore", "onPodCondition": [{"type": "DisruptionTarget"}]}]}`
			},
			[]string{"ZENML_KUBERNETES_WORKLOAD_MANAGER_POD_FAILURE_POLICY", `unknown field "rules[0].onPodCondition"`},
		},
		"a pod failure policy with an action of indexed Jobs": {
			func(s *Settings) {
				s.PodFailurePolicy = `{"rules": [{"action": "FailIndex", "onPodConditions": [{"type": "DisruptionTarget"}]}]}`
			},
			[]string{"rules[0].action", "FailJob, Ignore or Count"},
		},
		"a pod failure policy without rules": {
			func(s *Settings) { s.PodFailurePolicy = `{}` }, []string{"has no rules"},
		},
		"a pod failure policy with an empty rule": {
			func(s *Settings) { s.PodFailurePolicy = `{"rules": [{"action": "Ignore"}]}` }, []string{"rules[0] must have one of"},
		},
		"a pod failure policy for another system's container": {
			func(s *Settings) {
				s.PodFailurePolicy = `{"rules": [{"action": "FailJob", "onExitCodes": {"containerName": "main", "operator": "In", "values": [1]}}]}`
			},
			[]string{`containerName is "main"`, "they are: run"},
		},
		"a pod failure policy that is not YAML": {
			func(s *Settings) { s.PodFailurePolicy = `{"rules": [` }, []string{"neither JSON nor YAML"},
		},
		"a patch that is not YAML": {
			func(s *Settings) { s.PodTemplatePatch = "spec: [" }, []string{"ROPEWALK_POD_TEMPLATE_PATCH", "neither JSON nor YAML"},
		},
		"a patch with a misspelt field": {
			func(s *Settings) { s.PodTemplatePatch = "spec: {runtimeclassName: gvisor}" },
			[]string{"ROPEWALK_POD_TEMPLATE_PATCH", `unknown field "spec.runtimeclassName"`},
		},
		"a patch that is a list": {
			func(s *Settings) { s.PodTemplatePatch = "[1]" }, []string{"ROPEWALK_POD_TEMPLATE_PATCH", "strategic merge patch"},
		},
		"a patch with a number where text belongs": {
			func(s *Settings) { s.PodTemplatePatch = "spec: {hostname: 7}" }, []string{"ROPEWALK_POD_TEMPLATE_PATCH", "hostname"},
		},
		"a patch that takes our container away": {
			func(s *Settings) { s.PodTemplatePatch = "spec: {containers: [{$patch: delete, name: run}]}" }, []string{`no container "run"`},
		},
		"a patch that changes our labels": {
			func(s *Settings) {
				s.PodTemplatePatch = "metadata: {labels: {ropewalk.dev/queue: other}, annotations: {ropewalk.dev/request-hash: x}}"
			},
			[]string{"the label ropewalk.dev/queue", "the annotation ropewalk.dev/request-hash"},
		},
		"a patch that lets the pod restart": {
			func(s *Settings) { s.PodTemplatePatch = "spec: {restartPolicy: OnFailure}" }, []string{"restartPolicy"},
		},
		"an unknown field that requests may set": {
			func(s *Settings) { s.RequestMaySet = []string{"hostNetwork"} }, []string{"ROPEWALK_REQUEST_MAY_SET", `"hostNetwork"`},
		},
		"a quantity that is none": {
			func(s *Settings) { s.Resources.Limits = map[string]string{"memory": "much"} },
			[]string{"ZENML_KUBERNETES_WORKLOAD_MANAGER_POD_RESOURCES", "limits[memory]"},
		},
		"root that must not be root": {
			func(s *Settings) { s.Security.RunAsNonRoot, s.Security.RunAsUser = true, new(int64(0)) }, []string{"ROPEWALK_POD_RUN_AS_USER"},
		},
		"negative numbers": {
			func(s *Settings) { s.BackoffLimit, s.TTLSecondsAfterFinished, s.MaxTimeout = -1, -1, -1 },
			[]string{"JOB_BACKOFF_LIMIT", "TTL_SECONDS_AFTER_FINISHED", "ROPEWALK_MAX_TIMEOUT"},
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			settings := restricted()
			test.edit(&settings)
			_, err := Compile(settings)
			if err == nil {
				t.Fatal("Compile found nothing wrong")
			}
			for _, words := range test.says {
				if !strings.Contains(err.Error(), words) {
					t.Errorf("the error does not say %q: %v", words, err)
				}
			}
		})
	}
}

func TestALeftOutConditionStatusIsTrue(t *testing.T) {
	policy, err := failurePolicy(`rules: [{action: Ignore, onPodConditions: [{type: DisruptionTarget}]}]`)
	if err != nil {
		t.Fatal(err)
	}
	if got := policy.Rules[0].OnPodConditions[0].Status; got != corev1.ConditionTrue {
		t.Errorf("the status is %q", got)
	}
}

func TestJobsAreTheSameOnlyForTheSameAttempt(t *testing.T) {
	wanted, _ := build(t, restricted(), plain())
	launcher := launcherFor(t, "http://nowhere", nil)
	if err := launcher.same(wanted, plain()); err != nil {
		t.Errorf("a Job is not the same as itself: %v", err)
	}
	for sentence, test := range map[string]struct {
		edit func(*batchv1.Job)
		says string
	}{
		"somebody else's":    {func(j *batchv1.Job) { delete(j.Labels, LabelManagedBy) }, "not made by Ropewalk"},
		"another instance's": {func(j *batchv1.Job) { j.Labels[LabelInstance] = "staging" }, `instance "staging"`},
		"another run's":      {func(j *batchv1.Job) { j.Labels[LabelRunID] = "other" }, "run other"},
		"another queue's":    {func(j *batchv1.Job) { j.Labels[LabelQueue] = "gpu" }, "queue gpu"},
		"another attempt's":  {func(j *batchv1.Job) { j.Labels[LabelAttempt] = "2" }, "attempt 2"},
		"another request's":  {func(j *batchv1.Job) { j.Annotations[AnnotationRequestHash] = "x" }, "another request"},
		"one without a mark": {func(j *batchv1.Job) { j.Annotations = nil }, "another request"},
	} {
		t.Run(sentence, func(t *testing.T) {
			found := wanted.DeepCopy()
			test.edit(found)
			err := launcher.same(found, plain())
			var refused *run.LaunchError
			if !errors.As(err, &refused) || refused.Reason != run.InvalidRequest || refused.Temporary || !strings.Contains(refused.Message, test.says) {
				t.Errorf("got %v, want it refused for good, saying %q", err, test.says)
			}
		})
	}
}

func TestMergedKeepsWhatItIsGiven(t *testing.T) {
	under, over := map[string]int{"a": 1, "b": 1}, map[string]int{"b": 2}
	if got := merged(under, over); !maps.Equal(got, map[string]int{"a": 1, "b": 2}) {
		t.Errorf("merged = %v", got)
	}
	if under["b"] != 1 {
		t.Error("merged changed what it was given")
	}
	if got := merged(nil, map[string]int{}); got != nil {
		t.Errorf("merged = %v, want nil", got)
	}
}

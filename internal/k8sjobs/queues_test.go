package k8sjobs

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/ropewalk/ropewalk/internal/run"
)

func TestAQueuesSettingsAreLaidOverTheOperators(t *testing.T) {
	settings := restricted()
	settings.PodTemplatePatch = `{spec: {priorityClassName: low, runtimeClassName: runc}}`
	base, err := Compile(settings)
	if err != nil {
		t.Fatal(err)
	}
	all := newTemplates(base)
	if same, err := all.of(run.Policy{Namespace: "team", Timeout: 5}); err != nil || same != base {
		t.Errorf("without settings for pods the template is another, %v", err)
	}
	policy := run.Policy{ServiceAccount: "team-runner", PodTemplatePatch: json.RawMessage(`{"spec": {"runtimeClassName": "gvisor"}}`), MayOverride: []string{"timeout", "priorityClassName"}}
	template, err := all.of(policy)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := all.of(policy); err != nil || again != template {
		t.Errorf("the same policy was compiled again, %v", err)
	}
	job, _, err := template.Build(plain())
	if err != nil {
		t.Fatal(err)
	}
	pod := job.Spec.Template.Spec
	if pod.ServiceAccountName != "team-runner" || pod.PriorityClassName != "low" || *pod.RuntimeClassName != "gvisor" {
		t.Errorf("the pod is %+v", pod)
	}
	launch := plain()
	launch.Request.Pod.Resources.Requests = map[string]string{"cpu": "1"}
	_, _, err = template.Build(launch)
	var refusal *run.LaunchError
	if !errors.As(err, &refusal) || refusal.Reason != run.PolicyRefused || !strings.Contains(refusal.Message, "pod.resources, which its queue (--may-override)") {
		t.Errorf("a field that the queue does not let requests set: %v", err)
	}
	// The request is the same, so that a Job made before is still its own.
	plainJob, _, err := base.Build(plain())
	if err != nil || job.Annotations[AnnotationRequestHash] != plainJob.Annotations[AnnotationRequestHash] {
		t.Errorf("the queue's settings change the request's hash, %v", err)
	}
}

func TestAQueuesTimeoutIsThatOfRequestsWithoutOne(t *testing.T) {
	launch := plain()
	launch.Policy.Timeout = run.Duration(90e9)
	job, _ := build(t, restricted(), launch)
	if got := job.Spec.Template.Spec.ActiveDeadlineSeconds; got == nil || *got != 90 {
		t.Errorf("the deadline is %v; want 90 s", got)
	}
	launch.Request.Timeout = run.Duration(30e9)
	if job, _ = build(t, restricted(), launch); *job.Spec.Template.Spec.ActiveDeadlineSeconds != 30 {
		t.Errorf("the deadline is %d; want the request's 30 s", *job.Spec.Template.Spec.ActiveDeadlineSeconds)
	}
}

func TestAPatchThatDoesNotFitFailsItsQueuesRunsOnly(t *testing.T) {
	base, err := Compile(restricted())
	if err != nil {
		t.Fatal(err)
	}
	all := newTemplates(base)
	_, err = all.of(run.Policy{PodTemplatePatch: json.RawMessage(`{"spec": {"restartPolicy": "Always"}}`)})
	var refusal *run.LaunchError
	if !errors.As(err, &refusal) || refusal.Temporary || refusal.Reason != run.InvalidPodSpec || !strings.Contains(refusal.Message, "restartPolicy") {
		t.Errorf("a patch that does not fit: %v", err)
	}
	if other, err := all.of(run.Policy{ServiceAccount: "x"}); err != nil || other == base {
		t.Errorf("another queue: %v", err)
	}
	if err := CheckPatch(`{"spec": {"nodeName": 5}}`); err == nil {
		t.Error("a patch with a number for a name passes")
	}
}

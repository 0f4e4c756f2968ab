//go:build e2e

package e2e

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

var update = flag.Bool("update", false, "rewrite what the tests compare with")

// provoked is a way to an end without success.
type provoked struct {
	request request
	// then is done once the run is running.
	then func(ctx context.Context, w *world, id string) error
}

// cruel is how a run comes to each end on a cluster whose patience is short.
// Two reasons need a patience of their own: see impatient.
func cruel() map[string]provoked {
	const forever = "trap 'exit 143' TERM; sleep 600 & wait $!"
	resources := func(kind string, list map[string]string) map[string]any {
		return map[string]any{"resources": map[string]any{kind: list}}
	}
	return map[string]provoked{
		"exit-code":        {request: script(`echo starting; printf 'bad \033[2J end\n'; exit 3`)},
		"exit-by-signal":   {request: script("sh -c 'kill -SEGV $$'; exit $?")},
		"exit-with-word":   {request: script("echo the bucket is not there >/dev/termination-log; exit 7")},
		"out-of-memory":    {request: script("echo growing; x=aaaaaaaa; while true; do x=$x$x; done").with("pod", resources("limits", map[string]string{"memory": "24Mi"}))},
		"no-such-program":  {request: script("").with("command", []string{"trian"})},
		"deadline":         {request: script("echo working; "+forever).with("timeout", "30s")},
		"bad-image":        {request: script("").with("image", map[string]any{"reference": "registry.invalid/none:1"})},
		"no-node":          {request: script("").with("pod", map[string]any{"nodeSelector": map[string]string{"example.com/no": "node"}})},
		"more-than-limit":  {request: script("").with("pod", map[string]any{"resources": map[string]any{"requests": map[string]string{"memory": "2Gi"}, "limits": map[string]string{"memory": "1Gi"}}})},
		"policy":           {request: script("").with("pod", map[string]any{"serviceAccount": "admin"})},
		"invalid":          {request: script("").with("timeout", "-1s")},
		"build":            {request: built("FROM nothing\n", "exit 0")},
		"cancelled":        {request: script(forever), then: cancelByCommand},
		"job-deleted":      {request: script(forever), then: deleteJob},
		"pod-deleted":      {request: script(forever), then: deletePod},
		"evicted":          {request: script(forever), then: evictPod},
		"missing-variable": {request: script("echo $X: ${NOT_SET?not set}")},
	}
}

// It is alone, and has the node to itself: how long a node takes to tell of a pod's events is
// not bounded while pods by the hundred come and go. What runs into a time limit
// shall have come as far as its reason tells by then: so the limits are longer
// than a busy node takes to start a pod, and run side by side.
func TestEveryReasonIsToldInItsOwnWords(t *testing.T) {
	w := newWorld(t, limitedTo("50").With(rig.Settings{
		"ROPEWALK_INFRASTRUCTURE_RETRIES": "0", "ROPEWALK_IMAGE_PULL_GRACE": "1s", "ROPEWALK_UNSCHEDULABLE_GRACE": "30s",
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE": "true", "ROPEWALK_IMAGE_PLAIN_HTTP": registry(),
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY": registry() + "/e2e-reasons",
		"ROPEWALK_BUILDER_IMAGE":                            parts.image, // which builds nothing
	}))
	w.serve(1)
	hurried := newWorld(t, limitedTo("10").With(rig.Settings{"ROPEWALK_START_TIMEOUT": "30s"}))
	hurried.serve(1)
	late := hurried.provoke(impatient(hurried)) // first, since they take longest
	ids := w.provoke(cruel())
	lost := w.loseNodes()
	w.awaitFinal(slices.Concat(ids, lost))
	hurried.awaitFinal(late)

	told := map[string]string{}
	seen := map[string]bool{}
	for _, place := range []*world{w, hurried} {
		for id, record := range place.records.Now() {
			told[id], seen[record.Reason] = place.told(record), true
		}
	}
	for _, reason := range run.Reasons() {
		if !seen[string(reason)] {
			t.Errorf("no run ended with %s", reason)
		}
	}
	compareGolden(t, told)
	w.checkEvidence()
}

// impatient is how runs end that wait for too long.
func impatient(w *world) map[string]provoked {
	quota := &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "small"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"requests.example.com/thing": resource.MustParse("0")}},
	}
	_, err := parts.cluster.Client.CoreV1().ResourceQuotas(w.namespace).Create(w.call(), quota, metav1.CreateOptions{})
	must(w.t, err)
	ctx := wait.Context(w.t, "the quota to be in force")
	must(w.t, rig.Poll(ctx, 50*time.Millisecond, func() error {
		found, err := parts.cluster.Client.CoreV1().ResourceQuotas(w.namespace).Get(ctx, "small", metav1.GetOptions{})
		if err == nil && len(found.Status.Hard) == 0 {
			err = errors.New("the quota is not in force yet")
		}
		return err
	}))
	thing := map[string]string{"example.com/thing": "1"}
	return map[string]provoked{
		"image-takes-too-long": {request: script("").with("image", map[string]any{"reference": "registry.invalid/none:1"})},
		"no-quota":             {request: script("").with("pod", map[string]any{"resources": map[string]any{"requests": thing, "limits": thing}})},
	}
}

// provoke publishes runs, and does to each what makes it end.
func (w *world) provoke(cases map[string]provoked) []string {
	w.t.Helper()
	ids := slices.Sorted(maps.Keys(cases))
	for _, id := range ids {
		w.publish("default", id, cases[id].request)
	}
	for _, id := range ids {
		if c := cases[id]; c.then != nil {
			w.awaitRun(id, "the run to be running", func(r rig.Record) bool { return r.State == "running" || r.Final() })
			must(w.t, c.then(w.call(), w, id))
		}
	}
	return ids
}

func cancelByCommand(_ context.Context, w *world, id string) error {
	if said := w.command("cancel", id); said.code != 0 {
		return fmt.Errorf("cancel %s: exit code %d: %s", id, said.code, said.stderr)
	}
	return nil
}

func deleteJob(ctx context.Context, w *world, id string) error {
	background := metav1.DeletePropagationBackground
	return parts.cluster.Client.BatchV1().Jobs(w.namespace).Delete(ctx, w.records.Now()[id].Job.Name, metav1.DeleteOptions{PropagationPolicy: &background})
}

// podOf is the name of a run's pod.
func (w *world) podOf(ctx context.Context, id string) (string, error) {
	pods, err := parts.cluster.Client.CoreV1().Pods(w.namespace).List(ctx, metav1.ListOptions{LabelSelector: "ropewalk.dev/run-id=" + id})
	if err != nil || len(pods.Items) != 1 {
		return "", fmt.Errorf("run %s has %d pods, want 1: %w", id, len(pods.Items), cmp.Or(err, errors.New("at this moment")))
	}
	return pods.Items[0].Name, nil
}

func deletePod(ctx context.Context, w *world, id string) error {
	name, err := w.podOf(ctx, id)
	if err != nil {
		return err
	}
	return parts.cluster.Client.CoreV1().Pods(w.namespace).Delete(ctx, name, metav1.DeleteOptions{})
}

func evictPod(ctx context.Context, w *world, id string) error {
	name, err := w.podOf(ctx, id)
	if err != nil {
		return err
	}
	return parts.cluster.Evict(ctx, w.namespace, name)
}

// loseNodes has one run lose its node, and another its place there to a pod of
// higher priority. Both nodes are puppets: what the cluster does to their pods
// is real.
func (w *world) loseNodes() []string {
	w.t.Helper()
	ctx := w.call()
	priority := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: w.namespace}, Value: 1000}
	_, err := parts.cluster.Client.SchedulingV1().PriorityClasses().Create(ctx, priority, metav1.CreateOptions{})
	must(w.t, err)
	w.t.Cleanup(func() {
		err := parts.cluster.Client.SchedulingV1().PriorityClasses().Delete(w.call(), w.namespace, metav1.DeleteOptions{})
		if err != nil {
			w.t.Error(err)
		}
	})
	ids := []string{"node-not-ready", "preempted"}
	for _, id := range ids {
		ctx := wait.Context(w.t, "run "+id+" to lose its place")
		puppet, err := parts.cluster.NewPuppet(ctx, w.namespace+"-"+id)
		if puppet != nil {
			w.t.Cleanup(func() { must(w.t, puppet.Remove(w.call())) })
		}
		must(w.t, err)
		w.publish("default", id, script("exit 0").with("pod", map[string]any{
			"nodeSelector": map[string]string{rig.PuppetLabel: puppet.Name},
			"tolerations": []map[string]any{
				{"key": rig.PuppetLabel, "operator": "Exists"},
				{"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 0},
			},
			"resources": map[string]any{"requests": map[string]string{"cpu": "1"}},
		}))
		pod, err := puppet.Run(ctx, w.namespace)
		must(w.t, err)
		_, err = w.records.AwaitRun(ctx, id, func(r rig.Record) bool { return r.State == "running" })
		must(w.t, err)
		if id == "preempted" {
			rival := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "rival"}, Spec: *pod.Spec.DeepCopy()}
			rival.Spec.NodeName, rival.Spec.PriorityClassName, rival.Spec.Priority = "", w.namespace, nil
			_, err = parts.cluster.Client.CoreV1().Pods(w.namespace).Create(ctx, rival, metav1.CreateOptions{})
		} else {
			err = puppet.Ready(ctx, false)
		}
		must(w.t, err)
		must(w.t, puppet.Disrupted(ctx, pod))
	}
	return ids
}

// told is the end of a run as its reader sees it, with the names taken out that
// are others every time.
func (w *world) told(record rig.Record) string {
	var text strings.Builder
	_, _ = fmt.Fprintf(&text, "%s (%s), exit code %s\n%s\n", record.State, record.Reason, show(record.ExitCode), record.Message)
	if record.Evidence != nil {
		for _, line := range record.Evidence.LastLines {
			_, _ = fmt.Fprintf(&text, "> %q\n", line)
		}
		// Whether a pod's log goes before it was read is the cluster's doing.
	}
	nodes, err := parts.cluster.Client.CoreV1().Nodes().List(w.call(), metav1.ListOptions{})
	must(w.t, err)
	var names []string
	for _, node := range nodes.Items {
		names = append(names, regexp.QuoteMeta(node.Name))
	}
	plain := text.String()
	for _, rule := range []struct{ pattern, name string }{
		{regexp.QuoteMeta(w.namespace) + `-(node-not-ready|preempted)`, "NODE"},
		{regexp.QuoteMeta(w.namespace), "NAMESPACE"},
		{`run-[a-z-]+-1-[a-z0-9]{5}`, "POD"},
		{`\b(?:` + strings.Join(names, "|") + `)\b`, "NODE"},
		{regexp.QuoteMeta(registry()), "REGISTRY"},
		{`0/\d+ nodes are available: .*? (Ask for fewer)`, "THE SCHEDULER'S WORDS. $1"},
		{`(could not pull the image: |cannot pull the image yet: ).*?( Check the image| See what)`, "${1}THE NODE'S WORDS.$2"},
		{`run-[a-z-]+-1\b`, "JOB"},
		{`build-[a-z0-9-]+`, "BUILDER"},
		{`[0-9a-f]{64}`, "HASH"},
		{`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`, "UID"},
	} {
		plain = regexp.MustCompile(rule.pattern).ReplaceAllString(plain, rule.name)
	}
	return plain
}

func compareGolden(t *testing.T, told map[string]string) {
	t.Helper()
	var text strings.Builder
	for _, id := range slices.Sorted(maps.Keys(told)) {
		_, _ = fmt.Fprintf(&text, "== %s\n%s\n", id, told[id])
	}
	path := filepath.Join("testdata", "reasons.golden")
	if *update {
		must(t, os.WriteFile(path, []byte(text.String()), 0o600))
		return
	}
	want, err := os.ReadFile(path)
	must(t, err)
	if got := text.String(); got != string(want) {
		t.Errorf("ends are told otherwise than in %s; -update rewrites it. Told now:\n%s", path, got)
	}
}

// checkEvidence demands that what goes with an end is in the record, and that a
// terminal is shown nothing that it would obey.
func (w *world) checkEvidence() {
	w.t.Helper()
	records := w.records.Now()
	for id, reason := range map[string]string{"bad-image": "Failed", "no-node": "FailedScheduling", "no-such-program": "Failed"} {
		evidence := records[id].Evidence
		if evidence == nil || !slices.ContainsFunc(evidence.Events, func(event struct {
			Reason  string `json:"reason"`
			Message string `json:"message"`
		},
		) bool {
			return event.Reason == reason && event.Message != ""
		}) {
			w.t.Errorf("run %s: the evidence is %+v, want an event %s", id, evidence, reason)
		}
	}
	shown := w.command("get", "exit-code")
	for _, want := range []string{"Last lines of the log of attempt 1\n  starting\n  bad \\x1b[2J end\n", "PULLING", "RUNNING", "AppError (exit code 3)"} {
		if !strings.Contains(shown.stdout, want) {
			w.t.Errorf("dispatcher get does not show %q:\n%s", want, shown.stdout)
		}
	}
	machine := w.command("get", "exit-code", "-o", "json")
	if both := shown.stdout + machine.stdout; strings.Contains(both, "\x1b") || !strings.Contains(machine.stdout, `"bad \u001b[2J end"`) {
		w.t.Errorf("dispatcher get writes what a terminal obeys, or not what the program wrote:\n%q", both)
	}
	for _, change := range records["exit-code"].History {
		if change.State == "pending" && (len(change.Phases) == 0 || change.Phases[0].Part != "pulling" || change.Phases[0].At.Before(change.At)) {
			w.t.Errorf("where the time went is not in the history: %+v", change)
		}
	}
}

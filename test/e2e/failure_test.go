//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// What is printed of a test that failed is what somebody reads who was not there,
// and no more.
const (
	mostRuns = 20
	// mostLogs are the processes whose logs are shown, the newest: a test may have
	// killed dozens.
	mostLogs     = 6
	mostWarnings = 15
	lastLines    = 20
	widestLine   = 400
)

// explain prints, if the test failed, what has become of its runs and processes,
// and what the cluster says. It is a cleanup that runs while all that is there.
func (w *world) explain() {
	if !w.t.Failed() {
		return
	}
	var text strings.Builder
	text.WriteString("what there is to know of " + w.namespace + ":\n")
	jobs := w.explainRuns(&text)
	w.explainProcesses(&text)
	ctx := wait.Context(w.t, "the cluster's account of what happened")
	for _, namespace := range append([]string{w.namespace}, w.others...) {
		explainEvents(ctx, &text, namespace, jobs)
	}
	w.t.Log(text.String())
}

// explainRuns tells of the runs that did not succeed, those that are not over
// first, and names their Jobs.
func (w *world) explainRuns(text *strings.Builder) (jobs []string) {
	if w.records == nil {
		text.WriteString("runs: the run store was never there\n")
		return nil
	}
	var open, ended []rig.Record
	states := map[string]int{}
	for _, record := range w.records.Now() {
		states[record.State]++
		switch {
		case !record.Final():
			open = append(open, record)
		case record.State != "succeeded":
			ended = append(ended, record)
		}
	}
	byID := func(a, b rig.Record) int { return strings.Compare(a.ID, b.ID) }
	slices.SortFunc(open, byID)
	slices.SortFunc(ended, byID)
	shown := slices.Concat(open, ended)
	fmt.Fprintf(text, "runs: %v", states)
	if len(shown) > mostRuns {
		fmt.Fprintf(text, "; %d of the %d that did not succeed:", mostRuns, len(shown))
		shown = shown[:mostRuns]
	}
	text.WriteByte('\n')
	for _, record := range shown {
		fmt.Fprintf(text, "  %s %s %s, attempt %d, of %s: %.*s\n   ", record.ID, record.State, record.Reason, record.Attempt, record.Owner, widestLine, record.Message)
		for _, change := range record.History[max(0, len(record.History)-12):] {
			fmt.Fprintf(text, " %s %s/%d", change.At.UTC().Format("15:04:05.0"), change.State, change.Attempt)
		}
		text.WriteByte('\n')
		if record.Job != nil {
			jobs = append(jobs, record.Job.Name)
		}
	}
	return jobs
}

// explainProcesses tells of each process whether it ended and how, and of the
// newest what they logged.
func (w *world) explainProcesses(text *strings.Builder) {
	if w.nats != nil {
		fmt.Fprintf(text, "nats-server %s\n", w.nats.State())
	}
	for _, p := range w.processes {
		fmt.Fprintf(text, "%s (process %d, from %s) %s\n", filepath.Base(p.Log), p.Pid(), p.StartedAt.UTC().Format(time.TimeOnly), p.State())
	}
	for _, p := range w.processes[max(0, len(w.processes)-mostLogs):] {
		log, err := os.ReadFile(p.Log)
		explainLog(text, filepath.Base(p.Log), string(log), err)
	}
}

// explainLog tells the warnings of a log, and its end.
func explainLog(text *strings.Builder, name, log string, err error) {
	lines := strings.Split(strings.TrimRight(log, "\n"), "\n")
	end := max(0, len(lines)-lastLines)
	warnings := slices.DeleteFunc(slices.Clone(lines[:end]), func(line string) bool {
		var entry struct{ Level string }
		return json.Unmarshal([]byte(line), &entry) == nil && !slices.Contains([]string{"warn", "error", "fatal", "panic"}, entry.Level)
	})
	fmt.Fprintf(text, "%s, of %d lines the newest warnings and the end:\n", name, len(lines))
	if err != nil {
		fmt.Fprintf(text, "  %v\n", err)
	}
	for _, line := range slices.Concat(warnings[max(0, len(warnings)-mostWarnings):], lines[end:]) {
		fmt.Fprintf(text, "  %.*s\n", widestLine, line)
	}
}

// explainEvents tells what the cluster warns of in a namespace, and what it says
// of these Jobs.
func explainEvents(ctx context.Context, text *strings.Builder, namespace string, jobs []string) {
	events, err := rig.Events(ctx, parts.cluster.Client, namespace, jobs...)
	fmt.Fprintf(text, "events of %s:\n", namespace)
	if err != nil {
		fmt.Fprintf(text, "  %v\n", err)
	}
	for _, event := range events {
		fmt.Fprintf(text, "  %s\n", event)
	}
}

// explain prints, if the test failed, what has become of the release's pods, and
// what the cluster says.
func (r *release) explain() {
	if !r.t.Failed() {
		return
	}
	var text strings.Builder
	text.WriteString("what there is to know of " + r.namespace + ":\n")
	ctx := wait.Context(r.t, "the cluster's account of what happened")
	pods, err := parts.cluster.Client.CoreV1().Pods(r.namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		fmt.Fprintf(&text, "%v\n", err)
		pods = &corev1.PodList{}
	}
	about := map[string]bool{}
	for _, pod := range pods.Items {
		about[pod.Name] = true
		fmt.Fprintf(&text, "pod %s is %s:", pod.Name, pod.Status.Phase)
		for _, status := range pod.Status.ContainerStatuses {
			fmt.Fprintf(&text, " ready %v, %d restarts, %s; before, %s", status.Ready, status.RestartCount, stateOf(status.State), stateOf(status.LastTerminationState))
		}
		text.WriteByte('\n')
	}
	for _, pod := range pods.Items[max(0, len(pods.Items)-mostLogs):] {
		log, err := parts.cluster.Client.CoreV1().Pods(r.namespace).GetLogs(pod.Name, &corev1.PodLogOptions{}).DoRaw(ctx)
		explainLog(&text, pod.Name, string(log), err)
	}
	explainEvents(ctx, &text, r.namespace, slices.Collect(maps.Keys(about)))
	r.t.Log(text.String())
}

// stateOf is a container's state in a few words.
func stateOf(state corev1.ContainerState) string {
	switch {
	case state.Running != nil:
		return "it runs"
	case state.Waiting != nil:
		return fmt.Sprintf("it waits: %s %.*s", state.Waiting.Reason, widestLine, state.Waiting.Message)
	case state.Terminated != nil:
		return fmt.Sprintf("it ended with exit code %d: %s", state.Terminated.ExitCode, state.Terminated.Reason)
	default:
		return "nothing"
	}
}

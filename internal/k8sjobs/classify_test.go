package k8sjobs

import (
	"reflect"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ropewalk/ropewalk/internal/run"
)

// t0 is when the Job of each case is made; at counts from it.
var t0 = time.Date(2026, 3, 4, 5, 6, 7, 0, time.UTC)

func at(seconds int) metav1.Time { return metav1.NewTime(t0.Add(time.Duration(seconds) * time.Second)) }

// patience of the cases: 10 minutes to start, 2 for an image, 5 for a node.
var patient = Patience{Start: 10 * time.Minute, ImagePull: 2 * time.Minute, Unschedulable: 5 * time.Minute}

// outcome is what a case expects. Empty fields of seen's message are not
// compared; says must stand in it.
type outcome struct {
	state   run.State
	reason  run.Reason
	says    []string
	silent  bool // the message is empty
	code    *int
	started int // seconds after t0; 0 is none
	ended   int
	giveUp  bool
	again   int
}

type scene struct {
	sight Sight
	want  outcome
}

// sight is what is seen of a Job so many seconds after it was made.
func sight(seconds int, job *batchv1.Job, pods ...PodSight) Sight {
	return Sight{Job: job, Pods: pods, Now: t0.Add(time.Duration(seconds) * time.Second)}
}

func jobOf(edits ...func(*batchv1.Job)) *batchv1.Job {
	job := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "run-a-1", Namespace: "runs", UID: "job", CreationTimestamp: at(0)},
		Spec:       batchv1.JobSpec{BackoffLimit: new(int32(0))},
	}
	for _, edit := range edits {
		edit(job)
	}
	return job
}

func complete(seconds int) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		job.Status.Succeeded = 1
		job.Status.Conditions = []batchv1.JobCondition{
			{Type: batchv1.JobSuccessCriteriaMet, Status: corev1.ConditionTrue, LastTransitionTime: at(seconds)},
			{Type: batchv1.JobComplete, Status: corev1.ConditionTrue, LastTransitionTime: at(seconds)},
		}
	}
}

func failed(seconds int, reason string) func(*batchv1.Job) {
	return func(job *batchv1.Job) {
		job.Status.Failed = 1
		job.Status.Conditions = []batchv1.JobCondition{
			{Type: batchv1.JobFailureTarget, Status: corev1.ConditionTrue, Reason: reason, LastTransitionTime: at(seconds - 1)},
			{Type: batchv1.JobFailed, Status: corev1.ConditionTrue, Reason: reason, Message: "Job has failed", LastTransitionTime: at(seconds)},
		}
	}
}

func backoffLimit(limit int32) func(*batchv1.Job) {
	return func(job *batchv1.Job) { job.Spec.BackoffLimit = &limit }
}

func podDeadline(seconds int64) func(*batchv1.Job) {
	return func(job *batchv1.Job) { job.Spec.Template.Spec.ActiveDeadlineSeconds = &seconds }
}

type podEdit = func(*PodSight)

// podOf is a pod made one second after its Job, scheduled to node-1 in the
// same second.
func podOf(phase corev1.PodPhase, edits ...podEdit) PodSight {
	pod := PodSight{Pod: &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: "run-a-1-x", Namespace: "runs", UID: "pod", CreationTimestamp: at(1),
			OwnerReferences: []metav1.OwnerReference{{Kind: "Job", Name: "run-a-1", UID: "job", Controller: new(true)}},
		},
		Spec: corev1.PodSpec{NodeName: "node-1"},
		Status: corev1.PodStatus{
			Phase:      phase,
			Conditions: []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: at(1)}},
		},
	}}
	for _, edit := range edits {
		edit(&pod)
	}
	return pod
}

func status(name string, state corev1.ContainerState) podEdit {
	return func(pod *PodSight) {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{Name: name, State: state})
	}
}

func running(seconds int) podEdit {
	return status("run", corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(seconds)}})
}

func terminated(code, started, finished int, reason, message string) corev1.ContainerState {
	end := &corev1.ContainerStateTerminated{ExitCode: int32(code), Reason: reason, Message: message, FinishedAt: at(finished), StartedAt: at(started)}
	if started == 0 {
		end.StartedAt = metav1.Unix(0, 0) // as container runtimes say it
	}
	return corev1.ContainerState{Terminated: end}
}

// exited is a program that ran from second 3 to second 8.
func exited(code int, reason string) podEdit {
	return status("run", terminated(code, 3, 8, reason, ""))
}

func waits(name, reason, message string) podEdit {
	return status(name, corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: reason, Message: message}})
}

func unscheduled(reason, message string) podEdit {
	return func(pod *PodSight) {
		pod.Spec.NodeName = ""
		pod.Status.Conditions = []corev1.PodCondition{{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message, LastTransitionTime: at(1),
		}}
	}
}

func because(reason, message string) podEdit {
	return func(pod *PodSight) { pod.Status.Reason, pod.Status.Message = reason, message }
}

func disrupted(reason, message string) podEdit {
	return func(pod *PodSight) {
		pod.Status.Conditions = append(pod.Status.Conditions, corev1.PodCondition{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: reason, Message: message,
		})
	}
}

// deletedAt is a pod whose deletion was asked for at a second, with the usual
// 30 s of grace.
func deletedAt(seconds int) podEdit {
	return func(pod *PodSight) {
		pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = new(at(seconds+30)), new(int64(30))
	}
}

// deletedNow is a pod whose deletion was carried out at a second.
func deletedNow(seconds int) podEdit {
	return func(pod *PodSight) {
		pod.DeletionTimestamp, pod.DeletionGracePeriodSeconds = new(at(seconds)), new(int64(0))
	}
}

func endedBy(cause Cause) podEdit { return func(pod *PodSight) { pod.Cause = cause } }

func gone(pod *PodSight) { pod.Gone = true }

func second(pod *PodSight) {
	pod.Name, pod.UID, pod.CreationTimestamp = "run-a-1-y", "pod-2", at(60)
}

func refusedPod(seconds int, message string) *corev1.Event {
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "e", Namespace: "runs", UID: types.UID(message)},
		InvolvedObject: corev1.ObjectReference{UID: "job"},
		Message:        "Error creating: " + message, LastTimestamp: at(seconds),
	}
}

func with(s Sight, edit func(*Sight)) Sight {
	edit(&s)
	return s
}

func stuckSince(seconds int) func(*Sight) {
	return func(s *Sight) { s.StuckSince = at(seconds).Time }
}

func TestClassify(t *testing.T) {
	for _, scenes := range []map[string]scene{waitingScenes(), runningScenes(), endScenes(), disruptionScenes(), deletionScenes()} {
		for sentence, scene := range scenes {
			t.Run(sentence, func(t *testing.T) { scene.check(t, scene.sight) })
		}
	}
}

// TestStrippingLosesNothing judges every scene by what the informers keep of
// its objects.
func TestStrippingLosesNothing(t *testing.T) {
	for _, scenes := range []map[string]scene{waitingScenes(), runningScenes(), endScenes(), disruptionScenes(), deletionScenes()} {
		for sentence, scene := range scenes {
			t.Run(sentence, func(t *testing.T) {
				seen := scene.sight
				seen.Job = stripped(t, stripJob, seen.Job)
				seen.Pods = nil
				for _, pod := range scene.sight.Pods {
					seen.Pods = append(seen.Pods, PodSight{Pod: stripped(t, stripPod, pod.Pod), Gone: pod.Gone, Cause: pod.Cause})
				}
				seen.Refusals = nil
				for _, event := range scene.sight.Refusals {
					seen.Refusals = append(seen.Refusals, stripped(t, stripEvent, event))
				}
				scene.check(t, seen)
			})
		}
	}
}

func stripped[T any](t *testing.T, strip func(any) (any, error), object *T) *T {
	t.Helper()
	if object == nil {
		return nil
	}
	once, err := strip(object)
	if err != nil {
		t.Fatal(err)
	}
	twice, err := strip(once)
	if err != nil || !reflect.DeepEqual(once, twice) {
		t.Errorf("stripping twice changes %+v into %+v (%v)", once, twice, err)
	}
	return once.(*T)
}

func (c scene) check(t *testing.T, seen Sight) {
	t.Helper()
	got, want := Classify(seen, patient), c.want
	if got.Seen.State != want.state || got.Seen.Reason != want.reason || got.GiveUp != want.giveUp {
		t.Errorf("it is %s %s (give up: %v), want %s %s (%v): %s", got.Seen.State, got.Seen.Reason, got.GiveUp, want.state, want.reason, want.giveUp, got.Seen.Message)
	}
	for _, words := range want.says {
		if !strings.Contains(got.Seen.Message, words) {
			t.Errorf("the message does not say %q: %s", words, got.Seen.Message)
		}
	}
	if want.silent && got.Seen.Message != "" {
		t.Errorf("the message is %q, want none", got.Seen.Message)
	}
	if !reflect.DeepEqual(got.Seen.ExitCode, want.code) {
		t.Errorf("the exit code is %v, want %v", value(got.Seen.ExitCode), value(want.code))
	}
	for name, times := range map[string]struct {
		got  time.Time
		want int
	}{
		"start":      {got.Seen.StartedAt, want.started},
		"end":        {got.Seen.FinishedAt, want.ended},
		"next sight": {got.Again, want.again},
	} {
		if times.want == 0 && !times.got.IsZero() || times.want != 0 && !times.got.Equal(at(times.want).Time) {
			t.Errorf("the %s is at second %v, want %d", name, times.got.Sub(t0).Seconds(), times.want)
		}
	}
	if got.Seen.State.Final() && got.Seen.State != run.Succeeded {
		if !strings.HasSuffix(got.Seen.Message, ". "+want.reason.ToDo()) {
			t.Errorf("the message does not end with what to do: %s", got.Seen.Message)
		}
	}
	if strings.Contains(got.Seen.Message, "..") || strings.Contains(got.Seen.Message, "  ") {
		t.Errorf("the message is badly put together: %q", got.Seen.Message)
	}
}

func value(code *int) any {
	if code == nil {
		return nil
	}
	return *code
}

func runningScenes() map[string]scene {
	return map[string]scene{
		"a program that runs": {
			sight(60, jobOf(), podOf(corev1.PodRunning, running(3))),
			outcome{state: run.Running, silent: true, started: 3},
		},
		"a run is not over when its program is, but when the Job controller says so": {
			sight(9, jobOf(), podOf(corev1.PodFailed, exited(1, "Error"))),
			outcome{state: run.Running, silent: true, started: 3},
		},
		"nor when the Job only is about to fail": {
			sight(9, jobOf(func(job *batchv1.Job) {
				failed(9, "BackoffLimitExceeded")(job)
				job.Status.Conditions = job.Status.Conditions[:1]
			}), podOf(corev1.PodFailed, exited(1, "Error"))),
			outcome{state: run.Running, silent: true, started: 3},
		},
		"a sidecar runs on after the program": {
			sight(60, jobOf(), podOf(corev1.PodRunning, exited(0, "Completed"),
				status("istio-proxy", corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: at(2)}}))),
			outcome{state: run.Running, says: []string{"exit code 0", "istio-proxy"}, started: 3},
		},
		"a second pod waits after the first has failed: the run has started all the same": {
			sight(70, jobOf(backoffLimit(1)), podOf(corev1.PodFailed, exited(1, "Error")), podOf(corev1.PodPending, second, unscheduled("Unschedulable", "0/3 nodes are available."))),
			outcome{state: run.Running, says: []string{"0/3 nodes are available."}, started: 3, again: 301},
		},
		"the Job has ended before the end of its pod is seen": {
			sight(9, jobOf(failed(9, "BackoffLimitExceeded")), podOf(corev1.PodRunning, running(3))),
			outcome{state: run.Running, silent: true, started: 3, again: 14},
		},
		"the Job has ended before any pod is seen": {
			sight(9, jobOf(complete(9))),
			outcome{state: run.Pending, silent: true, again: 14},
		},
		"the Job has failed while its pod still stops, on an old cluster": {
			sight(20, jobOf(failed(9, "DeadlineExceeded")), podOf(corev1.PodRunning, running(3), deletedAt(9))),
			outcome{state: run.Running, silent: true, started: 3, again: 69},
		},
		"its pod is being deleted": {
			sight(20, jobOf(), podOf(corev1.PodRunning, running(3), deletedAt(9), disrupted("EvictionByEvictionAPI", "Eviction API: evicting"))),
			outcome{state: run.Running, says: []string{"being deleted", "Eviction API: evicting"}, started: 3},
		},
	}
}

func endScenes() map[string]scene {
	return map[string]scene{
		"success": {
			sight(10, jobOf(complete(9)), podOf(corev1.PodSucceeded, exited(0, "Completed"))),
			outcome{state: run.Succeeded, silent: true, code: new(0), started: 3, ended: 8},
		},
		"success whose pod nobody saw": {
			sight(14, jobOf(complete(9))),
			outcome{state: run.Succeeded, silent: true, code: new(0), ended: 9},
		},
		"success with the second pod": {
			sight(90, jobOf(backoffLimit(1), complete(80)), podOf(corev1.PodFailed, exited(1, "Error")),
				podOf(corev1.PodSucceeded, second, status("run", terminated(0, 61, 70, "Completed", "")))),
			outcome{state: run.Succeeded, silent: true, code: new(0), started: 3, ended: 70},
		},
		"an exit code": {
			sight(10, jobOf(failed(9, "BackoffLimitExceeded")), podOf(corev1.PodFailed, exited(3, "Error"))),
			outcome{state: run.Failed, reason: run.AppError, says: []string{"The program ended with exit code 3."}, code: new(3), started: 3, ended: 8},
		},
		"an exit code with the program's last word": {
			sight(10, jobOf(failed(9, "PodFailurePolicy")), podOf(corev1.PodFailed, status("run", terminated(3, 3, 8, "Error", "no such\n bucket")))),
			outcome{state: run.Failed, reason: run.AppError, says: []string{"exit code 3", "no such bucket."}, code: new(3), started: 3, ended: 8},
		},
		"a signal": {
			sight(10, jobOf(failed(9, "BackoffLimitExceeded")), podOf(corev1.PodFailed, exited(139, "Error"))),
			outcome{state: run.Failed, reason: run.AppError, says: []string{"exit code 139 (SIGSEGV)"}, code: new(139), started: 3, ended: 8},
		},
		"too much memory": {
			sight(10, jobOf(failed(9, "BackoffLimitExceeded")), podOf(corev1.PodFailed, exited(137, "OOMKilled"))),
			outcome{state: run.Failed, reason: run.OOMKilled, says: []string{"more memory than its limit"}, code: new(137), started: 3, ended: 8},
		},
		"a program that is not in the image": {
			sight(10, jobOf(failed(9, "BackoffLimitExceeded")), podOf(corev1.PodFailed, status("run", terminated(128, 0, 8, "StartError",
				`failed to create containerd task: runc create failed: unable to start container process: exec: "trian": executable file not found in $PATH: unknown`)))),
			outcome{state: run.Failed, reason: run.InvalidPodSpec, says: []string{`(exit code 128): exec: "trian": executable file not found`}, code: new(128), ended: 8},
		},
		"an init container that fails": {
			sight(10, jobOf(failed(9, "BackoffLimitExceeded")), podOf(corev1.PodFailed, waits("run", "PodInitializing", ""), func(pod *PodSight) {
				pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "prepare", State: terminated(4, 2, 3, "Error", "")}}
			})),
			outcome{state: run.Failed, reason: run.AppError, says: []string{"The container prepare ended with exit code 4."}, ended: 9},
		},
		"a sidecar that fails": {
			sight(10, jobOf(failed(9, "BackoffLimitExceeded")), podOf(corev1.PodFailed, exited(0, "Completed"), status("proxy", terminated(2, 2, 8, "Error", "")))),
			outcome{state: run.Failed, reason: run.AppError, says: []string{"The container proxy ended with exit code 2."}, code: new(0), started: 3, ended: 8},
		},
		"the pod's deadline": {
			sight(40, jobOf(podDeadline(30), failed(39, "BackoffLimitExceeded")),
				podOf(corev1.PodFailed, status("run", terminated(137, 3, 38, "Error", "")), because("DeadlineExceeded", "Pod was active on the node longer than the specified deadline"))),
			outcome{state: run.TimedOut, reason: run.DeadlineExceeded, says: []string{"longer than its timeout of 30s."}, code: new(137), started: 3, ended: 38},
		},
		"the pod's deadline before its program could start": {
			sight(40, jobOf(podDeadline(30), failed(39, "BackoffLimitExceeded")), podOf(corev1.PodFailed, because("DeadlineExceeded", ""))),
			outcome{state: run.TimedOut, reason: run.DeadlineExceeded, says: []string{"timeout of 30s, all of it before its program could start."}, ended: 39},
		},
		"the Job's deadline, which deletes the pod": {
			sight(41, jobOf(backoffLimit(1), func(job *batchv1.Job) { job.Spec.ActiveDeadlineSeconds = new(int64(90)) }, failed(40, "DeadlineExceeded")),
				podOf(corev1.PodFailed, exited(143, "Error"), deletedAt(7), gone)),
			outcome{state: run.TimedOut, reason: run.DeadlineExceeded, says: []string{"timeout of 1m30s."}, code: new(143), started: 3, ended: 8},
		},
		"the Job's deadline before there was a pod": {
			sight(41, jobOf(failed(40, "DeadlineExceeded"), func(job *batchv1.Job) { job.Status.Failed = 0 })),
			outcome{state: run.TimedOut, reason: run.DeadlineExceeded, ended: 40},
		},
		"a failure whose pod nobody saw": {
			sight(14, jobOf(failed(9, "BackoffLimitExceeded"))),
			outcome{state: run.Failed, reason: run.JobDeleted, says: []string{"not known", "Job has failed."}, ended: 9},
		},
		"a Job that was deleted after it had ended": {
			with(sight(14, jobOf(complete(9)), podOf(corev1.PodSucceeded, exited(0, "Completed"), gone)), func(s *Sight) { s.Gone = true }),
			outcome{state: run.Succeeded, silent: true, code: new(0), started: 3, ended: 8},
		},
	}
}

func disruptionScenes() map[string]scene {
	scenes := make(map[string]scene)
	for sentence, test := range map[string]struct {
		edit   podEdit
		reason run.Reason
		says   string
	}{
		"the node ran out of memory":         {because("Evicted", "The node was low on resource: memory."), run.Evicted, "low on resource: memory."},
		"the kubelet says so by a condition": {disrupted("TerminationByKubelet", "The node was low on resource: memory."), run.Evicted, "Node node-1 evicted the pod: The node was low"},
		"the node was drained":               {disrupted("EvictionByEvictionAPI", "Eviction API: evicting"), run.Evicted, "as when a node is drained"},
		"a pod of higher priority came":      {disrupted("PreemptionByScheduler", "default-scheduler: preempting"), run.Preempted, "higher priority"},
		"a critical pod came":                {because("Preempting", "Preempted in order to admit critical pod"), run.Preempted, "critical pod"},
		"the node was lost":                  {disrupted("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint"), run.NodeLost, "Node node-1 was lost"},
		"the node was removed":               {disrupted("DeletionByPodGC", "PodGC: node no longer exists"), run.NodeLost, "no longer exists"},
		"the node went down":                 {because("Terminated", "Pod was terminated in response to imminent node shutdown."), run.NodeLost, "was shut down"},
		"the node did not take the pod":      {because("OutOfcpu", "Node didn't have enough resource: cpu"), run.Evicted, "enough resource: cpu."},
		"a node shutdown, said by a condition": {func(pod *PodSight) {
			disrupted("TerminationByKubelet", "x")(pod)
			because("Terminated", "shutdown")(pod)
		}, run.NodeLost, "was shut down"},
	} {
		scenes[sentence] = scene{
			sight(10, jobOf(failed(9, "BackoffLimitExceeded")), podOf(corev1.PodFailed, exited(137, "Error"), deletedAt(7), test.edit)),
			outcome{state: run.Failed, reason: test.reason, says: []string{test.says}, code: new(137), started: 3, ended: 8},
		}
	}
	scenes["the node forgot the container"] = scene{
		sight(10, jobOf(failed(9, "BackoffLimitExceeded")), podOf(corev1.PodFailed, status("run", terminated(137, 0, 8, "ContainerStatusUnknown", "The container could not be located")))),
		outcome{state: run.Failed, reason: run.NodeLost, says: []string{"could not be located."}, code: new(137), ended: 8},
	}
	return scenes
}

func deletionScenes() map[string]scene {
	jobGone := func(s *Sight) { s.Gone = true }
	return map[string]scene{
		"the pod was deleted, and its program stopped": {
			sight(10, jobOf(failed(9, "BackoffLimitExceeded")), podOf(corev1.PodFailed, exited(143, "Error"), deletedAt(7), gone)),
			outcome{state: run.Failed, reason: run.JobDeleted, says: []string{"pod was deleted", "exit code 143 (SIGTERM)"}, code: new(143), started: 3, ended: 8},
		},
		"the pod was deleted after its program had failed": {
			sight(30, jobOf(failed(29, "BackoffLimitExceeded")), podOf(corev1.PodFailed, exited(3, "Error"), deletedAt(20), gone)),
			outcome{state: run.Failed, reason: run.AppError, says: []string{"exit code 3"}, code: new(3), started: 3, ended: 8},
		},
		"the pod was deleted, and its deletion is dated when it was carried out": {
			sight(12, jobOf(failed(11, "BackoffLimitExceeded")), podOf(corev1.PodFailed, exited(1, "Error"), deletedNow(9), gone)),
			outcome{state: run.Failed, reason: run.JobDeleted, says: []string{"exit code 1."}, code: new(1), started: 3, ended: 8},
		},
		"the pod was deleted when the Job had ended": {
			sight(12, jobOf(failed(9, "BackoffLimitExceeded")), podOf(corev1.PodFailed, exited(1, "Error"), deletedNow(11), gone)),
			outcome{state: run.Failed, reason: run.AppError, code: new(1), started: 3, ended: 8},
		},
		"the pod was seen to end before it was deleted": {
			sight(12, jobOf(failed(11, "BackoffLimitExceeded")), podOf(corev1.PodFailed, exited(1, "Error"), deletedNow(9), gone, endedBy(ByItself))),
			outcome{state: run.Failed, reason: run.AppError, code: new(1), started: 3, ended: 8},
		},
		"the pod was seen to be deleted before it ended": {
			sight(12, jobOf(failed(9, "BackoffLimitExceeded")), podOf(corev1.PodFailed, exited(1, "Error"), deletedNow(11), gone, endedBy(ByDeletion))),
			outcome{state: run.Failed, reason: run.JobDeleted, code: new(1), started: 3, ended: 8},
		},
		"the pod was torn away": {
			sight(15, jobOf(failed(9, "BackoffLimitExceeded")), podOf(corev1.PodRunning, running(3), gone)),
			outcome{state: run.Failed, reason: run.JobDeleted, says: []string{"The run's pod was deleted."}, started: 3, ended: 9},
		},
		"the pod is gone, and its end may yet be seen": {
			sight(10, jobOf(failed(9, "BackoffLimitExceeded")), podOf(corev1.PodRunning, running(3), gone)),
			outcome{state: run.Running, silent: true, started: 3, again: 14},
		},
		"the Job is being deleted": {
			sight(10, jobOf(func(job *batchv1.Job) { job.DeletionTimestamp = new(at(9)) }), podOf(corev1.PodRunning, running(3), deletedAt(9))),
			outcome{state: run.Running, says: []string{"Job is being deleted"}, started: 3},
		},
		"the Job is gone, and its pod still stops": {
			with(sight(10, jobOf(), podOf(corev1.PodRunning, running(3), deletedAt(9))), jobGone),
			outcome{state: run.Running, says: []string{"Job was deleted", "run-a-1-x"}, started: 3},
		},
		"the Job is gone, and its pod too": {
			with(sight(10, jobOf(), podOf(corev1.PodFailed, exited(143, "Error"), deletedAt(7), gone)), jobGone),
			outcome{state: run.Failed, reason: run.JobDeleted, says: []string{"deleted the run's Job"}, code: new(143), started: 3, ended: 8},
		},
		"the Job is gone, and no pod was ever seen": {
			with(sight(10, jobOf()), jobGone),
			outcome{state: run.Failed, reason: run.JobDeleted, ended: 10},
		},
		"neither the Job nor a pod was ever seen, and the API knows of none": {
			with(sight(20, nil), jobGone),
			outcome{state: run.Failed, reason: run.JobDeleted, ended: 20},
		},
		"nothing was seen yet": {
			sight(1, nil), outcome{state: run.Pending, silent: true},
		},
		"the program had succeeded when the Job was deleted": {
			with(sight(12, jobOf(), podOf(corev1.PodSucceeded, exited(0, "Completed"), deletedAt(10), gone)), jobGone),
			outcome{state: run.Succeeded, silent: true, code: new(0), started: 3, ended: 8},
		},
		"the program had failed when the Job was deleted": {
			with(sight(12, jobOf(), podOf(corev1.PodFailed, exited(3, "Error"))), jobGone),
			outcome{state: run.Failed, reason: run.AppError, says: []string{"exit code 3"}, code: new(3), started: 3, ended: 8},
		},
		"the program had failed when the Job was deleted, and another pod would have followed": {
			with(sight(12, jobOf(backoffLimit(1)), podOf(corev1.PodFailed, exited(3, "Error"))), jobGone),
			outcome{state: run.Failed, reason: run.JobDeleted, code: new(3), started: 3, ended: 8},
		},
	}
}

func waitingScenes() map[string]scene {
	const (
		noRoom  = `pods "run-a-1-x" is forbidden: exceeded quota: small, requested: pods=1, used: pods=5, limited: pods=5`
		refused = `pods "run-a-1-x" is forbidden: violates PodSecurity "restricted:latest": runAsNonRoot != true`
		nobody  = `pods "run-a-1-" is forbidden: error looking up service account runs/nobody: serviceaccount "nobody" not found`
		full    = "0/3 nodes are available: 3 Insufficient cpu."
		backOff = `Back-off pulling image "nonesuch:1": ErrImagePull: nonesuch:1: not found`
	)
	refusals := func(s Sight, events ...*corev1.Event) Sight {
		s.Refusals = events
		return s
	}
	return map[string]scene{
		"the Job was just made": {
			sight(1, jobOf()), outcome{state: run.Pending, silent: true, again: 5},
		},
		"the Job has waited for a pod for a while": {
			sight(5, jobOf()), outcome{state: run.Pending, says: []string{"Job controller"}, again: 600},
		},
		"the Job is suspended": {
			sight(1, jobOf(func(job *batchv1.Job) { job.Spec.Suspend = new(true) })),
			outcome{state: run.Pending, says: []string{"suspended"}, again: 600},
		},
		"the quota has no room": {
			refusals(sight(10, jobOf()), refusedPod(2, noRoom)),
			outcome{state: run.Pending, says: []string{"quota has no room for the pod: pods"}, again: 600},
		},
		"the quota has no room until the end of patience": {
			refusals(sight(600, jobOf()), refusedPod(2, noRoom)),
			outcome{state: run.Failed, reason: run.QuotaExceeded, says: []string{"10m0s", "exceeded quota: small"}, giveUp: true, ended: 600},
		},
		"pod security refuses the pod": {
			refusals(sight(2, jobOf()), refusedPod(2, refused)),
			outcome{state: run.Failed, reason: run.InvalidPodSpec, says: []string{"refuses the run's pod", "runAsNonRoot != true."}, giveUp: true, ended: 2},
		},
		"pod security refuses the pod, seen when all patience is over": {
			refusals(sight(6000, jobOf()), refusedPod(2, refused)),
			outcome{state: run.Failed, reason: run.InvalidPodSpec, giveUp: true, ended: 6000},
		},
		"the newest word on the pod counts": {
			refusals(sight(10, jobOf()), refusedPod(9, noRoom), refusedPod(2, refused)),
			outcome{state: run.Pending, says: []string{"quota"}, again: 600},
		},
		"a refusal is history once there is a pod": {
			refusals(sight(3, jobOf(), podOf(corev1.PodPending, waits("run", "ContainerCreating", ""))), refusedPod(1, refused)),
			outcome{state: run.Pending, silent: true, again: 6},
		},
		"the service account may yet be made": {
			refusals(sight(60, jobOf()), refusedPod(2, nobody), refusedPod(50, nobody)),
			outcome{state: run.Pending, says: []string{`serviceaccount "nobody" not found`}, again: 122},
		},
		"the service account was not made": {
			refusals(sight(122, jobOf()), refusedPod(2, nobody), refusedPod(50, nobody)),
			outcome{state: run.Failed, reason: run.InvalidPodSpec, says: []string{`serviceaccount "nobody" not found`}, giveUp: true, ended: 122},
		},
		"a webhook that is away": {
			refusals(sight(300, jobOf()), refusedPod(2, `Internal error occurred: failed calling webhook "x": connection refused`)),
			outcome{state: run.Pending, says: []string{"failed calling webhook"}, again: 600},
		},
		"the scheduler has yet to look at the pod": {
			sight(2, jobOf(), podOf(corev1.PodPending, func(pod *PodSight) { pod.Status.Conditions = nil })),
			outcome{state: run.Pending, silent: true, again: 6},
		},
		"the scheduler does not look at the pod": {
			sight(6, jobOf(), podOf(corev1.PodPending, func(pod *PodSight) { pod.Status.Conditions = nil })),
			outcome{state: run.Pending, says: []string{"scheduler"}, again: 600},
		},
		"the pod is gated": {
			sight(6, jobOf(), podOf(corev1.PodPending, unscheduled("SchedulingGated", "Scheduling is blocked due to non-empty scheduling gates"))),
			outcome{state: run.Pending, says: []string{"scheduling gates"}, again: 600},
		},
		"no node can take the pod yet": {
			sight(6, jobOf(), podOf(corev1.PodPending, unscheduled("Unschedulable", full))),
			outcome{state: run.Pending, says: []string{"No node can take the pod yet: " + full}, again: 301},
		},
		"no node could take the pod": {
			sight(301, jobOf(), podOf(corev1.PodPending, unscheduled("Unschedulable", full))),
			outcome{state: run.Failed, reason: run.Unschedulable, says: []string{"5m0s", full}, giveUp: true, ended: 301},
		},
		"the node begins": {
			sight(2, jobOf(), podOf(corev1.PodPending, waits("run", "ContainerCreating", ""))),
			outcome{state: run.Pending, silent: true, again: 6},
		},
		"the node takes its time": {
			sight(6, jobOf(), podOf(corev1.PodPending, waits("run", "ContainerCreating", ""))),
			outcome{state: run.Pending, says: []string{"Node node-1 pulls the image"}, again: 600},
		},
		"the image cannot be pulled yet": {
			with(sight(30, jobOf(), podOf(corev1.PodPending, waits("run", "ImagePullBackOff", backOff))), stuckSince(20)),
			outcome{state: run.Pending, says: []string{"cannot pull the image yet: nonesuch:1: not found."}, again: 140},
		},
		"the image cannot be pulled": {
			with(sight(140, jobOf(), podOf(corev1.PodPending, waits("run", "ImagePullBackOff", backOff))), stuckSince(20)),
			outcome{state: run.Failed, reason: run.ImagePullFailed, says: []string{"could not pull the image: nonesuch:1: not found."}, giveUp: true, ended: 140},
		},
		"the image of a sidecar cannot be pulled": {
			with(sight(140, jobOf(), podOf(corev1.PodPending, waits("run", "ContainerCreating", ""), waits("proxy", "ErrImagePull", "not found"))), stuckSince(20)),
			outcome{state: run.Failed, reason: run.ImagePullFailed, says: []string{"the image of container proxy: not found."}, giveUp: true, ended: 140},
		},
		"the image's name is none": {
			with(sight(2, jobOf(), podOf(corev1.PodPending, waits("run", "InvalidImageName", "must be lowercase"))), stuckSince(2)),
			outcome{state: run.Failed, reason: run.ImagePullFailed, says: []string{"name of the image is not valid: must be lowercase."}, giveUp: true, ended: 2},
		},
		"the container's configuration lacks something": {
			with(sight(30, jobOf(), podOf(corev1.PodPending, waits("run", "CreateContainerConfigError", `secret "x" not found`))), stuckSince(20)),
			outcome{state: run.Pending, says: []string{`cannot set up the container yet: secret "x" not found.`}, again: 140},
		},
		"the container cannot be configured": {
			with(sight(140, jobOf(), podOf(corev1.PodPending, waits("run", "CreateContainerConfigError", `secret "x" not found`))), stuckSince(20)),
			outcome{state: run.Failed, reason: run.InvalidPodSpec, says: []string{`secret "x" not found.`}, giveUp: true, ended: 140},
		},
		"an init container keeps failing": {
			sight(30, jobOf(), podOf(corev1.PodPending, waits("run", "PodInitializing", ""), func(pod *PodSight) {
				pod.Status.InitContainerStatuses = []corev1.ContainerStatus{{Name: "mesh", State: corev1.ContainerState{
					Waiting: &corev1.ContainerStateWaiting{Reason: "CrashLoopBackOff", Message: "back-off 10s"},
				}}}
			})),
			outcome{state: run.Pending, says: []string{"container mesh keeps failing"}, again: 600},
		},
		"the pod is deleted before it starts": {
			sight(30, jobOf(), podOf(corev1.PodPending, deletedAt(20))),
			outcome{state: run.Pending, says: []string{"pod is being deleted"}, again: 600},
		},
		"nothing started in time": {
			sight(600, jobOf(), podOf(corev1.PodPending, waits("run", "ContainerCreating", ""))),
			outcome{state: run.TimedOut, reason: run.StartTimeout, says: []string{"10m0s", "Node node-1 pulls the image"}, giveUp: true, ended: 600},
		},
		"a second pod has time of its own to start": {
			sight(659, jobOf(backoffLimit(1)), podOf(corev1.PodFailed, exited(1, "Error")), podOf(corev1.PodPending, second, waits("run", "ContainerCreating", ""))),
			outcome{state: run.Running, says: []string{"Node node-1 pulls the image"}, started: 3, again: 660},
		},
	}
}

func TestWithoutPatienceNothingIsGivenUp(t *testing.T) {
	for sentence, scene := range waitingScenes() {
		if scene.want.reason == run.ImagePullFailed && strings.Contains(sentence, "name is none") || strings.Contains(sentence, "pod security") {
			continue // what no waiting cures is given up at once
		}
		t.Run(sentence, func(t *testing.T) {
			if got := Classify(scene.sight, Patience{}); got.GiveUp || got.Seen.State.Final() {
				t.Errorf("it is %s %s: %s", got.Seen.State, got.Seen.Reason, got.Seen.Message)
			}
		})
	}
}

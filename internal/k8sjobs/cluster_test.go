//go:build e2e

package k8sjobs

import (
	"context"
	"errors"
	"flag"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/launchtest"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
)

func TestMain(m *testing.M) {
	// The tests share nothing, and wait for the cluster.
	if err := wait.Together(8); err != nil {
		panic(err)
	}
	goleak.VerifyTestMain(wait.Goroutines(m))
}

// checkRole holds the shipped Role against what all the subtests have used: a
// right that none of them needs is one too many.
func checkRole(t *testing.T) {
	t.Helper()
	if t.Failed() || strings.Contains(flag.Lookup("test.run").Value.String(), "/") || flag.Lookup("test.skip").Value.String() != "" {
		return // not all of them have run to their end
	}
	if unused, err := used.unused(); err != nil || len(unused) > 0 {
		t.Errorf("the shipped Role gives rights that nothing used: %s %v", strings.Join(unused, ", "), err)
	}
}

func TestOnACluster(t *testing.T) {
	t.Cleanup(func() { checkRole(t) })
	t.Run("satisfies the contract of launchers", func(t *testing.T) {
		s := newScope(t, nil)
		launchtest.Run(t, launchtest.Harness{
			New: func(t *testing.T) launchtest.Launcher {
				t.Helper()
				inner := *s
				inner.T = t
				return inner.launcher()
			},
			Left: func(t *testing.T, job run.Job) []string {
				t.Helper()
				inner := *s
				inner.T = t
				return inner.left(job)
			},
			Image: image,
		})
	})
	for sentence, test := range map[string]func(*scope){
		"success is told with its times":                      success,
		"an exit code is told":                                exit,
		"too much memory is told":                             outOfMemory,
		"a program that is not there is told":                 noProgram,
		"a run that no node can take is given up":             unschedulable,
		"a run whose image is not there is given up":          badImage,
		"a run over its timeout leaves its pod and log":       deadline,
		"several pods share a timeout":                        sharedDeadline,
		"a Job deleted behind our back is told":               jobDeleted,
		"a Job deleted without its pods takes them with it":   orphaned,
		"a deleted pod is told":                               podDeleted,
		"a Job that goes as soon as it has ended has ended":   noTTL,
		"secrets reach the program and go with the Job":       secrets,
		"another Job's Secret is never used":                  leftSecret,
		"a Secret in the way ends the launch and the Job":     foreignSecret,
		"a quota of Jobs is waited for":                       jobQuota,
		"a quota of pods is waited for, and then given up on": podQuota,
		"another launcher adopts a Job, and the Secret too":   adoption,
		"somebody else's Job is refused":                      foreignJob,
		"a broken watch resumes":                              brokenWatch,
		"a missing right is waited for":                       noRights,
		"the cluster tells its version":                       serverVersion,
	} {
		t.Run(sentence, func(t *testing.T) { test(newScope(t, nil)) })
	}
	enforced := map[string]string{"pod-security.kubernetes.io/enforce": "restricted"}
	t.Run("the restricted pod security standard accepts a run with a user", func(t *testing.T) { accepted(newScope(t, enforced)) })
	t.Run("the restricted pod security standard refuses a relaxed run", func(t *testing.T) { refusedByStandard(newScope(t, enforced)) })
	t.Run("an admission policy's refusal is told", func(t *testing.T) { refusedByPolicy(newScope(t, map[string]string{"k8sjobs-test": "refused"})) })
	t.Run("a namespace that is not there is waited for", func(t *testing.T) { noNamespace(newScope(t, nil)) })
}

func success(s *scope) {
	launcher := s.launcher()
	job := s.launch(launcher, s.held("exit 0"))
	f := s.follow(launcher, job)
	f.await(run.Running, "")
	s.letGo(job)
	final := f.end(run.Succeeded, "")
	told := s.podsOf(job)[0].Status.ContainerStatuses[0].State.Terminated
	if final.ExitCode == nil || *final.ExitCode != 0 || !final.StartedAt.Equal(told.StartedAt.Time) || !final.FinishedAt.Equal(told.FinishedAt.Time) {
		s.Errorf("the end is %+v, and the node says %+v", final, told)
	}
}

func exit(s *scope) {
	launcher := s.launcher()
	launch := s.script("echo the bucket is not there >/dev/termination-log; exit 7")
	final := s.follow(launcher, s.launch(launcher, launch)).end(run.Failed, run.AppError, "exit code 7", "the bucket is not there.")
	if *final.ExitCode != 7 {
		s.Errorf("the exit code is %d", *final.ExitCode)
	}
}

func outOfMemory(s *scope) {
	launcher := s.launcher()
	launch := s.script("x=aaaaaaaa; while true; do x=$x$x; done", func(r *run.Request) {
		r.Pod.Resources.Limits = map[string]string{"memory": "24Mi"}
	})
	s.follow(launcher, s.launch(launcher, launch)).end(run.Failed, run.OOMKilled, "exit code 137")
}

func noProgram(s *scope) {
	launcher := s.launcher()
	launch := s.script("", func(r *run.Request) { r.Command = []string{"trian"} })
	s.follow(launcher, s.launch(launcher, launch)).end(run.Failed, run.InvalidPodSpec, `"trian": executable file not found`)
}

func unschedulable(s *scope) {
	launcher := s.launcher(func(settings *Settings) { settings.Patience.Unschedulable = 15 * time.Second })
	job := s.launch(launcher, s.script("exit 0", func(r *run.Request) { r.Pod.NodeSelector = map[string]string{"no": "node"} }))
	f := s.follow(launcher, job)
	f.await(run.Pending, "No node can take the pod yet: 0/")
	f.end(run.Failed, run.Unschedulable, "15s", "node affinity/selector")
	if left := s.left(job); len(left) > 0 {
		s.Errorf("giving up has left %v", left)
	}
}

func badImage(s *scope) {
	launcher := s.launcher(func(settings *Settings) { settings.Patience.ImagePull = 2 * time.Second })
	job := s.launch(launcher, s.script("exit 0", func(r *run.Request) { r.Image.Reference = "registry.example.com/nonesuch:1" }))
	f := s.follow(launcher, job)
	f.await(run.Pending, "cannot pull the image yet")
	f.end(run.Failed, run.ImagePullFailed, "registry.example.com/nonesuch:1")
	if left := s.left(job); len(left) > 0 {
		s.Errorf("giving up has left %v", left)
	}
}

// busy is longer than a busy node takes to start a pod, so that what shall run for
// a while and then be out of time does run.
const busy = 30 * time.Second

func deadline(s *scope) {
	launcher := s.launcher()
	job := s.launch(launcher, s.script("echo begun; "+waitForTerm, func(r *run.Request) { r.Timeout = run.Duration(busy) }))
	s.follow(launcher, job).end(run.TimedOut, run.DeadlineExceeded, "timeout of 30s")
	if text := s.log(job); text != "begun\n" {
		s.Errorf("the log is %q", text)
	}
}

func sharedDeadline(s *scope) {
	launcher := s.launcher(func(settings *Settings) { settings.BackoffLimit = 100 })
	job := s.launch(launcher, s.script(waitForTerm, func(r *run.Request) { r.Timeout = run.Duration(busy) }))
	f := s.follow(launcher, job)
	f.await(run.Running, "")
	f.end(run.TimedOut, run.DeadlineExceeded, "timeout of 30s")
}

func jobDeleted(s *scope) {
	launcher := s.launcher()
	// The pod outlives its Job by so long that the watch tells of it.
	job := s.launch(launcher, s.script("trap 'sleep 15; exit 143' TERM; sleep 600 & wait $!"))
	f := s.follow(launcher, job)
	f.await(run.Running, "")
	// In the background, as most clients do it: the Job is gone before its pod.
	err := s.admin.BatchV1().Jobs(s.namespace).Delete(s.Context(), job.Name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)})
	if err != nil {
		s.Fatal(err)
	}
	f.await(run.Running, "The Job was deleted")
	f.end(run.Failed, run.JobDeleted)
	nothingRuns(s, job)
}

func nothingRuns(s *scope, job run.Job) {
	s.Helper()
	for _, pod := range s.podsOf(job) {
		if pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed {
			s.Errorf("the run is said to be over while pod %s is %s", pod.Name, pod.Status.Phase)
		}
	}
}

func orphaned(s *scope) {
	launcher := s.launcher()
	job := s.launch(launcher, s.script(waitForTerm))
	f := s.follow(launcher, job)
	f.await(run.Running, "")
	err := s.admin.BatchV1().Jobs(s.namespace).Delete(s.Context(), job.Name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationOrphan)})
	if err != nil {
		s.Fatal(err)
	}
	f.end(run.Failed, run.JobDeleted)
	nothingRuns(s, job)
}

func podDeleted(s *scope) {
	launcher := s.launcher()
	job := s.launch(launcher, s.script(waitForTerm))
	f := s.follow(launcher, job)
	f.await(run.Running, "")
	if err := s.admin.CoreV1().Pods(s.namespace).Delete(s.Context(), s.podsOf(job)[0].Name, metav1.DeleteOptions{}); err != nil {
		s.Fatal(err)
	}
	final := f.end(run.Failed, run.JobDeleted, "pod was deleted", "exit code 143 (SIGTERM)")
	if final.ExitCode == nil || *final.ExitCode != 143 {
		s.Errorf("the end is %+v", final)
	}
}

func noTTL(s *scope) {
	launcher := s.launcher(func(settings *Settings) { settings.TTLSecondsAfterFinished = 0 })
	job := s.launch(launcher, s.script("exit 9"))
	s.follow(launcher, job).end(run.Failed, run.AppError, "exit code 9")
	wait.Until(s, "the Job to be gone", func() bool { return len(s.left(job)) == 0 })
}

func secrets(s *scope) {
	launcher := s.launcher()
	job := s.launch(launcher, s.script(`[ "$TOKEN" = hunter2 ]`, func(r *run.Request) {
		r.SecretEnv = map[string]run.Secret{"TOKEN": "hunter2"}
	}))
	s.follow(launcher, job).end(run.Succeeded, "")
	if left := s.left(job); len(left) != 3 {
		s.Errorf("there are %v, want a Job, a Secret and a pod", left)
	}
	// As when its time is up; the cluster alone takes the Secret away.
	err := s.admin.BatchV1().Jobs(s.namespace).Delete(s.Context(), job.Name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)})
	if err != nil {
		s.Fatal(err)
	}
	wait.Until(s, "the Secret to go with the Job", func() bool { return len(s.left(job)) == 0 })
}

// withToken is a launch that succeeds with its own secret only.
func withToken(s *scope) run.Launch {
	return s.script(`[ "$TOKEN" = hunter2 ]`, func(r *run.Request) { r.SecretEnv = map[string]run.Secret{"TOKEN": "hunter2"} })
}

// putSecret puts another's Secret where a launch will want its own.
func putSecret(s *scope, name string, owners ...metav1.OwnerReference) {
	s.Helper()
	_, err := s.admin.CoreV1().Secrets(s.namespace).Create(s.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, OwnerReferences: owners, Finalizers: []string{"ropewalk.dev/test"}},
		Data:       map[string][]byte{"TOKEN": []byte("another's")},
	}, metav1.CreateOptions{})
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { letGo(s, name) })
}

// letGo takes the finalizer away that kept a Secret in place.
func letGo(s *scope, name string) {
	_, err := s.admin.CoreV1().Secrets(s.namespace).Patch(context.WithoutCancel(s.Context()), name, "application/merge-patch+json", []byte(`{"metadata": {"finalizers": null}}`), metav1.PatchOptions{})
	_ = err // it may be gone, which is as good
}

func leftSecret(s *scope) {
	launcher := s.launcher()
	launch := withToken(s)
	name := run.JobName(launch.Request.ID, 1)
	putSecret(s, name, ownedBy(run.Job{Name: name, UID: "00000000-0000-4000-8000-000000000000"})...)
	_, _, err := launcher.Launch(s.Context(), launch)
	wantRefused(s, err, run.StartTimeout, true, "earlier Job")
	letGo(s, name) // what the garbage collector was waiting for
	var job run.Job
	wait.Until(s, "the launch to work", func() bool {
		job, _, err = launcher.Launch(s.Context(), launch)
		return err == nil
	})
	s.follow(launcher, job).end(run.Succeeded, "")
}

func foreignSecret(s *scope) {
	launcher := s.launcher()
	launch := withToken(s)
	name := run.JobName(launch.Request.ID, 1)
	putSecret(s, name)
	_, _, err := launcher.Launch(s.Context(), launch)
	wantRefused(s, err, run.InvalidRequest, false, name)
	if left := s.left(run.Job{Name: name}); len(left) != 1 || left[0] != "secret "+name {
		s.Errorf("there are %v, want only the Secret that was there", left)
	}
}

func quota(s *scope, what corev1.ResourceName) {
	s.Helper()
	created, err := s.admin.CoreV1().ResourceQuotas(s.namespace).Create(s.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "small"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{what: resource.MustParse("0")}},
	}, metav1.CreateOptions{})
	if err != nil {
		s.Fatal(err)
	}
	wait.Until(s, "the quota to be in force", func() bool {
		created, err = s.admin.CoreV1().ResourceQuotas(s.namespace).Get(s.Context(), created.Name, metav1.GetOptions{})
		return err == nil && created.Status.Used != nil
	})
}

func jobQuota(s *scope) {
	quota(s, "count/jobs.batch")
	launcher := s.launcher()
	launch := s.script("exit 0")
	_, _, err := launcher.Launch(s.Context(), launch)
	wantRefused(s, err, run.QuotaExceeded, true, "exceeded quota: small")
	if err := s.admin.CoreV1().ResourceQuotas(s.namespace).Delete(s.Context(), "small", metav1.DeleteOptions{}); err != nil {
		s.Fatal(err)
	}
	var job run.Job
	wait.Until(s, "the launch to work", func() bool {
		job, _, err = launcher.Launch(s.Context(), launch)
		return err == nil
	})
	s.follow(launcher, job).end(run.Succeeded, "")
}

func podQuota(s *scope) {
	quota(s, "pods")
	launcher := s.launcher(func(settings *Settings) { settings.Patience.Start = busy })
	job := s.launch(launcher, s.script("exit 0"))
	f := s.follow(launcher, job)
	f.await(run.Pending, "exceeded quota: small")
	f.end(run.Failed, run.QuotaExceeded, "30s", "exceeded quota: small")
	if left := s.left(job); len(left) > 0 {
		s.Errorf("giving up has left %v", left)
	}
}

func adoption(s *scope) {
	one, two := s.launcher(), s.launcher()
	launch := s.held(`[ "$TOKEN" = hunter2 ] && exit 5`, func(r *run.Request) {
		r.SecretEnv = map[string]run.Secret{"TOKEN": "hunter2"}
	})
	// The first dies between the Job and its Secret.
	wanted, _, err := one.template.Build(launch)
	if err != nil {
		s.Fatal(err)
	}
	if _, _, err := one.create(s.Context(), launch, wanted); err != nil {
		s.Fatal(err)
	}
	job, adopted, err := two.Launch(s.Context(), launch)
	if err != nil || !adopted {
		s.Fatalf("Launch: adopted %v, %v", adopted, err)
	}
	f := s.follow(two, job)
	f.await(run.Running, "")
	again, adopted, err := one.Launch(s.Context(), launch)
	if err != nil || !adopted || again != job {
		s.Fatalf("Launch = %+v, adopted %v, %v; want %+v", again, adopted, err, job)
	}
	// Whoever cancels a run may know no more than that there may be a Job.
	found, adopted, err := two.Launch(s.Context(), run.Launch{Request: launch.Request, Attempt: 1, Known: &run.Job{}})
	if err != nil || !adopted || found != job {
		s.Fatalf("Launch = %+v, adopted %v, %v; want %+v", found, adopted, err, job)
	}
	_, _, err = two.Launch(s.Context(), run.Launch{Request: launch.Request, Attempt: 2, Known: &run.Job{}})
	wantRefused(s, err, run.JobDeleted, false, "There is no Job")
	s.letGo(job)
	first, second := f.end(run.Failed, run.AppError, "exit code 5"), s.follow(one, again).end(run.Failed, run.AppError, "exit code 5")
	if !first.FinishedAt.Equal(second.FinishedAt) || !first.StartedAt.Equal(second.StartedAt) {
		s.Errorf("the two saw %+v and %+v", first, second)
	}
	if pods := s.podsOf(job); len(pods) != 1 {
		s.Errorf("the Job had %d pods", len(pods))
	}
}

func foreignJob(s *scope) {
	staging := s.launcher(func(settings *Settings) { settings.Instance = "staging" })
	launch := s.script("exit 0")
	s.launch(staging, launch)
	_, _, err := s.launcher().Launch(s.Context(), launch)
	wantRefused(s, err, run.InvalidRequest, false, `instance "staging"`)
}

func brokenWatch(s *scope) {
	launcher, lines := s.wiredLauncher()
	job := s.launch(launcher, s.held("exit 6"))
	f := s.follow(launcher, job)
	f.await(run.Running, "")
	lines.cut()
	s.letGo(job)
	f.end(run.Failed, run.AppError, "exit code 6")
	// What happens while no watch is open is seen when one is again.
	job = s.launch(launcher, s.script(waitForTerm))
	f = s.follow(launcher, job)
	f.await(run.Running, "")
	err := s.admin.BatchV1().Jobs(s.namespace).Delete(s.Context(), job.Name, metav1.DeleteOptions{PropagationPolicy: new(metav1.DeletePropagationBackground)})
	lines.cut()
	if err != nil {
		s.Fatal(err)
	}
	f.end(run.Failed, run.JobDeleted)
}

func noRights(s *scope) {
	err := s.admin.RbacV1().Roles(s.namespace).Delete(s.Context(), "ropewalk-dispatcher", metav1.DeleteOptions{})
	if err != nil {
		s.Fatal(err)
	}
	launcher := s.launcher()
	launch := s.script("exit 0")
	wait.Until(s, "the right to be missing", func() bool {
		_, _, err = launcher.Launch(s.Context(), launch)
		return err != nil
	})
	wantRefused(s, err, run.StartTimeout, true, `cannot create resource "jobs"`)
	wait.Until(s, "the watch's trouble to be known", func() bool { return launcher.Trouble() != nil })
	select {
	case <-launcher.Synced():
		s.Error("the watch says that it has seen all")
	default:
	}
	s.grant()
	var job run.Job
	wait.Until(s, "the launch to work", func() bool {
		job, _, err = launcher.Launch(s.Context(), launch)
		return err == nil
	})
	s.follow(launcher, job).end(run.Succeeded, "")
	wait.Success(s, "the watches to be well again", launcher.Trouble)
}

func serverVersion(s *scope) {
	found, err := s.launcher().ServerVersion(s.Context())
	if err != nil || !strings.HasPrefix(found, "v1.") {
		s.Errorf("ServerVersion = %q, %v", found, err)
	}
}

func accepted(s *scope) {
	launcher := s.launcher(func(settings *Settings) { settings.Security.RunAsUser = new(int64(1000)) })
	f := s.follow(launcher, s.launch(launcher, s.script(`[ "$(id -u)" = 1000 ]`)))
	f.end(run.Succeeded, "")
}

func refusedByStandard(s *scope) {
	launcher := s.launcher(func(settings *Settings) {
		settings.Security = Security{AllowPrivilegeEscalation: true, SeccompProfile: "Unconfined", RunAsUser: new(int64(1000))}
	})
	job := s.launch(launcher, s.script("exit 0"))
	s.follow(launcher, job).end(run.Failed, run.InvalidPodSpec, "violates PodSecurity", "allowPrivilegeEscalation", "seccompProfile", "capabilities")
	if left := s.left(job); len(left) > 0 {
		s.Errorf("giving up has left %v", left)
	}
}

func refusedByPolicy(s *scope) {
	name := s.namespace
	policies := s.admin.AdmissionregistrationV1()
	_, err := policies.ValidatingAdmissionPolicies().Create(s.Context(), &admissionv1.ValidatingAdmissionPolicy{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicySpec{
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{RuleWithOperations: admissionv1.RuleWithOperations{
				Operations: []admissionv1.OperationType{admissionv1.Create},
				Rule:       admissionv1.Rule{APIGroups: []string{"batch"}, APIVersions: []string{"v1"}, Resources: []string{"jobs"}},
			}}}},
			Validations: []admissionv1.Validation{{Expression: "'team' in object.metadata.labels", Message: "every Job needs the label team"}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		s.Fatal(err)
	}
	_, err = policies.ValidatingAdmissionPolicyBindings().Create(s.Context(), &admissionv1.ValidatingAdmissionPolicyBinding{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: admissionv1.ValidatingAdmissionPolicyBindingSpec{
			PolicyName: name, ValidationActions: []admissionv1.ValidationAction{admissionv1.Deny},
			MatchResources: &admissionv1.MatchResources{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"kubernetes.io/metadata.name": s.namespace}}},
		},
	}, metav1.CreateOptions{})
	s.Cleanup(func() {
		ctx := context.WithoutCancel(s.Context())
		if err := policies.ValidatingAdmissionPolicyBindings().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			s.Error(err)
		}
		if err := policies.ValidatingAdmissionPolicies().Delete(ctx, name, metav1.DeleteOptions{}); err != nil {
			s.Error(err)
		}
	})
	if err != nil {
		s.Fatal(err)
	}
	launcher := s.launcher()
	wait.Until(s, "the policy to be in force", func() bool {
		_, _, err = launcher.Launch(s.Context(), s.script("exit 0"))
		return err != nil
	})
	wantRefused(s, err, run.PolicyRefused, false, "every Job needs the label team")
}

func noNamespace(s *scope) {
	// An account of the cluster's, so that the namespace is all that is missing.
	s.dispatch = s.cluster
	launcher := s.launcher(func(settings *Settings) { settings.Namespace = "k8sjobs-none" })
	_, _, err := launcher.Launch(s.Context(), s.script("exit 0"))
	wantRefused(s, err, run.StartTimeout, true, `namespaces "k8sjobs-none" not found`)
}

func wantRefused(s *scope, err error, reason run.Reason, temporary bool, says string) {
	s.Helper()
	var refused *run.LaunchError
	if !errors.As(err, &refused) || refused.Reason != reason || refused.Temporary != temporary || !strings.Contains(refused.Message, says) {
		s.Fatalf("Launch: %v; want it refused with %s (temporary: %v), saying %q", err, reason, temporary, says)
	}
	s.Logf("%s", refused.Message)
}

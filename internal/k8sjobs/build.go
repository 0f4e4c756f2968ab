package k8sjobs

import (
	"cmp"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Build turns a launch into the Job of the attempt and the Secret that its
// secret environment needs, nil without any. The Secret's owner reference is
// missing: it needs the Job's UID, see [ownedBy].
//
// Errors are a [*run.InvalidError], or a [*run.LaunchError] when the operator's
// policy refuses the request. Nothing of the result is shared, so that callers
// may change it.
//
// automountServiceAccountToken is left at its default on purpose: runners reach
// registries, buckets and their own orchestrator by workload identity, which is
// such a token. An operator who does not want it patches the pod template.
func (t *Template) Build(launch run.Launch) (*batchv1.Job, *corev1.Secret, error) {
	request := launch.Request
	if launch.Image == "" {
		return nil, nil, refuse(run.InvalidRequest, "No image is known for the run.")
	}
	if err := t.allows(request); err != nil {
		return nil, nil, err
	}
	asked, err := resources(request.Pod.Resources)
	if err != nil {
		return nil, nil, &run.InvalidError{Problems: []run.Problem{{Field: "pod.resources", Message: err.Error()}}}
	}
	deadline, err := t.deadline(launch.Timeout())
	if err != nil {
		return nil, nil, err
	}
	name := run.JobName(request.ID, launch.Attempt)
	labels := merged(request.Labels, t.settings.Labels, identity(t.settings.Instance, launch))
	annotations := merged(request.Annotations, t.settings.Annotations, map[string]string{AnnotationRequestHash: request.Hash()})
	template := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: annotations},
		Spec:       t.pod(request),
	}
	template.Spec.Containers = []corev1.Container{t.container(launch, name, asked)}
	job := &batchv1.Job{
		TypeMeta: metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: t.settings.Namespace,
			Labels: maps.Clone(labels), Annotations: maps.Clone(annotations),
		},
		Spec: batchv1.JobSpec{
			BackoffLimit:            new(t.settings.BackoffLimit),
			TTLSecondsAfterFinished: new(t.settings.TTLSecondsAfterFinished),
			// A pod is replaced only when it has ended: otherwise two would
			// run at once while the first still stops.
			PodReplacementPolicy: new(batchv1.Failed),
			PodFailurePolicy:     t.policy.DeepCopy(),
		},
	}
	// A deadline of the pod leaves the pod where it is, and with it the log; a
	// deadline of the Job deletes it. Only the latter can bound several pods
	// together, and counts from the Job's creation.
	template.Spec.ActiveDeadlineSeconds = deadline
	if t.settings.BackoffLimit > 0 && deadline != nil {
		job.Spec.ActiveDeadlineSeconds = new(*deadline)
	}
	if job.Spec.Template, err = t.patched(template); err != nil {
		return nil, nil, &run.LaunchError{Reason: run.InvalidPodSpec, Message: sentence(settingPatch+" does not fit", err.Error()), Err: err}
	}
	return job, t.secret(launch, name), nil
}

// allows refuses what the operator's policy does not let a request set.
func (t *Template) allows(request run.Request) error {
	set := map[string]bool{
		"resources":         len(request.Pod.Resources.Requests)+len(request.Pod.Resources.Limits) > 0,
		"nodeSelector":      len(request.Pod.NodeSelector) > 0,
		"tolerations":       len(request.Pod.Tolerations) > 0,
		"serviceAccount":    request.Pod.ServiceAccount != "",
		"priorityClassName": request.Pod.PriorityClassName != "",
	}
	var refused []string
	for _, field := range podFields() {
		if set[field] && !t.mayset[field] {
			refused = append(refused, "pod."+field)
		}
	}
	if refused != nil {
		return refuse(run.PolicyRefused, "The request sets %s, which %s does not let a request set.", strings.Join(refused, " and "), cmp.Or(t.settings.RequestMaySetBy, settingRequestMaySet))
	}
	for _, key := range slices.Sorted(maps.Keys(request.Annotations)) {
		// These two are settings of the pod in the clothes of annotations,
		// and would lift the restrictions that the operator has set.
		if prefix, _, _ := strings.Cut(key, "/"); strings.HasSuffix(prefix, "apparmor.security.beta.kubernetes.io") ||
			strings.HasSuffix(prefix, "seccomp.security.alpha.kubernetes.io") {
			return refuse(run.PolicyRefused, "The request sets the annotation %s, which changes the pod's security and is the operator's to set, by ROPEWALK_POD_ANNOTATIONS.", key)
		}
	}
	return nil
}

// deadline is the pod's activeDeadlineSeconds, nil without a limit.
func (t *Template) deadline(asked run.Duration) (*int64, error) {
	timeout, most := time.Duration(asked), t.settings.MaxTimeout
	if most > 0 && timeout > most {
		return nil, refuse(run.PolicyRefused, "The request's timeout of %s is above the %s that "+settingMaxTimeout+" allows.", timeout, most)
	}
	if timeout == 0 {
		timeout = most
	}
	if timeout == 0 {
		return nil, nil
	}
	return new(int64(math.Ceil(timeout.Seconds()))), nil
}

// pod is the pod's spec without its container.
func (t *Template) pod(request run.Request) corev1.PodSpec {
	security := t.settings.Security
	pod := corev1.PodSpec{
		RestartPolicy:      corev1.RestartPolicyNever,
		ServiceAccountName: t.settings.ServiceAccount,
		PriorityClassName:  request.Pod.PriorityClassName,
		NodeSelector:       merged(t.settings.NodeSelector, request.Pod.NodeSelector),
		SecurityContext:    &corev1.PodSecurityContext{},
	}
	if request.Pod.ServiceAccount != "" {
		pod.ServiceAccountName = request.Pod.ServiceAccount
	}
	for _, toleration := range slices.Concat(t.settings.Tolerations, request.Pod.Tolerations) {
		pod.Tolerations = append(pod.Tolerations, corev1.Toleration{
			Key: toleration.Key, Operator: corev1.TolerationOperator(toleration.Operator), Value: toleration.Value,
			Effect: corev1.TaintEffect(toleration.Effect), TolerationSeconds: toleration.TolerationSeconds,
		})
	}
	for _, secret := range t.settings.ImagePullSecrets {
		pod.ImagePullSecrets = append(pod.ImagePullSecrets, corev1.LocalObjectReference{Name: secret})
	}
	// What can be said for the whole pod is, so that containers that a patch
	// adds are held to it too.
	if security.SeccompProfile != "none" {
		pod.SecurityContext.SeccompProfile = &corev1.SeccompProfile{Type: corev1.SeccompProfileType(security.SeccompProfile)}
	}
	if user := security.RunAsUser; user != nil {
		pod.SecurityContext.RunAsUser = new(*user)
	}
	if security.RunAsNonRoot || security.RunAsUser != nil && *security.RunAsUser != 0 {
		pod.SecurityContext.RunAsNonRoot = new(true)
	}
	return pod
}

func (t *Template) container(launch run.Launch, name string, asked corev1.ResourceRequirements) corev1.Container {
	request, security := launch.Request, t.settings.Security
	container := corev1.Container{
		Name: ContainerName, Image: launch.Image, WorkingDir: request.WorkingDir,
		Command: literals(request.Command), Args: literals(request.Args),
		Resources: corev1.ResourceRequirements{
			Requests: merged(t.resources.Requests, asked.Requests),
			Limits:   merged(t.resources.Limits, asked.Limits),
		},
		SecurityContext: &corev1.SecurityContext{},
	}
	for _, key := range slices.Sorted(maps.Keys(request.Env)) {
		container.Env = append(container.Env, corev1.EnvVar{Name: key, Value: literal(request.Env[key])})
	}
	if len(request.SecretEnv) > 0 {
		container.EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: name}}}}
	}
	if !security.AllowPrivilegeEscalation {
		container.SecurityContext.AllowPrivilegeEscalation = new(false)
	}
	if len(security.DropCapabilities) > 0 {
		container.SecurityContext.Capabilities = &corev1.Capabilities{}
		for _, capability := range security.DropCapabilities {
			container.SecurityContext.Capabilities.Drop = append(container.SecurityContext.Capabilities.Drop, corev1.Capability(capability))
		}
	}
	return container
}

// secret holds the secret environment. It is immutable, because an environment
// is read once, and because a cluster need not watch what cannot change.
func (t *Template) secret(launch run.Launch, name string) *corev1.Secret {
	if len(launch.Request.SecretEnv) == 0 {
		return nil
	}
	secret := &corev1.Secret{
		TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Secret"},
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: t.settings.Namespace, Labels: identity(t.settings.Instance, launch),
		},
		Immutable: new(true),
		Type:      corev1.SecretTypeOpaque,
		Data:      make(map[string][]byte, len(launch.Request.SecretEnv)),
	}
	for key, value := range launch.Request.SecretEnv {
		secret.Data[key] = []byte(value.Reveal())
	}
	return secret
}

// ownedBy makes the Job the Secret's owner, so that one goes with the other.
// It blocks the owner's deletion in the foreground: once such a Job is gone,
// its Secret is too.
func ownedBy(job run.Job) []metav1.OwnerReference {
	return []metav1.OwnerReference{{
		APIVersion: "batch/v1", Kind: "Job", Name: job.Name, UID: uid(job),
		Controller: new(true), BlockOwnerDeletion: new(true),
	}}
}

// literal writes text so that Kubernetes's expansion of $(NAME) gives back the
// text as it was. "$$" stands for "$" there, also where no name follows, so
// that either every "$" is doubled or, where nothing would be expanded, none.
func literal(text string) string {
	if !strings.Contains(text, "$(") && !strings.Contains(text, "$$") {
		return text
	}
	return strings.ReplaceAll(text, "$", "$$")
}

func literals(words []string) []string {
	if words == nil {
		return nil
	}
	escaped := make([]string, len(words))
	for i, word := range words {
		escaped[i] = literal(word)
	}
	return escaped
}

// merged lays maps over each other, the last on top; nil when all are empty.
func merged[M ~map[K]V, K comparable, V any](layers ...M) M {
	var all M
	for _, layer := range layers {
		if all == nil && len(layer) > 0 {
			all = make(M)
		}
		maps.Copy(all, layer)
	}
	return all
}

func refuse(reason run.Reason, format string, args ...any) error {
	return &run.LaunchError{Reason: reason, Message: fmt.Sprintf(format, args...)}
}

package images

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	kjson "sigs.k8s.io/json"
)

const (
	// LabelBuild marks builder Jobs and their pods; its value is as much of the
	// content hash as a label has room for.
	LabelBuild = "ropewalk.dev/build"
	// AnnotationImage names the whole place of the image that a Job builds.
	AnnotationImage = "ropewalk.dev/image"

	// mounted is where the builder finds its Secret.
	mounted = "/ropewalk"
	// stateDir is where buildkitd keeps layers. Rootless, it is in the home of
	// the user that BuildKit's image brings for that.
	stateDir         = "/var/lib/buildkit"
	rootlessUser     = 1000
	rootlessStateDir = "/home/user/.local/share/buildkit"
)

// job is the builder Job. It follows from the target and the settings alone. Its
// container is called run, like that of runs, so that its end is classified in
// the same way.
func (b *Builder) job(t target) (*batchv1.Job, error) {
	name := b.jobName(t)
	labels := map[string]string{}
	annotations := map[string]string{AnnotationImage: t.image.Name()}
	maps.Copy(labels, b.Labels)
	maps.Copy(annotations, b.Annotations)
	labels[LabelBuild] = t.hash[:63]
	pod := corev1.PodSpec{
		RestartPolicy:      corev1.RestartPolicyNever,
		ServiceAccountName: b.ServiceAccount, NodeSelector: b.NodeSelector, Tolerations: b.Tolerations,
		// Whatever a Dockerfile runs shall not find the cluster's API.
		AutomountServiceAccountToken: new(false),
		EnableServiceLinks:           new(false),
		ActiveDeadlineSeconds:        new(int64(math.Ceil(b.Timeout.Seconds()))),
		Containers:                   []corev1.Container{b.container()},
		SecurityContext:              &corev1.PodSecurityContext{},
		Volumes: []corev1.Volume{
			{Name: "build", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: name, DefaultMode: new(int32(0o440))}}},
			{Name: "state", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		},
	}
	if *pod.ActiveDeadlineSeconds == 0 {
		pod.ActiveDeadlineSeconds = nil
	}
	for _, secret := range b.ImagePullSecrets {
		pod.ImagePullSecrets = append(pod.ImagePullSecrets, corev1.LocalObjectReference{Name: secret})
	}
	if !b.Privileged {
		pod.SecurityContext.FSGroup = new(int64(rootlessUser))
	}
	template, err := b.patched(corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels, Annotations: annotations}, Spec: pod})
	if err != nil {
		return nil, err
	}
	return &batchv1.Job{
		TypeMeta:   metav1.TypeMeta{APIVersion: "batch/v1", Kind: "Job"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels, Annotations: annotations},
		Spec: batchv1.JobSpec{
			BackoffLimit:            new(int32(0)),
			TTLSecondsAfterFinished: new(b.TTLSecondsAfterFinished),
			PodReplacementPolicy:    new(batchv1.Failed),
			// A builder that goes down with its node, or is evicted, is replaced.
			PodFailurePolicy: &batchv1.PodFailurePolicy{Rules: []batchv1.PodFailurePolicyRule{{
				Action: batchv1.PodFailurePolicyActionIgnore,
				OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
					{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue},
				},
			}}},
			Template: template,
		},
	}, nil
}

func (b *Builder) container() corev1.Container {
	flags, state := "--config "+mounted+"/buildkitd.toml", stateDir
	security := &corev1.SecurityContext{Privileged: new(true)}
	if !b.Privileged {
		// RootlessKit maps users by newuidmap, which needs to gain rights, and
		// runc needs system calls that the default profiles forbid.
		flags, state = flags+" --oci-worker-no-process-sandbox", rootlessStateDir
		security = &corev1.SecurityContext{
			RunAsUser: new(int64(rootlessUser)), RunAsGroup: new(int64(rootlessUser)), RunAsNonRoot: new(true),
			SeccompProfile:  &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeUnconfined},
			AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined},
		}
	}
	return corev1.Container{
		Name: "run", Image: b.Image, Resources: b.Resources, SecurityContext: security,
		Command: []string{"sh", mounted + "/build.sh"},
		Env: []corev1.EnvVar{
			{Name: "DOCKER_CONFIG", Value: mounted},
			{Name: "BUILDKITD_FLAGS", Value: flags},
			// buildctl waits for buildkitd for so many tenths of a second; a busy
			// node needs more than the default of one second.
			{Name: "BUILDCTL_CONNECT_RETRIES_MAX", Value: "600"},
		},
		VolumeMounts: []corev1.VolumeMount{
			{Name: "build", MountPath: mounted, ReadOnly: true},
			{Name: "state", MountPath: state},
		},
		// The last lines go into the pod's status, where they outlive the log.
		TerminationMessagePolicy: corev1.TerminationMessageFallbackToLogsOnError,
	}
}

// patched lays the operator's patch over the pod template.
func (b *Builder) patched(template corev1.PodTemplateSpec) (corev1.PodTemplateSpec, error) {
	if b.patch == nil {
		return template, nil
	}
	before, err := json.Marshal(template)
	if err != nil {
		return template, fmt.Errorf("encode the pod template: %w", err)
	}
	after, err := strategicpatch.StrategicMergePatch(before, b.patch, corev1.PodTemplateSpec{})
	if err != nil {
		return template, fmt.Errorf("is not a strategic merge patch: %w", err)
	}
	var patched corev1.PodTemplateSpec
	unknown, err := kjson.UnmarshalStrict(after, &patched)
	if err := errors.Join(append(unknown, err)...); err != nil {
		return template, fmt.Errorf("makes no pod template: %w", err)
	}
	found := 0
	for _, container := range patched.Spec.Containers {
		if container.Name == "run" {
			found++
		}
	}
	if found != 1 {
		return template, errNoBuilder
	}
	if patched.Spec.RestartPolicy != corev1.RestartPolicyNever {
		return template, fmt.Errorf("changes restartPolicy to %s; a builder must be Never restarted, or its last lines are lost", patched.Spec.RestartPolicy)
	}
	return patched, nil
}

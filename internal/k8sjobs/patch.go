package k8sjobs

import (
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
)

// patched lays the operator's patches over a pod template. What the launcher
// relies on must still be there afterwards: the labels and the annotation by
// which a pod is known, the container that is run, and that it is run once.
func (t *Template) patched(template corev1.PodTemplateSpec) (corev1.PodTemplateSpec, error) {
	if t.patches == nil {
		return template, nil
	}
	after, err := json.Marshal(template)
	if err != nil {
		return template, fmt.Errorf("encode the pod template: %w", err)
	}
	for _, patch := range t.patches {
		if after, err = strategicpatch.StrategicMergePatch(after, patch, corev1.PodTemplateSpec{}); err != nil {
			return template, fmt.Errorf("is not a strategic merge patch: %w", err)
		}
	}
	var patched corev1.PodTemplateSpec
	if err := decodeStrictly(after, &patched); err != nil {
		return template, fmt.Errorf("makes no pod template: %w", err)
	}
	var errs []error
	for _, label := range []string{LabelManagedBy, LabelInstance, LabelRunID, LabelQueue, LabelAttempt} {
		if patched.Labels[label] != template.Labels[label] {
			errs = append(errs, fmt.Errorf("changes the label %s, by which the run's pod is found", label))
		}
	}
	if patched.Annotations[AnnotationRequestHash] != template.Annotations[AnnotationRequestHash] {
		errs = append(errs, fmt.Errorf("changes the annotation %s", AnnotationRequestHash))
	}
	if containers(patched.Spec)[ContainerName] != 1 {
		errs = append(errs, fmt.Errorf("leaves no container %q, which runs the request's command", ContainerName))
	}
	if patched.Spec.RestartPolicy != corev1.RestartPolicyNever {
		errs = append(errs, fmt.Errorf("changes restartPolicy to %s; only a pod that is Never restarted runs an attempt once", patched.Spec.RestartPolicy))
	}
	return patched, errors.Join(errs...)
}

func containers(pod corev1.PodSpec) map[string]int {
	names := make(map[string]int)
	for _, container := range pod.Containers {
		names[container.Name]++
	}
	return names
}

package k8sjobs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Template is the settings made ready: everything that can be wrong with them
// has been found, so that [Template.Build] is cheap and fails by the request's
// fault only. It is safe for concurrent use.
type Template struct {
	settings  Settings
	mayset    map[string]bool
	resources corev1.ResourceRequirements
	policy    *batchv1.PodFailurePolicy
	patches   [][]byte // JSON, in the order in which they are laid over
}

// Compile checks the settings and makes them ready. Its error holds everything
// that is wrong, each with the name of the variable.
func Compile(settings Settings) (*Template, error) {
	t := &Template{settings: settings, mayset: make(map[string]bool)}
	for _, field := range settings.RequestMaySet {
		t.mayset[field] = true
	}
	errs := []error{settings.validate()}
	var err error
	if t.resources, err = resources(settings.Resources); err != nil {
		errs = append(errs, fmt.Errorf("%s: %w", settingResources, err))
	}
	if t.policy, err = failurePolicy(settings.PodFailurePolicy); err != nil {
		errs = append(errs, fmt.Errorf("%s: %w", settingFailurePolicy, err))
	}
	for _, written := range []string{settings.PodTemplatePatch, settings.QueuePatch} {
		if written == "" {
			continue
		}
		patch, err := yaml.YAMLToJSONStrict([]byte(written))
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: is neither JSON nor YAML: %w", settingPatch, err))
		}
		t.patches = append(t.patches, patch)
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	if err := t.rehearse(); err != nil {
		return nil, err
	}
	return t, nil
}

// rehearse builds the Job of a request that sets all it may, so that a patch
// that does not fit is found when the dispatcher starts and not with each run.
func (t *Template) rehearse() error {
	launch := run.Launch{
		Attempt: 1, Image: "image",
		Request: run.Request{
			Version: run.Version, ID: "rehearsal", Queue: "default", Command: []string{"command"}, Args: []string{"arg"},
			Env: map[string]string{"NAME": "value"}, SecretEnv: map[string]run.Secret{"SECRET": "value"},
		},
	}
	job, _, err := t.Build(launch)
	if err != nil {
		return fmt.Errorf("%s: %w", settingPatch, err)
	}
	if t.policy == nil {
		return nil
	}
	for i, rule := range t.policy.Rules {
		if rule.OnExitCodes == nil || rule.OnExitCodes.ContainerName == nil {
			continue
		}
		var names []string
		for _, container := range slices.Concat(job.Spec.Template.Spec.Containers, job.Spec.Template.Spec.InitContainers) {
			names = append(names, container.Name)
		}
		if name := *rule.OnExitCodes.ContainerName; !slices.Contains(names, name) {
			return fmt.Errorf("%s: rules[%d].onExitCodes.containerName is %q, which no container of a run is called; they are: %s",
				settingFailurePolicy, i, name, strings.Join(names, ", "))
		}
	}
	return nil
}

// failurePolicy decodes a pod failure policy strictly: a misspelt field would
// otherwise make another policy of it, and nobody would know.
func failurePolicy(text string) (*batchv1.PodFailurePolicy, error) {
	if text == "" {
		return nil, nil
	}
	data, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		return nil, fmt.Errorf("is neither JSON nor YAML: %w", err)
	}
	policy := &batchv1.PodFailurePolicy{}
	if err := decodeStrictly(data, policy); err != nil {
		return nil, fmt.Errorf("is not a pod failure policy: %w", err)
	}
	if len(policy.Rules) == 0 {
		return nil, errors.New(`has no rules; it looks like {"rules": [{"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget"}]}]}`)
	}
	for i, rule := range policy.Rules {
		switch rule.Action {
		case batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore, batchv1.PodFailurePolicyActionCount:
		default:
			// FailIndex is for indexed Jobs, which ours are not.
			return nil, fmt.Errorf("rules[%d].action is %q; it may be FailJob, Ignore or Count", i, rule.Action)
		}
		if (rule.OnExitCodes == nil) == (rule.OnPodConditions == nil) {
			return nil, fmt.Errorf("rules[%d] must have one of onExitCodes and onPodConditions", i)
		}
		for j := range rule.OnPodConditions {
			// The API wants it said, and every example leaves it out.
			if rule.OnPodConditions[j].Status == "" {
				rule.OnPodConditions[j].Status = corev1.ConditionTrue
			}
		}
	}
	return policy, nil
}

func decodeStrictly(data []byte, into any) error {
	unknown, err := kjson.UnmarshalStrict(data, into)
	return errors.Join(append(unknown, err)...)
}

// Resources turns quantities as they are written into Kubernetes's.
func Resources(written run.Resources) (corev1.ResourceRequirements, error) { return resources(written) }

func resources(written run.Resources) (corev1.ResourceRequirements, error) {
	requests, err := quantities("requests", written.Requests)
	if err != nil {
		return corev1.ResourceRequirements{}, err
	}
	limits, err := quantities("limits", written.Limits)
	return corev1.ResourceRequirements{Requests: requests, Limits: limits}, err
}

func quantities(field string, written map[string]string) (corev1.ResourceList, error) {
	if len(written) == 0 {
		return nil, nil
	}
	list := make(corev1.ResourceList, len(written))
	for _, name := range slices.Sorted(maps.Keys(written)) {
		quantity, err := resource.ParseQuantity(written[name])
		if err != nil {
			return nil, fmt.Errorf("%s[%s]: %.40q is not a quantity such as 500m, 2 or 1.5Gi", field, name, written[name])
		}
		list[corev1.ResourceName(name)] = quantity
	}
	return list, nil
}

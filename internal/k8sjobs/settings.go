package k8sjobs

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
)

// The settings that messages of this package name, so that whoever reads one
// knows where to turn.
const (
	settingNamespace      = "ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE"
	settingResources      = "ZENML_KUBERNETES_WORKLOAD_MANAGER_POD_RESOURCES"
	settingBackoffLimit   = "ZENML_KUBERNETES_WORKLOAD_MANAGER_JOB_BACKOFF_LIMIT"
	settingFailurePolicy  = "ZENML_KUBERNETES_WORKLOAD_MANAGER_POD_FAILURE_POLICY"
	settingTTL            = "ZENML_KUBERNETES_WORKLOAD_MANAGER_TTL_SECONDS_AFTER_FINISHED"
	settingInstance       = "ROPEWALK_INSTANCE"
	settingPatch          = "ROPEWALK_POD_TEMPLATE_PATCH"
	settingRequestMaySet  = "ROPEWALK_REQUEST_MAY_SET"
	settingMaxTimeout     = "ROPEWALK_MAX_TIMEOUT"
	settingSeccompProfile = "ROPEWALK_POD_SECCOMP_PROFILE"
	settingRunAsUser      = "ROPEWALK_POD_RUN_AS_USER"
)

// Settings is what the operator decides about every Job. The zero value is not
// usable: namespace and instance are required.
type Settings struct {
	// Namespace is where Jobs and Secrets are made.
	Namespace string
	// Instance tells two installations in one namespace apart.
	Instance string
	// ServiceAccount is that of the pods; empty is the namespace's default.
	ServiceAccount string
	// ImagePullSecrets are names of Secrets in the same namespace.
	ImagePullSecrets []string
	// Resources, NodeSelector and Tolerations are defaults. A request that
	// may set them replaces the first two key by key and adds to the third.
	// An operator who must have the last word uses PodTemplatePatch.
	Resources    run.Resources
	NodeSelector map[string]string
	Tolerations  []run.Toleration
	// Labels and Annotations are put on Jobs and pods, over a request's own.
	Labels      map[string]string
	Annotations map[string]string
	Security    Security
	// BackoffLimit is how many pods that failed the Job replaces within one
	// attempt.
	BackoffLimit int32
	// PodFailurePolicy is a batch/v1 PodFailurePolicy as JSON or YAML, or
	// empty.
	PodFailurePolicy string
	// TTLSecondsAfterFinished is how long a finished Job is kept.
	TTLSecondsAfterFinished int32
	// PodTemplatePatch is a strategic merge patch of the pod template as JSON
	// or YAML, or empty. It is laid over everything else.
	PodTemplatePatch string
	// QueuePatch is another one, of the run's queue, that is laid over that.
	QueuePatch string
	// RequestMaySet lists the fields of [run.Pod], by their JSON names, that
	// a request may set.
	RequestMaySet []string
	// RequestMaySetBy names where that list was set, for messages; left out,
	// it is the variable.
	RequestMaySetBy string
	// MaxTimeout is the longest timeout that a request may ask for, and what
	// it gets when it asks for none. 0 is no limit.
	MaxTimeout time.Duration
	// Patience says how long a run may wait for things before it is given up.
	Patience Patience
}

// Security holds the restrictions of a pod; see [Restricted].
type Security struct {
	AllowPrivilegeEscalation bool
	// SeccompProfile is RuntimeDefault, Unconfined, or none to leave it
	// unsaid.
	SeccompProfile string
	// DropCapabilities are taken from the container; an empty list leaves it
	// what the container runtime gives.
	DropCapabilities []string
	RunAsNonRoot     bool
	// RunAsUser is a user id; one other than 0 implies RunAsNonRoot.
	RunAsUser *int64
}

// Restricted is what pods are given unless the operator relaxes it: all that
// the restricted pod security standard demands but a user other than root,
// which many images of pipelines cannot do without.
func Restricted() Security {
	return Security{SeccompProfile: "RuntimeDefault", DropCapabilities: []string{"ALL"}}
}

// Patience is how long a run may wait before it is given up. 0 is forever.
type Patience struct {
	// Start counts from the Job's creation until its container runs.
	Start time.Duration
	// ImagePull counts from the first failure to pull the image, or to set
	// the container up.
	ImagePull time.Duration
	// Unschedulable counts from the scheduler's first word that no node can
	// take the pod.
	Unschedulable time.Duration
}

// podFields are the fields of [run.Pod] that RequestMaySet may name.
func podFields() []string { return run.PodFields() }

// validate returns everything that is wrong with the settings and can be told
// without building a Job; each error names the variable. The rest, which needs
// one, is [Compile]'s.
func (s Settings) validate() error {
	var errs []error
	wrong := func(setting, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", setting, fmt.Sprintf(format, args...)))
	}
	if s.Namespace == "" {
		wrong(settingNamespace, "is required; it names the namespace that Jobs are made in")
	}
	if s.Instance == "" {
		wrong(settingInstance, "is required")
	}
	if s.BackoffLimit < 0 {
		wrong(settingBackoffLimit, "must not be negative")
	}
	if s.TTLSecondsAfterFinished < 0 {
		wrong(settingTTL, "must not be negative")
	}
	if s.MaxTimeout < 0 || s.MaxTimeout > time.Duration(run.MaxTimeout) {
		wrong(settingMaxTimeout, "must be between 0 and %s", run.MaxTimeout)
	}
	for _, field := range s.RequestMaySet {
		if !slices.Contains(podFields(), field) {
			wrong(settingRequestMaySet, "%q is not a field that a request has; it may list %s", field, strings.Join(podFields(), ", "))
		}
	}
	switch s.Security.SeccompProfile {
	case "RuntimeDefault", "Unconfined", "none":
	default:
		wrong(settingSeccompProfile, "is %q; it may be RuntimeDefault, Unconfined or none", s.Security.SeccompProfile)
	}
	if user := s.Security.RunAsUser; user != nil && *user == 0 && s.Security.RunAsNonRoot {
		wrong(settingRunAsUser, "is 0, which is root, while ROPEWALK_POD_RUN_AS_NON_ROOT is true")
	}
	return errors.Join(errs...)
}

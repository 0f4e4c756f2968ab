package config

import (
	"errors"
	"strings"

	"github.com/ropewalk/ropewalk/internal/run"
)

// The variables that the rules below speak of. A test holds them against the
// tags.
const (
	natsURL         = "ROPEWALK_NATS_URL"
	natsCredentials = "ROPEWALK_NATS_CREDENTIALS" //nolint:gosec // a name, no value
	natsUser        = "ROPEWALK_NATS_USER"
	natsPassword    = "ROPEWALK_NATS_PASSWORD" //nolint:gosec // a name, no value
	natsToken       = "ROPEWALK_NATS_TOKEN"    //nolint:gosec // a name, no value
	natsTLSCert     = "ROPEWALK_NATS_TLS_CERT"
	natsTLSKey      = "ROPEWALK_NATS_TLS_KEY"

	launcher = "ROPEWALK_LAUNCHER"

	templateRuns = "ZENML_SERVER_MAX_CONCURRENT_TEMPLATE_RUNS"
	snapshotRuns = "ZENML_SERVER_MAX_CONCURRENT_SNAPSHOT_RUNS"
	moreQueues   = "ROPEWALK_QUEUES"

	flavour        = "ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATION_SOURCE"
	namespace      = "ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE"
	serviceAccount = "ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT"

	podResources    = "ZENML_KUBERNETES_WORKLOAD_MANAGER_POD_RESOURCES"
	podNodeSelector = "ZENML_KUBERNETES_WORKLOAD_MANAGER_NODE_SELECTOR"
	podTolerations  = "ZENML_KUBERNETES_WORKLOAD_MANAGER_TOLERATIONS"
	podLabels       = "ROPEWALK_POD_LABELS"
	podAnnotations  = "ROPEWALK_POD_ANNOTATIONS"
	podNonRoot      = "ROPEWALK_POD_RUN_AS_NON_ROOT"
	podUser         = "ROPEWALK_POD_RUN_AS_USER"

	buildImages    = "ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE"
	dockerRegistry = "ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY"
	externalLogs   = "ZENML_KUBERNETES_WORKLOAD_MANAGER_ENABLE_EXTERNAL_LOGS"
	awsBucket      = "ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_BUCKET"
	awsRegion      = "ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_REGION"
)

// useLocal makes the local launcher the one of a command that has no other.
func (l *loader) useLocal() {
	if l.set(launcher) && l.sound(launcher) && l.config.Launch.Launcher != LauncherLocal {
		l.problem(launcher, "is %s, but dispatcher dev launches local processes only; use dispatcher serve, or unset it", l.config.Launch.Launcher)
	}
	l.config.Launch.Launcher = LauncherLocal
}

// natsRules: one way to log in, and whole pairs.
func (l *loader) natsRules() {
	var ways []string
	for _, way := range []string{natsCredentials, natsUser, natsToken} {
		if l.set(way) {
			ways = append(ways, way)
		}
	}
	if l.config.NATS.URL.credentials() {
		ways = append(ways, natsURL)
	}
	if len(ways) > 1 {
		l.problem(ways[0], "is one of several ways to log in to NATS that are set (%s); keep one", strings.Join(ways, ", "))
	}
	if l.set(natsPassword) {
		l.requireBeside(natsUser, natsPassword)
	}
	if l.set(natsTLSKey) {
		l.requireBeside(natsTLSCert, natsTLSKey)
	}
	if l.set(natsTLSCert) {
		l.requireBeside(natsTLSKey, natsTLSCert)
	}
}

func (l *loader) requireBeside(name, other string) { l.require(name, "it goes with "+other) }

// queueRules joins the two names of the default queue's limit, and finds
// contradictions between all three places that may give it.
func (l *loader) queueRules() {
	queues := &l.config.Queues
	if !l.sound(templateRuns, snapshotRuns, moreQueues) {
		return
	}
	if l.set(snapshotRuns) {
		if l.set(templateRuns) && queues.TemplateRuns != queues.SnapshotRuns {
			l.problem(snapshotRuns, "is %d, but %s, its older name, is %d; set one of them", queues.SnapshotRuns, templateRuns, queues.TemplateRuns)
			return
		}
		queues.TemplateRuns = queues.SnapshotRuns
	}
	named, ok := queues.More.find(DefaultQueue)
	if !ok {
		return
	}
	for _, name := range []string{templateRuns, snapshotRuns} {
		if l.set(name) && named.Limit != queues.TemplateRuns {
			l.problem(moreQueues, "gives the queue default the limit %d, but %s gives it %d; set one of them", named.Limit, name, queues.TemplateRuns)
			return
		}
	}
	queues.TemplateRuns = named.Limit
}

// podRules holds the pod's settings to the rules that requests are held to,
// by way of a request that is right in every other respect.
func (l *loader) podRules() {
	pod := l.config.Pod
	probe := run.Request{
		Version: run.Version, ID: "probe", Queue: DefaultQueue, Command: []string{"true"},
		Pod:    run.Pod{Resources: pod.Resources, NodeSelector: pod.NodeSelector, Tolerations: pod.Tolerations},
		Labels: pod.Labels, Annotations: pod.Annotations,
	}
	if invalid, ok := errors.AsType[*run.InvalidError](probe.Validate()); ok {
		for _, problem := range invalid.Problems {
			l.podProblem(problem)
		}
	}
	for _, label := range []string{"app.kubernetes.io/managed-by", "app.kubernetes.io/instance"} {
		if _, ok := pod.Labels[label]; ok {
			l.problem(podLabels, "sets %s, by which Ropewalk finds its own Jobs; the instance is set by ROPEWALK_INSTANCE", label)
		}
	}
	if pod.RunAsNonRoot && pod.RunAsUser != nil && *pod.RunAsUser == 0 {
		l.problem(podUser, "is 0, which is root, but %s forbids root", podNonRoot)
	}
}

// podProblem turns a problem with the probe into one with the variable that
// the field came from.
func (l *loader) podProblem(problem run.Problem) {
	for _, origin := range []struct{ field, name string }{
		{"pod.resources.", podResources},
		{"pod.nodeSelector", podNodeSelector},
		{"pod.tolerations", podTolerations},
		{"labels", podLabels},
		{"annotations", podAnnotations},
	} {
		if rest, ok := strings.CutPrefix(problem.Field, origin.field); ok {
			l.problem(origin.name, "at %s: %s", rest, problem.Message)
			return
		}
	}
	panic("config: no variable for " + problem.Field) // the probe is right in every other respect
}

// logRules: logs outside the pods are for the AWS flavour, as in the system
// whose settings these are, and need a bucket.
func (l *loader) logRules() {
	if !l.config.Logs.ExternalLogs || !l.sound(flavour) {
		return
	}
	if l.config.Kubernetes.Flavour != FlavourAWS {
		l.problem(externalLogs, "is true, but only the AWS flavour stores logs in S3; unset it, or set %s to %s", flavour, FlavourAWS.Source())
		return
	}
	l.require(awsBucket, "it says where external logs are stored, which "+externalLogs+" enables")
}

// kubernetesRules are for the launcher that makes Jobs and their images.
func (l *loader) kubernetesRules() {
	if !l.sound(launcher) || l.config.Launch.Launcher != LauncherKubernetes {
		return
	}
	why := "the kubernetes launcher needs it (" + launcher + "=local runs without a cluster)"
	l.require(namespace, why)
	l.require(serviceAccount, why)
	if !l.config.Images.BuildRunnerImage {
		return
	}
	l.require(dockerRegistry, "built images are pushed there, and "+buildImages+" is true")
	if l.sound(flavour) && l.config.Kubernetes.Flavour == FlavourAWS {
		l.require(awsRegion, "the AWS flavour needs it to build images, and "+buildImages+" is true")
	}
}

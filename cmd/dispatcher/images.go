package main

import (
	"cmp"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/images"
	"github.com/ropewalk/ropewalk/internal/k8sjobs"
	"github.com/ropewalk/ropewalk/internal/run"
)

// newResolver hands the operator's settings to the resolver of images. Jobs and
// contexts may be nil where nothing is built, but only looked up.
func newResolver(settings *config.Config, client kubernetes.Interface, jobs images.Jobs, contexts images.Contexts) (*images.Resolver, error) {
	chosen := settings.Images
	with := images.Config{
		Prebuilt: chosen.RunnerImage, Default: run.ImageMode(chosen.Mode()),
		Policy:        images.NewPolicy(chosen.Allow, chosen.Deny),
		ResolveDigest: chosen.ResolveDigest != "false", DigestOptional: chosen.ResolveDigest == "auto", DigestCache: chosen.DigestCache,
		PlainHTTP: chosen.PlainHTTP, CAFile: chosen.CAFile,
		PullSecrets: &images.PullSecrets{
			Client: client, Namespace: settings.Kubernetes.Namespace,
			ServiceAccount: settings.Kubernetes.ServiceAccount, Names: settings.Pod.ImagePullSecrets,
		},
		ECR: &images.ECR{Region: settings.AWS.Region},
	}
	for _, mode := range chosen.Modes {
		with.Modes = append(with.Modes, run.ImageMode(mode))
	}
	if chosen.BuildRunnerImage {
		builder, err := newBuilder(settings, jobs, contexts)
		if err != nil {
			return nil, err
		}
		with.Builder = builder
	}
	return images.New(with)
}

// newBuilder gives builders what runs have where they have no setting of their
// own.
func newBuilder(settings *config.Config, jobs images.Jobs, contexts images.Contexts) (*images.Builder, error) {
	chosen, pod := settings.Builder, settings.Pod
	resources, err := k8sjobs.Resources(chosen.Resources)
	if err != nil {
		return nil, fmt.Errorf("ROPEWALK_BUILDER_RESOURCES: %w", err)
	}
	selector, tolerations := pod.NodeSelector, pod.Tolerations
	if chosen.NodeSelector != nil {
		selector = chosen.NodeSelector
	}
	if chosen.Tolerations != nil {
		tolerations = chosen.Tolerations
	}
	builder := &images.Builder{
		Jobs: jobs, Contexts: contexts, Instance: settings.Launch.Instance,
		Registry: settings.Images.DockerRegistry, Repository: chosen.Repository,
		Image: chosen.Image, Privileged: chosen.Privileged, CacheInRegistry: chosen.Cache == "registry",
		Timeout: chosen.Timeout, FailureMemory: chosen.FailureMemory,
		TTLSecondsAfterFinished: pod.TTLSecondsAfterFinished,
		ServiceAccount:          cmp.Or(chosen.ServiceAccount, settings.Kubernetes.ServiceAccount),
		ImagePullSecrets:        pod.ImagePullSecrets, Resources: resources, NodeSelector: selector,
		Labels: pod.Labels, Annotations: pod.Annotations,
		PlainHTTP: settings.Images.PlainHTTP, Mirrors: chosen.Mirrors, CAFile: settings.Images.CAFile,
		PodTemplatePatch: chosen.PodTemplatePatch,
	}
	for _, toleration := range tolerations {
		builder.Tolerations = append(builder.Tolerations, corev1.Toleration{
			Key: toleration.Key, Operator: corev1.TolerationOperator(toleration.Operator), Value: toleration.Value,
			Effect: corev1.TaintEffect(toleration.Effect), TolerationSeconds: toleration.TolerationSeconds,
		})
	}
	return builder, nil
}

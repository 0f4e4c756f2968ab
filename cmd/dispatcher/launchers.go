package main

import (
	"context"
	"os"
	"time"

	"github.com/rs/zerolog"
	"k8s.io/client-go/kubernetes"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/k8sjobs"
	"github.com/ropewalk/ropewalk/internal/localexec"
	"github.com/ropewalk/ropewalk/internal/logging"
)

func newLocalLauncher(settings *config.Config, log zerolog.Logger) (*localexec.Launcher, error) {
	log.Info().Str("dir", settings.Launch.DataDir).Msg("runs are processes on this machine")
	return localexec.New(localexec.Settings{
		Dir: settings.Launch.DataDir, Environ: os.Environ(),
		TTL: seconds(settings.Pod.TTLSecondsAfterFinished), Log: log.With().Str(logging.Component, "localexec").Logger(),
	})
}

// newKubernetesClient reaches nothing yet.
func newKubernetesClient(settings *config.Config, count func(verb, resource string, code int)) (kubernetes.Interface, error) {
	return k8sjobs.NewClient(k8sjobs.ClientConfig{
		Kubeconfig: os.Getenv("KUBECONFIG"), QPS: float32(settings.Kubernetes.QPS), Burst: settings.Kubernetes.Burst,
		Version: version(), Count: count,
	})
}

// newKubernetesLauncher reaches the cluster, says which, and refuses one that is
// too old. A cluster that is away is no reason to end: it is waited for, and
// runs show it.
func newKubernetesLauncher(ctx context.Context, settings *config.Config, client kubernetes.Interface, log zerolog.Logger) (*k8sjobs.Launcher, error) {
	launcher, err := k8sjobs.New(k8sjobs.Config{
		Client: client, Settings: kubernetesSettings(settings), Logs: followsLogs(settings),
		Log: log.With().Str(logging.Component, "k8sjobs").Logger(),
	})
	if err != nil {
		return nil, err
	}
	limited, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	switch server, err := launcher.ServerVersion(limited); {
	case err != nil && server != "": // it answered, and is too old
		return nil, err
	case err != nil:
		log.Warn().Err(err).Msg("the cluster does not answer; runs wait until it does")
	default:
		log.Info().Str("version", server).Str(logging.Namespace, settings.Kubernetes.Namespace).Msg("reached the cluster")
	}
	return launcher, nil
}

// kubernetesSettings hands the operator's settings to the launcher.
func kubernetesSettings(settings *config.Config) k8sjobs.Settings {
	pod := settings.Pod
	return k8sjobs.Settings{
		Namespace: settings.Kubernetes.Namespace, Instance: settings.Launch.Instance,
		ServiceAccount: settings.Kubernetes.ServiceAccount, ImagePullSecrets: pod.ImagePullSecrets,
		Resources: pod.Resources, NodeSelector: pod.NodeSelector, Tolerations: pod.Tolerations,
		Labels: pod.Labels, Annotations: pod.Annotations,
		Security: k8sjobs.Security{
			AllowPrivilegeEscalation: pod.AllowPrivilegeEscalation, SeccompProfile: pod.SeccompProfile,
			DropCapabilities: pod.DropCapabilities, RunAsNonRoot: pod.RunAsNonRoot, RunAsUser: pod.RunAsUser,
		},
		BackoffLimit: pod.BackoffLimit, PodFailurePolicy: string(pod.FailurePolicy),
		TTLSecondsAfterFinished: pod.TTLSecondsAfterFinished, PodTemplatePatch: pod.TemplatePatch,
		RequestMaySet: settings.Runs.RequestMaySet, MaxTimeout: settings.Runs.MaxTimeout,
		Patience: k8sjobs.Patience{
			Start: settings.Runs.StartTimeout, ImagePull: settings.Runs.ImagePullGrace, Unschedulable: settings.Runs.UnschedulableGrace,
		},
	}
}

func seconds(n int32) time.Duration { return time.Duration(n) * time.Second }

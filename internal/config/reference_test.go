package config

import (
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"testing"

	"sigs.k8s.io/yaml"

	"github.com/ropewalk/ropewalk/internal/run"
)

// The values that a server's Helm chart is given, block by block as the
// documentation of the workload managers has them. A block that shows only a
// part stands on top of the minimal one.
const (
	helmKubernetes = `
ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATION_SOURCE: zenml_cloud_plugins.kubernetes_workload_manager.KubernetesWorkloadManager
ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE: zenml-workload-manager
ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT: zenml-workload-manager`

	helmAWS = `
ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATION_SOURCE: zenml_cloud_plugins.aws_kubernetes_workload_manager.AWSKubernetesWorkloadManager
ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE: zenml-workload-manager
ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT: zenml-workload-manager
ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_REGION: eu-central-1
ZENML_KUBERNETES_WORKLOAD_MANAGER_ENABLE_EXTERNAL_LOGS: "true"
ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_BUCKET: s3://my-bucket/run-template-logs`

	helmReuse = helmKubernetes + `
ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE: "false"
ZENML_KUBERNETES_WORKLOAD_MANAGER_RUNNER_IMAGE:`

	helmBuild = helmKubernetes + `
ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE: "true"
ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY: internal-registry.mycompany.com/zenml`

	helmPrebuilt = helmKubernetes + `
ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE: "false"
ZENML_KUBERNETES_WORKLOAD_MANAGER_RUNNER_IMAGE: internal-registry.mycompany.com/zenml/zenml:<ZENML_OSS_VERSION>`

	helmMinimal = `
ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATION_SOURCE: zenml_cloud_plugins.kubernetes_workload_manager.KubernetesWorkloadManager
ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE: zenml-workspace-namespace
ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT: zenml-workspace-service-account`

	helmFullAWS = `
ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATION_SOURCE: zenml_cloud_plugins.aws_kubernetes_workload_manager.AWSKubernetesWorkloadManager
ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE: zenml-workspace-namespace
ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT: zenml-workspace-service-account
ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE: "true"
ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY: 339712793861.dkr.ecr.eu-central-1.amazonaws.com
ZENML_KUBERNETES_WORKLOAD_MANAGER_ENABLE_EXTERNAL_LOGS: "true"
ZENML_KUBERNETES_WORKLOAD_MANAGER_POD_RESOURCES: '{"requests": {"cpu": "100m", "memory": "400Mi"}, "limits": {"memory": "700Mi"}}'
ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_BUCKET: s3://my-bucket/run-template-logs
ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_REGION: eu-central-1
ZENML_KUBERNETES_WORKLOAD_MANAGER_NODE_SELECTOR: '{"node-pool": "zenml-pool"}'
ZENML_KUBERNETES_WORKLOAD_MANAGER_TOLERATIONS: '[{"key": "node-pool", "operator": "Equal", "value": "zenml-pool", "effect": "NoSchedule"}]'
ZENML_SERVER_MAX_CONCURRENT_TEMPLATE_RUNS: 10`

	helmFullPrebuilt = helmMinimal + `
ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE: "false"
ZENML_KUBERNETES_WORKLOAD_MANAGER_RUNNER_IMAGE: internal-registry.mycompany.com/zenml/zenml:<ZENML_OSS_VERSION>
ZENML_KUBERNETES_WORKLOAD_MANAGER_POD_RESOURCES: '{"requests": {"cpu": "100m", "memory": "400Mi"}, "limits": {"memory": "700Mi"}}'
ZENML_KUBERNETES_WORKLOAD_MANAGER_TTL_SECONDS_AFTER_FINISHED: 86400
ZENML_SERVER_MAX_CONCURRENT_TEMPLATE_RUNS: 2`

	helmManagerKubernetes = `
ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATION_SOURCE: zenml_cloud_plugins.kubernetes_workload_manager.KubernetesWorkloadManager
ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE: zenml-workload-manager
ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT: zenml-runner
ZENML_KUBERNETES_WORKLOAD_MANAGER_RUNNER_IMAGE: 715803424590.dkr.ecr.eu-central-1.amazonaws.com/zenml-pro-server:0.73.0
ZENML_KUBERNETES_WORKLOAD_MANAGER_POD_RESOURCES: '{"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "2000m", "memory": "2Gi"}}'
ZENML_KUBERNETES_WORKLOAD_MANAGER_TTL_SECONDS_AFTER_FINISHED: 86400
ZENML_SERVER_MAX_CONCURRENT_TEMPLATE_RUNS: 5`

	helmManagerAWS = `
ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATION_SOURCE: zenml_cloud_plugins.aws_kubernetes_workload_manager.AWSKubernetesWorkloadManager
ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE: zenml-workload-manager
ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT: zenml-runner
ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE: "true"
ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY: <your-ecr-registry>
ZENML_KUBERNETES_WORKLOAD_MANAGER_ENABLE_EXTERNAL_LOGS: "true"
ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_BUCKET: s3://your-bucket/zenml-logs
ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_REGION: us-east-1
ZENML_KUBERNETES_WORKLOAD_MANAGER_POD_RESOURCES: '{"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "2000m", "memory": "2Gi"}}'
ZENML_KUBERNETES_WORKLOAD_MANAGER_TTL_SECONDS_AFTER_FINISHED: 86400
ZENML_SERVER_MAX_CONCURRENT_TEMPLATE_RUNS: 5`

	helmManagerGCP = `
ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATION_SOURCE: zenml_cloud_plugins.gcp_kubernetes_workload_manager.GCPKubernetesWorkloadManager
ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE: zenml-workload-manager
ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT: zenml-runner
ZENML_KUBERNETES_WORKLOAD_MANAGER_BUILD_RUNNER_IMAGE: "true"
ZENML_KUBERNETES_WORKLOAD_MANAGER_DOCKER_REGISTRY: <your-gcr-registry>
ZENML_KUBERNETES_WORKLOAD_MANAGER_POD_RESOURCES: '{"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "2000m", "memory": "2Gi"}}'
ZENML_KUBERNETES_WORKLOAD_MANAGER_TTL_SECONDS_AFTER_FINISHED: 86400
ZENML_SERVER_MAX_CONCURRENT_TEMPLATE_RUNS: 5`
)

// helmEnvironment is the environment that a chart makes of a block.
func helmEnvironment(t *testing.T, block string) map[string]string {
	t.Helper()
	asJSON, err := yaml.YAMLToJSONStrict([]byte(block))
	if err != nil {
		t.Fatal(err)
	}
	var values map[string]any
	if err := json.Unmarshal(asJSON, &values); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for name, value := range values {
		if value == nil {
			value = "" // how a chart renders a key without a value
		}
		env[name] = fmt.Sprint(value)
	}
	return env
}

func TestAServersHelmValuesDropIn(t *testing.T) {
	small := run.Resources{
		Requests: map[string]string{"cpu": "100m", "memory": "400Mi"},
		Limits:   map[string]string{"memory": "700Mi"},
	}
	large := run.Resources{
		Requests: map[string]string{"cpu": "500m", "memory": "512Mi"},
		Limits:   map[string]string{"cpu": "2000m", "memory": "2Gi"},
	}
	account := func(flavour Flavour, namespace, serviceAccount string) func(*Config) {
		return func(c *Config) {
			c.Kubernetes.Flavour, c.Kubernetes.Namespace, c.Kubernetes.ServiceAccount = flavour, namespace, serviceAccount
		}
	}
	plain := account(FlavourKubernetes, "zenml-workload-manager", "zenml-workload-manager")
	for sentence, tc := range map[string]struct {
		block  string
		change []func(*Config) // what the block changes of the defaults
		mode   ImageMode
		limit  QueueLimit
	}{
		"the Kubernetes implementation": {
			helmKubernetes, []func(*Config){plain}, ImageReuse, QueueLimit{"default", 2, false},
		},
		"the AWS implementation with logs in S3": {
			helmAWS, []func(*Config){account(FlavourAWS, "zenml-workload-manager", "zenml-workload-manager"), func(c *Config) {
				c.Logs.ExternalLogs = true
				c.AWS = AWS{Bucket: Bucket{"my-bucket", "run-template-logs"}, Region: "eu-central-1"}
			}}, ImageReuse, QueueLimit{"default", 2, false},
		},
		"reusing the snapshot's images": {
			helmReuse, []func(*Config){plain}, ImageReuse, QueueLimit{"default", 2, false},
		},
		"building runner images": {
			helmBuild, []func(*Config){plain, func(c *Config) {
				c.Images.BuildRunnerImage, c.Images.DockerRegistry = true, "internal-registry.mycompany.com/zenml"
			}}, ImageBuild, QueueLimit{"default", 2, false},
		},
		"a prebuilt runner image": {
			helmPrebuilt, []func(*Config){plain, func(c *Config) {
				c.Images.RunnerImage = "internal-registry.mycompany.com/zenml/zenml:<ZENML_OSS_VERSION>"
			}}, ImagePrebuilt, QueueLimit{"default", 2, false},
		},
		"the minimal Kubernetes configuration": {
			helmMinimal,
			[]func(*Config){account(FlavourKubernetes, "zenml-workspace-namespace", "zenml-workspace-service-account")},
			ImageReuse,
			QueueLimit{"default", 2, false},
		},
		"the full AWS configuration": {
			helmFullAWS, []func(*Config){account(FlavourAWS, "zenml-workspace-namespace", "zenml-workspace-service-account"), func(c *Config) {
				c.Images.BuildRunnerImage, c.Images.DockerRegistry = true, "339712793861.dkr.ecr.eu-central-1.amazonaws.com"
				c.Logs.ExternalLogs = true
				c.AWS = AWS{Bucket: Bucket{"my-bucket", "run-template-logs"}, Region: "eu-central-1"}
				c.Pod.Resources = small
				c.Pod.NodeSelector = map[string]string{"node-pool": "zenml-pool"}
				c.Pod.Tolerations = []run.Toleration{{Key: "node-pool", Operator: "Equal", Value: "zenml-pool", Effect: "NoSchedule"}}
				c.Queues.TemplateRuns = 10
			}}, ImageBuild, QueueLimit{"default", 10, true},
		},
		"the configuration with a prebuilt image": {
			helmFullPrebuilt, []func(*Config){account(FlavourKubernetes, "zenml-workspace-namespace", "zenml-workspace-service-account"), func(c *Config) {
				c.Images.RunnerImage = "internal-registry.mycompany.com/zenml/zenml:<ZENML_OSS_VERSION>"
				c.Pod.Resources, c.Pod.TTLSecondsAfterFinished = small, 86400
			}}, ImagePrebuilt, QueueLimit{"default", 2, true},
		},
		"the Kubernetes workload manager": {
			helmManagerKubernetes, []func(*Config){account(FlavourKubernetes, "zenml-workload-manager", "zenml-runner"), func(c *Config) {
				c.Images.RunnerImage = "715803424590.dkr.ecr.eu-central-1.amazonaws.com/zenml-pro-server:0.73.0"
				c.Pod.Resources, c.Pod.TTLSecondsAfterFinished, c.Queues.TemplateRuns = large, 86400, 5
			}}, ImagePrebuilt, QueueLimit{"default", 5, true},
		},
		"the AWS workload manager": {
			helmManagerAWS, []func(*Config){account(FlavourAWS, "zenml-workload-manager", "zenml-runner"), func(c *Config) {
				c.Images.BuildRunnerImage, c.Images.DockerRegistry = true, "<your-ecr-registry>"
				c.Logs.ExternalLogs = true
				c.AWS = AWS{Bucket: Bucket{"your-bucket", "zenml-logs"}, Region: "us-east-1"}
				c.Pod.Resources, c.Pod.TTLSecondsAfterFinished, c.Queues.TemplateRuns = large, 86400, 5
			}}, ImageBuild, QueueLimit{"default", 5, true},
		},
		"the GCP workload manager": {
			helmManagerGCP, []func(*Config){account(FlavourGCP, "zenml-workload-manager", "zenml-runner"), func(c *Config) {
				c.Images.BuildRunnerImage, c.Images.DockerRegistry = true, "<your-gcr-registry>"
				c.Pod.Resources, c.Pod.TTLSecondsAfterFinished, c.Queues.TemplateRuns = large, 86400, 5
			}}, ImageBuild, QueueLimit{"default", 5, true},
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			setenv(t, complete(nil))
			want, err := LoadServe()
			if err != nil {
				t.Fatal(err)
			}
			for _, change := range tc.change {
				change(want)
			}
			env := helmEnvironment(t, tc.block)
			setenv(t, env)
			got, err := LoadServe()
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got.Limits(), []QueueLimit{tc.limit}) {
				t.Errorf("limits %v, want %v", got.Limits(), tc.limit)
			}
			if got.Images.Mode() != tc.mode {
				t.Errorf("mode %s, want %s", got.Images.Mode(), tc.mode)
			}
			for name := range maps.Keys(env) {
				if set := env[name] != ""; got.facts[name].set != set {
					t.Errorf("%s counts as set: %t", name, !set)
				}
			}
			got.facts, want.facts = nil, nil
			if !reflect.DeepEqual(got, want) {
				t.Errorf("got  %+v\nwant %+v", got, want)
			}
		})
	}
}

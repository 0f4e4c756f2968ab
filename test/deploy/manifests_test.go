package deploy

import (
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"sigs.k8s.io/yaml"

	"github.com/ropewalk/ropewalk/internal/config"
)

var root = filepath.Join("..", "..")

func read(t *testing.T, path ...string) []byte {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(append([]string{root}, path...)...))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// manifest decodes the objects of one kind that a file holds.
func manifest[T any](t *testing.T, kind string, path ...string) []T {
	t.Helper()
	var found []T
	for document := range strings.SplitSeq(string(read(t, path...)), "\n---\n") {
		var meta struct {
			Kind string `json:"kind"`
		}
		if err := yaml.Unmarshal([]byte(document), &meta); err != nil {
			t.Fatal(err)
		}
		if meta.Kind == kind {
			var object T
			if err := yaml.UnmarshalStrict([]byte(document), &object); err != nil {
				t.Fatalf("%s: %v", filepath.Join(path...), err)
			}
			found = append(found, object)
		}
	}
	if len(found) == 0 {
		t.Fatalf("%s holds no %s", filepath.Join(path...), kind)
	}
	return found
}

var flavours = map[string]config.Flavour{"kubernetes": config.FlavourKubernetes, "aws": config.FlavourAWS, "gcp": config.FlavourGCP}

// The Role of the chart is the one that the dispatcher's own tests run with.
func TestChartGivesWhatTheDispatcherIsTestedWith(t *testing.T) {
	var want []rbacv1.PolicyRule
	for _, file := range []string{"rbac.yaml", "rbac-images.yaml"} {
		for _, role := range manifest[rbacv1.Role](t, "Role", "deploy", "manifests", file) {
			want = append(want, role.Rules...)
		}
	}
	for flavour := range flavours {
		roles := manifest[rbacv1.Role](t, "Role", "deploy", "manifests", flavour+".yaml")
		if len(roles) != 1 || !reflect.DeepEqual(roles[0].Rules, want) {
			t.Errorf("%s: the Role is %+v, want %+v", flavour, roles, want)
		}
		for _, binding := range manifest[rbacv1.RoleBinding](t, "RoleBinding", "deploy", "manifests", flavour+".yaml") {
			if len(binding.Subjects) != 1 || binding.Subjects[0].Name != "ropewalk-dispatcher" || binding.Subjects[0].Namespace != "ropewalk" {
				t.Errorf("%s: the Role is bound to %+v", flavour, binding.Subjects)
			}
		}
	}
}

// Each process starts with what its Deployment sets.
func TestProcessesTakeTheirEnvironment(t *testing.T) {
	for flavour, want := range flavours {
		deployments := manifest[appsv1.Deployment](t, "Deployment", "deploy", "manifests", flavour+".yaml")
		for _, deployment := range deployments {
			container := deployment.Spec.Template.Spec.Containers[0]
			t.Run(flavour+" "+container.Name, func(t *testing.T) {
				environment := map[string]string{}
				for _, source := range container.EnvFrom {
					for _, settings := range manifest[corev1.ConfigMap](t, "ConfigMap", "deploy", "manifests", flavour+".yaml") {
						if settings.Name == source.ConfigMapRef.Name {
							maps.Copy(environment, settings.Data)
						}
					}
				}
				for _, variable := range container.Env {
					switch {
					case variable.ValueFrom != nil:
						environment[variable.Name] = "from a Secret"
					case strings.HasPrefix(variable.Value, "/etc/ropewalk/"):
						file := filepath.Join(t.TempDir(), "file")
						if err := os.WriteFile(file, nil, 0o600); err != nil {
							t.Fatal(err)
						}
						environment[variable.Name] = file
					default:
						environment[variable.Name] = variable.Value
					}
				}
				for name, value := range environment {
					t.Setenv(name, value)
				}
				load := config.LoadServe
				if container.Name == "logshipper" {
					load = config.LoadLogs
				}
				settings, err := load()
				if err != nil {
					t.Fatal(err)
				}
				// Else dispatchers would put lines on the stream until it is full.
				if keeps := settings.Archive() != (config.Archive{}); keeps != (len(deployments) == 2) {
					t.Errorf("logs are kept: %v, and there are %d Deployments", keeps, len(deployments))
				}
				if settings.Kubernetes.Flavour != want || settings.NATS.Inbox != "_INBOX."+container.Name || settings.NATS.User == "" {
					t.Errorf("flavour %s, inbox %s, user %q", settings.Kubernetes.Flavour, settings.NATS.Inbox, settings.NATS.User)
				}
			})
		}
	}
}

// Only the dispatcher is given a token of the cluster's, and logs are shipped
// where they are kept.
func TestWhatRunsInEachFlavour(t *testing.T) {
	for flavour, want := range map[string][]string{"kubernetes": {"dispatcher"}, "aws": {"dispatcher", "logshipper"}, "gcp": {"dispatcher", "logshipper"}} {
		var names []string
		for _, deployment := range manifest[appsv1.Deployment](t, "Deployment", "deploy", "manifests", flavour+".yaml") {
			pod := deployment.Spec.Template.Spec
			name := pod.Containers[0].Name
			names = append(names, name)
			if *pod.AutomountServiceAccountToken != (name == "dispatcher") {
				t.Errorf("%s %s: token %v", flavour, name, *pod.AutomountServiceAccountToken)
			}
			if rolling := deployment.Spec.Strategy.RollingUpdate; rolling.MaxUnavailable.IntValue() != 0 || rolling.MaxSurge.IntValue() != 1 {
				t.Errorf("%s %s: a replica goes before another one is ready: %+v", flavour, name, rolling)
			}
		}
		slices.Sort(names)
		if !slices.Equal(names, want) {
			t.Errorf("%s: %v run, want %v", flavour, names, want)
		}
	}
}

// Package compose tests that docker-compose.yaml and what it mounts mean to
// their readers, NATS and the dispatcher, what they are meant to.
package compose

import (
	"cmp"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"sigs.k8s.io/yaml"

	"github.com/ropewalk/ropewalk/internal/config"
)

type composeFile struct {
	Services map[string]struct {
		Image       string            `json:"image"`
		Build       build             `json:"build"`
		Environment map[string]string `json:"environment"`
		Volumes     []string          `json:"volumes"`
		Ports       []string          `json:"ports"`
	} `json:"services"`
	Volumes map[string]any `json:"volumes"`
}

type build struct {
	Dockerfile string `json:"dockerfile"`
}

const root = "../.."

func read(t *testing.T) composeFile {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "docker-compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	chosen := variables(t)
	text = []byte(os.Expand(string(text), func(name string) string {
		name, standard, _ := strings.Cut(name, ":-")
		value, known := chosen[name]
		if !known && standard == "" {
			t.Errorf(".env does not say %s", name)
		}
		return cmp.Or(value, standard)
	}))
	var file composeFile
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file
}

// variables are what .env says.
func variables(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, ".env"))
	if err != nil {
		t.Fatal(err)
	}
	chosen := map[string]string{}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok && !strings.HasPrefix(name, "#") {
			chosen[name] = value
		}
	}
	return chosen
}

func TestNATSSyncsEveryWrite(t *testing.T) {
	options, err := server.ProcessConfigFile("nats.conf")
	if err != nil {
		t.Fatal(err)
	}
	if !options.JetStream || !options.SyncAlways {
		t.Errorf("JetStream %v, sync always %v; both must be on, or acknowledged requests can be lost", options.JetStream, options.SyncAlways)
	}
	for _, volume := range read(t).Services["nats"].Volumes {
		if _, path, _ := strings.Cut(volume, ":"); path == options.StoreDir {
			return
		}
	}
	t.Errorf("no volume is mounted at the store, %s", options.StoreDir)
}

// Both profiles' dispatchers, and the logshipper, start with what they are given.
func TestProcessesTakeTheirSettings(t *testing.T) {
	for service, load := range map[string]func() (*config.Config, error){
		"dispatcher": config.LoadServe, "logshipper": config.LoadLogs, "local": config.LoadServe,
	} {
		t.Run(service, func(t *testing.T) {
			environment := read(t).Services[service].Environment
			if len(environment) == 0 {
				t.Fatal("no settings")
			}
			for name, value := range environment {
				t.Setenv(name, value)
			}
			settings, err := load()
			if err != nil {
				t.Fatal(err)
			}
			if local := settings.Launch.Launcher == "local"; local != (service == "local") {
				t.Errorf("the launcher is %s", settings.Launch.Launcher)
			}
			if settings.Archive() == (config.Archive{}) {
				t.Error("logs are kept nowhere")
			}
		})
	}
}

// The dispatchers have in k3s what they are tested with elsewhere.
func TestClusterGivesTheShippedRights(t *testing.T) {
	type role struct {
		Kind  string `json:"kind"`
		Rules []any  `json:"rules"`
	}
	rules := func(files ...string) (all []any) {
		for _, file := range files {
			text, err := os.ReadFile(filepath.Join(root, "deploy", file))
			if err != nil {
				t.Fatal(err)
			}
			for document := range strings.SplitSeq(string(text), "\n---\n") {
				var found role
				if err := yaml.Unmarshal([]byte(document), &found); err != nil {
					t.Fatal(err)
				}
				if found.Kind == "Role" {
					all = append(all, found.Rules...)
				}
			}
		}
		return all
	}
	got, want := rules("compose/k3s/runs.yaml"), rules("manifests/rbac.yaml", "manifests/rbac-images.yaml")
	if len(want) == 0 || !reflect.DeepEqual(got, want) {
		t.Errorf("k3s gives %v, want %v", got, want)
	}
}

func TestFilesThatAreNamedExist(t *testing.T) {
	file := read(t)
	for name, service := range file.Services {
		for _, volume := range service.Volumes {
			source, _, _ := strings.Cut(volume, ":")
			if !strings.HasPrefix(source, "./") {
				if _, declared := file.Volumes[source]; !declared {
					t.Errorf("%s: volume %s is not declared", name, source)
				}
			} else if _, err := os.Stat(filepath.Join(root, source)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if dockerfile := service.Build.Dockerfile; dockerfile != "" {
			if _, err := os.Stat(filepath.Join(root, dockerfile)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestPortsAreForThisMachineOnly(t *testing.T) {
	for name, service := range read(t).Services {
		for _, port := range service.Ports {
			if !strings.HasPrefix(port, "127.0.0.1:") {
				t.Errorf("%s: port %s is open to the network, with no password in front of it", name, port)
			}
		}
	}
}

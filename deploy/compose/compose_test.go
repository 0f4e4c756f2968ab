// Package compose tests that docker-compose.yaml and what it mounts mean to
// their readers, NATS and the dispatcher, what they are meant to.
package compose

import (
	"os"
	"path/filepath"
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
	var file composeFile
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	return file
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

func TestDispatcherTakesItsSettings(t *testing.T) {
	environment := read(t).Services["dispatcher"].Environment
	if len(environment) == 0 {
		t.Fatal("no settings")
	}
	for name, value := range environment {
		t.Setenv(name, value)
	}
	settings, err := config.LoadServe()
	if err != nil {
		t.Fatal(err)
	}
	if settings.Launch.Launcher != "local" {
		t.Errorf("the launcher is %s; there is no cluster", settings.Launch.Launcher)
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

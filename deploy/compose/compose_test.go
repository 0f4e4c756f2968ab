// Package compose tests that docker-compose.yaml and what it mounts mean to
// their readers, NATS and the dispatcher, what they are meant to.
package compose

import (
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/compose-spec/compose-go/v2/cli"
	"github.com/compose-spec/compose-go/v2/types"
	"github.com/nats-io/nats-server/v2/server"
	"sigs.k8s.io/yaml"

	"github.com/ropewalk/ropewalk/internal/config"
)

const root = "../.."

// read loads the file as docker compose 2 does, by the library that it is made
// of: what is not of the specification is an error. Compose 1.29 is what
// test/compose runs.
func read(t *testing.T) *types.Project {
	t.Helper()
	options, err := cli.NewProjectOptions(nil, cli.WithWorkingDirectory(root), cli.WithName("ropewalk"),
		cli.WithEnvFiles(), cli.WithDotEnv, cli.WithProfiles([]string{"*"}), cli.WithDefaultConfigPath)
	if err != nil {
		t.Fatal(err)
	}
	project, err := options.LoadProject(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return project
}

// A variable without a value is an empty string and a warning to Compose.
func TestVariablesHaveValues(t *testing.T) {
	text, err := os.ReadFile(filepath.Join(root, "docker-compose.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	used, project := regexp.MustCompile(`\$\{(\w+)\}`).FindAllStringSubmatch(string(text), -1), read(t)
	if len(used) < 10 {
		t.Errorf("only %q are used", used)
	}
	for _, name := range used {
		if project.Environment[name[1]] == "" {
			t.Errorf(".env does not say %s", name[1])
		}
	}
}

func TestBothProfilesAreWhole(t *testing.T) {
	project := read(t)
	for profile, want := range map[string][]string{
		"cluster": {"dispatcher", "k3s", "logshipper", "nats", "registry", "s3"}, "local": {"local", "nats"},
	} {
		chosen, err := project.WithProfiles([]string{profile})
		if err != nil {
			t.Fatal(err)
		}
		if names := chosen.ServiceNames(); !slices.Equal(names, want) {
			t.Errorf("profile %s has %v, want %v", profile, names, want)
		}
		for name, service := range chosen.Services {
			if service.HealthCheck == nil {
				t.Errorf("%s: nobody can wait for it to be healthy", name)
			}
			for needed := range service.DependsOn {
				if _, has := chosen.Services[needed]; !has {
					t.Errorf("profile %s: %s needs %s, which is not in it", profile, name, needed)
				}
			}
		}
	}
	for name, want := range map[string]int{"dispatcher": 3, "logshipper": 2, "nats": 1} {
		if service := project.Services[name]; service.GetScale() != want {
			t.Errorf("%s is there %d times, want %d", name, service.GetScale(), want)
		}
	}
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
		if volume.Target == options.StoreDir {
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
				t.Setenv(name, *value)
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
	for name, service := range read(t).Services {
		for _, volume := range service.Volumes {
			if volume.Type != types.VolumeTypeBind {
				continue
			}
			if _, err := os.Stat(volume.Source); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if service.Build != nil {
			if _, err := os.Stat(filepath.Join(root, service.Build.Dockerfile)); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
}

func TestPortsAreForThisMachineOnly(t *testing.T) {
	for name, service := range read(t).Services {
		for _, port := range service.Ports {
			if port.HostIP != "127.0.0.1" {
				t.Errorf("%s: port %s is open to the network, with no password in front of it", name, port.Published)
			}
		}
	}
}

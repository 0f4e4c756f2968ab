package config

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

// everyLeaf walks the tree by itself, so that fields cannot leave one out.
func everyLeaf() []reflect.StructField {
	var leaves []reflect.StructField
	for _, group := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if group.Type.Kind() == reflect.Struct {
			leaves = append(leaves, reflect.VisibleFields(group.Type)...)
		}
	}
	return leaves
}

func TestEverySettingIsDocumented(t *testing.T) {
	var page strings.Builder
	if err := WriteMarkdown(&page); err != nil {
		t.Fatal(err)
	}
	leaves := everyLeaf()
	if len(leaves) < 50 {
		t.Fatalf("only %d settings", len(leaves))
	}
	rows := map[string]string{}
	for line := range strings.Lines(page.String()) {
		if name, _, ok := strings.Cut(strings.TrimPrefix(line, "| `"), "`"); ok && strings.HasPrefix(line, "| `") {
			if rows[name] != "" {
				t.Errorf("%s stands there twice", name)
			}
			rows[name] = line
			if cells := strings.Count(line, "|") - strings.Count(line, `\|`); cells != 4 {
				t.Errorf("the row of %s has %d bars", name, cells)
			}
		}
	}
	if len(rows) != len(leaves) {
		t.Errorf("%d rows for %d settings", len(rows), len(leaves))
	}
	for _, leaf := range leaves {
		name := leaf.Tag.Get("envconfig")
		for _, tag := range []string{"envconfig", "meaning", "example"} {
			text := leaf.Tag.Get(tag)
			if text == "" {
				t.Errorf("the field %s has no %s", leaf.Name, tag)
			}
			if !strings.Contains(rows[name], text) {
				t.Errorf("the row of %s lacks its %s", name, tag)
			}
		}
		if meaning := leaf.Tag.Get("meaning"); !strings.HasSuffix(meaning, ".") || strings.Contains(meaning, ". ") {
			t.Errorf("the meaning of %s is not one sentence: %s", name, meaning)
		}
		if def := leaf.Tag.Get("default"); !strings.Contains(rows[name], "`"+def+"`") && def != "" {
			t.Errorf("the row of %s lacks its default", name)
		}
	}
}

func TestEveryGroupHasItsParagraph(t *testing.T) {
	var page strings.Builder
	if err := WriteMarkdown(&page); err != nil {
		t.Fatal(err)
	}
	for _, group := range reflect.VisibleFields(reflect.TypeFor[Config]()) {
		if group.IsExported() && !strings.Contains(page.String(), "## "+group.Tag.Get("title")+"\n\n"+group.Tag.Get("about")+"\n\n") {
			t.Errorf("the group %s has no heading or paragraph", group.Name)
		}
	}
}

func TestTheRulesSpeakOfVariablesThatExist(t *testing.T) {
	known := map[string]bool{}
	for _, f := range fields() {
		if known[f.name] {
			t.Errorf("%s is declared twice", f.name)
		}
		known[f.name] = true
	}
	for _, name := range []string{
		natsURL, natsCredentials, natsUser, natsPassword, natsToken, natsTLSCert, natsTLSKey, launcher,
		templateRuns, snapshotRuns, moreQueues, flavour, namespace, serviceAccount,
		podResources, podNodeSelector, podTolerations, podLabels, podAnnotations, podNonRoot, podUser,
		buildImages, dockerRegistry, externalLogs, awsBucket, awsRegion,
	} {
		if !known[name] {
			t.Errorf("%s is in no tag", name)
		}
	}
}

// exemplary is an environment with every setting at its example, but for what
// cannot stand together.
func exemplary(t *testing.T) map[string]string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{}
	for _, f := range fields() {
		env[f.name] = f.example
		if f.rule == "file" {
			env[f.name] = file
		}
	}
	delete(env, natsCredentials)
	delete(env, natsToken)
	env[launcher] = LauncherKubernetes
	return env
}

func TestEveryExampleIsRight(t *testing.T) {
	setenv(t, exemplary(t))
	if _, err := LoadServe(); err != nil {
		t.Error(err)
	}
}

// What the table shows can be put into the environment and means the same.
func TestTheTableCanBeReadBack(t *testing.T) {
	for sentence, env := range map[string]map[string]string{
		"defaults": complete(nil),
		"examples": exemplary(t),
		"odd spellings": complete(map[string]string{
			podNonRoot: "yes", "ROPEWALK_ACK_WAIT": "90", "ROPEWALK_REQUEST_MAY_SET": "none", "ROPEWALK_POD_DROP_CAPABILITIES": "none",
			podUser: "0007", moreQueues: "a = 1 ,", flavour: "x.AWSKubernetesWorkloadManager", podResources: `{"limits":{"cpu":2}}`,
			natsURL: "a, b:1", "ROPEWALK_MAX_TIMEOUT": "61m", "ROPEWALK_START_TIMEOUT": "90000ms", snapshotRuns: "9",
		}),
	} {
		t.Run(sentence, func(t *testing.T) {
			setenv(t, env)
			first, err := LoadServe()
			if err != nil {
				t.Fatal(err)
			}
			back := map[string]string{}
			for _, setting := range first.Table() {
				back[setting.Name] = setting.Value
				if !setting.Set && setting.Default != setting.Value && setting.Name != templateRuns {
					t.Errorf("%s is not set, and %q is in effect instead of its default %q", setting.Name, setting.Value, setting.Default)
				}
			}
			back[natsPassword] = env[natsPassword] // which the table does not show
			setenv(t, back)
			second, err := LoadServe()
			if err != nil {
				t.Fatal(err)
			}
			first.facts, second.facts = nil, nil
			if !reflect.DeepEqual(first, second) {
				t.Errorf("first  %+v\nsecond %+v", first, second)
			}
		})
	}
}

func TestSettingsShowTheTableAndItsProblems(t *testing.T) {
	setenv(t, complete(map[string]string{"ROPEWALK_ACK_WAIT": "1s", "ROPEWALK_LOG_LEVEL": "debug", "ROPEWALK_NATS_URI": "a"}))
	table, err := Settings()
	if got := len(problems(t, err)); got != 2 {
		t.Errorf("%d problems: %v", got, err)
	}
	if len(table) != len(fields()) {
		t.Errorf("%d rows for %d settings", len(table), len(fields()))
	}
	rows := map[string]Setting{}
	for _, setting := range table {
		rows[setting.Name] = setting
	}
	if got := rows["ROPEWALK_ACK_WAIT"]; got.Value != "" || !got.Set || got.Default != "15s" || got.Problem != "is 1s; it must be at least 2s" {
		t.Errorf("a wrong setting shows as %+v", got)
	}
	if got := rows["ROPEWALK_LOG_LEVEL"]; got.Value != "debug" || !got.Set || got.Problem != "" || got.Group != "Logging" {
		t.Errorf("a setting shows as %+v", got)
	}
	if got := rows["ROPEWALK_LOG_FORMAT"]; got.Value != "auto" || got.Set {
		t.Errorf("a default shows as %+v", got)
	}
	asJSON, err := json.Marshal(rows["ROPEWALK_LOG_LEVEL"])
	if err != nil || !strings.HasPrefix(string(asJSON), `{"name":"ROPEWALK_LOG_LEVEL","group":"Logging","value":"debug","default":"info","set":true,"secret":false,`) {
		t.Errorf("as JSON: %s, %v", asJSON, err)
	}
	setenv(t, complete(nil))
	if _, err := Settings(); err != nil {
		t.Errorf("nothing is wrong, and yet: %v", err)
	}
}

func TestTheSettingsPageTellsOfAFailedWrite(t *testing.T) {
	_, writer := io.Pipe()
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	if err := WriteMarkdown(writer); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("got %v", err)
	}
}

package deploy

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// block is a fenced block of commands of a page.
type block struct {
	page, text string
	// run: it stands behind a mark that says that it can be run.
	run bool
}

var fence = regexp.MustCompile("(?ms)^(<!-- run with dispatcher dev -->\n)?[ ]*```sh\n(.*?)^[ ]*```$")

// notRunHere are the blocks without the mark: by page and first words, who runs
// them instead, or why nobody does. TestCommandsInPagesAreReal reads them all.
var notRunHere = map[string]string{
	"README.md: make demo":                                                "test/readme runs it in a fresh clone",
	"README.md: make images":                                              "test/compose/run does the same with a Docker of its own",
	"README.md: helm install":                                             "as in docs/install.md",
	"README.md: nats pub":                                                 "docs/publish.md has it with an answer, and is run by integrations/zenml/tests",
	"README.md: dispatcher submit --image":                                "a list of what there is, of which watch never ends; the commands' own tests run each",
	"docs/install.md: make images":                                        "internal/imagegen's tests push to a registry",
	"docs/install.md: kubectl create namespace":                           "test/e2e has the API server take it, by the page's own text",
	"docs/install.md: kubectl --namespace ropewalk create secret":         "test/e2e's charts get the same Secrets",
	"docs/install.md: kubectl label namespace":                            "test/e2e's namespaces have this label",
	"docs/install.md: helm install":                                       "test/e2e has the API server take it, by the page's own text",
	"docs/install.md: export ACCOUNT":                                     "TestRolesOfThePage runs it with a stand-in for aws",
	"docs/install.md: export PROJECT":                                     "TestRolesOfThePage runs it with a stand-in for gcloud",
	"docs/install.md: helm status":                                        "only shows; test/e2e waits for the same",
	"docs/install.md: helm uninstall":                                     "test/e2e uninstalls, and looks at what is left",
	"docs/log-layout.md: aws s3 cp":                                       "test/compose/run reads objects by curl, zstd and jq, which are everywhere",
	"docs/log-layout.md: gcloud logging read":                             "needs Google's service",
	"docs/operations.md: nats account backup":                             "needs a user of the account, and the nats command",
	"docs/publish.md: export NATS_URL":                                    "integrations/zenml/tests runs the page",
	"docs/publish.md: until nats kv get":                                  "integrations/zenml/tests runs the page",
	"integrations/zenml/README.md: ZENML_SERVER_WORKLOAD_MANAGER_IMPLEME": "settings of a server, with which integrations/zenml/tests starts one",
}

// Every block is run here or is accounted for, and nothing that is accounted for
// has gone from its page.
func TestEveryBlockOfCommandsIsAccountedFor(t *testing.T) {
	unused := maps.Clone(notRunHere)
	for _, b := range blocks(t) {
		page, err := filepath.Rel(root, b.page)
		if err != nil {
			t.Fatal(err)
		}
		if b.run || strings.HasPrefix(page, filepath.Join("docs", "commands")) { // generated, from what the commands' tests run
			continue
		}
		start := page + ": " + strings.TrimSpace(b.text)
		known := false
		for name := range notRunHere {
			if strings.HasPrefix(start, name) {
				known = true
				delete(unused, name)
			}
		}
		if !known {
			t.Errorf("%s: nobody runs this: mark it with <!-- run with dispatcher dev -->, or say in notRunHere who does\n%s", page, b.text)
		}
	}
	for name := range unused {
		t.Errorf("notRunHere: no page has %q", name)
	}
}

// Commands in a block of another name would be read by nobody.
func TestBlocksOfCommandsAreCalledSh(t *testing.T) {
	opening := regexp.MustCompile("(?m)^[ ]*(?:```|~~~)(.*)$")
	languages := []string{"sh", "json", "yaml", "text", "go", "python", "mermaid", ""}
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for i, match := range opening.FindAllStringSubmatch(string(text), -1) {
			if i%2 == 0 && !slices.Contains(languages, match[1]) {
				t.Errorf("%s: a block is called %q; commands are sh", page, match[1])
			}
			if i%2 == 1 && match[1] != "" {
				t.Errorf("%s: a block is not closed before one called %q", page, match[1])
			}
		}
	}
}

// pages are the README and everything that is written by hand below docs.
func pages(t *testing.T) []string {
	t.Helper()
	found := []string{filepath.Join(root, "README.md"), filepath.Join(root, "CONTRIBUTING.md"), filepath.Join(root, "integrations", "zenml", "README.md")}
	err := filepath.WalkDir(filepath.Join(root, "docs"), func(path string, entry fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".md") {
			found = append(found, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func blocks(t *testing.T) []block {
	t.Helper()
	var all []block
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range fence.FindAllStringSubmatch(string(text), -1) {
			all = append(all, block{page, match[2], match[1] != ""})
		}
	}
	return all
}

func TestLinksLeadSomewhere(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)#]+)[^)]*\)`)
	for _, page := range pages(t) {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, match := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(match[1], "://") {
				continue
			}
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), match[1])); err != nil {
				t.Errorf("%s: %v", page, err)
			}
		}
	}
}

// Commands that need more than this machine has are read only: they are shell,
// the scripts and make targets that they call exist, and our own programs know
// their commands.
func TestCommandsInPagesAreReal(t *testing.T) {
	makefile := string(read(t, "Makefile"))
	known := string(read(t, "docs", "commands", "dispatcher.md")) + string(read(t, "docs", "commands", "logshipper.md"))
	called := regexp.MustCompile(`(?m)^\s*(make|deploy/\S+|(?:dispatcher|logshipper)) ?([a-z-]+)? ?([a-z]+)?`)
	for _, b := range blocks(t) {
		check := exec.CommandContext(t.Context(), "bash", "-n")
		check.Stdin = strings.NewReader(b.text)
		if text, err := check.CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s\n%s", b.page, err, text, b.text)
		}
		for _, call := range called.FindAllStringSubmatch(b.text, -1) {
			switch program, command := call[1], call[2]; {
			case program == "make":
				if !strings.Contains(makefile, "\n"+command+":") {
					t.Errorf("%s: there is no make %s", b.page, command)
				}
			case strings.HasPrefix(program, "deploy/"):
				if _, err := os.Stat(filepath.Join(root, program)); err != nil {
					t.Errorf("%s: %v", b.page, err)
				}
			case !strings.Contains(known, "## "+program+" "+command+"\n") && !strings.Contains(known, "## "+program+" "+command+" "+call[3]+"\n"):
				t.Errorf("%s: there is no command %s %s", b.page, program, command)
			}
		}
	}
}

// What can be run is run, block by block, as it stands.
func TestCommandsInPagesRun(t *testing.T) {
	archive := filepath.Join(t.TempDir(), "logs")
	// What pages take for granted: a request in a file, and a variable.
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "request.yaml"), []byte("version: 1\ncommand: [echo, hello]\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	ran := 0
	for _, b := range blocks(t) {
		if !b.run {
			continue
		}
		ran++
		t.Run(filepath.Base(b.page), func(t *testing.T) {
			url := startDev(t, archive)
			command := exec.CommandContext(wait.Context(t, "the page's commands to end"), "bash", "-euo", "pipefail", "-c", b.text)
			command.Dir = folder
			command.Env = []string{
				"PATH=" + programs + ":" + os.Getenv("PATH"), "ROPEWALK_NATS_URL=" + url, "ROPEWALK_LOG_ARCHIVE=file://" + archive,
				"TOKEN=of the reader's own",
			}
			if text, err := command.CombinedOutput(); err != nil {
				t.Errorf("%v\n%s\n%s", err, b.text, text)
			}
		})
	}
	if ran < 3 {
		t.Errorf("%d blocks are marked to be run", ran)
	}
}

// startDev runs `dispatcher dev`, which keeps its logs in the folder archive, and
// returns where its NATS server is.
func startDev(t *testing.T, archive string) string {
	t.Helper()
	dir := t.TempDir()
	nats, http := freeAddress(t), freeAddress(t)
	environment := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + dir, "ROPEWALK_HTTP_ADDR=" + http, "ROPEWALK_LOG_ARCHIVE=file://" + archive}
	program := dispatcher(t)
	process, err := rig.Start(program, []string{"dev", "--nats-addr", nats, "--data", filepath.Join(dir, "data")}, environment, filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(process.Kill)
	wait.Success(t, "dispatcher dev to be ready", func() error {
		select {
		case <-process.Done():
			text, _ := os.ReadFile(filepath.Join(dir, "log"))
			t.Fatalf("dispatcher dev has ended:\n%s", text)
		default:
		}
		command := exec.CommandContext(t.Context(), program, "ready")
		command.Env = []string{"ROPEWALK_HTTP_ADDR=" + http}
		text, err := command.CombinedOutput()
		if err != nil {
			return errors.New(string(text))
		}
		return nil
	})
	return "nats://" + nats
}

// What is not backed up is gone: the page names all that Ropewalk keeps in NATS.
func TestBackupNamesAllThatIsKept(t *testing.T) {
	connection, err := nats.Connect(startDev(t, filepath.Join(t.TempDir(), "logs")))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	js, err := jetstream.New(connection)
	if err != nil {
		t.Fatal(err)
	}
	_, backup, _ := strings.Cut(string(read(t, "docs", "operations.md")), "\n## Backup\n")
	backup, _, _ = strings.Cut(backup, "\n## ")
	kept := 0
	streams := js.StreamNames(t.Context())
	for name := range streams.Name() {
		kept++
		if !strings.Contains(backup, "`"+strings.TrimPrefix(strings.TrimPrefix(name, "KV_"), "OBJ_")+"`") {
			t.Errorf("docs/operations.md does not name %s among what to back up", name)
		}
	}
	if streams.Err() != nil || kept < 8 {
		t.Errorf("the server keeps %d streams: %v", kept, streams.Err())
	}
}

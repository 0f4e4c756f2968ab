package deploy

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// apply runs one of the scripts of deploy/iam.
func apply(t *testing.T, cloud, program string, environment ...string) [][]string {
	t.Helper()
	return callsOf(t, program, filepath.Join("deploy", "iam", cloud, "apply"), environment...)
}

// callsOf runs a script in the root of the repository with a stand-in for the
// cloud's own program, and returns the calls that it got, each as its arguments.
func callsOf(t *testing.T, program, script string, environment ...string) [][]string {
	t.Helper()
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	stand := "#!/bin/sh\n{ for argument in \"$@\"; do printf '%s\\0' \"$argument\"; done; printf '\\n\\0'; } >>" + calls +
		"\ncase \"$*\" in *describe-cluster*) echo https://oidc.example.com/id/1 ;; *describe*) exit 1 ;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, program), []byte(stand), 0o700); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), "bash", "-euo", "pipefail", "-c", script)
	command.Dir = root
	command.Env = append([]string{"PATH=" + dir + ":" + os.Getenv("PATH")}, environment...)
	if text, err := command.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, text)
	}
	text, err := os.ReadFile(calls)
	if err != nil {
		t.Fatal(err)
	}
	var all [][]string
	for call := range strings.SplitSeq(strings.TrimSuffix(string(text), "\x00\n\x00"), "\x00\n\x00") {
		all = append(all, strings.Split(call, "\x00"))
	}
	return all
}

// after is the argument that follows a flag.
func after(call []string, flag string) string {
	if i := slices.Index(call, flag); i >= 0 && i+1 < len(call) {
		return call[i+1]
	}
	return ""
}

func TestAWSRolesAreMadeOfThePolicies(t *testing.T) {
	given := map[string][]string{}
	for _, call := range apply(t, "aws", "aws", "ACCOUNT=123456789012", "REGION=eu-central-1", "CLUSTER=main",
		"REPOSITORY=zenml", "BUCKET=my-bucket", "PREFIX=logs", "KMS_KEY=k-1") {
		for _, flag := range []string{"--policy-document", "--assume-role-policy-document"} {
			document := after(call, flag)
			if document == "" {
				continue
			}
			if !json.Valid([]byte(document)) || strings.ContainsAny(document, "<>") {
				t.Errorf("%v: the policy is not filled in: %s", call[:3], document)
			}
			given[after(call, "--role-name")] = append(given[after(call, "--role-name")], after(call, "--policy-name"))
			if call[1] == "create-role" && !strings.Contains(document, `"oidc.example.com/id/1:sub": "system:serviceaccount:ropewalk:`+after(call, "--role-name")+`"`) {
				t.Errorf("the role %s trusts somebody else: %s", after(call, "--role-name"), document)
			}
		}
	}
	for role, want := range map[string][]string{
		"ropewalk-dispatcher": {"", "dispatcher", "builder"}, "ropewalk-logshipper": {"", "logshipper", "kms"},
	} {
		if !slices.Equal(given[role], want) {
			t.Errorf("%s has the policies %q, want %q", role, given[role], want)
		}
	}
	for _, call := range apply(t, "aws", "aws", "ACCOUNT=123456789012", "REGION=eu-central-1", "CLUSTER=main") {
		if name := after(call, "--policy-name"); name != "" && name != "dispatcher" {
			t.Errorf("without builds and logs, the policy %s is given too", name)
		}
	}
}

func TestGoogleRolesAreGrantedOnWhatTheyAreFor(t *testing.T) {
	var granted []string
	for _, call := range apply(t, "gcp", "gcloud", "PROJECT=p", "LOCATION=europe-west3", "REPOSITORY=zenml", "BUILDS=1", "CLOUD_LOGGING=1") {
		if role := after(call, "--role"); role != "" {
			granted = append(granted, call[0]+" "+role+" "+after(call, "--member"))
		}
	}
	slices.Sort(granted)
	want := []string{
		"artifacts roles/artifactregistry.reader serviceAccount:ropewalk-dispatcher@p.iam.gserviceaccount.com",
		"artifacts roles/artifactregistry.reader serviceAccount:ropewalk-runner@p.iam.gserviceaccount.com",
		"artifacts roles/artifactregistry.writer serviceAccount:ropewalk-dispatcher@p.iam.gserviceaccount.com",
		"iam roles/iam.workloadIdentityUser serviceAccount:p.svc.id.goog[ropewalk/ropewalk-dispatcher]",
		"iam roles/iam.workloadIdentityUser serviceAccount:p.svc.id.goog[ropewalk/ropewalk-logshipper]",
		"iam roles/iam.workloadIdentityUser serviceAccount:p.svc.id.goog[zenml-workload-manager/zenml-runner]",
		"projects roles/logging.logWriter serviceAccount:ropewalk-logshipper@p.iam.gserviceaccount.com",
		"projects roles/logging.viewer serviceAccount:ropewalk-logshipper@p.iam.gserviceaccount.com",
	}
	if !slices.Equal(granted, want) {
		t.Errorf("granted:\n%s\nwant:\n%s", strings.Join(granted, "\n"), strings.Join(want, "\n"))
	}
}

// The commands of docs/install.md make the roles that the page speaks of.
func TestRolesOfThePage(t *testing.T) {
	for script, want := range map[string]struct{ program, flag, value string }{
		"deploy/iam/aws/apply": {"aws", "--policy-name", "builder"},
		"deploy/iam/gcp/apply": {"gcloud", "--role", "roles/artifactregistry.writer"},
	} {
		all := blocks(t)
		i := slices.IndexFunc(all, func(b block) bool { return strings.Contains(b.text, script) })
		if i < 0 {
			t.Errorf("no page says how to run %s", script)
			continue
		}
		given := false
		for _, call := range callsOf(t, want.program, all[i].text) {
			given = given || after(call, want.flag) == want.value
		}
		if !given {
			t.Errorf("what the page says gives nobody %s:\n%s", want.value, all[i].text)
		}
	}
}

// Nobody gets a policy on objects that no log has as its key.
func TestAWSRolesNeedThePlaceOfLogsWhole(t *testing.T) {
	command := exec.CommandContext(t.Context(), filepath.Join(root, "deploy", "iam", "aws", "apply"))
	command.Env = []string{"PATH=" + os.Getenv("PATH"), "ACCOUNT=123456789012", "REGION=eu-central-1", "CLUSTER=main", "BUCKET=my-bucket"}
	if text, err := command.CombinedOutput(); err == nil || !strings.Contains(string(text), "PREFIX: the path below the bucket") {
		t.Errorf("%v: %s", err, text)
	}
}

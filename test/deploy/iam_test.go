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

// apply runs one of the scripts of deploy/iam with a stand-in for the cloud's
// own program, and returns the calls that it got, each as its arguments.
func apply(t *testing.T, cloud, program string, environment ...string) [][]string {
	t.Helper()
	dir := t.TempDir()
	calls := filepath.Join(dir, "calls")
	stand := "#!/bin/sh\n{ for argument in \"$@\"; do printf '%s\\0' \"$argument\"; done; printf '\\n\\0'; } >>" + calls +
		"\ncase \"$*\" in *describe-cluster*) echo https://oidc.example.com/id/1 ;; *describe*) exit 1 ;; esac\n"
	if err := os.WriteFile(filepath.Join(dir, program), []byte(stand), 0o700); err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), filepath.Join(root, "deploy", "iam", cloud, "apply"))
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
	}
	if !slices.Equal(granted, want) {
		t.Errorf("granted:\n%s\nwant:\n%s", strings.Join(granted, "\n"), strings.Join(want, "\n"))
	}
}

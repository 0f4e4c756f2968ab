package deploy

import (
	"encoding/json"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"testing"
)

// rights are what each call of Amazon's SDKs that the code makes needs, by the
// type of its input.
var rights = map[string][]string{
	"s3.GetObject":     {"s3:GetObject"},
	"s3.PutObject":     {"s3:PutObject", "s3:PutObjectTagging"},
	"s3.DeleteObjects": {"s3:DeleteObject"},
	"s3.ListObjectsV2": {"s3:ListBucket"},
	// In parts, where an object is large; one that fails is given up.
	"transfermanager.UploadObject": {"s3:PutObject", "s3:PutObjectTagging", "s3:AbortMultipartUpload"},
	"ecr.GetAuthorizationToken":    {"ecr:GetAuthorizationToken"},
	"ecr.CreateRepository":         {"ecr:CreateRepository"},
}

// What the protocol of registries needs, of which the SDK has no part: manifests
// are read by the dispatcher, layers are read and pushed by BuildKit.
var (
	lookingUp = []string{"ecr:BatchGetImage"}
	pushing   = []string{
		"ecr:BatchCheckLayerAvailability", "ecr:CompleteLayerUpload", "ecr:GetDownloadUrlForLayer",
		"ecr:InitiateLayerUpload", "ecr:PutImage", "ecr:UploadLayerPart",
	}
)

// The policies allow the calls that the code makes, and no others.
func TestAWSPoliciesAreTheCallsOfTheCode(t *testing.T) {
	for _, test := range []struct {
		code, policies, besides []string
	}{
		{[]string{"internal/sink/s3/*.go"}, []string{"logshipper.json"}, nil},
		{[]string{"internal/images/*.go"}, []string{"dispatcher.json", "builder.json"}, slices.Concat(lookingUp, pushing)},
	} {
		want := slices.Concat(test.besides, rightsOfCalls(t, test.code))
		slices.Sort(want)
		if want = slices.Compact(want); len(want) < 5 {
			t.Errorf("%v calls next to nothing: %v", test.code, want)
		}
		var got []string
		for _, policy := range test.policies {
			got = append(got, actions(t, policy)...)
		}
		slices.Sort(got)
		if got = slices.Compact(got); !slices.Equal(got, want) {
			t.Errorf("%v: the policies %v allow\n%q, and the code calls\n%q", test.code, test.policies, got, want)
		}
	}
	// Readers have what the shipper has for reading.
	if got, want := actions(t, "reader.json"), []string{"s3:GetObject", "s3:ListBucket"}; !slices.Equal(got, want) {
		t.Errorf("reader.json allows %q, want %q", got, want)
	}
}

// rightsOfCalls finds the calls that files make by the types of their inputs.
func rightsOfCalls(t *testing.T, patterns []string) []string {
	t.Helper()
	input := regexp.MustCompile(`\b((?:s3|ecr|transfermanager)\.\w+)Input\b`)
	calls := map[string]bool{}
	for _, pattern := range patterns {
		files, err := filepath.Glob(filepath.Join(root, filepath.FromSlash(pattern)))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %v, %v", pattern, files, err)
		}
		for _, file := range files {
			name, err := filepath.Rel(root, file)
			if err != nil {
				t.Fatal(err)
			}
			if isTest, _ := filepath.Match("*_test.go", filepath.Base(file)); isTest {
				continue
			}
			for _, call := range input.FindAllSubmatch(read(t, name), -1) {
				calls[string(call[1])] = true
			}
		}
	}
	var needed []string
	for call := range maps.Keys(calls) {
		if rights[call] == nil {
			t.Errorf("the code calls %s: say in rights what that needs, and put it into a policy", call)
		}
		needed = append(needed, rights[call]...)
	}
	return needed
}

// actions are what a policy allows.
func actions(t *testing.T, policy string) []string {
	t.Helper()
	var document struct {
		Statement []struct {
			Effect string          `json:"Effect"`
			Action json.RawMessage `json:"Action"`
		} `json:"Statement"`
	}
	if err := json.Unmarshal(read(t, "deploy", "iam", "aws", policy), &document); err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, statement := range document.Statement {
		var one string
		var several []string
		if json.Unmarshal(statement.Action, &one) == nil {
			several = []string{one}
		} else if err := json.Unmarshal(statement.Action, &several); err != nil {
			t.Fatalf("%s: %v", policy, err)
		}
		if statement.Effect != "Allow" {
			t.Errorf("%s: a statement that does not allow: %v", policy, several)
		}
		all = append(all, several...)
	}
	return all
}

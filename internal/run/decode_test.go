package run

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestDecodeReadsEveryField(t *testing.T) {
	request := valid()
	wire, err := request.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(wire)
	if err != nil || !reflect.DeepEqual(back, request) {
		t.Errorf("Decode(Encode(r)) = %+v, %v; want %+v", back, err, request)
	}
	if back.Hash() != request.Hash() {
		t.Error("a request that went over the wire has another hash")
	}
}

func TestDecodeAcceptsWhatItNeedNotKnow(t *testing.T) {
	for sentence, data := range map[string]string{
		"fields of newer publishers":        `{"version": 1, "id": "a", "colour": "red", "pod": {"colour": {"deep": ["red"]}}}`,
		"white space around":                "\n\t {\"version\": 1, \"id\": \"a\"} \r\n",
		"nulls where nothing is":            `{"version": 1, "id": "a", "queue": null, "env": null, "timeout": null, "submittedAt": null, "pod": null}`,
		"fields that would not be valid":    `{"version": 1, "id": "a", "command": []}`,
		"the same field twice, as JSON may": `{"version": 2, "id": "b", "version": 1, "id": "a"}`,
	} {
		t.Run(sentence, func(t *testing.T) {
			request, err := Decode([]byte(data))
			if err != nil || request.ID != "a" || request.Version != 1 {
				t.Errorf("Decode = %+v, %v", request, err)
			}
		})
	}
}

// hunter2 stands wherever a value may be that nobody shall see in an error.
func TestDecodeSaysWhatIsWrongAndQuotesNothing(t *testing.T) {
	for sentence, test := range map[string]struct{ data, field, words string }{
		"nothing":                        {"", "", "empty"},
		"white space":                    {" \n", "", "empty"},
		"no JSON":                        {"hunter2", "", "not JSON: it goes wrong at byte 1"},
		"half of it":                     {`{"version": 1, "id": "hunter2`, "", "ends in the middle"},
		"two requests":                   {`{"version": 1}{"id": "hunter2"}`, "", "goes on after"},
		"a request and rubbish":          {`{"version": 1} hunter2`, "", "goes on after"},
		"an array":                       {`[{"version": 1, "id": "hunter2"}]`, "", "is a JSON array"},
		"a string":                       {`"hunter2"`, "", "is a JSON string"},
		"null":                           {"null", "version", "missing"},
		"no version":                     {`{"id": "hunter2"}`, "version", "missing"},
		"a null version":                 {`{"version": null}`, "version", "missing"},
		"a newer version":                {`{"version": 2, "id": ["hunter2"]}`, "version", "is 2; this dispatcher reads version 1 only"},
		"an endless version":             {`{"version": ` + strings.Repeat("7", 1000) + `}`, "version", "is 77777777777777777777;"},
		"a version that is not whole":    {`{"version": 1.5}`, "version", "is 1.5;"},
		"a version in quotes":            {`{"version": "1"}`, "version", "not a number"},
		"a version of another kind":      {`{"version": "hunter2"}`, "version", "not a number"},
		"an object for a version":        {`{"version": {"1": "hunter2"}}`, "version", "not a number"},
		"a number for an id":             {`{"version": 1, "id": 8003721}`, "id", "JSON number where string belongs"},
		"a string for a command":         {`{"version": 1, "command": "hunter2"}`, "command", "JSON string where array belongs"},
		"a number in a command":          {`{"version": 1, "command": ["a", 8003721]}`, "command", "JSON number where string belongs"},
		"a string for an environment":    {`{"version": 1, "env": "hunter2"}`, "env", "JSON string where object belongs"},
		"a number in an environment":     {`{"version": 1, "env": {"A": 8003721}}`, "env", "JSON number where string belongs"},
		"a string for secrets":           {`{"version": 1, "secretEnv": "hunter2"}`, "secretEnv", "JSON string where object belongs"},
		"a number for a secret":          {`{"version": 1, "secretEnv": {"A": 8003721}}`, "secretEnv", "JSON number where string belongs"},
		"an object for a secret":         {`{"version": 1, "secretEnv": {"A": {"value": "hunter2"}}}`, "secretEnv", "JSON object where string belongs"},
		"a string for the pod":           {`{"version": 1, "pod": "hunter2"}`, "pod", "JSON string where object belongs"},
		"a number for a quantity":        {`{"version": 1, "pod": {"resources": {"limits": {"cpu": 8003721}}}}`, "pod.resources.limits", "JSON number where string belongs"},
		"a string for seconds":           {`{"version": 1, "pod": {"tolerations": [{"tolerationSeconds": "hunter2"}]}}`, "pod.tolerations.tolerationSeconds", "JSON string where whole number belongs"},
		"a timeout that is none":         {`{"version": 1, "timeout": "hunter2"}`, "timeout", `is not a time such as "90s"`},
		"an object for a timeout":        {`{"version": 1, "timeout": {"seconds": "hunter2"}}`, "timeout", `is not a time such as "90s"`},
		"a timeout that is too long":     {`{"version": 1, "timeout": 1e300}`, "timeout", "too long"},
		"a time that is none":            {`{"version": 1, "submittedAt": "hunter2"}`, "submittedAt", "is not a time such as 2026"},
		"a number for a time":            {`{"version": 1, "submittedAt": 8003721}`, "submittedAt", "is not a time such as 2026"},
		"a time that cannot be written":  {`{"version": 1, "submittedAt": "2026-01-01T00:00:00+24:00"}`, "submittedAt", "is not a time such as 2026"},
		"a problem that hides the other": {`{"version": 1, "id": 8003721, "timeout": "90s"}`, "id", "JSON number where string belongs"},
	} {
		t.Run(sentence, func(t *testing.T) {
			_, err := Decode([]byte(test.data))
			var invalid *InvalidError
			if !errors.As(err, &invalid) || len(invalid.Problems) != 1 {
				t.Fatalf("Decode: %v, want one problem", err)
			}
			if invalid.Problems[0].Field != test.field || !strings.Contains(invalid.Problems[0].Message, test.words) {
				t.Errorf("problem %+v, want field %q and %q", invalid.Problems[0], test.field, test.words)
			}
			for _, secret := range []string{"hunter2", "8003721"} {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("the error quotes the data: %v", err)
				}
			}
		})
	}
}

func TestHashTellsRequestsApartButNotSecretValues(t *testing.T) {
	request := valid()
	hash := request.Hash()
	for sentence, edit := range map[string]func(*Request){
		"an argument":      func(r *Request) { r.Args = []string{"--rate", "$(RATE)"} },
		"a variable":       func(r *Request) { r.Env["RATE"] = "0.2" },
		"another secret":   func(r *Request) { r.SecretEnv["OTHER"] = "" },
		"a shorter time":   func(r *Request) { r.Timeout-- },
		"another id":       func(r *Request) { r.ID = "b" },
		"a word elsewhere": func(r *Request) { r.Command, r.Args = r.Command[:2], []string{"train", "--rate", "$(RATE)", ""} },
	} {
		other := valid()
		edit(&other)
		if other.Hash() == hash {
			t.Errorf("%s makes no difference to the hash", sentence)
		}
	}
	request.SecretEnv["TOKEN"] = "hunter3"
	if request.Hash() != hash {
		t.Error("the hash depends on the value of a secret")
	}
}

// What a build is given in secret goes over the wire, and nowhere else.
func TestSecretsOfABuildAreShownOnTheWireOnly(t *testing.T) {
	request := Request{
		Version: 1, ID: "a", Queue: "q", Image: Image{Mode: BuildImage, Build: &Build{
			Dockerfile: "FROM a\n", BuildArgs: map[string]string{"A": "1"}, Secrets: map[string]Secret{"netrc": "hunter2"}, Name: "team/runner",
		}},
	}
	if err := request.Validate(); err != nil || !request.HasSecrets() {
		t.Fatalf("%v, %t", err, request.HasSecrets())
	}
	wire, err := request.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := Decode(wire)
	if err != nil || !reflect.DeepEqual(back, request) {
		t.Errorf("%s came back as %+v, %v", wire, back, err)
	}
	shown, err := json.Marshal(request)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{string(shown), fmt.Sprintf("%v %+v %#v", *request.Image.Build, *request.Image.Build, *request.Image.Build), request.Hash()} {
		if strings.Contains(text, "hunter2") {
			t.Errorf("the secret shows in %s", text)
		}
	}
	record, err := Decode(shown)
	if err != nil {
		t.Fatal(err)
	}
	if whole, ok := record.WithSecrets(back); !ok || !reflect.DeepEqual(whole, request) || record.Image.Build.Secrets["netrc"].Reveal() != Redacted {
		t.Errorf("the record with its secrets is %+v", whole)
	}
	if _, ok := record.WithSecrets(Request{}); ok {
		t.Error("a record has its secrets of a request that lacks them")
	}
	clone := request.Clone()
	clone.Image.Build.Secrets["netrc"], clone.Image.Build.BuildArgs["A"], clone.Image.Build.Name = "", "", ""
	if !reflect.DeepEqual(request, back) {
		t.Error("the original changed with its clone")
	}
	other := back.Clone()
	other.Image.Build.Secrets["netrc"] = "hunter3"
	if other.Hash() != request.Hash() {
		t.Error("the hash depends on the value of a build's secret")
	}
}

// A field that IsZero forgot would be lost on the wire when it stands alone.
func TestIsZeroKnowsEveryField(t *testing.T) {
	full := valid().Pod
	for _, whole := range []reflect.Value{reflect.ValueOf(full), reflect.ValueOf(full.Resources)} {
		for i := range whole.NumField() {
			alone := reflect.New(whole.Type()).Elem()
			alone.Field(i).Set(whole.Field(i))
			if zero, ok := reflect.TypeAssert[interface{ IsZero() bool }](alone); !ok || zero.IsZero() {
				t.Errorf("%s with nothing but %s counts as empty", whole.Type(), whole.Type().Field(i).Name)
			}
		}
	}
	if !(Pod{Tolerations: []Toleration{}, Resources: Resources{Limits: map[string]string{}}}).IsZero() {
		t.Error("a pod with empty lists counts as something")
	}
}

func TestCloneSharesNoMap(t *testing.T) {
	request := valid()
	clone := request.Clone()
	clone.Env["RATE"], clone.SecretEnv["TOKEN"], clone.Labels["team"], clone.Annotations["x"] = "", "", "", ""
	if !reflect.DeepEqual(request, valid()) {
		t.Errorf("the original changed with its clone: %+v", request)
	}
}

// FuzzDecode holds what the dispatcher relies on for every message that anyone
// may publish: no panic, no error but an InvalidError, and a request that was
// read can be hashed, written and read again to the same request.
func FuzzDecode(f *testing.F) {
	wire, err := valid().Encode()
	if err != nil {
		f.Fatal(err)
	}
	wrong, err := allWrong().Encode()
	if err != nil {
		f.Fatal(err)
	}
	for _, seed := range []string{
		string(wire), string(wrong), ``, `null`, `[]`, `{"version": 1}`, `{"version": 1, "timeout": 1.5}`, `{"version": 1, "timeout": -9223372036.854775}`,
		`{"version": 1, "pod": {"tolerations": [], "resources": {"limits": {}}}}`, `{"version": 1, "command": [], "env": {}, "secretEnv": {"A": "<&>\u2028"}}`, `{"VERSION": 1, "Id": "\ud800"}`,
		`{"version": 1, "submittedAt": "0000-01-01T00:00:00+23:59"}`, `{"version": 1, "submittedAt": "2026-01-01T00:00:00-24:00"}`,
		`{"version": 1, "pod": {"tolerations": [{"tolerationSeconds": 9223372036854775807}, {}]}}`, `{"version": 1} {`,
	} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		request, err := Decode(data)
		if err != nil {
			var invalid *InvalidError
			if !errors.As(err, &invalid) || len(invalid.Problems) == 0 {
				t.Fatalf("Decode: %#v, want an InvalidError with problems", err)
			}
			return
		}
		verdict := request.Validate()
		wire, err := request.Encode()
		if err != nil {
			t.Fatalf("Encode: %v", err)
		}
		again, err := Decode(wire)
		if err != nil {
			t.Fatalf("Decode(Encode(r)): %v\n%s", err, wire)
		}
		rewritten, err := again.Encode()
		if err != nil || !bytes.Equal(wire, rewritten) || request.Hash() != again.Hash() {
			t.Errorf("a request changed on its way (%v):\n%s\n%s", err, wire, rewritten)
		}
		if after := again.Validate(); (verdict == nil) != (after == nil) || verdict != nil && verdict.Error() != after.Error() {
			t.Errorf("Validate: %v, and once read again: %v", verdict, after)
		}
		if verdict == nil && (!ValidID(request.ID) || time.Duration(request.Timeout) < 0) {
			t.Errorf("Validate accepts %+v", request)
		}
	})
}

package main

import (
	"bytes"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"pgregory.net/rapid"

	"github.com/ropewalk/ropewalk/internal/run"
)

// compile returns the schema that write writes, ready to validate with.
func compile(t *testing.T, write func(io.Writer) error) *jsonschema.Schema {
	t.Helper()
	t.Chdir("../..")
	var text bytes.Buffer
	if err := write(&text); err != nil {
		t.Fatal(err)
	}
	parsed, err := jsonschema.UnmarshalJSON(&text)
	if err != nil {
		t.Fatal(err)
	}
	compiler := jsonschema.NewCompiler()
	compiler.AssertFormat()
	if err := compiler.AddResource("it.json", parsed); err != nil {
		t.Fatal(err)
	}
	schema, err := compiler.Compile("it.json")
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func validate(schema *jsonschema.Schema, text []byte) error {
	value, err := jsonschema.UnmarshalJSON(bytes.NewReader(text))
	if err != nil {
		return err
	}
	return schema.Validate(value)
}

func TestRequestSchemaAccepts(t *testing.T) {
	seconds := int64(30)
	full := run.Request{
		Version: 1, ID: "train-42_b", Queue: "gpu", Image: run.Image{Reference: "registry.example.com/team/train@sha256:0123"},
		Command: []string{"sh", "-c", "echo $X"}, Args: []string{"", "ö\n"}, WorkingDir: "/work",
		Env: map[string]string{"STAGE": "", "a.b-c": "multi\nline"}, SecretEnv: map[string]run.Secret{"API_TOKEN": "s3cr3t"},
		Pod: run.Pod{
			Resources:    run.Resources{Requests: map[string]string{"cpu": "500m"}, Limits: map[string]string{"memory": "1.5Gi", "nvidia.com/gpu": "1"}},
			NodeSelector: map[string]string{"kubernetes.io/arch": "amd64"},
			Tolerations: []run.Toleration{
				{Key: "gpu", Value: "yes", Effect: "NoSchedule"},
				{Operator: "Exists", Effect: "NoExecute", TolerationSeconds: &seconds},
			},
			ServiceAccount: "trainer", PriorityClassName: "high.prio",
		},
		Timeout: run.Duration(90 * time.Minute), Labels: map[string]string{"team": "vision", "example.com/empty": ""},
		Annotations: map[string]string{"example.com/note": "any text: even {this}"}, SubmittedAt: time.Date(2026, 1, 31, 4, 5, 6, 7, time.UTC),
	}
	schema := compile(t, writeRequestSchema)
	for name, request := range map[string]run.Request{
		"every field":     full,
		"a command alone": {Version: 1, ID: "a", Queue: "default", Command: []string{"true"}},
		"an image alone":  {Version: 1, ID: "a", Queue: "default", Image: run.Image{Reference: "busybox"}},
		"every field of a build": {Version: 1, ID: "a", Queue: "default", Image: run.Image{Mode: run.BuildImage, Build: &run.Build{
			Dockerfile: "FROM a\n", BuildArgs: map[string]string{"A_1": "any\ntext"}, Secrets: map[string]run.Secret{"net.rc-1": "s3cr3t\n"}, Platform: "linux/arm64/v8",
			Context: "sha256:" + strings.Repeat("0", 64), Name: "team/zenml-runner:1f3a",
		}}},
		"the longest id and queue":      {Version: 1, ID: strings.Repeat("a", run.MaxIDLength), Queue: strings.Repeat("q", run.MaxQueueLength), Command: []string{"true"}},
		"the shortest timeout":          {Version: 1, ID: "a", Queue: "q", Command: []string{"true"}, Timeout: run.Duration(time.Second)},
		"a timeout of odd milliseconds": {Version: 1, ID: "a", Queue: "q", Command: []string{"true"}, Timeout: run.Duration(1234567 * time.Microsecond)},
		"the longest timeout":           {Version: 1, ID: "a", Queue: "q", Command: []string{"true"}, Timeout: run.MaxTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			if err := request.Validate(); err != nil {
				t.Fatalf("the request is not valid to begin with: %v", err)
			}
			text, err := request.Encode()
			if err != nil {
				t.Fatal(err)
			}
			if err := validate(schema, text); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		})
	}
}

// What publishers in other languages may write, and the decoder's opinion of it.
func TestRequestSchemaAndDecoderAgreeOnText(t *testing.T) {
	schema := compile(t, writeRequestSchema)
	const base = `{"version": 1, "id": "a", "queue": "q", "command": ["true"]`
	for name, test := range map[string]struct {
		text  string
		valid bool
	}{
		"fields from a newer publisher":      {base + `, "later": {"x": 1}, "pod": {"hostname": "x"}}`, true},
		"a timeout in seconds":               {base + `, "timeout": 90}`, true},
		"a timeout in parts of seconds":      {base + `, "timeout": 1.5}`, true},
		"no timeout as a number":             {base + `, "timeout": 0}`, true},
		"no timeout as a string":             {base + `, "timeout": "0"}`, true},
		"a timeout in words of Go":           {base + `, "timeout": "1h.5m"}`, true},
		"too short a timeout":                {base + `, "timeout": 0.5}`, false},
		"too long a timeout":                 {base + `, "timeout": 2147483648}`, false},
		"far too long a timeout":             {base + `, "timeout": 1e300}`, false},
		"a negative number as timeout":       {base + `, "timeout": -5}`, false},
		"a negative string as timeout":       {base + `, "timeout": "-5s"}`, false},
		"a timeout without a unit":           {base + `, "timeout": "90"}`, false},
		"a timeout in days":                  {base + `, "timeout": "1d"}`, false},
		"a timeout that is no time":          {base + `, "timeout": true}`, false},
		"another version":                    {strings.Replace(base, `"version": 1`, `"version": 2`, 1) + `}`, false},
		"a version in quotes":                {strings.Replace(base, `"version": 1`, `"version": "x"`, 1) + `}`, false},
		"no version":                         {strings.Replace(base, `"version": 1, `, ``, 1) + `}`, false},
		"neither command nor image":          {`{"version": 1, "id": "a", "queue": "q"}`, false},
		"an empty command and no image":      {`{"version": 1, "id": "a", "queue": "q", "command": [], "image": {}}`, false},
		"an empty reference and no command":  {`{"version": 1, "id": "a", "queue": "q", "image": {"reference": ""}}`, false},
		"a command that is a string":         {strings.Replace(base, `["true"]`, `"true"`, 1) + `}`, false},
		"an env value that is a number":      {base + `, "env": {"A": 1}}`, false},
		"a quantity that is a number":        {base + `, "pod": {"resources": {"limits": {"cpu": 2}}}}`, false},
		"a time of submission that is none":  {base + `, "submittedAt": "yesterday"}`, false},
		"a toleration of half a second":      {base + `, "pod": {"tolerations": [{"operator": "Exists", "tolerationSeconds": 0.5}]}}`, false},
		"a list in place of the request":     {`[]`, false},
		"a NUL byte in an argument":          {base + `, "args": ["a\u0000b"]}`, false},
		"a NUL byte in the first word":       {strings.Replace(base, `"true"`, `"a\u0000b"`, 1) + `}`, false},
		"a build's secret with a comma":      {base + `, "image": {"build": {"dockerfile": "FROM a", "secrets": {"a,b": "c"}}}`, false},
		"a NUL byte in a secret":             {base + `, "secretEnv": {"A": "a\u0000b"}}`, false},
		"a label that Ropewalk sets":         {base + `, "labels": {"ropewalk.dev/run-id": "x"}}`, false},
		"a label whose prefix is like ours":  {base + `, "labels": {"ropewalk.device/x": "x"}}`, true},
		"a node selector with a bad value":   {base + `, "pod": {"nodeSelector": {"a": "b c"}}}`, false},
		"an image with white space":          {base + `, "image": {"reference": "a b"}}`, false},
		"a mode that is none":                {base + `, "image": {"mode": "pull", "reference": "a"}}`, false},
		"a mode without what it needs":       {base + `, "image": {"mode": "reuse"}}`, false},
		"a build mode without a build":       {base + `, "image": {"mode": "build", "reference": "a"}}`, false},
		"a build without a Dockerfile":       {base + `, "image": {"build": {"platform": "linux/amd64"}}}`, false},
		"a build and no command":             {`{"version": 1, "id": "a", "queue": "q", "image": {"build": {"dockerfile": "FROM a"}}}`, true},
		"the prebuilt image and no command":  {`{"version": 1, "id": "a", "queue": "q", "image": {"mode": "prebuilt", "reference": "a"}}`, false},
		"a blank Dockerfile":                 {base + `, "image": {"build": {"dockerfile": " \n"}}}`, false},
		"a build argument of two words":      {base + `, "image": {"build": {"dockerfile": "FROM a", "buildArgs": {"A B": "x"}}}}`, false},
		"two platforms":                      {base + `, "image": {"build": {"dockerfile": "FROM a", "platform": "linux/amd64,linux/arm64"}}}`, false},
		"a context that is no hash":          {base + `, "image": {"build": {"dockerfile": "FROM a", "context": "sha256:12"}}}`, false},
		"a build's name with a registry":     {base + `, "image": {"build": {"dockerfile": "FROM a", "name": "r.example.com:5000/x"}}}`, false},
		"an id with a dot":                   {strings.Replace(base, `"a"`, `"a.b"`, 1) + `}`, false},
		"a queue in capitals":                {strings.Replace(base, `"q"`, `"Q"`, 1) + `}`, false},
		"a label key with too long a prefix": {base + `, "annotations": {"` + strings.Repeat("a.", 126) + `aa/x": "x"}}`, false},
	} {
		t.Run(name, func(t *testing.T) {
			schemaError := validate(schema, []byte(test.text))
			request, err := run.Decode([]byte(test.text))
			if err == nil {
				err = request.Validate()
			}
			if (schemaError == nil) != test.valid || (err == nil) != test.valid {
				t.Errorf("%s\nschema: %v\ndecoder: %v\nwant valid: %v", test.text, schemaError, err, test.valid)
			}
		})
	}
}

// TestSchemaAgreesWithValidate holds the schema's patterns and those of package
// run together: a request made of good and bad parts is valid to both or to
// neither.
func TestSchemaAgreesWithValidate(t *testing.T) {
	schema := compile(t, writeRequestSchema)
	var good, bad int
	rapid.Check(t, func(t *rapid.T) {
		request := drawRequest(t)
		text, err := request.Encode()
		if err != nil {
			t.Fatal(err)
		}
		want, have := request.Validate(), validate(schema, text)
		if (want == nil) != (have == nil) {
			t.Fatalf("%s\nValidate: %v\nschema: %v", text, want, have)
		}
		if want == nil {
			good++
		} else {
			bad++
		}
	})
	if good == 0 || bad == 0 {
		t.Errorf("%d valid requests, %d invalid ones: the generator shows nothing", good, bad)
	}
}

// drawRequest makes a request that is mostly right: each field draws from the
// characters that matter to its pattern now and then, from a good value
// otherwise.
func drawRequest(t *rapid.T) run.Request {
	text := func(label, good, pattern string) string {
		if rapid.IntRange(0, 19).Draw(t, label+" is good") > 0 {
			return good
		}
		return rapid.StringMatching(pattern).Draw(t, label)
	}
	pair := func(label, key, keys, value, values string) map[string]string {
		return map[string]string{text(label+" key", key, keys): text(label+" value", value, values)}
	}
	const (
		names  = `[aZ0_./ -]{0,6}|[a-b]{60,66}`
		values = `[aZ0_. -]{0,5}|[a-b]{60,66}`
	)
	request := run.Request{
		Version: rapid.SampledFrom([]int{1, 1, 1, 1, 1, 1, 1, 1, 1, 2}).Draw(t, "version"),
		// Left out, they come from the subject, so that only the schema
		// takes an empty one.
		ID:    text("id", "a-1_Z", `[aZ0_-]{1,5}|[a-b]{60,66}|a\.b`),
		Queue: text("queue", "default", `[aZ0_-]{1,5}|[a-b]{38,42}`),
		Image: run.Image{Reference: text("image", "busybox:1", `[a:/ \t\n]{0,3}`)},
		Env:   pair("env", "PLAIN", `[aZ0_.=-]{0,3}`, "x", `[a\x00\n]{0,2}`),
		Pod: run.Pod{
			Resources:      run.Resources{Limits: pair("limit", "cpu", `[a0./-]{0,4}`, "1", `[+]?[01.]{0,3}(Ki|Mi|m|k|u|n|e3|E-1|x|K)?`)},
			NodeSelector:   pair("selector", "a/b", names, "c", values),
			ServiceAccount: text("service account", "", `[aZ0.-]{0,4}|[a-b]{250,256}`),
		},
		Labels:      pair("label", "example.com/a", `(ropewalk\.dev/)?`+names, "b", values),
		Annotations: pair("annotation", "a", names, "b", `.{0,5}`),
		Timeout:     run.Duration(rapid.SampledFrom([]time.Duration{0, time.Second, 90 * time.Second, -time.Second}).Draw(t, "timeout")),
	}
	if rapid.Bool().Draw(t, "with a command") {
		request.Command = []string{text("program", "true", `[a\x00]{0,2}`), text("word", "", `[a\x00]{0,2}`)}
	}
	if rapid.Bool().Draw(t, "with a secret") {
		request.SecretEnv = map[string]run.Secret{}
		for name, value := range pair("secret", "HIDDEN", `[aZ0_.=-]{0,3}|[a-b]{250,256}`, "x", `[a\x00\n]{0,2}`) {
			if request.Env[name] == "" { // a name in both is what a schema cannot see
				request.SecretEnv[name] = run.Secret(value)
			}
		}
		for name := range request.SecretEnv {
			delete(request.Env, name)
		}
	}
	if rapid.Bool().Draw(t, "with a toleration") {
		request.Pod.Tolerations = []run.Toleration{{
			Key: text("key", "gpu", `a?`), Value: text("value", "", `a?`),
			Operator: text("operator", "Equal", `Exists|Equals|`), Effect: text("effect", "NoSchedule", `NoExecute|PreferNoSchedule|No|`),
		}}
	}
	return request
}

func TestRunSchemaAcceptsRecordsOfEveryKind(t *testing.T) {
	schema := compile(t, writeRunSchema)
	at := time.Date(2026, 1, 31, 4, 5, 6, 7, time.UTC)
	delivery := run.Delivery{Queue: "default", ID: "a", Attempt: 1, PublishedAt: at, Sequence: 7}
	request := run.Request{Version: 1, ID: "a", Queue: "default", Command: []string{"true"}, Timeout: run.Duration(time.Minute), SecretEnv: map[string]run.Secret{"T": "hunter2"}}

	waiting := run.New(delivery)
	records := map[string]run.Run{"a run that waits": waiting}
	for _, end := range []run.Observation{
		{State: run.Succeeded, StartedAt: at, FinishedAt: at},
		{State: run.Failed, Reason: run.AppError, Message: "exit code 3", StartedAt: at, FinishedAt: at},
		{State: run.Cancelled, Reason: run.CancelledByUser},
		{State: run.TimedOut, Reason: run.DeadlineExceeded},
	} {
		record := run.New(delivery)
		record.Owner, record.Request, record.Labels = "host-1", &request, map[string]string{"team": "a"}
		code := 3
		for _, seen := range []run.Observation{{State: run.Preparing}, {State: run.Pending, Message: "waits for a node"}, {State: run.Running, ExitCode: &code}, end} {
			if !record.Observe(seen, at) {
				t.Fatalf("a run that is %s does not take %s", record.State, seen.State)
			}
			record.Job = &run.Job{Namespace: "runs", Name: run.JobName("a", 1), UID: "u"}
			records[fmt.Sprintf("a run that is %s on its way to %s", record.State, end.State)] = record
		}
	}
	rejected := run.New(delivery)
	if err := rejected.Become(run.Rejected, at); err != nil {
		t.Fatal(err)
	}
	rejected.Reason = run.InvalidRequest
	records["a message that could not be decoded"] = rejected
	rejected.Request = &run.Request{
		Version: 1, ID: "a", Queue: "default", Env: map[string]string{"A B": "\x00"}, Timeout: run.Duration(-time.Second),
		Pod: run.Pod{Tolerations: []run.Toleration{{Operator: "Perhaps"}}}, Labels: map[string]string{"ropewalk.dev/queue": "x"},
	}
	records["a request that was rejected, kept as it was"] = rejected

	for name, record := range records {
		t.Run(name, func(t *testing.T) {
			text := marshal(t, record)
			if err := validate(schema, text); err != nil {
				t.Errorf("%s: %v", text, err)
			}
		})
	}
}

func TestRunSchemaRefuses(t *testing.T) {
	schema := compile(t, writeRunSchema)
	const good = `{"id": "a", "queue": "q", "state": "failed", "reason": "AppError", "exitCode": 3, "attempt": 1, "image": "", "job": null,
		"queuedAt": "2026-01-31T04:05:06Z", "startedAt": null, "finishedAt": "2026-01-31T04:05:06Z",
		"history": [{"state": "queued", "attempt": 1, "at": "2026-01-31T04:05:06Z"}],
		"request": {"version": 1, "secretEnv": {"T": "[redacted]"}}}`
	if err := validate(schema, []byte(good)); err != nil {
		t.Fatalf("the record to start from: %v", err)
	}
	for name, change := range map[string][2]string{
		"an unknown state":                  {`"failed"`, `"broken"`},
		"an unknown state in the history":   {`"state": "queued"`, `"state": "waiting"`},
		"an unknown reason":                 {`"AppError"`, `"Oops"`},
		"a final state without a reason":    {`"reason": "AppError", `, ``},
		"a record without an id":            {`"id": "a", `, ``},
		"a record without a job":            {`"job": null,`, ``},
		"attempts that count from 0":        {`"attempt": 1, "image"`, `"attempt": 0, "image"`},
		"a queue time of null":              {`"queuedAt": "2026-01-31T04:05:06Z"`, `"queuedAt": null`},
		"a start that is no time":           {`"startedAt": null`, `"startedAt": "soon"`},
		"an exit code in words":             {`"exitCode": 3`, `"exitCode": "3"`},
		"an empty history":                  {`[{"state": "queued", "attempt": 1, "at": "2026-01-31T04:05:06Z"}]`, `[]`},
		"a secret in the clear":             {`[redacted]`, `hunter2`},
		"a Job without a name":              {`"job": null`, `"job": {"namespace": "x", "uid": ""}`},
		"a request of an unreadable timing": {`"version": 1,`, `"version": 1, "timeout": 60,`},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Replace(good, change[0], change[1], 1)
			if text == good {
				t.Fatal("nothing was changed")
			}
			if validate(schema, []byte(text)) == nil {
				t.Errorf("accepted: %s", text)
			}
		})
	}
}

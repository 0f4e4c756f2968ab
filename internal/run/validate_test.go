package run

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// valid is a request with every field set.
func valid() Request {
	seconds := int64(30)
	return Request{
		Version: 1, ID: "01JZX-train_7", Queue: "gpu-a100",
		Image:   Image{Reference: "registry.example.com:5000/team/train@sha256:abc"},
		Command: []string{"python", "-m", "train"}, Args: []string{"--rate", "$(RATE)", ""},
		WorkingDir: "/work",
		Env:        map[string]string{"RATE": "0.1", "with-dash.and_dot": "", ".hidden": "x", "_": "multi\nline"},
		SecretEnv:  map[string]Secret{"TOKEN": "hunter2"},
		Pod: Pod{
			Resources: Resources{
				Requests: map[string]string{"cpu": "500m", "memory": "1.5Gi", "nvidia.com/gpu": "1"},
				Limits:   map[string]string{"cpu": "2", "memory": "1e9", "ephemeral-storage": "100M", "hugepages-2Mi": "4Mi"},
			},
			NodeSelector:      map[string]string{"kubernetes.io/arch": "amd64", "zone": ""},
			Tolerations:       []Toleration{{Key: "gpu", Operator: "Equal", Value: "yes", Effect: "NoSchedule"}, {Operator: "Exists", Effect: "NoExecute", TolerationSeconds: &seconds}},
			ServiceAccount:    "train.runner",
			PriorityClassName: "high",
		},
		Timeout:     Duration(90 * time.Minute),
		Labels:      map[string]string{"team": "vision", "example.com/owner": "A.B_c-d"},
		Annotations: map[string]string{"example.com/note": "any text at all, ümlauts too"},
		SubmittedAt: time.Date(2026, 1, 2, 3, 4, 5, 6, time.UTC),
	}
}

func TestValidateAcceptsWhatCanRun(t *testing.T) {
	for sentence, edit := range map[string]func(*Request){
		"every field at once":                    func(*Request) {},
		"the least there can be":                 func(r *Request) { *r = Request{Version: 1, ID: "a", Queue: "q", Command: []string{"true"}} },
		"an image with its own command":          func(r *Request) { r.Command, r.Args = nil, nil },
		"an image with its own command and args": func(r *Request) { r.Command = nil },
		"the longest id and queue": func(r *Request) {
			r.ID, r.Queue = strings.Repeat("a", MaxIDLength), strings.Repeat("q", MaxQueueLength)
		},
		"no timeout":           func(r *Request) { r.Timeout = 0 },
		"the shortest timeout": func(r *Request) { r.Timeout = Duration(time.Second) },
		"the longest timeout":  func(r *Request) { r.Timeout = MaxTimeout },
		"a long label":         func(r *Request) { r.Labels = map[string]string{"l": strings.Repeat("v", 63)} },
		"a long secret's name": func(r *Request) { r.SecretEnv = map[string]Secret{strings.Repeat("S", 253): ""} },
		"a signed quantity":    func(r *Request) { r.Pod.Resources.Limits = map[string]string{"cpu": "+.5"} },
	} {
		t.Run(sentence, func(t *testing.T) {
			request := valid()
			edit(&request)
			if err := request.Validate(); err != nil {
				t.Errorf("Validate: %v", err)
			}
		})
	}
}

func TestValidateNamesTheFieldOfEveryProblem(t *testing.T) {
	for sentence, test := range map[string]struct {
		edit   func(*Request)
		fields []string
	}{
		"another version":                      {func(r *Request) { r.Version = 2 }, []string{"version"}},
		"no version":                           {func(r *Request) { r.Version = 0 }, []string{"version"}},
		"no id":                                {func(r *Request) { r.ID = "" }, []string{"id"}},
		"an id that is a subject of its own":   {func(r *Request) { r.ID = "a.b" }, []string{"id"}},
		"an id with a wildcard":                {func(r *Request) { r.ID = "*" }, []string{"id"}},
		"an id that begins with a dash":        {func(r *Request) { r.ID = "-a" }, []string{"id"}},
		"an id that ends with a line feed":     {func(r *Request) { r.ID = "a\n" }, []string{"id"}},
		"an id that is too long":               {func(r *Request) { r.ID = strings.Repeat("a", MaxIDLength+1) }, []string{"id"}},
		"no queue":                             {func(r *Request) { r.Queue = "" }, []string{"queue"}},
		"a queue in capitals":                  {func(r *Request) { r.Queue = "GPU" }, []string{"queue"}},
		"a queue with an underscore":           {func(r *Request) { r.Queue = "a_b" }, []string{"queue"}},
		"a queue that is too long":             {func(r *Request) { r.Queue = strings.Repeat("q", MaxQueueLength+1) }, []string{"queue"}},
		"an image with a space":                {func(r *Request) { r.Image.Reference = "busy box" }, []string{"image.reference"}},
		"neither image nor command":            {func(r *Request) { r.Image, r.Command = Image{}, nil }, []string{"command"}},
		"a command without a name":             {func(r *Request) { r.Command = []string{""} }, []string{"command[0]"}},
		"a NUL in the command":                 {func(r *Request) { r.Command = []string{"a", "b\x00"} }, []string{"command[1]"}},
		"a NUL in the arguments":               {func(r *Request) { r.Args = []string{"a", "b\x00", "c"} }, []string{"args[1]"}},
		"a NUL in the working directory":       {func(r *Request) { r.WorkingDir = "/\x00" }, []string{"workingDir"}},
		"a variable without a name":            {func(r *Request) { r.Env = map[string]string{"": "x"} }, []string{"env[]"}},
		"a variable that begins with a digit":  {func(r *Request) { r.Env = map[string]string{"1A": "x"} }, []string{"env[1A]"}},
		"a variable with an equals sign":       {func(r *Request) { r.Env = map[string]string{"A=B": "x"} }, []string{"env[A=B]"}},
		"a variable that is a folder":          {func(r *Request) { r.Env = map[string]string{".": "x"} }, []string{"env[.]"}},
		"a NUL in a variable":                  {func(r *Request) { r.Env = map[string]string{"A": "\x00"} }, []string{"env[A]"}},
		"a variable that is a secret too":      {func(r *Request) { r.Env = map[string]string{"TOKEN": "x"} }, []string{"env[TOKEN]"}},
		"a secret without a name":              {func(r *Request) { r.SecretEnv = map[string]Secret{"": "x"} }, []string{"secretEnv[]"}},
		"a secret that leads out of a folder":  {func(r *Request) { r.SecretEnv = map[string]Secret{"..a": "x"} }, []string{"secretEnv[..a]"}},
		"a secret with too long a name":        {func(r *Request) { r.SecretEnv = map[string]Secret{strings.Repeat("S", 254): "x"} }, []string{"secretEnv[" + strings.Repeat("S", 254) + "]"}},
		"a NUL in a secret":                    {func(r *Request) { r.SecretEnv = map[string]Secret{"A": "\x00"} }, []string{"secretEnv[A]"}},
		"a quantity that is none":              {func(r *Request) { r.Pod.Resources.Requests["cpu"] = "lots" }, []string{"pod.resources.requests[cpu]"}},
		"a negative quantity":                  {func(r *Request) { r.Pod.Resources.Limits["cpu"] = "-1" }, []string{"pod.resources.limits[cpu]"}},
		"an empty quantity":                    {func(r *Request) { r.Pod.Resources.Limits["cpu"] = "" }, []string{"pod.resources.limits[cpu]"}},
		"a resource that is none":              {func(r *Request) { r.Pod.Resources.Limits["a b"] = "1" }, []string{"pod.resources.limits[a b]"}},
		"a node selector's bad key":            {func(r *Request) { r.Pod.NodeSelector = map[string]string{"a b": "x"} }, []string{"pod.nodeSelector[a b]"}},
		"a node selector's bad value":          {func(r *Request) { r.Pod.NodeSelector = map[string]string{"a": "x y"} }, []string{"pod.nodeSelector[a]"}},
		"a toleration's operator":              {func(r *Request) { r.Pod.Tolerations[0].Operator = "In" }, []string{"pod.tolerations[0].operator"}},
		"a toleration without a key":           {func(r *Request) { r.Pod.Tolerations[0].Key = "" }, []string{"pod.tolerations[0].key"}},
		"a toleration with a value too many":   {func(r *Request) { r.Pod.Tolerations[1].Value = "x" }, []string{"pod.tolerations[1].value"}},
		"a toleration's effect":                {func(r *Request) { r.Pod.Tolerations[1].Effect = "Evict" }, []string{"pod.tolerations[1].effect"}},
		"a service account that is none":       {func(r *Request) { r.Pod.ServiceAccount = "Train" }, []string{"pod.serviceAccount"}},
		"a priority class that is none":        {func(r *Request) { r.Pod.PriorityClassName = "a_b" }, []string{"pod.priorityClassName"}},
		"a negative timeout":                   {func(r *Request) { r.Timeout = -1 }, []string{"timeout"}},
		"a timeout of less than a second":      {func(r *Request) { r.Timeout = Duration(time.Millisecond) }, []string{"timeout"}},
		"a timeout that is too long":           {func(r *Request) { r.Timeout = MaxTimeout + 1 }, []string{"timeout"}},
		"a label's key with two slashes":       {func(r *Request) { r.Labels = map[string]string{"a/b/c": "x"} }, []string{"labels[a/b/c]"}},
		"a label's key without a name":         {func(r *Request) { r.Labels = map[string]string{"example.com/": "x"} }, []string{"labels[example.com/]"}},
		"a label's key without a prefix":       {func(r *Request) { r.Labels = map[string]string{"/a": "x"} }, []string{"labels[/a]"}},
		"a label's value that is too long":     {func(r *Request) { r.Labels = map[string]string{"a": strings.Repeat("v", 64)} }, []string{"labels[a]"}},
		"a label's key and value":              {func(r *Request) { r.Labels = map[string]string{"-": "-"} }, []string{"labels[-]", "labels[-]"}},
		"a label that Ropewalk sets":           {func(r *Request) { r.Labels = map[string]string{"ropewalk.dev/run-id": "b"} }, []string{"labels[ropewalk.dev/run-id]"}},
		"an annotation that Ropewalk sets":     {func(r *Request) { r.Annotations = map[string]string{"ropewalk.dev/request-hash": "b"} }, []string{"annotations[ropewalk.dev/request-hash]"}},
		"an annotation's key":                  {func(r *Request) { r.Annotations = map[string]string{"a b": "x"} }, []string{"annotations[a b]"}},
		"everything, in the order of the type": {func(r *Request) { *r = allWrong() }, allWrongFields()},
		"a build's secret with a comma": {func(r *Request) {
			r.Image = Image{Build: &Build{Dockerfile: "FROM a", Secrets: map[string]Secret{"a,src=/etc/shadow": "x"}}}
		}, []string{"image.build.secrets[a,src=/etc/shadow]"}},
		"a build's secret that leads out of a folder": {func(r *Request) {
			r.Image = Image{Build: &Build{Dockerfile: "FROM a", Secrets: map[string]Secret{"../a": "x"}}}
		}, []string{"image.build.secrets[../a]"}},
		"a NUL in a build's secret": {func(r *Request) {
			r.Image = Image{Build: &Build{Dockerfile: "FROM a", Secrets: map[string]Secret{"a": "\x00"}}}
		}, []string{"image.build.secrets[a]"}},
		"secrets of a build that have no room": {func(r *Request) {
			r.Image = Image{Build: &Build{Dockerfile: "FROM a", Secrets: map[string]Secret{"a": Secret(strings.Repeat("x", 32<<10))}}}
		}, []string{"image.build.secrets"}},
	} {
		t.Run(sentence, func(t *testing.T) {
			request := valid()
			test.edit(&request)
			err := request.Validate()
			var invalid *InvalidError
			if !errors.As(err, &invalid) {
				t.Fatalf("Validate: %v, want an InvalidError", err)
			}
			var fields []string
			for _, problem := range invalid.Problems {
				fields = append(fields, problem.Field)
				if problem.Message == "" || !strings.Contains(err.Error(), problem.Message) {
					t.Errorf("problem %+v is not in %q", problem, err)
				}
			}
			if !slices.Equal(fields, test.fields) {
				t.Errorf("problems of %q, want %q (%v)", fields, test.fields, err)
			}
			if text := fmt.Sprintf("%v %+v %#v", err, err, invalid.Problems); strings.Contains(text, "hunter2") {
				t.Errorf("a secret shows in %s", text)
			}
		})
	}
}

// allWrong has something wrong with every field that can be.
func allWrong() Request {
	return Request{
		Image: Image{Reference: "\t"}, Command: []string{""}, Args: []string{"\x00"}, WorkingDir: "\x00",
		Env: map[string]string{"B": "\x00hunter2", "A A": "hunter2"}, SecretEnv: map[string]Secret{"=": "hunter2\x00"},
		Pod: Pod{
			Resources:    Resources{Requests: map[string]string{"cpu": "x"}, Limits: map[string]string{"cpu": "x"}},
			NodeSelector: map[string]string{"": ""}, Tolerations: []Toleration{{}}, ServiceAccount: "-", PriorityClassName: "-",
		},
		Timeout: -1, Labels: map[string]string{"": ""}, Annotations: map[string]string{"": ""},
	}
}

func allWrongFields() []string {
	return []string{
		"version", "id", "queue", "image.reference", "command[0]", "args[0]", "workingDir",
		"env[A A]", "env[B]", "secretEnv[=]", "secretEnv[=]",
		"pod.resources.requests[cpu]", "pod.resources.limits[cpu]", "pod.nodeSelector[]", "pod.tolerations[0].key",
		"pod.serviceAccount", "pod.priorityClassName", "timeout", "labels[]", "annotations[]",
	}
}

package run

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"reflect"
	"strings"
	"time"
)

// Version is the major version of the request format that this code reads and
// writes. Fields may be added to a version: a reader ignores the ones that it
// does not know. Whatever would change the meaning of a request is a new
// version, and a reader refuses versions that it does not know.
const Version = 1

// Request is what a publisher asks for. Its JSON is the payload of a message
// on subject ropewalk.runs.<queue>.<id>.
type Request struct {
	// Version is the major version of the format: 1.
	Version int `json:"version"`
	// ID names the run, now and over all its attempts. It may be left out:
	// the message's subject holds it too. See [ValidID].
	ID string `json:"id,omitempty"`
	// Queue is the queue whose limit the run counts against. It may be left
	// out: the message's subject holds it too.
	Queue string `json:"queue,omitempty"`
	// Image says which image to run. Left out, the run uses the prebuilt
	// runner image that the operator has set.
	Image Image `json:"image,omitzero"`
	// Command replaces the image's entry point, Args its arguments. No shell
	// is involved, and $(NAME) is not expanded.
	Command []string `json:"command,omitempty"`
	Args    []string `json:"args,omitempty"`
	// WorkingDir is where the command starts; left out, where the image says.
	WorkingDir string `json:"workingDir,omitempty"`
	// Env is set in the container as it stands.
	Env map[string]string `json:"env,omitempty"`
	// SecretEnv is set in the container too, by way of a Secret that goes
	// with the Job. Its values are in no Job, record, log or answer.
	SecretEnv map[string]Secret `json:"secretEnv,omitempty"`
	// Pod holds the settings of the pod that a caller may wish for. The
	// operator's policy decides which of them it may set.
	Pod Pod `json:"pod,omitzero"`
	// Timeout is how long the run may take from the start of its container;
	// left out or 0, as long as the operator allows.
	Timeout Duration `json:"timeout,omitempty"`
	// Retry says when a run that failed is tried again by itself. Left out,
	// only failures of the cluster are, from a budget of the operator's.
	Retry Retry `json:"retry,omitzero"`
	// Labels are put on the Job and its pods, and shown with the run.
	Labels map[string]string `json:"labels,omitempty"`
	// Annotations are put on the Job and its pods.
	Annotations map[string]string `json:"annotations,omitempty"`
	// SubmittedAt is the publisher's clock when it submitted the request.
	SubmittedAt time.Time `json:"submittedAt,omitzero"`
}

// Pod holds what a caller may wish for its pod. Field for field it has the
// meaning that Kubernetes gives to the same name.
type Pod struct {
	Resources         Resources         `json:"resources,omitzero"`
	NodeSelector      map[string]string `json:"nodeSelector,omitempty"`
	Tolerations       []Toleration      `json:"tolerations,omitempty"`
	ServiceAccount    string            `json:"serviceAccount,omitempty"`
	PriorityClassName string            `json:"priorityClassName,omitempty"`
}

// IsZero reports whether nothing is asked for. An empty list asks for nothing,
// like none at all: without this a request would have one hash as it was
// published and another once it was written and read again.
func (p Pod) IsZero() bool {
	return p.Resources.IsZero() && len(p.NodeSelector) == 0 && len(p.Tolerations) == 0 && p.ServiceAccount == "" && p.PriorityClassName == ""
}

// Resources are Kubernetes quantities by resource name, such as
// {"cpu": "500m", "memory": "1Gi"}.
type Resources struct {
	Requests map[string]string `json:"requests,omitempty"`
	Limits   map[string]string `json:"limits,omitempty"`
}

// IsZero is as for [Pod.IsZero].
func (r Resources) IsZero() bool { return len(r.Requests) == 0 && len(r.Limits) == 0 }

// Toleration lets the pod run on nodes with a matching taint.
type Toleration struct {
	Key               string `json:"key,omitempty"`
	Operator          string `json:"operator,omitempty"`
	Value             string `json:"value,omitempty"`
	Effect            string `json:"effect,omitempty"`
	TolerationSeconds *int64 `json:"tolerationSeconds,omitempty"`
}

// Decode reads a request. An error names what is wrong in words for the
// publisher and never repeats the data, which may hold secrets. Decode does
// not validate; see [Request.Validate].
func Decode(data []byte) (Request, error) {
	var head struct {
		Version json.RawMessage `json:"version"`
	}
	if err := unmarshal(data, &head); err != nil {
		return Request{}, err
	}
	switch version := string(head.Version); {
	case version == fmt.Sprint(Version):
	case version == "", version == "null":
		return Request{}, invalid("version", fmt.Sprintf("is missing; this dispatcher reads version %d", Version))
	case strings.Trim(version, "+-.0123456789eE") == "":
		return Request{}, invalid("version", fmt.Sprintf("is %.20s; this dispatcher reads version %d only", version, Version))
	default:
		return Request{}, invalid("version", fmt.Sprintf("is not a number; this dispatcher reads version %d", Version))
	}
	var request Request
	if err := unmarshal(data, &request); err != nil {
		return Request{}, err
	}
	// Not every time that can be read can be written again; one that cannot
	// would make the request impossible to hash and to keep.
	if _, err := request.SubmittedAt.MarshalJSON(); err != nil {
		return Request{}, errSubmittedAt()
	}
	return request, nil
}

func errSubmittedAt() error {
	return invalid("submittedAt", "is not a time such as 2026-01-02T15:04:05Z")
}

// unmarshal decodes exactly one JSON value, with errors that quote no data.
func unmarshal(data []byte, into any) error {
	decoder := json.NewDecoder(bytes.NewReader(data))
	err := decoder.Decode(into)
	if err == nil {
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			return invalid("", "the payload goes on after the request's closing brace; publish one request per message")
		}
		return nil
	}
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	var duration durationError
	switch {
	case errors.Is(err, io.EOF):
		return invalid("", "the payload is empty; publish the request as a JSON object")
	case errors.Is(err, io.ErrUnexpectedEOF):
		return invalid("", "the payload ends in the middle of the JSON object")
	case errors.As(err, &syntax):
		return invalid("", fmt.Sprintf("the payload is not JSON: it goes wrong at byte %d", syntax.Offset))
	case errors.As(err, &kind) && kind.Field == "":
		return invalid("", fmt.Sprintf("the payload is a JSON %s; publish the request as a JSON object", kindOf(kind.Value)))
	case errors.As(err, &kind):
		return invalid(kind.Field, fmt.Sprintf("has a JSON %s where %s belongs", kindOf(kind.Value), wanted(kind.Type)))
	case errors.As(err, &duration):
		return invalid("timeout", duration.Error())
	default:
		// What remains comes from the one other field that reads itself.
		return errSubmittedAt()
	}
}

// wanted names a type as somebody who writes JSON would.
func wanted(kind reflect.Type) string {
	switch kind.Kind() {
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Slice, reflect.Array:
		return "array"
	case reflect.Map, reflect.Struct:
		return "object"
	default:
		return "whole number"
	}
}

// kindOf keeps the kind from a decoder's "number 12345".
func kindOf(value string) string {
	kind, _, _ := strings.Cut(value, " ")
	return kind
}

// Encode writes the request for the wire, secrets in the clear. It is the only
// way to marshal a secret's value.
func (r Request) Encode() ([]byte, error) {
	type bare Request // without Encode's receiver, to embed it
	return json.Marshal(struct {
		bare
		Image     any               `json:"image,omitempty"`
		SecretEnv map[string]string `json:"secretEnv,omitempty"`
	}{bare(r), r.Image.wire(), reveal(r.SecretEnv)})
}

// reveal is for [Request.Encode] alone.
func reveal(secrets map[string]Secret) map[string]string {
	revealed := make(map[string]string, len(secrets))
	for name, value := range secrets {
		revealed[name] = value.Reveal()
	}
	return revealed
}

// HasSecrets reports whether the request holds secrets, which a record of it
// does not.
func (r Request) HasSecrets() bool {
	return len(r.SecretEnv) > 0 || r.Image.Build != nil && len(r.Image.Build.Secrets) > 0
}

// WithSecrets returns the request, as a record has it, with the values of its
// secrets from the same request as it was published. It reports whether that has
// all of them: what stands in a record in their place must never be used.
func (r Request) WithSecrets(published Request) (whole Request, all bool) {
	r = r.Clone()
	all = reveals(r.SecretEnv, published.SecretEnv)
	if r.Image.Build != nil {
		var secrets map[string]Secret
		if published.Image.Build != nil {
			secrets = published.Image.Build.Secrets
		}
		all = reveals(r.Image.Build.Secrets, secrets) && all
	}
	return r, all
}

// reveals puts the values of secrets in their place, and reports whether each has
// one.
func reveals(hidden, secrets map[string]Secret) bool {
	all := true
	for name := range hidden {
		value, ok := secrets[name]
		hidden[name], all = value, all && ok
	}
	return all
}

// Hash tells requests apart: hexadecimal SHA-256 of everything but the values
// of secrets, so that it can stand where everybody may read it.
func (r Request) Hash() string {
	text, err := json.Marshal(r)
	if err != nil {
		panic("run: a request always marshals: " + err.Error())
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// Clone returns a copy that shares nothing that a resolver would change.
func (r Request) Clone() Request {
	r.Env, r.SecretEnv = maps.Clone(r.Env), maps.Clone(r.SecretEnv)
	r.Labels, r.Annotations = maps.Clone(r.Labels), maps.Clone(r.Annotations)
	r.Image = r.Image.clone()
	return r
}

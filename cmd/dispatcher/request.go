package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
	"sigs.k8s.io/yaml"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/run"
)

// submission is what the flags of submit say about a request.
type submission struct {
	file, id, queue, image string
	env, secretEnv, labels []string
	requests, limits       []string
	timeout                time.Duration
	building
}

func (s *submission) flags(flags *pflag.FlagSet) {
	flags.StringVarP(&s.file, "file", "f", "", "read the request from a `FILE`, JSON or YAML; - is standard input")
	flags.StringVar(&s.id, "id", "", "name the run; the same `ID` again is the same run (default: one that nobody has)")
	flags.StringVarP(&s.queue, "queue", "q", "", "put the run on this `QUEUE` (default \""+client.DefaultQueue+"\")")
	flags.StringVar(&s.image, "image", "", "run this image, such as registry.example.com/team/train:1.4 (default: the dispatcher's `REF`)")
	flags.StringArrayVarP(&s.env, "env", "e", nil, "set an environment variable, as `NAME[=VALUE]`; NAME alone takes the value that it has here (repeatable)")
	flags.StringArrayVar(&s.secretEnv, "secret-env", nil, "the same for a secret, as `NAME[=VALUE]`; NAME alone keeps the value out of the shell's history (repeatable)")
	s.building.flags(flags)
	flags.DurationVar(&s.timeout, "timeout", 0, "stop the run when it takes longer than this `TIME`, such as 90s or 1h30m")
	flags.StringArrayVarP(&s.labels, "label", "l", nil, "label the run, its Job and its pods with `NAME=VALUE` (repeatable)")
	flags.StringArrayVar(&s.requests, "request", nil, "ask for a resource, such as cpu=500m or memory=1Gi, as `NAME=QUANTITY` (repeatable)")
	flags.StringArrayVar(&s.limits, "limit", nil, "limit a resource, as `NAME=QUANTITY` (repeatable)")
}

// request reads the file, if there is one, and lets flags and command override
// its fields. It does not validate. environment looks up a variable.
func (s *submission) request(flags *pflag.FlagSet, command []string, stdin io.Reader, environment func(string) (string, bool)) (client.Request, error) {
	var request client.Request
	if flags.Changed("file") {
		var err error
		if request, err = readRequest(s.file, stdin); err != nil {
			return client.Request{}, err
		}
	}
	override := func(flag string, field *string, value string) {
		if flags.Changed(flag) {
			*field = value
		}
	}
	override("id", &request.ID, s.id)
	override("queue", &request.Queue, s.queue)
	override("image", &request.Image.Reference, s.image)
	if flags.Changed("timeout") {
		request.Timeout = client.Duration(s.timeout)
	}
	if len(command) > 0 {
		request.Command, request.Args = command, nil
	}
	none := func(string) (string, bool) { return "", false }
	return request, errors.Join(
		s.building.apply(&request, environment),
		assign(&request.Env, "env", s.env, environment),
		assign(&request.SecretEnv, "secret-env", s.secretEnv, environment),
		assign(&request.Labels, "label", s.labels, none),
		assign(&request.Pod.Resources.Requests, "request", s.requests, none),
		assign(&request.Pod.Resources.Limits, "limit", s.limits, none),
	)
}

// assign puts NAME=VALUE items into a map, which it makes if need be. Where a
// NAME stands alone, fallback has its value. Its errors quote no value, which
// may be a secret.
func assign[V ~string](into *map[string]V, flag string, items []string, fallback func(string) (string, bool)) error {
	for _, item := range items {
		name, value, ok := strings.Cut(item, "=")
		if name == "" {
			return fmt.Errorf("--%s has no name before its value; want --%s NAME=VALUE", flag, flag)
		}
		if !ok {
			if value, ok = fallback(name); !ok {
				return fmt.Errorf("--%s %s: there is no value for it, here or in the environment; want --%s NAME=VALUE", flag, name, flag)
			}
		}
		if *into == nil {
			*into = make(map[string]V, len(items))
		}
		(*into)[name] = V(value)
	}
	return nil
}

// mostFile is the largest payload that a NATS server can be set to take.
const mostFile = 64 << 20

// readRequest reads a request from a file, or from stdin if the file's name is
// "-". It refuses fields that it does not know: in a file written by hand they
// are misspelled.
func readRequest(file string, stdin io.Reader) (client.Request, error) {
	name, from := file, stdin
	if file == "-" {
		name = "standard input"
	} else {
		opened, err := os.Open(file)
		if err != nil {
			return client.Request{}, fmt.Errorf("read the request: %w", err)
		}
		defer func() { _ = opened.Close() }() // it was only read
		from = opened
	}
	data, err := io.ReadAll(io.LimitReader(from, mostFile+1))
	if err != nil {
		return client.Request{}, fmt.Errorf("read the request from %s: %w", name, err)
	}
	if len(data) > mostFile {
		return client.Request{}, fmt.Errorf("read the request from %s: it is larger than any NATS server takes", name)
	}
	request, err := parseRequest(data)
	if err != nil {
		return client.Request{}, fmt.Errorf("the request in %s is wrong: %w", name, err)
	}
	return request, nil
}

func parseRequest(data []byte) (client.Request, error) {
	// JSON is YAML too, but for tabs.
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		asJSON, err := yaml.YAMLToJSONStrict(data)
		if err != nil {
			return client.Request{}, errors.New(strings.Join(strings.Fields(err.Error()), " ")) // it comes in several lines
		}
		if !bytes.HasPrefix(asJSON, []byte("{")) {
			return client.Request{}, errors.New("it is not an object with fields such as command and env")
		}
		data = asJSON
	}
	var fields map[string]json.RawMessage
	if json.Unmarshal(data, &fields) == nil && fields["version"] == nil {
		// Who writes a file for this program means this program's version.
		fields["version"] = json.RawMessage(strconv.Itoa(run.Version))
		withVersion, err := json.Marshal(fields)
		if err != nil {
			return client.Request{}, fmt.Errorf("set its version: %w", err)
		}
		data = withVersion
	}
	request, err := run.Decode(data)
	if err != nil {
		return client.Request{}, err
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(new(client.Request)); err != nil { // json: unknown field "name"
		return client.Request{}, errors.New(strings.TrimPrefix(err.Error(), "json: "))
	}
	return request, nil
}

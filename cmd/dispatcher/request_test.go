package main

import (
	"errors"
	"reflect"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/spf13/pflag"

	"github.com/ropewalk/ropewalk/client"
)

func TestRequestFromFlagsAndFile(t *testing.T) {
	const file = `
queue: gpu
image: {reference: example.com/a:1}
command: [a]
args: [b]
env: {KEEP: "1", CHANGE: "1"}
timeout: 10
`
	environment := func(name string) (string, bool) { return "here", name == "HERE" }
	for name, c := range map[string]struct {
		args  []string
		input string
		want  client.Request
	}{
		"the command alone": {
			args: []string{"--", "echo", "a=b"},
			want: client.Request{Command: []string{"echo", "a=b"}},
		},
		"the file alone": {
			args: []string{"-f", "-"}, input: file,
			want: client.Request{
				Version: 1, Queue: "gpu", Image: client.Image{Reference: "example.com/a:1"}, Command: []string{"a"}, Args: []string{"b"},
				Env: map[string]string{"KEEP": "1", "CHANGE": "1"}, Timeout: client.Duration(10e9),
			},
		},
		"flags override the file": {
			args:  []string{"-f", "-", "--queue", "default", "--env", "CHANGE=a=b", "--env", "HERE", "--timeout", "0", "--image", "", "--", "c"},
			input: file,
			want: client.Request{
				Version: 1, Queue: "default", Command: []string{"c"},
				Env: map[string]string{"KEEP": "1", "CHANGE": "a=b", "HERE": "here"},
			},
		},
		"every flag": {
			args: []string{
				"--id", "i", "-q", "q", "--image", "m", "-e", "E=", "--secret-env", "HERE", "--secret-env", "S=v=w",
				"-l", "l=1", "--request", "cpu=1", "--limit", "memory=1Gi", "--timeout", "1m",
			},
			want: client.Request{
				ID: "i", Queue: "q", Image: client.Image{Reference: "m"}, Env: map[string]string{"E": ""},
				SecretEnv: map[string]client.Secret{"HERE": "here", "S": "v=w"}, Labels: map[string]string{"l": "1"},
				Pod:     client.Pod{Resources: client.Resources{Requests: map[string]string{"cpu": "1"}, Limits: map[string]string{"memory": "1Gi"}}},
				Timeout: client.Duration(60e9),
			},
		},
		"a build's arguments and secrets": {
			args:  []string{"-f", "-", "--build-arg", "A=1", "--build-secret", "HERE", "--build-secret", "netrc=v=w"},
			input: "image: {build: {dockerfile: FROM a}}",
			want: client.Request{Version: 1, Image: client.Image{Build: &client.Build{
				Dockerfile: "FROM a", BuildArgs: map[string]string{"A": "1"}, Secrets: map[string]client.Secret{"HERE": "here", "netrc": "v=w"},
			}}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			var wanted submission
			flags := pflag.NewFlagSet("submit", pflag.ContinueOnError)
			wanted.flags(flags)
			if err := flags.Parse(c.args); err != nil {
				t.Fatal(err)
			}
			got, err := wanted.request(flags, flags.Args(), strings.NewReader(c.input), environment)
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, c.want) {
				t.Errorf("got  %+v\nwant %+v", got, c.want)
			}
		})
	}
}

func TestReadRequestThatCannotBeRead(t *testing.T) {
	broken := errors.New("the pipe is broken")
	if _, err := readRequest("-", iotest.ErrReader(broken)); !errors.Is(err, broken) {
		t.Errorf("got %v", err)
	}
	if _, err := readRequest("-", zeros{}); err == nil || !strings.Contains(err.Error(), "larger than any NATS server takes") {
		t.Errorf("an endless file: %v", err)
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { return len(p), nil }

func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"version": 1, "command": ["true"], "timeout": "1s"}`))
	f.Add([]byte("command: [a, b]\nenv: {A: \"1\"}\nsecretEnv:\n  T: hunter2\n"))
	f.Add([]byte("a: &a [*a]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		request, err := parseRequest(data)
		if err == nil && request.Version != 1 {
			t.Errorf("version %d passes", request.Version)
		}
	})
}

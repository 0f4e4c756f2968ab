package main

import (
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/nats-io/nats.go/jetstream"
	"sigs.k8s.io/yaml"

	"github.com/ropewalk/ropewalk/internal/logask"
	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/runstore"
)

func marshal(t *testing.T, value any) []byte {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// asyncAPIDocument returns the document as the generator writes it now.
func asyncAPIDocument(t *testing.T) map[string]any {
	t.Helper()
	var text bytes.Buffer
	if err := writeAsyncAPI(&text); err != nil {
		t.Fatal(err)
	}
	var document map[string]any
	if err := yaml.UnmarshalStrict(text.Bytes(), &document); err != nil {
		t.Fatal(err)
	}
	return document
}

// find follows a path of keys.
func find(document any, keys ...string) (any, bool) {
	for _, key := range keys {
		object, ok := document.(map[string]any)
		if !ok {
			return nil, false
		}
		if document, ok = object[key]; !ok {
			return nil, false
		}
	}
	return document, true
}

func TestAsyncAPIReferencesResolve(t *testing.T) {
	document := asyncAPIDocument(t)
	seen := 0
	var walk func(node any)
	walk = func(node any) {
		switch node := node.(type) {
		case []any:
			for _, child := range node {
				walk(child)
			}
		case map[string]any:
			if reference, ok := node["$ref"].(string); ok {
				seen++
				if path, local := strings.CutPrefix(reference, "#/"); local {
					if _, ok := find(document, strings.Split(path, "/")...); !ok {
						t.Errorf("%s leads nowhere", reference)
					}
				} else if _, err := os.Stat(filepath.Join("../../docs", reference)); err != nil {
					t.Error(err)
				}
			}
			for _, key := range slices.Sorted(maps.Keys(node)) {
				walk(node[key])
			}
		}
	}
	walk(document)
	if seen < 10 {
		t.Errorf("only %d references seen", seen)
	}
}

func TestAsyncAPIAddressesAreTheOnesInUse(t *testing.T) {
	document := asyncAPIDocument(t)
	fill := strings.NewReplacer("{queue}", "gpu", "{id}", "train-42", "{attempt}", "3")
	for channel, want := range map[string]string{
		"requests":    queue.Subject("gpu", "train-42", 1),
		"attempts":    queue.Subject("gpu", "train-42", 3),
		"records":     "$KV." + runstore.Bucket + ".gpu.train-42",
		"logRequests": logask.Subjects + "train-42",
	} {
		address, _ := find(document, "channels", channel, "address")
		text, _ := address.(string)
		if fill.Replace(text) != want {
			t.Errorf("channel %s has address %v, which stands for %s; in use is %s", channel, address, fill.Replace(text), want)
		}
		parameters, _ := find(document, "channels", channel, "parameters")
		if named, _ := parameters.(map[string]any); len(named) != strings.Count(text, "{") {
			t.Errorf("channel %s has address %s, and parameters %v", channel, text, named)
		}
	}
}

func TestAsyncAPIHeadersAreTheServers(t *testing.T) {
	headers, _ := find(asyncAPIDocument(t), "components", "messages", "request", "headers", "properties")
	for _, name := range []string{jetstream.MsgIDHeader, jetstream.ExpectedStreamHeader} {
		if _, ok := find(headers, name); !ok {
			t.Errorf("no header %s in %v", name, headers)
		}
	}
}

func TestAsyncAPIExamplesAreValidRequests(t *testing.T) {
	document := asyncAPIDocument(t)
	schema := compile(t, writeRequestSchema)
	found, _ := find(document, "components", "messages", "request", "examples")
	examples, _ := found.([]any)
	if len(examples) == 0 {
		t.Fatal("no examples")
	}
	for _, example := range examples {
		payload, _ := find(example, "payload")
		text := marshal(t, payload)
		if err := validate(schema, text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
		request, err := run.Decode(text)
		if err != nil {
			t.Fatal(err)
		}
		id, _ := find(example, "headers", jetstream.MsgIDHeader)
		request.ID, _ = id.(string)
		if request.Queue == "" {
			request.Queue = "default"
		}
		if err := request.Validate(); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
}

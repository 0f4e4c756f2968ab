package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"time"

	"github.com/invopop/jsonschema"

	"github.com/ropewalk/ropewalk/internal/run"
)

// The patterns restate in the language of JSON Schema what
// [run.Request.Validate] checks in Go. TestSchemaAgreesWithValidate holds the
// two together.
const (
	idPattern       = `^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$`
	queuePattern    = `^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`
	envPattern      = `^([-_a-zA-Z]|\.[-_a-zA-Z0-9])[-._a-zA-Z0-9]*$`
	resourcePattern = `^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`
	quantityPattern = `^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$`
	durationPattern = `^(0|(([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|µs|μs|ms|s|m|h))+)$`
	noNUL           = `^[^\x00]*$`
	noSpace         = `^[^ \t\r\n\x00]*$`

	dnsName         = `[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*`
	labelName       = `([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]`
	labelKeyPattern = `^(` + dnsName + `/)?` + labelName + `$`
	maxDNSName      = 253
)

func constrainRequest(request *jsonschema.Schema) {
	at(request, "version").Const = run.Version
	id, queue := at(request, "id"), at(request, "queue")
	id.Pattern, id.MaxLength = idPattern, new(uint64(run.MaxIDLength))
	queue.Pattern, queue.MaxLength = queuePattern, new(uint64(run.MaxQueueLength))

	constrainImage(request.Definitions)
	// Without an image of its own the prebuilt one is run, which needs to be
	// told what.
	some := &jsonschema.Schema{MinLength: new(uint64(1))}
	request.AnyOf = []*jsonschema.Schema{
		having("command", &jsonschema.Schema{MinItems: new(uint64(1))}),
		having("image", &jsonschema.Schema{
			AnyOf: []*jsonschema.Schema{having("reference", some), having("build", &jsonschema.Schema{Type: "object"})},
			Not:   having("mode", &jsonschema.Schema{Const: string(run.PrebuiltImage)}),
		}),
	}

	command, args := at(request, "command"), at(request, "args")
	command.PrefixItems = []*jsonschema.Schema{{Type: "string", MinLength: new(uint64(1)), Pattern: noNUL}}
	command.Items.Pattern, args.Items.Pattern = noNUL, noNUL
	args.Description = "Args are the arguments of the command, or of the image's entry point."
	at(request, "workingDir").Pattern = noNUL

	env, secretEnv := at(request, "env"), at(request, "secretEnv")
	env.PropertyNames = &jsonschema.Schema{Pattern: envPattern}
	env.AdditionalProperties.Pattern = noNUL
	env.Description += " A name stands here or in secretEnv, not in both."
	secretEnv.PropertyNames = &jsonschema.Schema{Pattern: envPattern, MaxLength: new(uint64(maxDNSName))}

	at(request, "timeout").Description += fmt.Sprintf(` A string such as "90s" or "1h30m", or a number of seconds; from 1s to %s.`, run.MaxTimeout)
	labels(at(request, "labels"), true)
	labels(at(request, "annotations"), false)
	constrainPod(request.Definitions)
}

func constrainImage(definitions jsonschema.Definitions) {
	image, build := definitions["Image"], definitions["Build"]
	at(image, "reference").Pattern = noSpace
	at(image, "mode").Enum = []any{"", string(run.ReuseImage), string(run.PrebuiltImage), string(run.BuildImage)}
	needs := func(mode run.ImageMode, then *jsonschema.Schema) *jsonschema.Schema {
		return &jsonschema.Schema{If: having("mode", &jsonschema.Schema{Const: string(mode)}), Then: then}
	}
	image.AllOf = []*jsonschema.Schema{
		needs(run.ReuseImage, having("reference", &jsonschema.Schema{MinLength: new(uint64(1))})),
		needs(run.BuildImage, having("build", &jsonschema.Schema{Type: "object"})),
	}
	at(build, "dockerfile").Pattern = `^[^\x00]*[^\s\x00][^\x00]*$`
	args := at(build, "buildArgs")
	args.PropertyNames = &jsonschema.Schema{Pattern: `^[A-Za-z_][A-Za-z0-9_]*$`}
	args.AdditionalProperties.Pattern = noNUL
	secrets := at(build, "secrets")
	secrets.PropertyNames = &jsonschema.Schema{Pattern: `^[A-Za-z0-9_][A-Za-z0-9_.-]*$`, MaxLength: new(uint64(128))}
	at(build, "platform").Pattern = `^([a-z0-9]+/[a-z0-9_]+(/[a-z0-9.]+)?)?$`
	at(build, "context").Pattern = `^(sha256:[0-9a-f]{64})?$`
	const part = `[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*`
	at(build, "name").Pattern = `^(` + part + `(/` + part + `)*(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?)?$`
	at(build, "name").MaxLength = new(uint64(200))
}

func constrainPod(definitions jsonschema.Definitions) {
	pod := definitions["Pod"]
	labels(at(pod, "nodeSelector"), true)
	for _, name := range []string{"serviceAccount", "priorityClassName"} {
		at(pod, name).Pattern = `^(` + dnsName + `)?$`
		at(pod, name).MaxLength = new(uint64(maxDNSName))
	}
	for _, name := range []string{"requests", "limits"} {
		quantities := at(definitions["Resources"], name)
		quantities.PropertyNames = &jsonschema.Schema{Pattern: resourcePattern}
		quantities.AdditionalProperties.Pattern = quantityPattern
	}
	toleration := definitions["Toleration"]
	at(toleration, "operator").Enum = []any{"", "Equal", "Exists"}
	at(toleration, "effect").Enum = []any{"", "NoSchedule", "PreferNoSchedule", "NoExecute"}
	toleration.If = having("operator", &jsonschema.Schema{Const: "Exists"})
	toleration.Then = &jsonschema.Schema{Not: having("value", &jsonschema.Schema{MinLength: new(uint64(1))})}
	toleration.Else = having("key", &jsonschema.Schema{MinLength: new(uint64(1))})
}

// labels constrains the keys of labels or annotations, and the values of
// labels: annotations may have any.
func labels(schema *jsonschema.Schema, values bool) {
	schema.PropertyNames = &jsonschema.Schema{
		AllOf: []*jsonschema.Schema{
			{Pattern: labelKeyPattern},
			{Pattern: fmt.Sprintf(`^([^/]{1,%d}/)?[^/]*$`, maxDNSName)},
			{Not: &jsonschema.Schema{Pattern: `^ropewalk\.dev/`}},
		},
	}
	if values {
		schema.AdditionalProperties.Pattern = `^(` + labelName + `)?$`
	}
}

// durationRead is what a duration may be written as.
func durationRead() *jsonschema.Schema {
	return &jsonschema.Schema{
		OneOf: []*jsonschema.Schema{
			{Type: "string", Pattern: durationPattern},
			{Type: "number", Minimum: "1", Maximum: json.Number(strconv.Itoa(int(time.Duration(run.MaxTimeout).Seconds())))},
			{Const: 0},
		},
	}
}

func constrainRun(record *jsonschema.Schema) {
	for _, counted := range []*jsonschema.Schema{at(record, "attempt"), at(record.Definitions["Change"], "attempt")} {
		counted.Minimum = "1"
	}
	at(record, "sequence").Minimum = "0"
	at(record, "history").MinItems = new(uint64(1))
	var unsuccessful []any
	for _, state := range run.States() {
		if state.Final() && state != run.Succeeded {
			unsuccessful = append(unsuccessful, string(state))
		}
	}
	record.If = having("state", &jsonschema.Schema{Enum: unsuccessful})
	record.Then = &jsonschema.Schema{Required: []string{"reason"}}
}

// having is the schema of an object that has the named property, and that of
// the given schema.
func having(name string, schema *jsonschema.Schema) *jsonschema.Schema {
	properties := jsonschema.NewProperties()
	properties.Set(name, schema)
	return &jsonschema.Schema{Required: []string{name}, Properties: properties}
}

package run

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
)

// Policy is what the operator has set for the runs of one queue, over what is
// set for all. The zero value changes nothing.
type Policy struct {
	// Namespace is where the Jobs of the queue's runs are made.
	Namespace string `json:"namespace,omitempty"`
	// ServiceAccount is that of their pods.
	ServiceAccount string `json:"serviceAccount,omitempty"`
	// PodTemplatePatch is a strategic merge patch, a JSON object, that is laid
	// over the pod template after the operator's patch for all queues.
	PodTemplatePatch json.RawMessage `json:"podTemplatePatch,omitempty"`
	// Timeout and Retry are those of requests that have none.
	Timeout Duration `json:"timeout,omitempty"`
	Retry   Retry    `json:"retry,omitzero"`
	// ImageAllow and ImageDeny are patterns of repositories, which count
	// beside those for all queues: a request's image must pass both.
	ImageAllow []string `json:"imageAllow,omitempty"`
	ImageDeny  []string `json:"imageDeny,omitempty"`
	// MayOverride lists what a request may set: fields of [Pod] by their JSON
	// names, "timeout" and "retry". Nil leaves the fields of the pod to the
	// operator's setting and allows the other two; an empty list allows none.
	MayOverride []string `json:"mayOverride,omitzero"`
}

// Overridable are the words that Policy.MayOverride may hold.
func Overridable() []string { return append(PodFields(), "timeout", "retry") }

// PodFields are the JSON names of the fields of [Pod].
func PodFields() []string {
	return []string{"resources", "nodeSelector", "tolerations", "serviceAccount", "priorityClassName"}
}

// IsZero reports whether the policy changes nothing.
func (p Policy) IsZero() bool {
	return reflect.ValueOf(p).IsZero()
}

// Refuses says in one sentence what a request sets that the policy does not let
// it set; empty when there is nothing. The fields of its pod are for the
// launcher to judge, which knows the operator's own setting.
func (p Policy) Refuses(request Request) string {
	if p.MayOverride == nil {
		return ""
	}
	var refused []string
	if request.Timeout != 0 && !slices.Contains(p.MayOverride, "timeout") {
		refused = append(refused, "timeout")
	}
	if request.Retry.Attempts != 0 && !slices.Contains(p.MayOverride, "retry") {
		refused = append(refused, "retry")
	}
	if refused == nil {
		return ""
	}
	return "The request sets " + strings.Join(refused, " and ") + ", which its queue does not let a request set."
}

// MayOverridePod are the fields of its pod that a request may set; known is
// false when the policy leaves that to the operator's setting.
func (p Policy) MayOverridePod() (fields []string, known bool) {
	if p.MayOverride == nil {
		return nil, false
	}
	return slices.DeleteFunc(slices.Clone(p.MayOverride), func(field string) bool { return !slices.Contains(PodFields(), field) }), true
}

// Validate returns an [*InvalidError] with everything that is wrong with the
// policy and can be known without a cluster.
func (p Policy) Validate() error {
	v := &validation{}
	if p.Namespace != "" && (len(p.Namespace) > 63 || !queuePattern.MatchString(p.Namespace)) {
		v.add("namespace", "%.80q is not the name of a namespace: at most 63 lower-case letters, digits and '-'", p.Namespace)
	}
	if p.ServiceAccount != "" && !isDNSName(p.ServiceAccount) {
		v.add("serviceAccount", "%.80q is not the name of a service account: lower-case letters, digits, '-' and '.'", p.ServiceAccount)
	}
	if patch := bytes.TrimSpace(p.PodTemplatePatch); len(patch) > 0 && (patch[0] != '{' || !json.Valid(patch)) {
		v.add("podTemplatePatch", `is not an object such as {"spec": {"runtimeClassName": "gvisor"}}`)
	}
	v.timeout(p.Timeout)
	v.retry(p.Retry)
	for name, patterns := range map[string][]string{"imageAllow": p.ImageAllow, "imageDeny": p.ImageDeny} {
		for _, pattern := range patterns {
			if pattern == "" || strings.ContainsAny(pattern, " \t\r\n") {
				v.add(name, "%.80q is not a pattern such as registry.example.com/team/**", pattern)
			}
		}
	}
	for _, field := range p.MayOverride {
		if !slices.Contains(Overridable(), field) {
			v.add("mayOverride", "%.40q is not one of %s", field, strings.Join(Overridable(), ", "))
		}
	}
	return v.err()
}

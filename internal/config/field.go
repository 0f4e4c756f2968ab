package config

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/ropewalk/ropewalk/internal/run"
)

// field is one setting as the tree declares it.
type field struct {
	group   string // name of the group's field in Config
	title   string // the group's title
	index   []int  // place in Config, for reflect
	kind    reflect.Type
	name    string
	def     string
	meaning string
	example string
	needed  string
	oneof   []string
	min     string
	max     string
	zero    string
	rule    string
	none    bool
	set     bool // in the environment, as far as known
}

// fields lists every setting in the order of the tree.
func fields() []field {
	var all []field
	tree := reflect.TypeFor[Config]()
	for i := range tree.NumField() {
		group := tree.Field(i)
		if !group.IsExported() {
			continue
		}
		for j := range group.Type.NumField() {
			leaf := group.Type.Field(j)
			f := field{
				group:   group.Name,
				title:   group.Tag.Get("title"),
				index:   []int{i, j},
				kind:    leaf.Type,
				name:    leaf.Tag.Get("envconfig"),
				def:     leaf.Tag.Get("default"),
				meaning: leaf.Tag.Get("meaning"),
				example: leaf.Tag.Get("example"),
				needed:  leaf.Tag.Get("needed"),
				min:     leaf.Tag.Get("min"),
				max:     leaf.Tag.Get("max"),
				zero:    leaf.Tag.Get("zero"),
				rule:    leaf.Tag.Get("check"),
				none:    leaf.Tag.Get("none") == "true",
			}
			if choices := leaf.Tag.Get("oneof"); choices != "" {
				f.oneof = strings.Split(choices, ",")
			}
			all = append(all, f)
		}
	}
	return all
}

// secret reports whether the value must not be shown at all.
func (f field) secret() bool { return f.kind == reflect.TypeFor[run.Secret]() }

// values says in a few words what the variable may hold.
func (f field) values() string {
	words := map[reflect.Type]string{
		reflect.TypeFor[string]():            "text",
		reflect.TypeFor[bool]():              "true or false",
		reflect.TypeFor[int]():               "whole number",
		reflect.TypeFor[int32]():             "whole number",
		reflect.TypeFor[*int64]():            "whole number",
		reflect.TypeFor[time.Duration]():     "length of time",
		reflect.TypeFor[[]string]():          "list with commas",
		reflect.TypeFor[map[string]string](): "JSON object of strings",
		reflect.TypeFor[run.Resources]():     "JSON object",
		reflect.TypeFor[[]run.Toleration]():  "JSON list",
		reflect.TypeFor[json.RawMessage]():   "JSON object",
		reflect.TypeFor[Flavour]():           "class name",
		reflect.TypeFor[Bucket]():            "s3://bucket or s3://bucket/prefix",
		reflect.TypeFor[URL]():               "URL, or several with commas",
		reflect.TypeFor[QueueLimits]():       "name=limit, or several with commas",
		reflect.TypeFor[run.Secret]():        "text, secret",
	}[f.kind]
	switch f.rule {
	case "file":
		words = "file name"
	case "address":
		words = "host:port, or :port"
	case "archive":
		words = "s3://bucket/prefix or file:///folder"
	case "yaml object":
		words = "JSON or YAML object"
	}
	if f.oneof != nil {
		words = "one of " + strings.Join(f.oneof, ", ")
		if f.kind == reflect.TypeFor[[]string]() {
			words = "list with commas of " + strings.Join(f.oneof, ", ")
		}
	}
	if f.none {
		words += "; the word none for an empty list"
	}
	switch {
	case f.min == "0" || f.min == "0s":
		words += ", not negative"
	case f.min != "" && f.max != "":
		words += fmt.Sprintf(", from %s to %s", f.min, f.max)
	case f.min != "":
		words += ", at least " + f.min
	}
	if f.zero != "" {
		words += "; 0 for " + f.zero
	}
	return words
}

// render writes a value as the variable could hold it, secrets and the
// credentials in an address aside.
func (f field) render(value reflect.Value) string {
	switch v := value.Interface().(type) {
	case run.Secret:
		if v == "" {
			return ""
		}
		return run.Redacted
	case time.Duration:
		return shortDuration(v)
	case []string:
		if len(v) == 0 && f.none {
			return "none"
		}
		return strings.Join(v, ",")
	case json.RawMessage:
		return string(v)
	case map[string]string, []run.Toleration:
		if value.Len() == 0 {
			return ""
		}
		return mustJSON(v)
	case run.Resources:
		if len(v.Requests) == 0 && len(v.Limits) == 0 {
			return ""
		}
		return mustJSON(v)
	case *int64:
		if v == nil {
			return ""
		}
		return strconv.FormatInt(*v, 10)
	case Flavour:
		return v.Source()
	}
	if value.CanInt() && value.IsZero() && f.def == "" {
		return "" // a number without default that is not set
	}
	return fmt.Sprint(value.Interface())
}

func mustJSON(value any) string {
	text, err := json.Marshal(value)
	if err != nil {
		panic("config: strings always marshal: " + err.Error())
	}
	return string(text)
}

// shortDuration leaves out the zero parts that [time.Duration.String] writes:
// 720h0m0s becomes 720h, and 0s becomes 0.
func shortDuration(d time.Duration) string {
	if d == 0 {
		return "0"
	}
	text := d.String()
	if strings.HasSuffix(text, "m0s") {
		text = strings.TrimSuffix(text, "0s")
	}
	if strings.HasSuffix(text, "h0m") {
		text = strings.TrimSuffix(text, "0m")
	}
	return text
}

package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"reflect"
	"strconv"
	"strings"
	"time"

	"github.com/kelseyhightower/envconfig"

	"github.com/ropewalk/ropewalk/internal/run"
)

// The types below read the text of a variable for envconfig, which calls their
// Decode methods, so that a Config can consist of plain Go types and every
// message is our own. A message goes on after the variable's name and quotes
// only what cannot be a secret.
type (
	text            string
	truth           bool
	number          int64
	optionalNumber  struct{ Value *int64 }
	span            time.Duration
	list            []string
	jsonStrings     map[string]string
	jsonResources   run.Resources
	jsonTolerations []run.Toleration
	jsonObject      json.RawMessage
)

// readerOf returns the type that reads a field of the given type. Types with an
// UnmarshalText method of their own read themselves.
func readerOf(kind reflect.Type) reflect.Type {
	switch kind {
	case reflect.TypeFor[string]():
		return reflect.TypeFor[text]()
	case reflect.TypeFor[bool]():
		return reflect.TypeFor[truth]()
	case reflect.TypeFor[int](), reflect.TypeFor[int32]():
		return reflect.TypeFor[number]()
	case reflect.TypeFor[*int64]():
		return reflect.TypeFor[optionalNumber]()
	case reflect.TypeFor[time.Duration]():
		return reflect.TypeFor[span]()
	case reflect.TypeFor[[]string]():
		return reflect.TypeFor[list]()
	case reflect.TypeFor[map[string]string]():
		return reflect.TypeFor[jsonStrings]()
	case reflect.TypeFor[run.Resources]():
		return reflect.TypeFor[jsonResources]()
	case reflect.TypeFor[[]run.Toleration]():
		return reflect.TypeFor[jsonTolerations]()
	case reflect.TypeFor[json.RawMessage]():
		return reflect.TypeFor[jsonObject]()
	case reflect.TypeFor[Flavour](), reflect.TypeFor[Bucket](), reflect.TypeFor[URL](),
		reflect.TypeFor[QueueLimits](), reflect.TypeFor[run.Secret]():
		return kind
	default:
		panic("config: nothing reads a field of type " + kind.String()) // found by any test
	}
}

// unset is a name that no variable can have: the name ends at the first "=".
// A variable that is set but empty is looked up by it, so that envconfig takes
// the default.
const unset = "="

// process reads one field by envconfig, which stops at the first error and so
// is given one field at a time.
func process(f field, set bool) (reflect.Value, error) {
	reader, name := readerOf(f.kind), f.name
	if !set {
		name = unset
	}
	tag := fmt.Sprintf("envconfig:%s default:%s", strconv.Quote(name), strconv.Quote(f.def))
	holder := reflect.New(reflect.StructOf([]reflect.StructField{{Name: "Value", Type: reader, Tag: reflect.StructTag(tag)}}))
	err := envconfig.Process("", holder.Interface())
	if parse, ok := errors.AsType[*envconfig.ParseError](err); ok {
		return reflect.Value{}, parse.Err // never parse itself, which quotes the value
	}
	if err != nil {
		return reflect.Value{}, errors.New("cannot be read")
	}
	value := holder.Elem().Field(0)
	switch {
	case reader == reflect.TypeFor[optionalNumber]():
		return value.Field(0), nil
	case value.CanInt() && reflect.Zero(f.kind).OverflowInt(value.Int()):
		return reflect.Value{}, errors.New("is too large a number")
	}
	return value.Convert(f.kind), nil
}

func (t *text) Decode(value string) error {
	*t = text(strings.TrimSpace(value))
	return nil
}

// Decode reads the spellings that people write in Helm values.
func (t *truth) Decode(value string) error {
	switch strings.ToLower(strings.TrimSpace(value)) {
	case "true", "1", "yes", "y", "on", "t":
		*t = true
	case "false", "0", "no", "n", "off", "f":
		*t = false
	default:
		return fmt.Errorf("%.40q is neither true nor false", value)
	}
	return nil
}

func (n *number) Decode(value string) error {
	parsed, err := parseNumber(value)
	*n = number(parsed)
	return err
}

func (n *optionalNumber) Decode(value string) error {
	parsed, err := parseNumber(value)
	n.Value = &parsed
	return err
}

// parseNumber reads a whole number, decimal always: a leading 0 means nothing.
// Helm renders an unquoted 2592000 as 2.592e+06, so that is one too.
func parseNumber(value string) (int64, error) {
	value = strings.TrimSpace(value)
	if parsed, err := strconv.ParseInt(value, 10, 64); err == nil {
		return parsed, nil
	} else if errors.Is(err, strconv.ErrRange) {
		return 0, errors.New("is too large a number")
	}
	float, err := strconv.ParseFloat(value, 64)
	if err != nil || float != math.Trunc(float) || math.Abs(float) > 1<<53 {
		return 0, fmt.Errorf("%.40q is not a whole number", value)
	}
	return int64(float), nil
}

// Decode reads a time as Go writes it, or a whole number of seconds, as
// requests may have it.
func (s *span) Decode(value string) error {
	value = strings.TrimSpace(value)
	if parsed, err := time.ParseDuration(value); err == nil {
		*s = span(parsed)
		return nil
	}
	seconds, err := parseNumber(value)
	if err != nil || seconds > math.MaxInt64/int64(time.Second) || seconds < math.MinInt64/int64(time.Second) {
		return fmt.Errorf("%.40q is not a length of time, such as 90s, 15m or 720h", value)
	}
	*s = span(time.Duration(seconds) * time.Second)
	return nil
}

func (l *list) Decode(value string) error {
	*l = splitList(value)
	return nil
}

// splitList splits at commas and leaves out what is empty, so that a comma at
// the end does no harm.
func splitList(value string) []string {
	var items []string
	for item := range strings.SplitSeq(value, ",") {
		if item = strings.TrimSpace(item); item != "" {
			items = append(items, item)
		}
	}
	return items
}

func (s *jsonStrings) Decode(value string) error {
	return decodeJSON(value, "a JSON object of strings", (*map[string]string)(s))
}

func (t *jsonTolerations) Decode(value string) error {
	return decodeJSON(value, "a JSON list of tolerations", (*[]run.Toleration)(t))
}

func (o *jsonObject) Decode(value string) error {
	var object map[string]json.RawMessage
	if err := decodeJSON(value, "a JSON object", &object); err != nil {
		return err
	}
	var compact bytes.Buffer
	if err := json.Compact(&compact, []byte(value)); err != nil {
		return errors.New("is not JSON")
	}
	*o = compact.Bytes()
	return nil
}

// quantity is a Kubernetes quantity, which JSON may hold as a number too.
type quantity string

func (q *quantity) UnmarshalJSON(data []byte) error {
	var asText string
	if json.Unmarshal(data, &asText) == nil {
		*q = quantity(asText)
		return nil
	}
	var asNumber json.Number
	if json.Unmarshal(data, &asNumber) != nil {
		return errQuantity
	}
	*q = quantity(asNumber)
	return nil
}

var errQuantity = errors.New(`has a quantity that is neither a string, such as "500m", nor a number`)

func (r *jsonResources) Decode(value string) error {
	var read struct {
		Requests map[string]quantity `json:"requests"`
		Limits   map[string]quantity `json:"limits"`
	}
	if err := decodeJSON(value, `a JSON object with "requests" and "limits"`, &read); err != nil {
		return err
	}
	plain := func(quantities map[string]quantity) map[string]string {
		if quantities == nil {
			return nil
		}
		texts := make(map[string]string, len(quantities))
		for name, q := range quantities {
			texts[name] = string(q)
		}
		return texts
	}
	r.Requests, r.Limits = plain(read.Requests), plain(read.Limits)
	return nil
}

// decodeJSON decodes exactly one JSON value and refuses fields that it does
// not know: a misspelled one would otherwise be left out in silence. Its
// errors quote names of fields, and no values.
func decodeJSON(value, want string, into any) error {
	decoder := json.NewDecoder(strings.NewReader(value))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(into)
	var syntax *json.SyntaxError
	var kind *json.UnmarshalTypeError
	switch {
	case err == nil:
		if _, more := decoder.Token(); !errors.Is(more, io.EOF) {
			return fmt.Errorf("goes on after the end of its JSON value; want %s", want)
		}
		if strings.TrimSpace(value) == "null" {
			return fmt.Errorf("is null; want %s", want)
		}
		return nil
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("ends in the middle; want %s", want)
	case errors.As(err, &syntax):
		return fmt.Errorf("is not JSON: it goes wrong at character %d; want %s", syntax.Offset, want)
	case errors.As(err, &kind) && kind.Field == "":
		return fmt.Errorf("is or holds a JSON %s in the wrong place; want %s", jsonKind(kind), want)
	case errors.As(err, &kind):
		return fmt.Errorf("has a JSON %s at %q, where that does not belong; want %s", jsonKind(kind), kind.Field, want)
	case errors.Is(err, errQuantity):
		return err
	default: // json: unknown field "name"
		return fmt.Errorf("has an %s; want %s", strings.TrimPrefix(err.Error(), "json: "), want)
	}
}

// jsonKind keeps the kind from a decoder's "number 12345".
func jsonKind(err *json.UnmarshalTypeError) string {
	kind, _, _ := strings.Cut(err.Value, " ")
	return kind
}

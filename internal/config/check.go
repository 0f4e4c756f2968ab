package config

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

var (
	dnsLabelPattern   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	dnsNamePattern    = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	labelPattern      = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
	capabilityPattern = regexp.MustCompile(`^[A-Z]+(_[A-Z]+)*$`)
	yamlLinePattern   = regexp.MustCompile(`line \d+`)
	hostPattern       = regexp.MustCompile(`^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?(:[0-9]{1,5})?$`)
	repositoryPattern = regexp.MustCompile(`^[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|__?|-+)[a-z0-9]+)*)*$`)
	imagePattern      = regexp.MustCompile(`^[-A-Za-z0-9.*]+(:[0-9]{1,5})?(/[-a-z0-9._*]+)+$`)
	projectPattern    = regexp.MustCompile(`^[a-z][-a-z0-9]{4,28}[a-z0-9]$`)
	subjectPattern    = regexp.MustCompile(`^[-A-Za-z0-9_]+(\.[-A-Za-z0-9_]+)*$`)
	regionPattern     = regexp.MustCompile(`^[a-z0-9]+(-[a-z0-9]+)*$`)
)

// checkText holds text against the rule that a field's check tag names.
func checkText(rule, text string) error {
	switch rule {
	case "":
		return nil
	case "dns label":
		return want(len(text) <= 63 && dnsLabelPattern.MatchString(text),
			"%.80q is not a name that Kubernetes allows: at most 63 lower-case letters, digits and '-', beginning and ending with a letter or digit", text)
	case "dns name":
		return want(len(text) <= 253 && dnsNamePattern.MatchString(text),
			"%.80q is not a name that Kubernetes allows: lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit", text)
	case "label":
		return want(len(text) <= 63 && labelPattern.MatchString(text),
			"%.80q is not a label value that Kubernetes allows: at most 63 letters, digits, '-', '_' and '.', beginning and ending with a letter or digit", text)
	case "capability":
		return want(capabilityPattern.MatchString(text) && !strings.HasPrefix(text, "CAP_"),
			"%.40q is not a capability as Kubernetes writes it: upper-case, without CAP_ in front", text)
	case "region":
		return want(regionPattern.MatchString(text), "%.40q is not the name of a region", text)
	case "project":
		return want(projectPattern.MatchString(text), "%.40q is not the id of a project: 6 to 30 lower-case letters, digits and '-', beginning with a letter", text)
	case "logging endpoint":
		_, err := url.Parse(text)
		host := strings.TrimPrefix(strings.TrimPrefix(text, "http://"), "https://")
		return want(err == nil && hostPattern.MatchString(host) && strings.Contains(host, ":"),
			"%.80q is not a host with a port, such as logging.example.com:443", text)
	case "subject":
		return want(subjectPattern.MatchString(text), "%.80q is not a NATS subject without wildcards: words of letters, digits, '-' and '_' with '.' between them", text)
	case "registry":
		return checkRegistry(text)
	case "registry host":
		return want(hostPattern.MatchString(text), "%.80q is not a registry's host, with a port if need be, such as registry.internal:5000", text)
	case "repository":
		return want(repositoryPattern.MatchString(text), "%.80q is not a repository: lower-case words with '/', '.', '_' or '-' between them", text)
	case "image pattern":
		return want(imagePattern.MatchString(text), "%.80q is not a pattern such as registry.example.com/team/** or docker.io/library/python; it has a registry in front and neither tag nor digest behind", text)
	case "image":
		return checkImage(text)
	case "address":
		return checkAddress(text)
	case "file":
		return checkFile(text)
	case "archive":
		_, err := parseArchive(text)
		if err != nil {
			return fmt.Errorf("%.80q %w", text, err)
		}
		return nil
	case "yaml object":
		return checkYAMLObject(text)
	default:
		panic("config: no check is called " + rule) // found by the test of the examples
	}
}

func want(ok bool, format string, args ...any) error {
	if ok {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// checkRegistry quotes nothing: people try registries with a user in front.
func checkRegistry(name string) error {
	switch {
	case strings.Contains(name, "://"):
		return errors.New("has a scheme in front; a registry is written without https://")
	case strings.ContainsAny(name, " \t\r\n"):
		return errors.New("holds white space")
	case strings.Contains(name, "@"):
		return errors.New("holds an '@'; credentials belong in a pull secret")
	}
	return nil
}

func checkImage(name string) error {
	switch {
	case strings.Contains(name, "://"):
		return errors.New("has a scheme in front; an image is written without https://")
	case strings.ContainsAny(name, " \t\r\n"):
		return errors.New("holds white space")
	}
	return nil
}

func checkAddress(address string) error {
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		return fmt.Errorf("%.80q is not an address: want host:port, or :port for every interface", address)
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%.80q has no port from 0 to 65535", address)
	}
	return nil
}

// checkFile opens the file, so that a missing mount is told of here with all
// other problems, and not by the NATS client on its own. It does not quote the
// name: people put the key itself where the name of its file belongs.
func checkFile(name string) error {
	file, err := os.Open(name)
	if err != nil {
		cause := err
		if path, ok := errors.AsType[*os.PathError](err); ok {
			cause = path.Err
		}
		return fmt.Errorf("names a file that cannot be read: %w", cause)
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	return want(err == nil && !info.IsDir(), "names a folder; want a file")
}

// checkYAMLObject quotes nothing of the text, which holds pieces of a pod.
func checkYAMLObject(text string) error {
	object, err := yaml.YAMLToJSONStrict([]byte(text))
	if err != nil {
		if line := yamlLinePattern.FindString(err.Error()); line != "" {
			return fmt.Errorf("is neither YAML nor JSON, or has a key twice: it goes wrong at %s", line)
		}
		return errors.New("is neither YAML nor JSON, or has a key twice")
	}
	return want(bytes.HasPrefix(object, []byte("{")), "is not an object; want the part of the pod template that is to change")
}

// check applies the rules in a field's tags to its value, and returns the
// value as it is to be kept: choices in the spelling of the tag.
func (f field) check(value reflect.Value) (reflect.Value, error) {
	switch kept := value.Interface().(type) {
	case string:
		if kept == "" {
			return value, nil
		}
		item, err := f.checkItem(kept)
		return reflect.ValueOf(item), err
	case []string:
		if f.none && len(kept) == 1 && strings.EqualFold(kept[0], "none") {
			return reflect.ValueOf([]string(nil)), nil
		}
		for i, item := range kept {
			var err error
			if kept[i], err = f.checkItem(item); err != nil {
				return value, err
			}
		}
		return reflect.ValueOf(kept), nil
	case time.Duration:
		return value, f.checkRange(int64(kept), func(n int64) string { return shortDuration(time.Duration(n)) }, func(bound string) int64 {
			limit, err := time.ParseDuration(bound)
			mustTag(f, err)
			return int64(limit)
		})
	case *int64:
		if kept == nil {
			return value, nil
		}
		return value, f.checkNumber(*kept)
	}
	if value.CanInt() {
		return value, f.checkNumber(value.Int())
	}
	return value, nil
}

// checkItem applies the rules for text to a value or an item of a list.
func (f field) checkItem(item string) (string, error) {
	if f.oneof != nil {
		for _, choice := range f.oneof {
			if strings.EqualFold(choice, item) {
				return choice, nil
			}
		}
		return item, fmt.Errorf("%.60q is not one of %s", item, strings.Join(f.oneof, ", "))
	}
	return item, checkText(f.rule, item)
}

func (f field) checkNumber(n int64) error {
	return f.checkRange(n, func(n int64) string { return strconv.FormatInt(n, 10) }, func(bound string) int64 {
		limit, err := strconv.ParseInt(bound, 10, 64)
		mustTag(f, err)
		return limit
	})
}

// checkRange holds n against the min, max and zero tags.
func (f field) checkRange(n int64, write func(int64) string, read func(string) int64) error {
	if n == 0 && (f.zero != "" || !f.set) {
		return nil
	}
	if f.min != "" && n < read(f.min) {
		if f.zero != "" {
			return fmt.Errorf("is %s; it must be at least %s, or 0 for %s", write(n), f.min, f.zero)
		}
		return fmt.Errorf("is %s; it must be at least %s", write(n), f.min)
	}
	if f.max != "" && n > read(f.max) {
		return fmt.Errorf("is %s; it must be at most %s", write(n), f.max)
	}
	return nil
}

// mustTag panics for a tag of our own that cannot be read; any test finds it.
func mustTag(f field, err error) {
	if err != nil {
		panic("config: bounds of " + f.name + ": " + err.Error())
	}
}

package config

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Flavour is the kind of cluster that Jobs are made in. It is set by the class
// name of the workload manager that Ropewalk stands in for.
type Flavour string

// The flavours.
const (
	FlavourKubernetes Flavour = "kubernetes"
	FlavourAWS        Flavour = "aws"
	FlavourGCP        Flavour = "gcp"
)

// Source is the full class name that stands for the flavour.
func (f Flavour) Source() string {
	switch f {
	case FlavourKubernetes:
		return "zenml_cloud_plugins.kubernetes_workload_manager.KubernetesWorkloadManager"
	case FlavourAWS:
		return "zenml_cloud_plugins.aws_kubernetes_workload_manager.AWSKubernetesWorkloadManager"
	case FlavourGCP:
		return "zenml_cloud_plugins.gcp_kubernetes_workload_manager.GCPKubernetesWorkloadManager"
	default:
		return ""
	}
}

// UnmarshalText reads a class name. The module in front of it does not matter: it is
// the class that chooses.
func (f *Flavour) UnmarshalText(value []byte) error {
	text := strings.TrimSpace(string(value))
	class := text[strings.LastIndexByte(text, '.')+1:]
	var known []string
	for _, flavour := range []Flavour{FlavourKubernetes, FlavourAWS, FlavourGCP} {
		if strings.HasSuffix(flavour.Source(), "."+class) {
			*f = flavour
			return nil
		}
		known = append(known, flavour.Source())
	}
	return fmt.Errorf("%.120q is no workload manager that Ropewalk stands in for; it knows %s", text, strings.Join(known, ", "))
}

// Bucket is a place in S3.
type Bucket struct {
	Name string
	// Prefix has no slash at either end; it may be empty.
	Prefix string
}

var bucketPattern = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]$`)

// UnmarshalText reads s3://bucket or s3://bucket/prefix.
func (b *Bucket) UnmarshalText(text []byte) error {
	rest, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "s3://")
	name, prefix, _ := strings.Cut(rest, "/")
	switch {
	case !ok:
		return errors.New("does not begin with s3://; want s3://bucket or s3://bucket/prefix")
	case !bucketPattern.MatchString(name):
		return errors.New("does not name a bucket: 3 to 63 lower-case letters, digits, '-' and '.'")
	}
	*b = Bucket{Name: name, Prefix: strings.Trim(prefix, "/")}
	return nil
}

// String writes s3://bucket/prefix, or nothing when there is no bucket.
func (b Bucket) String() string {
	if b.Name == "" {
		return ""
	}
	return strings.TrimSuffix("s3://"+b.Name+"/"+b.Prefix, "/")
}

// MarshalText writes what [Bucket.String] does.
func (b Bucket) MarshalText() ([]byte, error) { return []byte(b.String()), nil }

// URL is the address of a NATS server, or several with commas between them. A
// user and password in it show as [redacted], whatever the verb.
type URL string

// Reveal returns the addresses as they were set, for the NATS client.
func (u URL) Reveal() string { return string(u) }

// UnmarshalText reads and checks the addresses. Its errors quote nothing of them.
func (u *URL) UnmarshalText(text []byte) error {
	var servers []string
	for i, server := range strings.Split(string(text), ",") {
		server = strings.TrimSpace(server)
		if _, err := parseServer(server); err != nil {
			return fmt.Errorf("address %d %w", i+1, err)
		}
		servers = append(servers, server)
	}
	*u = URL(strings.Join(servers, ","))
	return nil
}

// parseServer takes the address of one NATS server apart. Whatever a NATS
// client has no use for is refused: a password with an unescaped slash would
// pass for a path, and would then be shown.
func parseServer(server string) (*url.URL, error) {
	if !strings.Contains(server, "://") {
		server = "nats://" + server // as the NATS client does
	}
	parsed, err := url.Parse(server)
	switch {
	case err != nil: // quotes the address
		return nil, errors.New("is not a URL; escape special characters of a password, or set it in ROPEWALK_NATS_PASSWORD")
	case !slices.Contains([]string{"nats", "tls", "ws", "wss"}, parsed.Scheme):
		return nil, errors.New("has a scheme that is not nats, tls, ws or wss")
	case parsed.Hostname() == "":
		return nil, errors.New("names no host")
	case strings.HasSuffix(parsed.Host, ":"):
		return nil, errors.New("ends in a colon, where a port belongs; escape special characters of a password, or set it in ROPEWALK_NATS_PASSWORD")
	case strings.Trim(parsed.Path, "/") != "" || parsed.RawQuery != "" || parsed.Fragment != "":
		return nil, errors.New("goes on after the host and port; escape special characters of a password, or set it in ROPEWALK_NATS_PASSWORD")
	}
	return parsed, nil
}

// String writes the addresses without user, password or token.
func (u URL) String() string {
	if u == "" {
		return ""
	}
	servers := strings.Split(string(u), ",")
	credentials := strings.Contains(string(u), "@")
	for i, server := range servers {
		parsed, err := parseServer(server)
		switch {
		case err != nil:
			servers[i] = run.Redacted
		case credentials && !strings.Contains(server, "@") && !strings.Contains(server, "://"):
			// It may be a piece of a password that holds a comma.
			servers[i] = run.Redacted
		case parsed.User != nil:
			servers[i] = parsed.Scheme + "://" + run.Redacted + "@" + parsed.Host
		}
	}
	return strings.Join(servers, ",")
}

// Format prints what [URL.String] does for every verb and flag.
func (u URL) Format(f fmt.State, _ rune) { _, _ = f.Write([]byte(u.String())) }

// MarshalText writes what [URL.String] does.
func (u URL) MarshalText() ([]byte, error) { return []byte(u.String()), nil }

// credentials reports whether an address holds a user, password or token.
func (u URL) credentials() bool { return strings.Contains(u.String(), run.Redacted) }

// ImageMode is where the images of runs come from.
type ImageMode string

// The modes.
const (
	// ImageReuse: a run uses the image that its request names.
	ImageReuse ImageMode = "reuse"
	// ImagePrebuilt: there is one image for the runs whose request names none.
	ImagePrebuilt ImageMode = "prebuilt"
	// ImageBuild: images are built on demand.
	ImageBuild ImageMode = "build"
)

// Mode tells the three ways apart. A prebuilt image is used only if none are
// built: building has precedence where both are set.
func (i Images) Mode() ImageMode {
	switch {
	case i.BuildRunnerImage:
		return ImageBuild
	case i.RunnerImage != "":
		return ImagePrebuilt
	default:
		return ImageReuse
	}
}

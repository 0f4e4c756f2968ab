package k8sjobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"strings"

	apiversion "k8s.io/apimachinery/pkg/util/version"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// OldestServer is the oldest Kubernetes that Ropewalk works with.
const OldestServer = "1.24"

// ClientConfig is how to reach a cluster.
type ClientConfig struct {
	// Kubeconfig is the value of KUBECONFIG: one file or a list of them.
	// Empty, the process must run in a pod of the cluster.
	Kubeconfig string
	// QPS and Burst bound the requests that leave this process. client-go's
	// own defaults, 5 and 10, would be our launch rate.
	QPS   float32
	Burst int
	// Version is ours, for the user agent.
	Version string
	// Count, if set, is called after every answer: the Kubernetes verb (create,
	// get, list, watch, delete, …), the resource ("jobs"; "" for what is none)
	// and the HTTP code, 0 when there was no answer. It must return at once.
	Count func(verb, resource string, code int)
	// Warn, if set, is called with each warning of the API server.
	Warn func(text string)
}

// NewClient returns a client for the cluster. It reaches nothing yet; see
// [Launcher.ServerVersion].
func NewClient(config ClientConfig) (*kubernetes.Clientset, error) {
	where, err := locate(config.Kubeconfig)
	if err != nil {
		return nil, err
	}
	client, err := kubernetes.NewForConfig(tuned(where, config))
	if err != nil {
		return nil, fmt.Errorf("make a client for the cluster: %w", err)
	}
	return client, nil
}

func locate(kubeconfig string) (*rest.Config, error) {
	if kubeconfig == "" {
		config, err := rest.InClusterConfig()
		if errors.Is(err, rest.ErrNotInCluster) {
			return nil, errors.New("no cluster is known: set KUBECONFIG, or run in a pod of the cluster")
		} else if err != nil {
			return nil, fmt.Errorf("read the pod's own credentials: %w", err)
		}
		return config, nil
	}
	rules := &clientcmd.ClientConfigLoadingRules{Precedence: filepath.SplitList(kubeconfig)}
	config, err := clientcmd.NewNonInteractiveDeferredLoadingClientConfig(rules, nil).ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("read KUBECONFIG %s: %w", kubeconfig, err)
	}
	return config, nil
}

// tuned sets what makes a client ours on a copy of where.
func tuned(where *rest.Config, config ClientConfig) *rest.Config {
	where = rest.CopyConfig(where)
	where.QPS, where.Burst = config.QPS, config.Burst
	where.UserAgent = "ropewalk-dispatcher/" + config.Version
	where.ContentType = "application/vnd.kubernetes.protobuf"
	where.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	// The API server warns of every Job whose pods it will refuse. What comes
	// of it is in the run's own message.
	where.WarningHandler = warnings(config.Warn)
	if config.Count != nil {
		where.Wrap(func(next http.RoundTripper) http.RoundTripper { return &counted{next, config.Count} })
	}
	return where
}

// miscellaneous is the code of HTTP that Kubernetes warns with.
const miscellaneous = 299

// warnings hands the API server's warnings on, if anybody wants them.
type warnings func(text string)

// HandleWarningHeader implements [rest.WarningHandler].
func (w warnings) HandleWarningHeader(code int, _, text string) {
	if w != nil && code == miscellaneous && text != "" {
		w(text)
	}
}

// counted tells count of every request that passes.
type counted struct {
	next  http.RoundTripper
	count func(verb, resource string, code int)
}

func (c *counted) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := c.next.RoundTrip(request)
	code := 0
	if response != nil {
		code = response.StatusCode
	}
	verb, resource := verbOf(request)
	c.count(verb, resource, code)
	return response, err
}

// WrappedRoundTripper lets client-go close idle connections through c.
func (c *counted) WrappedRoundTripper() http.RoundTripper { return c.next }

// verbOf reads the Kubernetes verb and resource from a request, as the API
// server does from /api/v1/… and /apis/GROUP/VERSION/….
func verbOf(request *http.Request) (verb, resource string) {
	parts := strings.Split(strings.Trim(request.URL.Path, "/"), "/")
	switch {
	case len(parts) > 2 && parts[0] == "api":
		parts = parts[2:]
	case len(parts) > 3 && parts[0] == "apis":
		parts = parts[3:]
	default:
		return strings.ToLower(request.Method), ""
	}
	if len(parts) > 2 && parts[0] == "namespaces" {
		parts = parts[2:]
	}
	named := len(parts) > 1
	switch request.Method {
	case http.MethodGet:
		verb = "get"
		if watch := request.URL.Query().Get("watch"); watch == "true" || watch == "1" {
			verb = "watch"
		} else if !named {
			verb = "list"
		}
	case http.MethodPost:
		verb = "create"
	case http.MethodPut:
		verb = "update"
	case http.MethodDelete:
		verb = "delete"
		if !named {
			verb = "deletecollection"
		}
	default:
		verb = strings.ToLower(request.Method)
	}
	resource = parts[0]
	if len(parts) > 2 { // a part of one that has rights of its own, such as pods/log
		resource += "/" + parts[2]
	}
	return verb, resource
}

// ServerVersion asks the cluster for its version, in one request that every
// account may make. It fails when the cluster cannot be reached or is older
// than [OldestServer]; the text is for people.
func (l *Launcher) ServerVersion(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	body, err := l.client.Discovery().RESTClient().Get().AbsPath("/version").DoRaw(ctx)
	if err != nil {
		return "", errors.New(refusal(err).Message)
	}
	var info version.Info
	if err := json.Unmarshal(body, &info); err != nil {
		return "", fmt.Errorf("read the cluster's version: %w", err)
	}
	found, err := apiversion.ParseGeneric(info.GitVersion)
	if err != nil {
		return "", fmt.Errorf("read the cluster's version %q: %w", info.GitVersion, err)
	}
	if !found.AtLeast(apiversion.MustParseGeneric(OldestServer)) {
		return info.GitVersion, fmt.Errorf("the cluster runs Kubernetes %s; Ropewalk needs %s or newer", info.GitVersion, OldestServer)
	}
	return info.GitVersion, nil
}

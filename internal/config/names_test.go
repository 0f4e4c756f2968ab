package config

import (
	"strings"
	"testing"
)

func TestUnknownNamesAreToldWithTheNearestOne(t *testing.T) {
	for name, nearest := range map[string]string{
		"ROPEWALK_NATS_ULR":  natsURL,
		"ROPEWALK_LOGLEVEL":  "ROPEWALK_LOG_LEVEL",
		"ROPEWALK_QUEUE":     moreQueues,
		"ROPEWALK_HTTP_PORT": "ROPEWALK_HTTP_ADDR",
		"ROPEWALK_":          moreQueues,
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPCE":            namespace,
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_RESOURCES":           podResources,
		"ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_BUCKETS":         awsBucket,
		"ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE":       namespace,
		"ZENML_GCP_KUBERNETES_WORKLOAD_MANAGER_REGION":          awsRegion,
		"ZENML_SERVER_MAX_CONCURRENT_TEMPLATE_RUN":              templateRuns,
		"ZENML_SERVER_MAX_CONCURRENT_SNAPSHOTS_RUN":             snapshotRuns,
		"ZENML_SERVER_WORKLOAD_MANAGER_IMPLEMENTATON_SOURCE":    flavour,
		"ZENML_SERVER_WORKLOAD_MANAGER__IMPLEMENTATION_SOURCES": flavour,
	} {
		t.Run(name, func(t *testing.T) {
			setenv(t, complete(map[string]string{name: "8080"}))
			_, err := LoadServe()
			found := problems(t, err)
			if want := name + " is not a setting; the nearest one is " + nearest; len(found) != 1 || err.Error() != want {
				t.Errorf("got  %v\nwant %s", err, want)
			}
		})
	}
}

func TestNamesThatAreNobodysMistake(t *testing.T) {
	for sentence, env := range map[string]map[string]string{
		"the server has many variables of its own": {
			"ZENML_SERVER_DEPLOYMENT_TYPE": "kubernetes", "ZENML_SERVER_SERVER_URL": "https://a", "ZENML_SERVER_JWT_SECRET_KEY": "a",
			"ZENML_SERVER_SNAPSHOT_RUN_DISPATCHER_IMPLEMENTATION_SOURCE": "a.B",
		},
		"a command may be called by a local run": {"ROPEWALK_JOB_UID": "a"},
		"the SDK has variables":                  {"ZENML_STORE_URL": "https://a", "ZENML_KUBERNETES_NAMESPACE": "a"},
		"a Service called ropewalk has a family of variables": {
			"ROPEWALK_SERVICE_HOST": "10.0.0.1", "ROPEWALK_SERVICE_PORT": "8080", "ROPEWALK_SERVICE_PORT_HTTP": "8080",
			"ROPEWALK_PORT": "tcp://10.0.0.1:8080", "ROPEWALK_PORT_8080_TCP": "tcp://10.0.0.1:8080",
			"ROPEWALK_PORT_8080_TCP_PROTO": "tcp", "ROPEWALK_PORT_8080_TCP_PORT": "8080", "ROPEWALK_PORT_8080_TCP_ADDR": "10.0.0.1",
		},
		"a Service called ropewalk-nats has one too": {
			"ROPEWALK_NATS_SERVICE_HOST": "10.0.0.2", "ROPEWALK_NATS_SERVICE_PORT": "4222", "ROPEWALK_NATS_SERVICE_PORT_CLIENT_TLS": "4222",
			"ROPEWALK_NATS_PORT": "tcp://10.0.0.2:4222", "ROPEWALK_NATS_PORT_4222_TCP": "tcp://10.0.0.2:4222", "ROPEWALK_NATS_PORT_53_UDP_ADDR": "10.0.0.2",
		},
		"the port of a Service looks like a URL": {"ROPEWALK_HTTP_PORT": "udp://10.0.0.1:53"},
		"a port beside its Service's host":       {"ROPEWALK_HTTP_PORT": "", "ROPEWALK_HTTP_SERVICE_HOST": "a"},
	} {
		t.Run(sentence, func(t *testing.T) {
			setenv(t, complete(env))
			if _, err := LoadServe(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestNoSettingCouldBeAServicesVariable(t *testing.T) {
	for _, f := range fields() {
		if servicePattern.MatchString(f.name) {
			t.Errorf("Kubernetes may set %s", f.name)
		}
	}
}

func TestEditDistance(t *testing.T) {
	for _, tc := range []struct {
		a, b string
		want int
	}{
		{"", "", 0},
		{"", "abc", 3},
		{"abc", "", 3},
		{"abc", "abc", 0},
		{"kitten", "sitting", 3},
		{"flaw", "lawn", 2},
		{"ab", "ba", 2},
		{"a", strings.Repeat("a", 9), 8},
	} {
		if got := editDistance(tc.a, tc.b); got != tc.want {
			t.Errorf("from %q to %q: %d, want %d", tc.a, tc.b, got, tc.want)
		}
	}
}

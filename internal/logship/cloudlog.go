package logship

import (
	"context"
	"errors"
	"fmt"
	"time"

	"cloud.google.com/go/compute/metadata"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/sink/gcplog"
)

// openCloudLog opens a log of Cloud Logging. What the settings leave out of
// where the cluster is, Google's machines are asked for.
func openCloudLog(ctx context.Context, settings *config.Config, where config.Archive, requests Requests) (Archive, error) {
	with := gcplog.Settings{
		Project: where.Project, Log: where.CloudLog, Location: settings.GCP.Location, Cluster: settings.GCP.Cluster,
		Namespace: settings.Kubernetes.Namespace, Endpoint: settings.GCP.Endpoint,
	}
	if requests != nil {
		with.Counter = requests
	}
	for _, fact := range []struct {
		value    *string
		variable string
		ask      func(context.Context) (string, error)
	}{
		{&with.Project, "ROPEWALK_GCP_PROJECT", metadata.ProjectIDWithContext},
		{&with.Location, "ROPEWALK_GCP_LOCATION", attribute("cluster-location")},
		{&with.Cluster, "ROPEWALK_GCP_CLUSTER", attribute("cluster-name")},
	} {
		// A reader needs the project alone, and may be anywhere.
		if *fact.value != "" || requests == nil && fact.value != &with.Project {
			continue
		}
		limited, cancel := context.WithTimeoutCause(ctx, 5*time.Second, errors.New("no answer"))
		value, err := fact.ask(limited)
		cancel()
		if err != nil {
			return nil, fmt.Errorf("%s is not set, and this machine's metadata server does not say what it is: %w", fact.variable, err)
		}
		*fact.value = value
	}
	return gcplog.New(ctx, with)
}

func attribute(name string) func(context.Context) (string, error) {
	return func(ctx context.Context) (string, error) {
		return metadata.InstanceAttributeValueWithContext(ctx, name)
	}
}

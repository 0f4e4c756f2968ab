package main

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/ropewalk/ropewalk/test/rig"
)

// schema is the name of a flow schema by which the API server itself counts the
// requests of our service accounts. It gives them the priority level that all
// service accounts have, so that nothing else changes.
const (
	schema        = "ropewalk-bench"
	priorityLevel = "workload-low"
)

// countRequests makes the flow schema. The caller removes it.
func (b *bench) countRequests(ctx context.Context) (remove func(), err error) {
	schemas := b.cluster.Client.FlowcontrolV1().FlowSchemas()
	remove = func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := schemas.Delete(ctx, schema, metav1.DeleteOptions{}); err != nil {
			b.say("cannot remove flow schema %s: %v", schema, err)
		}
	}
	_, err = schemas.Create(ctx, &flowcontrolv1.FlowSchema{
		ObjectMeta: metav1.ObjectMeta{Name: schema},
		Spec: flowcontrolv1.FlowSchemaSpec{
			PriorityLevelConfiguration: flowcontrolv1.PriorityLevelConfigurationReference{Name: priorityLevel},
			MatchingPrecedence:         8000, // before service-accounts, which has 9000
			DistinguisherMethod:        &flowcontrolv1.FlowDistinguisherMethod{Type: flowcontrolv1.FlowDistinguisherMethodByUserType},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create flow schema %s (left over from another run? then delete it): %w", schema, err)
	}
	return remove, nil
}

// countAccount has the API server count the requests of this account alone.
func (b *bench) countAccount(ctx context.Context, namespace, account string) error {
	patch := fmt.Sprintf(`{"spec":{"rules":[{
		"subjects":[{"kind":"ServiceAccount","serviceAccount":{"namespace":%q,"name":%q}}],
		"resourceRules":[{"verbs":["*"],"apiGroups":["*"],"resources":["*"],"namespaces":["*"],"clusterScope":true}],
		"nonResourceRules":[{"verbs":["*"],"nonResourceURLs":["*"]}]}]}}`, namespace, account)
	_, err := b.cluster.Client.FlowcontrolV1().FlowSchemas().Patch(ctx, schema, types.MergePatchType, []byte(patch), metav1.PatchOptions{})
	if err != nil {
		return fmt.Errorf("count the requests of %s: %w", account, err)
	}
	return nil
}

// requests is how many requests the API server has taken from our accounts
// since it started.
func (b *bench) requests(ctx context.Context) (int, error) {
	text, err := b.serverMetrics(ctx)
	if err != nil {
		return 0, err
	}
	return int(sum(text, "apiserver_flowcontrol_dispatched_requests_total", `flow_schema="`+schema+`"`)), nil
}

func (b *bench) serverMetrics(ctx context.Context) (string, error) {
	text, err := b.cluster.Client.RESTClient().Get().AbsPath("/metrics").DoRaw(ctx)
	if err != nil {
		return "", fmt.Errorf("read the API server's metrics: %w", err)
	}
	return string(text), nil
}

const (
	// quiet is the most writes a second that a cluster at rest has: leases
	// and such.
	quiet = 30
	// patience is how long a cluster that others use too may take to be so.
	patience = 3 * time.Minute
)

// awaitQuiet waits until the API server has little to write, so that what one
// round left behind does not slow the next. It says so when that does not
// come, and lets the measuring go on.
func (b *bench) awaitQuiet(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	const interval = 2 * time.Second
	last := -1.0
	err := rig.Poll(ctx, interval, func() error {
		text, err := b.serverMetrics(ctx)
		if err != nil {
			return err
		}
		writes := 0.0
		for _, verb := range []string{"POST", "PUT", "PATCH", "DELETE"} {
			writes += sum(text, "apiserver_request_total", `verb="`+verb+`"`)
		}
		rate := (writes - last) / interval.Seconds()
		first := last < 0
		last = writes
		if first || rate > quiet {
			return fmt.Errorf("it writes %.0f times a second", rate)
		}
		return nil
	})
	if err != nil {
		b.say("the API server does not come to rest, which may distort what follows: %v", err)
	}
}

// sum adds up the samples of a metric in Prometheus's text format whose labels
// contain a text.
func sum(metrics, name, label string) (total float64) {
	for line := range strings.Lines(metrics) {
		rest, found := strings.CutPrefix(line, name+"{")
		if !found || !strings.Contains(rest, label) {
			continue
		}
		fields := strings.Fields(rest[strings.LastIndexByte(rest, '}')+1:])
		if len(fields) == 0 {
			continue
		}
		if value, err := strconv.ParseFloat(fields[0], 64); err == nil {
			total += value
		}
	}
	return total
}

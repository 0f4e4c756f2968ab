package deploy

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/VictoriaMetrics/metricsql"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
	"sigs.k8s.io/yaml"

	"github.com/ropewalk/ropewalk/internal/metrics"
	"github.com/ropewalk/ropewalk/internal/run"
)

// A dashboard or alert on a metric or label that does not exist says nothing,
// forever.
func TestMetricsThatAreWatchedExist(t *testing.T) {
	exported := exportedMetrics(t)
	for title, expression := range watched(t) {
		parsed, err := metricsql.Parse(strings.ReplaceAll(expression, "$__rate_interval", "5m"))
		if err != nil {
			t.Errorf("%s: %v", title, err)
			continue
		}
		metricsql.VisitAll(parsed, func(e metricsql.Expr) {
			switch e := e.(type) {
			case *metricsql.MetricExpr:
				name, asked := selects(e)
				requireLabels(t, title, exported, name, asked)
			case *metricsql.AggrFuncExpr:
				for _, argument := range e.Args {
					metricsql.VisitAll(argument, func(inner metricsql.Expr) {
						if metric, ok := inner.(*metricsql.MetricExpr); ok {
							name, _ := selects(metric)
							requireLabels(t, title, exported, name, e.Modifier.Args)
						}
					})
				}
			}
		})
	}
}

// selects is the name of the metric that a selector names, and the labels by
// which it chooses.
func selects(e *metricsql.MetricExpr) (name string, labels []string) {
	for _, filters := range e.LabelFilterss {
		for _, filter := range filters {
			if filter.Label == "__name__" {
				name = filter.Value
			} else {
				labels = append(labels, filter.Label)
			}
		}
	}
	return name, labels
}

func requireLabels(t *testing.T, title string, exported map[string][]string, name string, asked []string) {
	t.Helper()
	labels, exists := exported[name]
	if !exists {
		t.Errorf("%s: there is no metric %q", title, name)
		return
	}
	for _, label := range asked {
		if !slices.Contains(labels, label) {
			t.Errorf("%s: %s has no label %s", title, name, label)
		}
	}
}

// An alert that a person's own doing sets off is soon looked at by nobody.
func TestAlertOfAStandingQueuePassesOverPausedOnes(t *testing.T) {
	if expression := watched(t)["RopewalkQueueStands"]; !strings.Contains(expression, "unless max by (queue) (ropewalk_queue_paused) == 1") {
		t.Errorf("a queue that is paused raises an alarm: %s", expression)
	}
}

// watched are the expressions of alerts and panels, by their titles.
func watched(t *testing.T) map[string]string {
	t.Helper()
	all := map[string]string{}
	var rules struct {
		Groups []struct {
			Rules []struct {
				Alert string `json:"alert"`
				Expr  string `json:"expr"`
			} `json:"rules"`
		} `json:"groups"`
	}
	if err := yaml.Unmarshal(read(t, "deploy", "helm", "ropewalk", "files", "rules.yaml"), &rules); err != nil {
		t.Fatal(err)
	}
	for _, group := range rules.Groups {
		for _, rule := range group.Rules {
			all[rule.Alert] = rule.Expr
		}
	}
	alerts := len(all)
	var dashboard struct {
		Panels []struct {
			Title   string `json:"title"`
			Targets []struct {
				Expr string `json:"expr"`
			} `json:"targets"`
		} `json:"panels"`
	}
	if err := json.Unmarshal(read(t, "deploy", "helm", "ropewalk", "files", "dashboard.json"), &dashboard); err != nil {
		t.Fatal(err)
	}
	for _, panel := range dashboard.Panels {
		for i, target := range panel.Targets {
			all["panel "+panel.Title+strings.Repeat("'", i)] = target.Expr
		}
	}
	if alerts < 5 || len(all)-alerts < 10 {
		t.Errorf("there are %d alerts and %d queries of panels only", alerts, len(all)-alerts)
	}
	return all
}

// exportedMetrics are the names, as they are asked for, of a process that did
// one of everything, and the labels of each.
func exportedMetrics(t *testing.T) map[string][]string {
	t.Helper()
	counters := metrics.New("test")
	observeOnce(counters)
	answer := httptest.NewRecorder()
	counters.Handler().ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(answer.Body)
	if err != nil {
		t.Fatal(err)
	}
	names := map[string][]string{}
	for name, family := range families {
		var labels []string
		for _, label := range family.GetMetric()[0].GetLabel() {
			labels = append(labels, label.GetName())
		}
		names[name] = labels
		if family.GetMetric()[0].GetHistogram() != nil {
			names[name+"_bucket"] = append(slices.Clone(labels), "le")
		}
	}
	return names
}

func observeOnce(counters *metrics.Metrics) {
	started, finished := time.Unix(1, 0), time.Unix(2, 0)
	counters.Claimed("q", true, true)
	counters.Launched("q", time.Second)
	counters.Retried("q", run.Evicted)
	counters.Finished(run.Run{Queue: "q", State: run.Failed, StartedAt: &started, FinishedAt: &finished})
	counters.Request("GET", "jobs", 200)
	counters.Lost("rotated")
	counters.SinkRequest("PutObject")
	counters.Watch(metrics.Sources{Held: func() int { return 1 }, Queues: func(context.Context) ([]metrics.QueueState, error) {
		return []metrics.QueueState{{Queue: "q"}}, nil
	}})
	counters.WatchStream(func() (metrics.StreamLoad, error) { return metrics.StreamLoad{}, nil })
}

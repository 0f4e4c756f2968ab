// Package metrics counts what the dispatcher does, for Prometheus. It observes
// the core through the methods that this declares; nothing else writes here.
package metrics

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/ropewalk/ropewalk/internal/run"
)

// QueueState is how one queue stands on the server.
type QueueState struct {
	Queue    string
	Waiting  uint64
	InFlight int
	Limit    int
	Paused   bool
}

// Sources are asked at every scrape.
type Sources struct {
	// Queues returns how every queue stands, within ctx.
	Queues func(ctx context.Context) ([]QueueState, error)
	// Held returns how many runs this process holds.
	Held func() int
}

// Metrics is one dispatcher's. It has a registry of its own, so that several
// can be in one process.
type Metrics struct {
	registry     *prometheus.Registry
	latency      *prometheus.HistogramVec
	duration     *prometheus.HistogramVec
	finished     *prometheus.CounterVec
	claimed      *prometheus.CounterVec
	redeliveries *prometheus.CounterVec
	adoptions    *prometheus.CounterVec
	retries      *prometheus.CounterVec
	requests     *prometheus.CounterVec
	logs         *logCounters
}

// New returns metrics that count from zero.
func New(version string) *Metrics {
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ropewalk_dispatch_latency_seconds",
			Help: "From the publishing of a request to the creation of its Job; it holds the time that the run waited for a slot.",
			// 1 ms to 4.4 h: launching takes milliseconds, waiting any time.
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 24),
		}, []string{"queue"}),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "ropewalk_run_duration_seconds",
			Help: "From the start of a run's container to its end, by final state.",
			// 0.1 s to 3.8 days.
			Buckets: prometheus.ExponentialBuckets(0.1, 3, 15),
		}, []string{"queue", "state"}),
		finished: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ropewalk_runs_finished_total", Help: "Runs whose final state this dispatcher recorded.",
		}, []string{"queue", "state", "reason"}),
		claimed: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ropewalk_claims_total", Help: "Runs that this dispatcher took up.",
		}, []string{"queue"}),
		redeliveries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ropewalk_redeliveries_total", Help: "Runs taken up whose message had been delivered before.",
		}, []string{"queue"}),
		adoptions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ropewalk_adoptions_total", Help: "Runs taken over from another dispatcher.",
		}, []string{"queue"}),
		retries: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ropewalk_retries_total", Help: "Attempts that ended so and are followed by another.",
		}, []string{"queue", "reason"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "ropewalk_kube_api_requests_total", Help: "Requests to the Kubernetes API; code 0 is one without an answer.",
		}, []string{"method", "resource", "code"}),
	}
	build := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ropewalk_build_info", Help: "Always 1; the label tells the version.", ConstLabels: prometheus.Labels{"version": version},
	}, func() float64 { return 1 })
	m.registry.MustRegister(m.latency, m.duration, m.finished, m.claimed, m.redeliveries, m.adoptions, m.retries, m.requests, build,
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.logs = newLogCounters(m.registry)
	return m
}

// Watch adds what is asked of the sources at every scrape.
func (m *Metrics) Watch(sources Sources) {
	m.registry.MustRegister(newQueueCollector(sources))
	m.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "ropewalk_runs_held", Help: "Runs that this dispatcher holds.",
	}, func() float64 { return float64(sources.Held()) }))
}

// Handler serves the metrics in Prometheus's text format.
func (m *Metrics) Handler() http.Handler {
	// A queue that cannot be read takes away its own figures, not all of them.
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{ErrorHandling: promhttp.ContinueOnError})
}

// Claimed counts a run that was taken up.
func (m *Metrics) Claimed(queue string, redelivered, adopted bool) {
	m.claimed.WithLabelValues(queue).Inc()
	if redelivered {
		m.redeliveries.WithLabelValues(queue).Inc()
	}
	if adopted {
		m.adoptions.WithLabelValues(queue).Inc()
	}
}

// Launched notes how long a run took from its publishing to its Job.
func (m *Metrics) Launched(queue string, sincePublished time.Duration) {
	m.latency.WithLabelValues(queue).Observe(sincePublished.Seconds())
}

// Retried counts an attempt that is followed by another.
func (m *Metrics) Retried(queue string, reason run.Reason) {
	m.retries.WithLabelValues(queue, string(reason)).Inc()
}

// Finished counts a run that is over.
func (m *Metrics) Finished(record run.Run) {
	m.finished.WithLabelValues(record.Queue, string(record.State), string(record.Reason)).Inc()
	if record.StartedAt != nil && record.FinishedAt != nil {
		m.duration.WithLabelValues(record.Queue, string(record.State)).Observe(record.FinishedAt.Sub(*record.StartedAt).Seconds())
	}
}

// Request counts a request to the Kubernetes API.
func (m *Metrics) Request(method, resource string, code int) {
	m.requests.WithLabelValues(method, resource, strconv.Itoa(code)).Inc()
}

// queueCollector asks the NATS server how the queues stand. Every replica
// reports the same: take max over the replicas, not sum.
type queueCollector struct {
	sources                       Sources
	waiting, inUse, limit, paused *prometheus.Desc
}

func newQueueCollector(sources Sources) *queueCollector {
	queue := func(name, help string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, []string{"queue"}, nil)
	}
	return &queueCollector{
		sources: sources,
		waiting: queue("ropewalk_queue_waiting", "Runs that wait in the queue, over all replicas."),
		inUse:   queue("ropewalk_queue_slots_in_use", "Runs that hold a slot of the queue, over all replicas."),
		limit:   queue("ropewalk_queue_slots", "Slots of the queue, over all replicas."),
		paused:  queue("ropewalk_queue_paused", "1 while the queue is paused, so that what waits is meant to."),
	}
}

func (c *queueCollector) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- c.waiting
	descriptions <- c.inUse
	descriptions <- c.limit
	descriptions <- c.paused
}

func (c *queueCollector) Collect(metrics chan<- prometheus.Metric) {
	// A scrape usually gives up after 10 s.
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Second)
	defer cancel()
	states, err := c.sources.Queues(ctx)
	if err != nil {
		metrics <- prometheus.NewInvalidMetric(c.waiting, err)
		return
	}
	for _, state := range states {
		metrics <- prometheus.MustNewConstMetric(c.waiting, prometheus.GaugeValue, float64(state.Waiting), state.Queue)
		metrics <- prometheus.MustNewConstMetric(c.inUse, prometheus.GaugeValue, float64(state.InFlight), state.Queue)
		metrics <- prometheus.MustNewConstMetric(c.limit, prometheus.GaugeValue, float64(state.Limit), state.Queue)
		paused := 0.0
		if state.Paused {
			paused = 1
		}
		metrics <- prometheus.MustNewConstMetric(c.paused, prometheus.GaugeValue, paused, state.Queue)
	}
}

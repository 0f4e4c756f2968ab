package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// logCounters count what becomes of the lines of logs.
type logCounters struct {
	lines, bytes             prometheus.Counter
	lost                     *prometheus.CounterVec
	waiting                  prometheus.Gauge
	shippedLines             prometheus.Counter
	shippedBytes             prometheus.Counter
	lag                      prometheus.Gauge
	retries                  prometheus.Counter
	bufferedLines, bufferedB prometheus.Gauge
	operations, refused      *prometheus.CounterVec
	strays                   *prometheus.CounterVec
}

func newLogCounters(registry prometheus.Registerer) *logCounters {
	counter := func(name, help string) prometheus.Counter {
		c := prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
		registry.MustRegister(c)
		return c
	}
	gauge := func(name, help string) prometheus.Gauge {
		g := prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
		registry.MustRegister(g)
		return g
	}
	c := &logCounters{
		lines:         counter("ropewalk_log_lines_total", "Lines that this process has put on the stream of logs."),
		bytes:         counter("ropewalk_log_bytes_total", "Bytes of text of these lines."),
		lost:          prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ropewalk_log_gaps_total", Help: "Gaps that this process had to write into logs, because the cluster had lost lines."}, []string{"reason"}),
		waiting:       gauge("ropewalk_log_followers_waiting", "Containers whose lines wait because the stream of logs is full."),
		shippedLines:  counter("ropewalk_ship_lines_total", "Lines that the sink has confirmed."),
		shippedBytes:  counter("ropewalk_ship_bytes_total", "Bytes of text of these lines."),
		lag:           gauge("ropewalk_ship_lag_seconds", "How old the oldest line of what was last confirmed was by then."),
		retries:       counter("ropewalk_ship_retries_total", "Times that the sink had to be asked again."),
		bufferedLines: gauge("ropewalk_ship_buffered_lines", "Lines that this process holds and that are not confirmed."),
		bufferedB:     gauge("ropewalk_ship_buffered_bytes", "Bytes of these lines."),
		operations:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ropewalk_ship_requests_total", Help: "Requests to the sink, by the sink's own word for them."}, []string{"operation"}),
	}
	c.refused = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ropewalk_ship_refused_lines_total", Help: "Lines that the sink refused for good; a marked line stands in the place of each."}, []string{"reason"})
	c.strays = prometheus.NewCounterVec(prometheus.CounterOpts{Name: "ropewalk_ship_strays_total", Help: "Messages on the stream of logs that are none of Ropewalk's, and were passed over: what is wrong is their subject or their encoding, or they are unlinked, which is not to say what batch they follow."}, []string{"reason"})
	registry.MustRegister(c.lost, c.operations, c.refused, c.strays)
	return c
}

// Followed, Lost and Waiting count what the followers of logs do.
func (m *Metrics) Followed(lines, bytes int) {
	m.logs.lines.Add(float64(lines))
	m.logs.bytes.Add(float64(bytes))
}

// Lost counts a gap.
func (m *Metrics) Lost(reason string) { m.logs.lost.WithLabelValues(reason).Inc() }

// Waiting counts followers that wait for room.
func (m *Metrics) Waiting(delta int) { m.logs.waiting.Add(float64(delta)) }

// Shipped counts what the sink has confirmed.
func (m *Metrics) Shipped(lines, bytes int, age time.Duration) {
	m.logs.shippedLines.Add(float64(lines))
	m.logs.shippedBytes.Add(float64(bytes))
	m.logs.lag.Set(age.Seconds())
}

// SinkRetried counts a failure of the sink.
func (m *Metrics) SinkRetried() { m.logs.retries.Inc() }

// Buffered counts what the shipper holds.
func (m *Metrics) Buffered(lines, bytes int) {
	m.logs.bufferedLines.Add(float64(lines))
	m.logs.bufferedB.Add(float64(bytes))
}

// SinkRequest counts a request to the sink.
func (m *Metrics) SinkRequest(operation string) { m.logs.operations.WithLabelValues(operation).Inc() }

// SinkRefused counts a line that the sink does not take.
func (m *Metrics) SinkRefused(reason string) { m.logs.refused.WithLabelValues(reason).Inc() }

// Stray counts a message that does not belong on the stream of logs.
func (m *Metrics) Stray(reason string) { m.logs.strays.WithLabelValues(reason).Inc() }

// StreamLoad is how full the stream of logs is, for [Metrics.WatchStream].
type StreamLoad struct{ Batches, Bytes, Pending, Held float64 }

// WatchStream adds the state of the stream of logs, which is asked for at every
// scrape. Every shipper reports the same.
func (m *Metrics) WatchStream(load func() (StreamLoad, error)) {
	m.registry.MustRegister(&streamCollector{load})
}

type streamCollector struct{ load func() (StreamLoad, error) }

//nolint:gochecknoglobals // they never change
var (
	streamBytesDesc   = prometheus.NewDesc("ropewalk_log_stream_bytes", "Bytes in the stream of logs.", nil, nil)
	streamBatchesDesc = prometheus.NewDesc("ropewalk_log_stream_batches", "Batches of lines in the stream of logs.", nil, nil)
	pendingDesc       = prometheus.NewDesc("ropewalk_ship_pending_batches", "Batches that no shipper was given yet.", nil, nil)
	heldDesc          = prometheus.NewDesc("ropewalk_ship_held_batches", "Batches that a shipper has and did not confirm yet.", nil, nil)
)

func (*streamCollector) Describe(descriptions chan<- *prometheus.Desc) {
	descriptions <- streamBytesDesc
	descriptions <- streamBatchesDesc
	descriptions <- pendingDesc
	descriptions <- heldDesc
}

func (c *streamCollector) Collect(metrics chan<- prometheus.Metric) {
	load, err := c.load()
	if err != nil {
		metrics <- prometheus.NewInvalidMetric(streamBytesDesc, err)
		return
	}
	metrics <- prometheus.MustNewConstMetric(streamBytesDesc, prometheus.GaugeValue, load.Bytes)
	metrics <- prometheus.MustNewConstMetric(streamBatchesDesc, prometheus.GaugeValue, load.Batches)
	metrics <- prometheus.MustNewConstMetric(pendingDesc, prometheus.GaugeValue, load.Pending)
	metrics <- prometheus.MustNewConstMetric(heldDesc, prometheus.GaugeValue, load.Held)
}

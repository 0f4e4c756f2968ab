package main

import (
	"math"
	"testing"
	"time"
)

func TestPercentileIsTheSmallestValueThatEnoughDoNotExceed(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(100 - i)
	}
	for _, p := range []float64{1, 50, 90, 99, 100} {
		if got := percentile(hundred, p); got != p {
			t.Errorf("p%v of 1 to 100 is %v", p, got)
		}
	}
	if got := percentile([]float64{7}, 99); got != 7 {
		t.Errorf("p99 of one value is %v, want the value", got)
	}
	if got := percentile(nil, 50); !math.IsNaN(got) {
		t.Errorf("p50 of nothing is %v", got)
	}
}

func TestMedian(t *testing.T) {
	if got := median([]int{9, 1, 5}); got != 5 {
		t.Errorf("median of three is %v, want 5", got)
	}
	if got := median([]float64{4, 1, 3, 2}); got != 2.5 {
		t.Errorf("median of four is %v, want 2.5", got)
	}
}

func TestRateCountsIntervals(t *testing.T) {
	at := time.Unix(0, 0)
	got := rateOf([]time.Time{at, at.Add(time.Second), at.Add(2 * time.Second)})
	if got.PerSecond != 1 || got.Jobs != 3 {
		t.Errorf("three events, one a second: %+v", got)
	}
}

func TestSumAddsTheSamplesOfOneMetric(t *testing.T) {
	page := `# TYPE requests_total counter
requests_total{verb="GET",code="200"} 5
requests_total{verb="POST",path="/a{b}"} 7
requests_total{verb="POST",path="/c"} 1e+01
requests_total_more{verb="POST"} 100
other 3
`
	if got := sum(page, "requests_total", `verb="POST"`); got != 17 {
		t.Errorf("sum is %v, want 17", got)
	}
}

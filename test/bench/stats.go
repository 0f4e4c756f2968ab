package main

import (
	"math"
	"slices"
	"time"
)

// rate is how fast Jobs were created, by the watch's events.
type rate struct {
	Jobs      int     `json:"jobs"`
	Seconds   float64 `json:"seconds"`
	PerSecond float64 `json:"perSecond"`
}

// rateOf is the rate of events that came at these times, the first of which
// starts the clock.
func rateOf(times []time.Time) rate {
	if len(times) < 2 {
		return rate{Jobs: len(times)}
	}
	seconds := times[len(times)-1].Sub(times[0]).Seconds()
	return rate{Jobs: len(times), Seconds: seconds, PerSecond: float64(len(times)-1) / seconds}
}

func perSecond(rates []rate) []float64 {
	var all []float64
	for _, r := range rates {
		all = append(all, r.PerSecond)
	}
	return all
}

// percentile is the smallest value that p percent of the values do not exceed;
// NaN of none.
func percentile(values []float64, p float64) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	rank := int(math.Ceil(p / 100 * float64(len(sorted))))
	return sorted[max(rank, 1)-1]
}

// median is the middle value, or the mean of the two in the middle.
func median[T int | float64](values []T) float64 {
	if len(values) == 0 {
		return math.NaN()
	}
	sorted := slices.Sorted(slices.Values(values))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return float64(sorted[middle])
	}
	return (float64(sorted[middle-1]) + float64(sorted[middle])) / 2
}

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

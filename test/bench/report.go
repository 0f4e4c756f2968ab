package main

import (
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/jedib0t/go-pretty/v6/table"
)

// The goals.
const (
	goalThroughput  = 0.8  // of the bare loop's
	goalP50Above    = 5.0  // ms above the bare create's
	goalP99Times    = 1.5  // times the bare create's
	goalP99Above    = 10.0 // and ms above that
	goalKiBPerRun   = 25.0
	goalWaitingLoss = 0.10
	goalNeighbour   = 1.2  // of the p99 alone
	goalReplay      = 30.0 // s until 10,000 are queued
	goalImages      = 10.0 // ms above a run of the prebuilt image
)

// report is everything that was measured.
type report struct {
	StartedAt  time.Time         `json:"startedAt"`
	Cores      int               `json:"cores"`
	Kubernetes string            `json:"kubernetes"`
	Options    options           `json:"options"`
	Throughput *throughputResult `json:"throughput,omitempty"`
	Latency    []*latencyResult  `json:"latency,omitempty"`
	InFlight   *inFlightResult   `json:"inFlight,omitempty"`
	Waiting    *waitingResult    `json:"waiting,omitempty"`
	Neighbours *neighboursResult `json:"neighbours,omitempty"`
	Replay     *replayResult     `json:"replay,omitempty"`
	Images     *imagesResult     `json:"images,omitempty"`
	// Summary compares the figures with the goals.
	Summary []line `json:"summary"`
}

type throughputResult struct {
	Bare       []rate `json:"bare"`
	Dispatched []rate `json:"dispatched"`
	// BareCalls is what each create of the bare loop took, in ms.
	BareCalls []float64 `json:"bareCallsMs"`
}

type latencyRound struct {
	// Call is what each create or publish took, in ms.
	Call []float64 `json:"callMs"`
	// Event is the time from the call to the watch's event, in ms.
	Event []float64 `json:"eventMs"`
}

type latencyResult struct {
	PerSecond  float64        `json:"perSecond"`
	Bare       []latencyRound `json:"bare"`
	Dispatched []latencyRound `json:"dispatched"`
}

type inFlightResult struct {
	Runs int `json:"runs"`
	// Resident memory in bytes, one sample a second.
	Idle     []int `json:"idleBytes"`
	Launched []int `json:"launchedBytes"`
	Held     []int `json:"heldBytes"`
	// Own are the dispatcher's requests by verb and resource as it counts
	// them itself; Server is their number as the API server counts them.
	Own    map[string]int `json:"ownRequests"`
	Server int            `json:"serverRequests"`
	// What the Go runtime says of its memory and goroutines before, and at
	// the end.
	RuntimeIdle map[string]float64 `json:"runtimeIdle"`
	RuntimeHeld map[string]float64 `json:"runtimeHeld"`
}

type waitingResult struct {
	Empty []rate `json:"empty"`
	Full  []rate `json:"full"`
}

// neighboursResult has, for each round, the time from publish to Job in ms of
// every run in the quiet queue, and from call to Job of as many bare creates:
// alone, beside a queue in which runs wait, and beside one whose runs come and go.
type neighboursResult struct {
	Alone       [][]float64 `json:"aloneMs"`
	Waiting     [][]float64 `json:"waitingMs"`
	Busy        [][]float64 `json:"busyMs"`
	BareAlone   [][]float64 `json:"bareAloneMs"`
	BareWaiting [][]float64 `json:"bareWaitingMs"`
	BareBusy    [][]float64 `json:"bareBusyMs"`
}

// replayResult has seconds from the call: until the replays had been asked for,
// and until the last run was on its queue; and the most Jobs at once.
type replayResult struct {
	Runs   int     `json:"runs"`
	Asked  float64 `json:"askedSeconds"`
	Queued float64 `json:"queuedSeconds"`
	Most   int     `json:"most"`
}

// imagesRound has the time from publish to Job in ms, and how often the registry
// was asked.
type imagesRound struct {
	Event []float64 `json:"eventMs"`
	Asked int       `json:"asked"`
}

// imagesResult has runs of the prebuilt image, of one build that is there, and of
// builds that are all there and all different.
type imagesResult struct {
	Prebuilt []imagesRound `json:"prebuilt"`
	Same     []imagesRound `json:"same"`
	Others   []imagesRound `json:"others"`
}

// line is one figure beside its bare counterpart and its goal.
type line struct {
	What     string `json:"what"`
	Bare     string `json:"bare"`
	Ropewalk string `json:"ropewalk"`
	Goal     string `json:"goal"`
	Met      *bool  `json:"met,omitempty"`
}

func (r *report) writeJSON(w io.Writer) error {
	r.Summary = r.summary()
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func (r *report) writeTables(w io.Writer) error {
	out := table.NewWriter()
	out.SetTitle(fmt.Sprintf("Ropewalk against a bare loop of %d workers; %d cores, Kubernetes %s, medians of %d rounds",
		r.Options.Workers, r.Cores, r.Kubernetes, r.Options.Rounds))
	out.AppendHeader(table.Row{"", "bare", "ropewalk", "goal", "met"})
	for _, line := range r.summary() {
		met := ""
		if line.Met != nil {
			met = map[bool]string{true: "yes", false: "NO"}[*line.Met]
		}
		out.AppendRow(table.Row{line.What, line.Bare, line.Ropewalk, line.Goal, met})
	}
	if _, err := fmt.Fprintln(w, out.Render()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func (r *report) summary() (lines []line) {
	if t := r.Throughput; t != nil {
		lines = append(lines, t.summary(r.Options)...)
	}
	for _, l := range r.Latency {
		lines = append(lines, l.summary()...)
	}
	if f := r.InFlight; f != nil {
		lines = append(lines, f.summary()...)
	}
	if q := r.Waiting; q != nil {
		lines = append(lines, q.summary(r.Options)...)
	}
	if n := r.Neighbours; n != nil {
		lines = append(lines, n.summary(r.Options)...)
	}
	if p := r.Replay; p != nil {
		lines = append(lines, p.summary()...)
	}
	if i := r.Images; i != nil {
		lines = append(lines, i.summary()...)
	}
	return lines
}

func (t *throughputResult) summary(o options) []line {
	bare, dispatched := median(perSecond(t.Bare)), median(perSecond(t.Dispatched))
	met := dispatched >= goalThroughput*bare
	return []line{
		{
			What: fmt.Sprintf("Jobs created per second, %d at once", o.Runs),
			Bare: fmt.Sprintf("%.0f", bare), Ropewalk: fmt.Sprintf("%.0f (%.2f of bare)", dispatched, dispatched/bare),
			Goal: fmt.Sprintf("≥ %.1f of bare", goalThroughput), Met: &met,
		},
		{What: "create call under that load, p50 / p90 / p99", Bare: threePercentiles(t.BareCalls)},
	}
}

func (l *latencyResult) summary() []line {
	of := func(rounds []latencyRound, p float64, pick func(latencyRound) []float64) float64 {
		var each []float64
		for _, round := range rounds {
			each = append(each, percentile(pick(round), p))
		}
		return median(each)
	}
	event := func(r latencyRound) []float64 { return r.Event }
	call := func(r latencyRound) []float64 { return r.Call }
	goals := map[float64]func(bare float64) float64{
		50: func(bare float64) float64 { return bare + goalP50Above },
		99: func(bare float64) float64 { return bare*goalP99Times + goalP99Above },
	}
	var lines []line
	for _, p := range []float64{50, 90, 99} {
		bare, dispatched := of(l.Bare, p, event), of(l.Dispatched, p, event)
		next := line{
			What: fmt.Sprintf("call or publish to Job seen, at %.0f/s, p%.0f", l.PerSecond, p),
			Bare: fmt.Sprintf("%.1f ms", bare), Ropewalk: fmt.Sprintf("%.1f ms", dispatched),
		}
		if goal := goals[p]; goal != nil {
			met := dispatched <= goal(bare)
			next.Goal, next.Met = fmt.Sprintf("≤ %.1f ms", goal(bare)), &met
		}
		lines = append(lines, next)
	}
	for _, p := range []float64{50, 90, 99} {
		lines = append(lines, line{
			What: fmt.Sprintf("the call or publish alone, p%.0f", p),
			Bare: fmt.Sprintf("%.1f ms", of(l.Bare, p, call)), Ropewalk: fmt.Sprintf("%.1f ms", of(l.Dispatched, p, call)),
		})
	}
	return lines
}

func (f *inFlightResult) summary() []line {
	idle := median(f.Idle)
	perRun := func(bytes float64) float64 { return (bytes - idle) / 1024 / float64(f.Runs) }
	more := func(name string) float64 { return (f.RuntimeHeld[name] - f.RuntimeIdle[name]) / float64(f.Runs) }
	settled := perRun(median(f.Held[len(f.Held)*3/4:]))
	small := settled <= goalKiBPerRun
	others, creates := 0, 0
	var named []string
	for _, kind := range slices.Sorted(maps.Keys(f.Own)) {
		switch {
		case strings.HasPrefix(kind, "watch "):
		case strings.HasPrefix(kind, "create "):
			creates += f.Own[kind]
		default:
			others += f.Own[kind]
			named = append(named, fmt.Sprintf("%d %s", f.Own[kind], kind))
		}
	}
	perRunRequests := float64(others) / float64(f.Runs)
	// Renewing a watch now and then is no request per run.
	none := perRunRequests < 0.01
	return []line{
		{What: fmt.Sprintf("resident memory of an idle dispatcher (VmRSS), then with %d runs in flight", f.Runs), Ropewalk: fmt.Sprintf("%.1f MiB, %.1f MiB", idle/(1<<20), median(f.Held[len(f.Held)*3/4:])/(1<<20))},
		{What: "memory per run above idle, right after the last launch", Ropewalk: fmt.Sprintf("%.1f KiB", perRun(median(f.Launched)))},
		{What: "memory per run above idle, settled", Ropewalk: fmt.Sprintf("%.1f KiB", settled), Goal: fmt.Sprintf("≤ %.0f KiB", goalKiBPerRun), Met: &small},
		{What: "of it live and not yet collected heap, stacks; goroutines per run", Ropewalk: fmt.Sprintf("%.1f KiB, %.1f KiB; %.1f",
			more("go_memstats_heap_alloc_bytes")/1024, more("go_memstats_stack_inuse_bytes")/1024, more("go_goroutines"))},
		{What: "API requests per run: creates", Ropewalk: fmt.Sprintf("%.3f", float64(creates)/float64(f.Runs))},
		{What: "API requests per run: other than create and watch", Ropewalk: strings.TrimSpace(fmt.Sprintf("%.3f %s", perRunRequests, strings.Join(named, ", "))), Goal: "none", Met: &none},
		{What: "API requests per run: all, as the API server counts them", Ropewalk: fmt.Sprintf("%.3f", float64(f.Server)/float64(f.Runs))},
	}
}

func (q *waitingResult) summary(o options) []line {
	empty, full := median(perSecond(q.Empty)), median(perSecond(q.Full))
	met := full >= empty*(1-goalWaitingLoss)
	return []line{{
		What: fmt.Sprintf("Jobs created per second: nothing more in the queue, and %d more", o.Waiting),
		Bare: fmt.Sprintf("%.0f (empty queue)", empty), Ropewalk: fmt.Sprintf("%.0f (%+.0f %%)", full, (full/empty-1)*100),
		Goal: fmt.Sprintf("less than %.0f %% slower", goalWaitingLoss*100), Met: &met,
	}}
}

func (n *neighboursResult) summary(o options) (lines []line) {
	for _, p := range []float64{50, 99} {
		of := func(rounds [][]float64) float64 {
			var each []float64
			for _, round := range rounds {
				each = append(each, percentile(round, p))
			}
			return median(each)
		}
		alone, waiting, busy, bareBusy := of(n.Alone), of(n.Waiting), of(n.Busy), of(n.BareBusy)
		besideWaiting := line{
			What: fmt.Sprintf("publish to Job seen, at %d/s, beside a full queue with %d waiting, p%.0f", quietRate, o.Burst, p),
			Bare: fmt.Sprintf("%.1f ms (alone)", alone), Ropewalk: fmt.Sprintf("%.1f ms (%.2f of alone)", waiting, waiting/alone),
		}
		besideBusy := line{
			What: fmt.Sprintf("call or publish to Job seen, beside one whose runs come and go, p%.0f", p),
			Bare: fmt.Sprintf("%.1f ms (%.2f of alone)", bareBusy, bareBusy/of(n.BareAlone)), Ropewalk: fmt.Sprintf("%.1f ms (%.2f of alone)", busy, busy/alone),
		}
		if p == 99 {
			met, kept := waiting <= goalNeighbour*alone, busy <= goalNeighbour*bareBusy
			besideWaiting.Goal, besideWaiting.Met = fmt.Sprintf("≤ %.1f of alone", goalNeighbour), &met
			besideBusy.Goal, besideBusy.Met = fmt.Sprintf("≤ %.1f of bare", goalNeighbour), &kept
		}
		lines = append(lines, besideWaiting, besideBusy)
	}
	return lines
}

func (p *replayResult) summary() []line {
	soon, kept := p.Queued <= goalReplay*float64(p.Runs)/10000, p.Most <= replayLimit
	return []line{
		{
			What:     fmt.Sprintf("%d failed runs replayed: asked for, and all on their queue", p.Runs),
			Ropewalk: fmt.Sprintf("%.1f s, %.1f s", p.Asked, p.Queued), Goal: fmt.Sprintf("≤ %.0f s for 10,000", goalReplay), Met: &soon,
		},
		{What: "most Jobs at once meanwhile", Ropewalk: fmt.Sprint(p.Most), Goal: fmt.Sprintf("≤ %d", replayLimit), Met: &kept},
	}
}

func (i *imagesResult) summary() (lines []line) {
	of := func(rounds []imagesRound, p float64) float64 {
		var each []float64
		for _, round := range rounds {
			each = append(each, percentile(round.Event, p))
		}
		return median(each)
	}
	for _, way := range []struct {
		what   string
		rounds []imagesRound
	}{{"one image, built before", i.Same}, {"each run another image, built before", i.Others}} {
		asked := 0
		for _, round := range way.rounds {
			asked = max(asked, round.Asked)
		}
		for _, p := range []float64{50, 99} {
			prebuilt, built := of(i.Prebuilt, p), of(way.rounds, p)
			next := line{
				What: fmt.Sprintf("publish to Job seen, at %d/s: %s, p%.0f", imagesRate, way.what, p),
				Bare: fmt.Sprintf("%.1f ms (prebuilt)", prebuilt), Ropewalk: fmt.Sprintf("%.1f ms", built),
			}
			if p == 50 {
				met := built <= prebuilt+goalImages
				next.Goal, next.Met = fmt.Sprintf("≤ %.1f ms", prebuilt+goalImages), &met
				next.Ropewalk += fmt.Sprintf(" (registry asked %d times)", asked)
			}
			lines = append(lines, next)
		}
	}
	return lines
}

func threePercentiles(values []float64) string {
	return fmt.Sprintf("%.1f / %.1f / %.1f ms", percentile(values, 50), percentile(values, 90), percentile(values, 99))
}

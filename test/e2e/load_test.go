//go:build e2e

package e2e

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/ropewalk/ropewalk/test/rig"
)

// failing is the exit code of the runs of a load that fail.
const failing = 3

// load is a number of runs and what shall become of them.
type load struct {
	ids []string
	// code is the exit code that each run's program ends with.
	code map[string]int
}

// span are the numbers from first up to but not including end.
func span(first, end int) []int {
	var all []int
	for i := first; i < end; i++ {
		all = append(all, i)
	}
	return all
}

// publishLoad publishes n runs, of which every tenth fails, and each of which
// takes between least and most, but for the numbers that are held until the test
// lets them go.
func (w *world) publishLoad(queue string, n int, least, most time.Duration, holds ...int) load {
	w.t.Helper()
	// The same lengths every time; chance comes in elsewhere.
	random := rand.New(rand.NewPCG(uint64(n), uint64(most)))
	runs := load{code: map[string]int{}}
	for i := range n {
		id := fmt.Sprintf("%s-%03d", queue, i)
		length := least + time.Duration(random.Int64N(int64(most-least)+1))
		code := 0
		if i%10 == 9 {
			code = failing
		}
		request := script(fmt.Sprintf("sleep %.2f; exit %d", length.Seconds(), code))
		if slices.Contains(holds, i) {
			request = held(fmt.Sprintf("exit %d", code))
		}
		w.publish(queue, id, request)
		runs.ids = append(runs.ids, id)
		runs.code[id] = code
	}
	return runs
}

// fill waits until the first runs of a queue, which are held, take up its whole
// limit, and lets them go. So the limit is reached however slowly runs start.
func (w *world) fill(queue string, limit int, ids []string) {
	w.t.Helper()
	w.awaitJobs(queue, "as many Jobs as the limit allows", func(c rig.Counts) bool { return c.Active >= limit })
	w.letGo(ids[:limit]...)
}

// check demands that every run of the load ended, once, with the right state,
// by one Job that ran one pod; and that nothing else was launched.
func (w *world) check(runs load) {
	w.t.Helper()
	// The observer may be a moment behind the dispatchers.
	w.awaitJobs("", "the observer to see all Jobs end", func(c rig.Counts) bool { return c.Active == 0 })
	jobs := map[string][]rig.SeenJob{}
	for _, job := range w.observer.Jobs() {
		jobs[job.RunID] = append(jobs[job.RunID], job)
		if !slices.Contains(runs.ids, job.RunID) {
			w.t.Errorf("Job %s is for run %q, which nobody asked for", job.Name, job.RunID)
		}
	}
	for _, id := range runs.ids {
		state, reason, condition := "succeeded", "", "Complete"
		if runs.code[id] != 0 {
			state, reason, condition = "failed", "AppError", "Failed"
		}
		w.checkEnd(id, state, reason, runs.code[id])
		w.checkJobs(id, condition, jobs[id])
	}
}

// checkEnd demands that a run ended once, in its first attempt.
func (w *world) checkEnd(id, state, reason string, code int) {
	w.t.Helper()
	updates := w.records.Updates(id)
	if len(updates) == 0 {
		w.t.Errorf("run %s has no record", id)
		return
	}
	record := updates[len(updates)-1].Record
	if record.State != state || record.Reason != reason || record.Attempt != 1 {
		w.t.Errorf("run %s is %s (%s: %s) in attempt %d, want %s (%s) in attempt 1",
			id, record.State, record.Reason, record.Message, record.Attempt, state, reason)
	}
	if record.ExitCode == nil || *record.ExitCode != code {
		w.t.Errorf("run %s has exit code %s, want %d", id, show(record.ExitCode), code)
	}
	if record.StartedAt == nil || record.FinishedAt == nil || record.FinishedAt.Before(*record.StartedAt) {
		w.t.Errorf("run %s started at %v and finished at %v", id, record.StartedAt, record.FinishedAt)
	}
	ends := 0
	for _, change := range record.History {
		if rig.Final(change.State) {
			ends++
		}
	}
	if ends != 1 {
		w.t.Errorf("run %s ended %d times by its history %v", id, ends, record.History)
	}
	for i, update := range updates[1:] {
		if before := updates[i].Record; before.Final() && update.Record.State != before.State {
			w.t.Errorf("run %s was %s and became %s", id, before.State, update.Record.State)
		}
	}
}

// checkJobs demands that a run had one Job, which had one pod and ended as the
// run did.
func (w *world) checkJobs(id, condition string, jobs []rig.SeenJob) {
	w.t.Helper()
	if len(jobs) != 1 {
		w.t.Errorf("run %s had %d Jobs, want 1: %+v", id, len(jobs), jobs)
		return
	}
	job, record := jobs[0], w.records.Now()[id]
	if job.Attempt != "1" || job.Condition != condition || job.Deleted || len(job.Pods) != 1 {
		w.t.Errorf("run %s: Job %+v, want attempt 1, %s, not deleted, and one pod", id, job, condition)
	}
	if record.Job == nil || record.Job.UID != job.UID || record.Job.Name != job.Name {
		w.t.Errorf("run %s: its record says Job %+v, but it was %s (%s)", id, record.Job, job.Name, job.UID)
	}
}

// checkLimit demands that the queue used its whole limit and never more.
func (w *world) checkLimit(queue string, limit int) {
	w.t.Helper()
	must(w.t, w.observer.Err())
	if most := w.observer.Counts(queue).Most; most != limit {
		w.t.Errorf("at most %d Jobs of queue %q were active at once, want %d", most, queue, limit)
	}
}

func show(code *int) string {
	if code == nil {
		return "none"
	}
	return fmt.Sprint(*code)
}

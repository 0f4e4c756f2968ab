// Package doctor finds out what keeps an installation from working. It knows
// how checks follow from one another and what their outcomes mean, but nothing
// of what is checked: the wiring makes each [Check] of what an adapter can tell.
package doctor

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
)

// Status is the outcome of a check.
type Status string

// The outcomes.
const (
	// OK: it is as it must be.
	OK Status = "ok"
	// Warning: it works, and may cost something one day.
	Warning Status = "warning"
	// Failed: runs cannot work like that.
	Failed Status = "failed"
	// Unknown: it cannot be found out from here.
	Unknown Status = "unknown"
	// Skipped: another check that this one needs has failed.
	Skipped Status = "skipped"
)

// Finding is what a check has found, in one line.
type Finding struct {
	Check  string `json:"check"`
	Status Status `json:"status"`
	// Found is one sentence.
	Found string `json:"found"`
	// ToDo is what to do about it; empty when all is well.
	ToDo string `json:"toDo,omitempty"`
}

// Good is the finding of something that is as it must be.
func Good(format string, args ...any) Finding {
	return Finding{Status: OK, Found: fmt.Sprintf(format, args...)}
}

// Doubtful is the finding of something that works and should be otherwise.
func Doubtful(todo, format string, args ...any) Finding {
	return Finding{Status: Warning, Found: fmt.Sprintf(format, args...), ToDo: todo}
}

// Bad is the finding of something that keeps runs from working.
func Bad(todo, format string, args ...any) Finding {
	return Finding{Status: Failed, Found: fmt.Sprintf(format, args...), ToDo: todo}
}

// Hidden is the finding of something that cannot be found out from here.
func Hidden(todo, format string, args ...any) Finding {
	return Finding{Status: Unknown, Found: fmt.Sprintf(format, args...), ToDo: todo}
}

// Check is one thing to look at.
type Check struct {
	// Name says what is looked at.
	Name string
	// Needs names checks before this one without which it makes no sense.
	Needs []string
	// Limit is how long it may take; 15 seconds when left out.
	Limit time.Duration
	// Look returns what it finds. It heeds the context, and may change
	// nothing that is not its own.
	Look func(ctx context.Context) Finding
}

// limit is how long a check may take that says nothing else. A person waits.
const limit = 15 * time.Second

// Examine goes through the checks in order and tells each finding as soon as it
// is there. It ends early, with the context's error, only when ctx does.
func Examine(ctx context.Context, checks []Check, tell func(Finding)) ([]Finding, error) {
	var (
		all  []Finding
		fate = map[string]Status{}
	)
	for _, check := range checks {
		finding := Finding{Status: Skipped}
		if lacking := unmet(check, fate); lacking == "" {
			finding = look(ctx, check)
		} else {
			finding.Found = "Not looked at, because it needs this first: " + lacking + "."
		}
		if ctx.Err() != nil {
			return all, ctx.Err()
		}
		finding.Check = check.Name
		finding.Found, finding.ToDo = line(finding.Found), line(finding.ToDo)
		fate[check.Name] = finding.Status
		all = append(all, finding)
		tell(finding)
	}
	return all, nil
}

// unmet names the first need of a check that is not met.
func unmet(check Check, fate map[string]Status) string {
	for _, need := range check.Needs {
		switch status, looked := fate[need]; {
		case !looked:
			panic("doctor: " + check.Name + " needs " + need + ", which does not come before it")
		case status == Failed, status == Skipped:
			return need
		}
	}
	return ""
}

func look(ctx context.Context, check Check) Finding {
	most := check.Limit
	if most == 0 {
		most = limit
	}
	limited, cancel := context.WithTimeout(ctx, most)
	defer cancel()
	finding := check.Look(limited)
	if finding.Status != OK && errors.Is(limited.Err(), context.DeadlineExceeded) {
		finding.Found = strings.TrimSuffix(finding.Found, ".") + fmt.Sprintf(" (no answer within %s).", most)
	}
	return finding
}

// line puts a text in one line.
func line(text string) string { return strings.Join(strings.Fields(text), " ") }

// Healthy reports whether nothing has failed.
func Healthy(findings []Finding) bool {
	for _, finding := range findings {
		if finding.Status == Failed {
			return false
		}
	}
	return true
}

package config

import (
	"errors"
	"fmt"
	"strings"

	"github.com/ropewalk/ropewalk/internal/run"
)

// DefaultQueue is the queue of requests that name none. It always exists.
const DefaultQueue = "default"

// QueueLimit is a queue, and how many of its runs may be under way at once
// over all replicas.
type QueueLimit struct {
	Name  string
	Limit int
	// Explicit: the environment sets the limit; it is not a default, and a
	// limit that was changed while running gives way to it.
	Explicit bool
}

// QueueLimits is a list such as gpu=2,batch=50.
type QueueLimits []QueueLimit

// UnmarshalText reads the list.
func (q *QueueLimits) UnmarshalText(text []byte) error {
	var limits QueueLimits
	seen := map[string]bool{}
	for _, item := range splitList(string(text)) {
		name, number, ok := strings.Cut(item, "=")
		name = strings.TrimSpace(name)
		switch {
		case !ok:
			return fmt.Errorf("%.60q gives no limit; want name=limit", item)
		case !run.ValidQueue(name):
			return fmt.Errorf("%.60q is not the name of a queue: at most %d lower-case letters, digits and '-', beginning and ending with a letter or digit", name, run.MaxQueueLength)
		case seen[name]:
			return fmt.Errorf("names the queue %s twice", name)
		}
		seen[name] = true
		limit, err := parseNumber(number)
		if err != nil {
			return fmt.Errorf("the limit of queue %s: %w", name, err)
		}
		if limit < 1 || limit > 1_000_000 {
			return fmt.Errorf("the limit of queue %s must be from 1 to 1000000", name)
		}
		limits = append(limits, QueueLimit{Name: name, Limit: int(limit), Explicit: true})
	}
	if len(limits) == 0 {
		return errors.New("names no queue")
	}
	*q = limits
	return nil
}

// String writes the list as it is read.
func (q QueueLimits) String() string {
	items := make([]string, len(q))
	for i, queue := range q {
		items[i] = fmt.Sprintf("%s=%d", queue.Name, queue.Limit)
	}
	return strings.Join(items, ",")
}

// find returns the queue of that name, if the list has it.
func (q QueueLimits) find(name string) (QueueLimit, bool) {
	for _, queue := range q {
		if queue.Name == name {
			return queue, true
		}
	}
	return QueueLimit{}, false
}

// Limits returns every queue with its limit: default first, then the others in
// the order in which they were set.
func (c *Config) Limits() []QueueLimit {
	first := QueueLimit{
		Name:     DefaultQueue,
		Limit:    c.Queues.TemplateRuns,
		Explicit: c.facts[templateRuns].set || c.facts[snapshotRuns].set,
	}
	if named, ok := c.Queues.More.find(DefaultQueue); ok {
		first = named
	}
	limits := []QueueLimit{first}
	for _, queue := range c.Queues.More {
		if queue.Name != DefaultQueue {
			limits = append(limits, queue)
		}
	}
	return limits
}

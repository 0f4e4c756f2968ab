package queue

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/run"
)

// MaxConcurrency bounds a queue's limit: the server keeps every message that is
// held in memory, about 2 KB each.
const MaxConcurrency = 100_000

// Definition is what is known of a queue, live: a change reaches every
// dispatcher without a restart.
type Definition struct {
	Name string `json:"name"`
	// Concurrency is the most runs of the queue that may be under way at
	// once, over all dispatchers.
	Concurrency int `json:"concurrency"`
	// Pinned is set once a person has set the limit by command: from then on
	// the environment of a dispatcher no longer changes it.
	Pinned bool `json:"pinned,omitempty"`
	// StartRate is how fast runs may be started, over all dispatchers; zero
	// is as fast as it goes.
	StartRate Rate `json:"startRate,omitzero"`
	// Paused: nothing is started; what is under way goes on.
	Paused bool `json:"paused,omitempty"`
	// Draining: the queue takes no new runs. Those that it has are run, with
	// their retries.
	Draining bool `json:"draining,omitempty"`
	// Policy is what is set for the queue's runs.
	Policy run.Policy `json:"policy,omitzero"`
}

// Validate returns an error in words for whoever set the definition.
func (d Definition) Validate() error {
	if !run.ValidQueue(d.Name) {
		return fmt.Errorf("queue name %q must be at most %d lower-case letters, digits and '-', beginning and ending with a letter or digit", d.Name, run.MaxQueueLength)
	}
	if d.Concurrency < 1 || d.Concurrency > MaxConcurrency {
		return fmt.Errorf("concurrency of queue %s is %d; it must be from 1 to %d", d.Name, d.Concurrency, MaxConcurrency)
	}
	if err := d.StartRate.validate(); err != nil {
		return fmt.Errorf("start rate of queue %s: %w", d.Name, err)
	}
	if err := d.Policy.Validate(); err != nil {
		return fmt.Errorf("queue %s: %w", d.Name, err)
	}
	return nil
}

// subject is what the stream takes for the queue. One that is drained takes
// further attempts only, whose subjects are one part longer.
func (d Definition) subject() string {
	if d.Draining {
		return Subjects + d.Name + ".*.*"
	}
	return Subjects + d.Name + ".>"
}

// maxAckPending is how many messages of the queue the server lets be under way.
func (d Definition) maxAckPending() int {
	if d.Paused {
		// With this and one run under way, the server delivers nothing but
		// what was delivered before; see pull.adopt.
		return 1
	}
	return d.Concurrency
}

// equal reports whether two definitions say the same.
func (d Definition) equal(other Definition) bool {
	a, errA := json.Marshal(d)
	b, errB := json.Marshal(other)
	return errA == nil && errB == nil && bytes.Equal(a, b)
}

func decodeDefinition(entry jetstream.KeyValueEntry) (Definition, error) {
	var definition Definition
	if err := json.Unmarshal(entry.Value(), &definition); err != nil {
		return Definition{}, fmt.Errorf("decode queue %s: %w", entry.Key(), err)
	}
	if definition.Name != entry.Key() {
		return Definition{}, fmt.Errorf("the definition under the name %s is one of queue %q", entry.Key(), definition.Name)
	}
	// A limit of 0 would be taken by the server for none at all.
	return definition, definition.Validate()
}

// Rate is so many starts in a length of time, evenly spread. The zero value is
// no limit.
type Rate struct {
	Starts int
	Per    time.Duration
}

// The bounds of a rate. Each start is a write that all dispatchers compete for,
// which takes a millisecond or more; and a run whose dispatcher died may wait
// behind one that waits to be started.
const (
	mostOften   = 10 * time.Millisecond
	leastOften  = time.Minute
	rateExample = "such as 10/s or 30/m, from 1/m to 100/s"
)

// ParseRate reads a rate such as "10/s" or "30/m"; "none" is no limit.
func ParseRate(text string) (Rate, error) {
	if text == "none" {
		return Rate{}, nil
	}
	number, unit, _ := strings.Cut(text, "/")
	starts, err := strconv.Atoi(number)
	per := map[string]time.Duration{"s": time.Second, "m": time.Minute}[unit]
	if err != nil || starts < 1 || per == 0 {
		return Rate{}, fmt.Errorf("%.40q is not a rate, %s", text, rateExample)
	}
	rate := Rate{starts, per}
	return rate, rate.validate()
}

// Interval is how far apart two starts are at least; 0 without a limit.
func (r Rate) Interval() time.Duration {
	if r.Starts == 0 {
		return 0
	}
	return r.Per / time.Duration(r.Starts)
}

func (r Rate) validate() error {
	if r == (Rate{}) {
		return nil
	}
	if r.Starts < 1 || r.Interval() < mostOften || r.Interval() > leastOften {
		return errors.New("it must be a rate " + rateExample)
	}
	return nil
}

// String writes the rate as it is read.
func (r Rate) String() string {
	switch r.Per {
	case 0:
		return "none"
	case time.Minute:
		return strconv.Itoa(r.Starts) + "/m"
	default:
		return strconv.Itoa(r.Starts) + "/s"
	}
}

// MarshalText writes the rate for JSON.
func (r Rate) MarshalText() ([]byte, error) { return []byte(r.String()), nil }

// UnmarshalText reads it.
func (r *Rate) UnmarshalText(text []byte) (err error) {
	*r, err = ParseRate(string(text))
	return err
}

// Package queue is everything that Ropewalk does with its queues on NATS
// JetStream: the stream of requests, the definitions of the queues and their
// limits, publishing, looking at what waits, and handing each message to the
// core and doing with it what the core decides.
//
// The slot is the unacknowledged message: a queue's limit is the MaxAckPending
// of its one durable consumer, held by the server over all replicas. Nothing
// here counts slots.
package queue

import (
	"strconv"
	"strings"

	"github.com/ropewalk/ropewalk/internal/run"
)

// The names on the server. Publishers in other languages rely on them.
const (
	// Stream holds every request that is not finished.
	Stream = "RUNS"
	// Subjects precedes <queue>.<run id>, and <queue>.<run id>.<attempt>
	// from the second attempt on.
	Subjects = "ropewalk.runs."
	// ConsumerPrefix precedes the queue's name in its consumer's.
	ConsumerPrefix = "dispatch-"
)

// Subject is where the request for an attempt of a run is published.
func Subject(queue, id string, attempt int) string {
	subject := Subjects + queue + "." + id
	if attempt > 1 {
		subject += "." + strconv.Itoa(attempt)
	}
	return subject
}

// address is what a subject says. A subject that says it wrongly still gives
// an id to record the refusal under.
func address(subject string) (delivery run.Delivery) {
	tokens := strings.Split(strings.TrimPrefix(subject, Subjects), ".")
	delivery = run.Delivery{Queue: tokens[0], Attempt: 1}
	if len(tokens) > 1 {
		delivery.ID = tokens[1]
	}
	switch {
	case len(tokens) == 2:
	case len(tokens) == 3:
		attempt, err := strconv.Atoi(tokens[2])
		if err != nil || attempt < 2 || strconv.Itoa(attempt) != tokens[2] {
			delivery.Malformed = "its last part is not an attempt, a number from 2 on"
			break
		}
		delivery.Attempt = attempt
	default:
		delivery.Malformed = "it is not " + Subjects + "<queue>.<run id>"
	}
	if !run.ValidID(delivery.ID) && delivery.Malformed == "" {
		delivery.Malformed = "its run id is not one: at most 63 letters, digits, '-' and '_'"
	}
	if delivery.Malformed != "" {
		delivery.ID = run.StandInID(subject)
	}
	return delivery
}

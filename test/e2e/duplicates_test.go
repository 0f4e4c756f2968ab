//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/test/rig"
)

// perSubject is JetStream's answer to a second message for an id that has one.
const perSubject jetstream.ErrorCode = 10077

func TestSameIDIsOneRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("1").With(gated()).With(rig.Settings{"ROPEWALK_QUEUES": "other=1"}))
	w.serve(2)
	payload, err := json.Marshal(held("exit 0"))
	must(t, err)
	for _, id := range []string{"held", "waiting"} {
		must(t, w.send("default", id, payload, id))
		// Within the duplicate window JetStream takes it for the same.
		must(t, w.send("default", id, payload, id))
	}
	w.awaitRun("held", "the first run's Job", func(r rig.Record) bool { return r.Job != nil })
	for _, id := range []string{"held", "waiting"} {
		var refused *jetstream.APIError
		if err := w.send("default", id, payload, ""); !errors.As(err, &refused) || refused.ErrorCode != perSubject {
			t.Errorf("a second message for the run %s, outside the duplicate window: %v, want error %d", id, err, perSubject)
		}
	}
	runs := load{ids: []string{"held", "waiting"}, code: map[string]int{}}
	w.letGo(runs.ids...)
	w.awaitFinal(runs.ids)
	before := w.records.Now()

	// After the end: within the window, outside it, and in another queue.
	must(t, w.send("default", "held", payload, "held"))
	must(t, w.send("default", "held", payload, ""))
	must(t, w.send("other", "waiting", payload, ""))
	w.publish("default", "last", script("exit 0"))
	runs.ids = append(runs.ids, "last")
	w.awaitFinal(runs.ids)
	w.check(runs)
	for id, record := range before {
		if after := w.records.Now()[id]; !reflect.DeepEqual(after, record) {
			t.Errorf("run %s was %+v and became %+v", id, record, after)
		}
	}
}

//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// poison is what cannot be run, and what its publisher must be told.
var poison = map[string]struct {
	payload string
	reason  string
	says    []string
}{
	"undecodable": {`{"version": 1, "command": [`, "InvalidRequest", nil},
	"no-json":     {"\x00\xff run me", "InvalidRequest", nil},
	"future":      {`{"version": 2, "shape": "unknown"}`, "InvalidRequest", []string{"version"}},
	"unversioned": {`{"command": ["true"]}`, "InvalidRequest", []string{"version"}},
	"wrong-type":  {`{"version": 1, "command": "true"}`, "InvalidRequest", []string{"command"}},
	"invalid": {
		`{"version": 1, "id": "another", "command": [""], "env": {"A B": "x", "2": "y"}, "timeout": "1ms",
		  "labels": {"ropewalk.dev/run-id": "z"}, "pod": {"resources": {"limits": {"cpu": "much"}}}}`,
		"InvalidRequest",
		[]string{"id", "command[0]", "env[A B]", "env[2]", "timeout", "labels[ropewalk.dev/run-id]", "pod.resources.limits[cpu]"},
	},
	"no-image":  {`{"version": 1, "command": ["true"]}`, "InvalidRequest", []string{"image"}},
	"no-rights": {`{"version": 1, "image": {"reference": "busybox"}, "pod": {"serviceAccount": "admin"}}`, "PolicyRefused", []string{"serviceAccount"}},
}

func TestPoisonIsRejectedAndHoldsUpNobody(t *testing.T) {
	t.Parallel()
	// A message that nobody settled would hold the one slot for the AckWait, which
	// is longer than the run behind the poison is waited for.
	w := newWorld(t, limitedTo("1").With(rig.Settings{"ROPEWALK_ACK_WAIT": (2 * wait.Limit).String()}))
	w.serve(1)
	var ids []string
	for id, p := range poison {
		must(t, w.send("default", id, []byte(p.payload), id))
		ids = append(ids, id)
	}
	w.publish("default", "good", script("exit 0"))
	w.awaitJobs("", "the run behind the poison", func(c rig.Counts) bool { return c.Created == 1 })
	w.awaitFinal(append(ids, "good"))
	w.check(load{ids: []string{"good"}, code: map[string]int{}})

	for id, p := range poison {
		record := w.records.Now()[id]
		if record.State != "rejected" || record.Reason != p.reason || record.Job != nil {
			t.Errorf("%s: %s (%s) with Job %v, want rejected (%s)", id, record.State, record.Reason, record.Job, p.reason)
		}
		for _, field := range p.says {
			if !strings.Contains(record.Message, field) {
				t.Errorf("%s: the message does not name %q: %s", id, field, record.Message)
			}
		}
		if len(record.Message) < 40 {
			t.Errorf("%s: the message says too little: %q", id, record.Message)
		}
		w.checkKept(id, p.payload)
	}
}

// checkKept demands that a rejected message can still be replayed: its request
// is in the record, or kept as it came.
func (w *world) checkKept(id, payload string) {
	w.t.Helper()
	bucket, err := w.js.KeyValue(w.call(), "ropewalk-secrets")
	must(w.t, err)
	entry, err := bucket.Get(w.call(), "default."+id)
	if err == nil && bytes.Equal(entry.Value(), []byte(payload)) {
		return
	}
	bucket, err = w.js.KeyValue(w.call(), "ropewalk-runs")
	must(w.t, err)
	entry, err = bucket.Get(w.call(), "default."+id)
	must(w.t, err)
	var record struct {
		Request json.RawMessage `json:"request"`
	}
	must(w.t, json.Unmarshal(entry.Value(), &record))
	if len(record.Request) < 10 {
		w.t.Errorf("%s: the request was not kept for replay", id)
	}
}

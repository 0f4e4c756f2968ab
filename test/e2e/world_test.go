//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/test/rig"
)

// manifest is what an operator applies to give a dispatcher its permissions.
var manifest = filepath.Join("..", "..", "deploy", "manifests", "rbac.yaml")

// world is what one test works in: a namespace, a nats-server, the settings of
// dispatchers, and the two observers. Everything ends with the test.
type world struct {
	t         *testing.T
	dir       string
	namespace string
	account   string
	settings  rig.Settings
	nats      *rig.NATS
	conn      *nats.Conn
	js        jetstream.JetStream
	observer  *rig.Observer
	// records is there from the first ready dispatcher on.
	records *rig.Records
	started int
}

// newWorld sets up everything but dispatchers. The settings are added to those
// that every test has: the servers' addresses, and who the dispatcher is.
func newWorld(t *testing.T, more rig.Settings) *world {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	dir, err := os.MkdirTemp("", "ropewalk-e2e-") //nolint:usetesting // what is left after a failure must outlive the test
	must(t, err)
	w := &world{t: t, dir: dir}
	t.Cleanup(w.keepLogs)
	w.namespace, err = parts.cluster.NewNamespace(ctx, "e2e")
	t.Cleanup(w.removeNamespace)
	must(t, err)
	must(t, parts.cluster.ApplyRBAC(ctx, w.namespace, manifest))
	w.account, err = parts.cluster.BoundAccount(ctx, w.namespace)
	must(t, err)
	must(t, parts.cluster.WriteKubeconfig(ctx, w.namespace, w.account, "", w.kubeconfig()))
	w.nats, err = rig.StartNATS(ctx, parts.natsServer, dir)
	must(t, err)
	t.Cleanup(func() { w.nats.Kill() })
	conn, js, err := w.nats.Connect()
	must(t, err)
	t.Cleanup(conn.Close)
	w.conn, w.js = conn, js
	w.observer, err = rig.Observe(parts.cluster.Client, w.namespace, true)
	must(t, err)
	t.Cleanup(w.observer.Stop)
	w.settings = rig.Settings{
		"KUBECONFIG":        w.kubeconfig(),
		"ROPEWALK_NATS_URL": w.nats.URL(),
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_NAMESPACE":       w.namespace,
		"ZENML_KUBERNETES_WORKLOAD_MANAGER_SERVICE_ACCOUNT": rig.Runner,
		"ROPEWALK_LOG_FORMAT":                               "json",
		// The node may know registries by other ways than this process does.
		"ROPEWALK_IMAGE_RESOLVE_DIGEST": "false",
	}.With(more)
	return w
}

func (w *world) kubeconfig() string { return filepath.Join(w.dir, "kubeconfig") }

// keepLogs removes the directory of a test that passed.
func (w *world) keepLogs() {
	if w.t.Failed() {
		w.t.Logf("what the processes logged is in %s", w.dir)
		return
	}
	if err := os.RemoveAll(w.dir); err != nil {
		w.t.Error(err)
	}
}

func (w *world) removeNamespace() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if w.namespace == "" {
		return
	}
	if err := parts.cluster.DeleteNamespace(ctx, w.namespace); err != nil {
		w.t.Error(err)
	}
}

// within is a context that ends with the test, or after d with a clear error.
func (w *world) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeoutCause(w.t.Context(), d, fmt.Errorf("not within %s", d))
	w.t.Cleanup(cancel)
	return ctx
}

// start starts a dispatcher without waiting for it. Only one goroutine at a
// time may do so.
func (w *world) start(program string, more rig.Settings) (*rig.Dispatcher, error) {
	w.started++
	log := filepath.Join(w.dir, fmt.Sprintf("dispatcher-%03d.log", w.started))
	d, err := rig.Serve(program, w.settings.With(more), log)
	if err != nil {
		return nil, err
	}
	w.t.Cleanup(d.Kill)
	return d, nil
}

// serve starts n dispatchers and waits until they are ready.
func (w *world) serve(n int) []*rig.Dispatcher {
	w.t.Helper()
	replicas := make([]*rig.Dispatcher, n)
	for i := range replicas {
		var err error
		replicas[i], err = w.start(parts.dispatcher, nil)
		must(w.t, err)
	}
	for _, d := range replicas {
		must(w.t, d.Ready(w.within(2*time.Minute)))
	}
	w.watchRecords()
	return replicas
}

func (w *world) watchRecords() {
	w.t.Helper()
	if w.records != nil {
		return
	}
	var err error
	w.records, err = rig.WatchRecords(w.within(2*time.Minute), w.conn, w.js)
	must(w.t, err)
	w.t.Cleanup(w.records.Stop)
}

// request is the payload of a run as a publisher in any language writes it.
type request map[string]any

// script is a request to run a line of shell.
func script(line string) request {
	return request{
		"version": 1,
		"image":   map[string]any{"reference": parts.image},
		"command": []string{"sh", "-c", line},
	}
}

// with returns the request with one more field.
func (r request) with(field string, value any) request {
	next := request{field: value}
	for name, value := range r {
		if _, set := next[name]; !set {
			next[name] = value
		}
	}
	return next
}

// publish sends a request as any program with a NATS client would.
func (w *world) publish(queue, id string, r request) {
	w.t.Helper()
	payload, err := json.Marshal(r)
	must(w.t, err)
	if err := w.send(queue, id, payload, id); err != nil {
		w.t.Fatalf("publish run %s: %v", id, err)
	}
}

// send publishes a payload; without messageID, JetStream cannot know that it
// had the message before, as when the duplicate window has passed.
func (w *world) send(queue, id string, payload []byte, messageID string) error {
	message := nats.NewMsg("ropewalk.runs." + queue + "." + id)
	message.Data = payload
	if messageID != "" {
		message.Header.Set(jetstream.MsgIDHeader, messageID)
	}
	_, err := w.js.PublishMsg(w.within(10*time.Second), message)
	return err
}

// answer is what a command said.
type answer struct {
	code           int
	stdout, stderr string
}

// file writes a file for a command to read.
func (w *world) file(name, content string) string {
	w.t.Helper()
	path := filepath.Join(w.dir, name)
	must(w.t, os.WriteFile(path, []byte(content), 0o600))
	return path
}

// command runs a dispatcher command as a user would.
func (w *world) command(args ...string) answer {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(w.within(time.Minute), parts.dispatcher, args...)
	cmd.Env = []string{"ROPEWALK_NATS_URL=" + w.nats.URL(), "NO_COLOR=1"}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("dispatcher %s: %v", strings.Join(args, " "), err)
	}
	return answer{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// awaitFinal waits until all the runs are over, and JetStream holds none of
// their messages any more.
func (w *world) awaitFinal(d time.Duration, ids []string) {
	w.t.Helper()
	ctx := w.within(d)
	err := w.records.Await(ctx, func(records map[string]rig.Record) bool {
		for _, id := range ids {
			if !records[id].Final() {
				return false
			}
		}
		return true
	})
	must(w.t, err)
	w.awaitNoMessages(ctx)
}

// awaitNoMessages waits until every message is acknowledged, which comes after
// the record.
func (w *world) awaitNoMessages(ctx context.Context) {
	w.t.Helper()
	stream, err := w.js.Stream(ctx, "RUNS")
	must(w.t, err)
	must(w.t, rig.Poll(ctx, 50*time.Millisecond, func() error {
		info, err := stream.Info(ctx)
		if err == nil && info.State.Msgs > 0 {
			err = fmt.Errorf("%d messages are not acknowledged", info.State.Msgs)
		}
		return err
	}))
}

// owned returns the runs that are not over and whose record says that the
// dispatcher holds them.
func (w *world) owned(d *rig.Dispatcher) (ids []string) {
	for id, record := range w.records.Now() {
		if !record.Final() && owns(d, record.Owner) {
			ids = append(ids, id)
		}
	}
	return ids
}

// owns reports whether a record's owner is this process.
func owns(d *rig.Dispatcher, owner string) bool {
	return slices.Contains(strings.FieldsFunc(owner, func(r rune) bool { return r < '0' || r > '9' }), strconv.Itoa(d.Pid()))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

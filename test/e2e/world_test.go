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

	"github.com/ropewalk/ropewalk/internal/testing/wait"
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
	// others are more namespaces, which go with this one.
	others   []string
	account  string
	settings rig.Settings
	nats     *rig.NATS
	conn     *nats.Conn
	js       jetstream.JetStream
	observer *rig.Observer
	// records is there from the first ready dispatcher on.
	records *rig.Records
	// processes are the dispatchers and shippers, oldest first.
	processes []*rig.Dispatcher
}

// newWorld sets up everything but dispatchers. The settings are added to those
// that every test has: the servers' addresses, and who the dispatcher is.
func newWorld(t *testing.T, more rig.Settings) *world {
	t.Helper()
	ctx := wait.Context(t, "a namespace, its rights and a nats-server")
	dir, err := os.MkdirTemp("", "ropewalk-e2e-") //nolint:usetesting // what is left after a failure must outlive the test
	must(t, err)
	w := &world{t: t, dir: dir}
	t.Cleanup(w.keepLogs)
	w.namespace, err = parts.cluster.NewNamespace(ctx, "e2e")
	t.Cleanup(w.removeNamespaces)
	must(t, err)
	t.Cleanup(w.endProcesses)
	t.Cleanup(w.explain) // before all that it tells of is gone
	must(t, parts.cluster.ApplyRBAC(ctx, w.namespace, manifest))
	w.account, err = parts.cluster.BoundAccount(ctx, w.namespace)
	must(t, err)
	must(t, parts.cluster.WriteKubeconfig(ctx, w.namespace, w.account, "", w.kubeconfig()))
	w.nats, err = rig.StartNATS(ctx, parts.natsServer, dir)
	must(t, err)
	conn, js, err := w.nats.Connect(ctx)
	must(t, err)
	t.Cleanup(conn.Close)
	w.conn, w.js = conn, js
	w.observer, err = rig.Observe(ctx, parts.cluster.Client, w.namespace, true)
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

func (w *world) removeNamespaces() {
	ctx := wait.Context(w.t, "the namespaces to be deleted")
	for _, namespace := range append(w.others, w.namespace) {
		if namespace == "" {
			continue
		}
		if err := parts.cluster.DeleteNamespace(ctx, namespace); err != nil {
			w.t.Error(err)
		}
	}
}

func (w *world) endProcesses() {
	for _, p := range w.processes {
		p.Kill()
	}
	if w.nats != nil {
		w.nats.Kill()
	}
}

// call is the context of one call to the cluster or to NATS.
func (w *world) call() context.Context { return wait.Context(w.t, "an answer") }

// gated are settings by which the runs of a test can be held; see [held].
func gated() rig.Settings { return rig.Settings{"ROPEWALK_POD_TEMPLATE_PATCH": rig.GatePatch} }

// held is a request to run a line of shell once the test lets it go.
func held(line string) request { return script(rig.AwaitGate + "; " + line) }

// letGo lets runs go that are held, as soon as they have their pods.
func (w *world) letGo(ids ...string) {
	w.t.Helper()
	for _, id := range ids {
		namespace := w.namespace
		if record := w.records.Now()[id]; record.Job != nil {
			namespace = record.Job.Namespace
		}
		must(w.t, rig.OpenGate(wait.Context(w.t, "the pod of run "+id), parts.cluster.Client, namespace, id))
	}
}

// start starts a dispatcher without waiting for it. Only one goroutine at a
// time may do so.
func (w *world) start(program string, more rig.Settings) *rig.Dispatcher {
	w.t.Helper()
	return w.run(program, "dispatcher", more)
}

func (w *world) run(program, name string, more rig.Settings) *rig.Dispatcher {
	w.t.Helper()
	log := filepath.Join(w.dir, fmt.Sprintf("%s-%03d.log", name, len(w.processes)+1))
	d, err := rig.Serve(program, w.settings.With(more), log)
	must(w.t, err)
	w.processes = append(w.processes, d)
	return d
}

// serve starts n dispatchers and waits until they are ready.
func (w *world) serve(n int) []*rig.Dispatcher {
	w.t.Helper()
	replicas := make([]*rig.Dispatcher, n)
	for i := range replicas {
		replicas[i] = w.start(parts.dispatcher, nil)
	}
	for _, d := range replicas {
		must(w.t, d.Ready(wait.Context(w.t, "a dispatcher to be ready")))
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
	w.records, err = rig.WatchRecords(wait.Context(w.t, "the run store"), w.conn, w.js)
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
	_, err := w.js.PublishMsg(w.call(), message)
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
	cmd := exec.CommandContext(wait.Context(w.t, "dispatcher "+args[0]), parts.dispatcher, args...)
	cmd.Env = []string{"ROPEWALK_NATS_URL=" + w.nats.URL(), "NO_COLOR=1"}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		w.t.Fatalf("dispatcher %s: %v", strings.Join(args, " "), err)
	}
	return answer{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// over waits for a run to end.
func (w *world) over(id string) rig.Record {
	w.t.Helper()
	return w.awaitRun(id, "its end", rig.Record.Final)
}

// awaitRun waits until a run's record is as the caller wants it.
func (w *world) awaitRun(id, what string, want func(rig.Record) bool) rig.Record {
	w.t.Helper()
	record, err := w.records.AwaitRun(wait.Context(w.t, what), id, want)
	must(w.t, err)
	return record
}

// awaitRecords waits until the records are as the caller wants them.
func (w *world) awaitRecords(what string, want func(map[string]rig.Record) bool) {
	w.t.Helper()
	must(w.t, w.records.Await(wait.Context(w.t, what), want))
}

// awaitJobs waits until the numbers of a queue's Jobs are as the caller wants
// them.
func (w *world) awaitJobs(queue, what string, want func(rig.Counts) bool) {
	w.t.Helper()
	must(w.t, w.observer.Await(wait.Context(w.t, what), queue, want))
}

// ended counts those of the runs that are over.
func ended(records map[string]rig.Record, ids []string) (n int) {
	for _, id := range ids {
		if records[id].Final() {
			n++
		}
	}
	return n
}

// awaitMore waits until n more of the runs are over, or all are. It reports
// whether some are left. Each end is waited for by itself: many runs take long,
// however fast they are.
func (w *world) awaitMore(ids []string, n int) bool {
	w.t.Helper()
	before := ended(w.records.Now(), ids)
	until := min(before+n, len(ids))
	for before < until {
		w.awaitRecords(fmt.Sprintf("the end of one more run than the %d of %d that are over", before, len(ids)), func(records map[string]rig.Record) bool {
			return ended(records, ids) > before
		})
		before = ended(w.records.Now(), ids)
	}
	return before < len(ids)
}

// awaitFinal waits until all the runs are over, and JetStream holds none of
// their messages any more.
func (w *world) awaitFinal(ids []string) {
	w.t.Helper()
	w.awaitMore(ids, len(ids))
	w.awaitNoMessages()
}

// awaitNoMessages waits until every message is acknowledged, which comes after
// the record.
func (w *world) awaitNoMessages() {
	w.t.Helper()
	ctx := wait.Context(w.t, "all messages to be acknowledged")
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

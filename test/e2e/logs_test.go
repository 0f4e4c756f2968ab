//go:build e2e

package e2e

import (
	"bufio"
	"bytes"
	"cmp"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io/fs"
	mathrand "math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// talker is a pod that writes, and what must come of it.
type talker struct {
	script string
	// expect gives the lines, with their newlines, in order.
	expect func(give func(string))
}

// numbered writes n lines in bursts, with a pause after each.
func numbered(n, burst int, pause string) talker {
	return talker{
		script: fmt.Sprintf(`i=0; while [ $i -lt %d ]; do seq $((i+1)) $((i+%d)) | sed 's/.*/line & of this run, and some more text to make it longer/'; i=$((i+%d)); sleep %s; done`, n, burst, burst, pause),
		expect: func(give func(string)) {
			for i := range n {
				give(fmt.Sprintf("line %d of this run, and some more text to make it longer\n", i+1))
			}
		},
	}
}

// talkers are pods of all the kinds that are hard to follow.
func talkers() map[string]talker {
	all := map[string]talker{
		"no-newline": {`printf 'one\ntwo'`, func(give func(string)) { give("one\n"); give("two") }},
		"long-lines": {
			`for i in 1 2 3; do head -c 1048576 /dev/zero | tr '\0' x; echo " end $i"; done`,
			func(give func(string)) {
				for i := range 3 {
					give(strings.Repeat("x", 1<<20) + fmt.Sprintf(" end %d\n", i+1))
				}
			},
		},
		"binary": {
			`i=0; while [ $i -lt 2000 ]; do printf 'a\377\376\000\033[31m\r%d\n' $i; i=$((i+1)); done`,
			func(give func(string)) {
				for i := range 2000 {
					give(fmt.Sprintf("a\xff\xfe\x00\x1b[31m\r%d\n", i))
				}
			},
		},
		"failed": {`seq 1 5000; exit 3`, sequence(5000)},
		"killed": {`seq 1 5000; kill -9 $$`, sequence(5000)},
		"silent": {`true`, func(func(string)) {}},
	}
	for i := range 4 {
		all[fmt.Sprint("burst-", i)] = numbered(100_000, 100_000, "0")
	}
	for i := range 30 {
		all[fmt.Sprint("steady-", i)] = numbered(56_000, 1400, "0.5")
	}
	return all
}

func sequence(n int) func(func(string)) {
	return func(give func(string)) {
		for i := range n {
			give(fmt.Sprintf("%d\n", i+1))
		}
	}
}

// Dispatchers and shippers are killed at random, the NATS server is killed, and
// the S3 server answers 503, hangs, and is away for a while; and every line is in the archive once, in
// order, byte for byte. It is counted by a program that knows the layout from
// its documentation only.
//
// One run goes on writing until all that is over. Each trouble lasts until
// somebody has met it, and after each death the logs must get on before the
// next.
func TestEveryLineIsArchivedOnceWhateverDies(t *testing.T) {
	t.Parallel()
	w, s3, proxy := newLogWorld(t)
	replicas := w.serve(2)
	shippers := []*rig.Dispatcher{w.ship(), w.ship()}
	const writesOn = "writes-on"
	w.publish("default", writesOn, script("i=0; until "+rig.GateOpen+"; do i=$((i+1)); echo line $i; sleep 0.1; done; echo $i lines"))
	all := talkers()
	ids := []string{writesOn}
	for id, talk := range all {
		w.publish("default", id, script(talk.script))
		ids = append(ids, id)
	}

	kills := 0
	getOn := func() { w.awaitLogs(w.lastLog() + 20) }
	killShipper := func() {
		victim := mathrand.IntN(2)
		shippers[victim].Kill()
		shippers[victim] = w.ship()
		getOn()
		kills++
	}
	killDispatcher := func() {
		victim := mathrand.IntN(2)
		replicas[victim].Kill()
		replicas[victim] = w.start(parts.dispatcher, nil)
		getOn()
		kills++
	}
	met := func(trouble string) {
		t.Helper()
		wait.Until(t, "a shipper to meet an S3 server that "+trouble, func() bool { return proxy.Met() > 0 })
	}
	getOn()
	killShipper()
	killDispatcher()
	killShipper()
	w.nats.Kill()
	must(t, w.nats.Start(wait.Context(t, "nats-server to be back")))
	getOn()
	proxy.SlowDown()
	met("is asked too much")
	proxy.Hang()
	met("does not answer")
	s3.Kill()
	killShipper()
	proxy.Oblige()
	met("is away")
	killShipper()
	must(t, s3.Start(wait.Context(t, "the S3 server to be back")))
	for w.awaitMore(ids[1:], 3) { // all but the one that writes on
		killShipper()
		killDispatcher()
	}
	w.letGo(writesOn)
	w.awaitFinal(ids)

	root := filepath.Join(s3.Folder("logs"), "runs", "v1")
	for _, id := range ids {
		w.awaitArchived(root, id)
	}
	must(t, rig.Poll(wait.Context(t, "the chunks of finished logs to go"), 200*time.Millisecond, func() error { return finishedLogs(root, len(ids)) }))
	lines := checkWroteOn(t, root, writesOn)
	for id, talk := range all {
		lines += checkArchived(t, root, id, talk)
	}
	verify := w.verify("--since", "1h")
	if verify.code != 0 {
		t.Errorf("verify: %d\n%s%s", verify.code, verify.stdout, verify.stderr)
	}
	if kills < 7 {
		t.Errorf("%d dispatchers and shippers died, which shows little", kills)
	}
	t.Logf("%d lines of %d runs, over %d kills", lines, len(ids), kills)
}

// lastLog is how many batches of lines have been in the stream of logs.
func (w *world) lastLog() uint64 {
	w.t.Helper()
	stream, err := w.js.Stream(w.call(), "RUN_LOGS")
	must(w.t, err)
	return stream.CachedInfo().State.LastSeq
}

// awaitLogs waits until so many batches have been in the stream of logs.
func (w *world) awaitLogs(batches uint64) {
	w.t.Helper()
	must(w.t, rig.Poll(wait.Context(w.t, "the logs to get on"), 50*time.Millisecond, func() error {
		if last := w.lastLog(); last < batches {
			return fmt.Errorf("%d batches have come, want %d", last, batches)
		}
		return nil
	}))
}

// awaitArchived waits until a log is in the archive to its end.
func (w *world) awaitArchived(root, id string) {
	w.t.Helper()
	must(w.t, rig.Poll(wait.Context(w.t, "the log of run "+id+" to be archived to its end"), 100*time.Millisecond, func() error {
		if whole, err := filepath.Glob(filepath.Join(root, id, "1", "*", "run.ndjson.zst")); err != nil || len(whole) == 0 {
			return fmt.Errorf("there are %v, %w", whole, cmp.Or(err, fs.ErrNotExist))
		}
		return nil
	}))
}

// checkWroteOn compares the log of the run that wrote until it was let go with
// what its last line says.
func checkWroteOn(t *testing.T, root, id string) (lines int) {
	t.Helper()
	text, lines, gaps := readArchived(t, root, id)
	var want strings.Builder
	for i := range lines - 1 {
		_, _ = fmt.Fprintf(&want, "line %d\n", i+1)
	}
	_, _ = fmt.Fprintf(&want, "%d lines\n", lines-1)
	if text != want.String() || gaps > 0 {
		t.Errorf("run %s: the archive has %d lines and %d gaps, and they are not in order or not all; it ends with %.60q", id, lines, gaps, text[max(0, len(text)-60):])
	}
	return lines
}

// newLogWorld is a world whose logs are kept on an S3 server, which is reached
// through a proxy.
func newLogWorld(t *testing.T) (*world, *rig.S3, *rig.S3Proxy) {
	t.Helper()
	dir := t.TempDir()
	ctx := wait.Context(t, "an S3 server")
	s3, err := rig.StartS3(ctx, dir, "logs")
	must(t, err)
	t.Cleanup(func() { s3.Kill() })
	proxy, err := rig.NewS3Proxy(s3.URL())
	must(t, err)
	t.Cleanup(func() { must(t, proxy.Close()) })
	return newWorld(t, limitedTo("20").With(gated()).With(s3.Credentials()).With(rig.Settings{
		"ROPEWALK_ACK_WAIT": ackWait.String(), "ROPEWALK_LOG_ARCHIVE": "s3://logs/runs", "ROPEWALK_S3_ENDPOINT": proxy.URL(),
		"ROPEWALK_S3_PATH_STYLE": "true", "ROPEWALK_SHIP_AGE": "2s", "ROPEWALK_SHIP_BYTES": "1000000",
	})), s3, proxy
}

// ship starts a logshipper.
func (w *world) ship() *rig.Dispatcher {
	w.t.Helper()
	return w.run(parts.logshipper, "logshipper", nil)
}

// finishedLogs tells whether so many logs are there to their ends, and no
// chunks beside them.
func finishedLogs(root string, want int) error {
	whole, chunks := 0, 0
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ndjson.zst") {
			if relative, err := filepath.Rel(root, path); err == nil && strings.Count(relative, "/") == 3 {
				whole++
			} else {
				chunks++
			}
		}
		return err
	})
	if err == nil && (whole != want || chunks > 0) {
		err = fmt.Errorf("%d logs are whole, want %d; there are %d chunks", whole, want, chunks)
	}
	return err
}

// checkArchived compares the log of a run with what its pod wrote.
func checkArchived(t *testing.T, root, id string, talk talker) (lines int) {
	t.Helper()
	a, lines, gaps := readArchived(t, root, id)
	if gaps > 0 {
		t.Errorf("run %s: %d gaps", id, gaps)
	}
	var want strings.Builder
	talk.expect(func(line string) { want.WriteString(line) })
	if b := want.String(); a != b {
		at := 0
		for at < min(len(a), len(b)) && a[at] == b[at] {
			at++
		}
		t.Errorf("run %s: %d bytes are archived and %d were written; from byte %d on it is %.60q and should be %.60q", id, len(a), len(b), at, a[at:], b[at:])
	}
	return lines
}

// readArchived returns the text of a run's log, how many lines it has, and how
// many gaps are marked in it.
func readArchived(t *testing.T, root, id string) (text string, lines, gaps int) {
	t.Helper()
	objects, err := filepath.Glob(filepath.Join(root, id, "1", "*", "run.ndjson.zst"))
	if err != nil || len(objects) != 1 {
		t.Fatalf("run %s has the objects %v, %v", id, objects, err)
	}
	file, err := os.Open(objects[0])
	must(t, err)
	defer func() { _ = file.Close() }()
	decoder, err := zstd.NewReader(file)
	must(t, err)
	defer decoder.Close()
	var got strings.Builder
	scanner := bufio.NewScanner(decoder)
	scanner.Buffer(nil, 4<<20)
	for next := uint64(1); scanner.Scan(); next++ {
		var entry struct {
			Seq                   uint64
			Text                  string
			Base64                []byte
			Partial, Unended, Gap bool
		}
		must(t, json.Unmarshal(scanner.Bytes(), &entry))
		if entry.Seq != next {
			t.Fatalf("run %s: line %d stands where %d belongs", id, entry.Seq, next)
		}
		if lines++; entry.Gap {
			gaps++
			continue
		}
		got.WriteString(entry.Text)
		got.Write(entry.Base64)
		if !entry.Partial && !entry.Unended {
			got.WriteByte('\n')
		}
	}
	must(t, scanner.Err())
	return got.String(), lines, gaps
}

// verify runs logshipper verify as a user would.
func (w *world) verify(args ...string) answer {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(wait.Context(w.t, "logshipper verify"), parts.logshipper, append([]string{"verify"}, args...)...)
	for name, value := range w.settings {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		w.t.Fatalf("logshipper verify: %v", err)
	}
	return answer{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

// What a container wrote that is killed for its memory, deleted or evicted is kept
// to the end. Of the latter two the node removes the log before its end could be
// confirmed, and a gap may say so. The container runtime may lose what is
// written right before the end. The first therefore waits for its test before it
// takes too much memory. The others hear of nothing while they are being stopped:
// they wait longer than a busy machine takes, and less than a stopped pod may.
func TestPodsThatAreStoppedKeepTheirLines(t *testing.T) {
	t.Parallel()
	w, s3, _ := newLogWorld(t)
	w.serve(1)
	w.ship()
	for _, id := range []string{"deleted", "evicted"} {
		w.publish("default", id, script(`trap 'seq 1 20000; echo bye; sleep 10; exit 1' TERM; echo begun; while true; do sleep 0.1; done`))
	}
	w.publish("default", "oom", script("seq 1 20000; "+rig.AwaitGate+"; x=xxxxxxxx; while true; do x=$x$x; done").with("pod", map[string]any{
		"resources": map[string]any{"limits": map[string]string{"memory": "32Mi"}},
	}))
	for id, line := range map[string]string{"deleted": "begun\n", "evicted": "begun\n", "oom": "\n20000\n"} {
		wait.Success(t, "the lines of run "+id, func() error {
			if shown := w.logs(id); !strings.HasSuffix(shown.stdout, line) {
				return fmt.Errorf("its log ends with %q, and says %q", shown.stdout[max(0, len(shown.stdout)-60):], shown.stderr)
			}
			return nil
		})
	}
	w.letGo("oom")
	must(t, parts.cluster.Client.CoreV1().Pods(w.namespace).DeleteCollection(w.call(), metav1.DeleteOptions{}, metav1.ListOptions{
		LabelSelector: "ropewalk.dev/run-id=deleted",
	}))
	pods, err := parts.cluster.Client.CoreV1().Pods(w.namespace).List(w.call(), metav1.ListOptions{LabelSelector: "ropewalk.dev/run-id=evicted"})
	must(t, err)
	must(t, parts.cluster.Evict(w.call(), w.namespace, pods.Items[0].Name))
	root := filepath.Join(s3.Folder("logs"), "runs", "v1")
	// A run that lost its pod may go on with another attempt, so that its end is
	// not waited for.
	for _, id := range []string{"deleted", "evicted", "oom"} {
		w.awaitArchived(root, id)
	}
	checkArchived(t, root, "oom", talker{expect: sequence(20_000)})
	for _, id := range []string{"deleted", "evicted"} {
		text, _, gaps := readArchived(t, root, id)
		var want strings.Builder
		want.WriteString("begun\n")
		sequence(20_000)(func(line string) { want.WriteString(line) })
		want.WriteString("bye\n")
		if text != want.String() {
			t.Errorf("run %s: %d bytes are archived and %d were written; there are %d gaps", id, len(text), want.Len(), gaps)
		}
	}
}

// A Job that has finished is deleted, with its pod, while nobody ships and the
// stream is full, so that most of its log is yet to be drained. The reading that
// is open has all of it.
func TestALogThatIsBeingDrainedOutlivesItsJob(t *testing.T) {
	t.Parallel()
	w, s3, _ := newLogWorld(t)
	w.settings = w.settings.With(rig.Settings{
		"ROPEWALK_LOG_STREAM_BYTES": "1048576", "ZENML_KUBERNETES_WORKLOAD_MANAGER_TTL_SECONDS_AFTER_FINISHED": "1",
	})
	w.serve(1)
	talk := numbered(80_000, 80_000, "0") // below the 10 MiB at which a kubelet rotates
	w.publish("default", "drained", script(talk.script+"; "+rig.AwaitGate))
	// The pod is there until its log is being read.
	w.awaitLogs(1)
	w.letGo("drained")
	w.succeeds("drained")
	must(t, rig.Poll(wait.Context(t, "the pod to go with its Job"), 100*time.Millisecond, func() error {
		pods, err := parts.cluster.Client.CoreV1().Pods(w.namespace).List(t.Context(), metav1.ListOptions{LabelSelector: "ropewalk.dev/run-id=drained"})
		if err == nil && len(pods.Items) > 0 {
			err = fmt.Errorf("pod %s is there", pods.Items[0].Name)
		}
		return err
	}))
	w.ship()
	root := filepath.Join(s3.Folder("logs"), "runs", "v1")
	w.awaitArchived(root, "drained")
	must(t, rig.Poll(wait.Context(t, "the chunks of the log to go"), 200*time.Millisecond, func() error { return finishedLogs(root, 1) }))
	text, lines, gaps := readArchived(t, root, "drained")
	var want strings.Builder
	talk.expect(func(line string) { want.WriteString(line) })
	if text != want.String() {
		t.Errorf("%d bytes are archived and %d were written; there are %d gaps", len(text), want.Len(), gaps)
	}
	t.Logf("%d lines, of them %d gaps", lines, gaps)
}

// Builds are followed and archived like runs; one build, that two runs wait for,
// is one log, which either shows. Of one that failed, the log says why.
func TestBuildsKeepTheirLogs(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	archive := filepath.Join(dir, "logs")
	w := newImageWorld(t, rig.Settings{"ROPEWALK_LOG_ARCHIVE": "file://" + archive, "ROPEWALK_SHIP_AGE": "200ms"})
	w.serve(1)
	w.ship()
	mark := rand.Text()
	dockerfile := base() + "RUN seq 1 300 | sed 's/^/" + mark + "-/'\n"
	w.publish("default", "one", built(dockerfile, "true"))
	w.publish("default", "two", built(dockerfile, "true"))
	w.publish("default", "wrong", built(base()+"RUN echo "+mark+"-wrong; exit 7\n", "true"))
	w.succeeds("one")
	w.succeeds("two")
	if record := w.over("wrong"); record.Reason != "ImageBuildFailed" {
		t.Errorf("the run is %s: %s", record.State, record.Reason)
	}
	for id, want := range map[string]string{"one": mark + "-300", "two": mark + "-300", "wrong": mark + "-wrong"} {
		must(t, rig.Poll(wait.Context(t, "the log of the build of run "+id), 200*time.Millisecond, func() error {
			shown := w.logs(id, "--build")
			if shown.code != 0 || !strings.Contains(shown.stdout, want) {
				return fmt.Errorf("the log of the build of %s: code %d, %q %s", id, shown.code, shown.stdout, shown.stderr)
			}
			return nil
		}))
	}
	must(t, rig.Poll(wait.Context(t, "the logs of both builds in the archive"), 200*time.Millisecond, func() error {
		whole, err := filepath.Glob(filepath.Join(archive, "v1", "_build-*", "1", "*", "run.ndjson.zst"))
		if err == nil && len(whole) != 2 {
			err = fmt.Errorf("the archive has %v", whole)
		}
		return err
	}))
	if verify := w.verify("--since", "1h"); verify.code != 0 {
		t.Errorf("verify: %d\n%s%s", verify.code, verify.stdout, verify.stderr)
	}
}

// logs shows a run's logs as a user would.
func (w *world) logs(id string, flags ...string) answer {
	w.t.Helper()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(wait.Context(w.t, "dispatcher logs"), parts.dispatcher, append([]string{"logs", id}, flags...)...)
	for name, value := range w.settings {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); cmd.ProcessState == nil {
		w.t.Fatalf("dispatcher logs: %v", err)
	}
	return answer{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String()}
}

package deploy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logship"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/metrics"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// The permissions of deploy/nats, on the three servers that its files make: a
// dispatcher and shipper of ours do their work with them, as do those who
// submit, look and operate; and none can do what is another one's.
func TestNATSPermissions(t *testing.T) {
	c := startNATS(t)
	log := c.serve()
	for _, part := range []struct {
		sentence string
		check    func(context.Context, *testing.T)
	}{
		{"streams have three replicas", c.replicated},
		{"a server submits, follows and cancels in its queue", c.serverWorks},
		{"an operator uses every command", c.operatorWorks},
		{"logs are written, archived and read", c.logsWork},
		{"a reader looks", c.readerWorks},
		{"nobody does what is another's", c.refuses},
		{"a ZenML server keeps its notes on three servers", c.zenmlWorks},
		{"a server reaches no queue but its own", c.serverStaysInside},
		{"strangers stay outside", c.strangers},
	} {
		t.Run(part.sentence, func(t *testing.T) { part.check(wait.Context(t, "what this role does"), t) })
	}
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(strings.ToLower(string(text)), "violation") {
		t.Errorf("the dispatcher lacks a permission: %s", text)
	}
}

// serve runs a dispatcher whose runs are processes here, and returns its log.
func (c *natsCluster) serve() string {
	c.t.Helper()
	dir := c.t.TempDir()
	log := filepath.Join(dir, "log")
	process, err := rig.Serve(dispatcher(c.t), c.settings("dispatcher").With(rig.Settings{
		"ROPEWALK_LAUNCHER": "local", "ROPEWALK_DATA_DIR": dir, "ROPEWALK_LOG_FORMAT": "json", "ROPEWALK_QUEUES": "other=2",
	}), log)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(process.Kill)
	if err := process.Ready(wait.Context(c.t, "the dispatcher to be ready")); err != nil {
		text, _ := os.ReadFile(log)
		c.t.Fatalf("%v\n%s", err, text)
	}
	return log
}

func (c *natsCluster) replicated(ctx context.Context, t *testing.T) {
	t.Helper()
	_, js, _ := c.dial("operator")
	for _, name := range []string{"RUNS", "RUN_INDEX", "RUN_DUE", "KV_ropewalk-runs", "KV_ropewalk-secrets", "KV_ropewalk-queues", "KV_ropewalk-cancels"} {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		if replicas := stream.CachedInfo().Config.Replicas; replicas != 3 {
			t.Errorf("%s has %d replicas", name, replicas)
		}
	}
}

func shell(id, line string) client.Request {
	return client.Request{ID: id, Command: []string{"sh", "-c", line}}
}

func (c *natsCluster) serverWorks(ctx context.Context, t *testing.T) {
	t.Helper()
	_, js, told := c.dial("server")
	own := client.New(js).In("default")
	if _, _, err := own.Submit(ctx, shell("fails", "exit 3")); err != nil {
		t.Fatal(err)
	}
	if over, err := own.Wait(ctx, "fails"); err != nil || over.Reason != run.AppError {
		t.Errorf("%s, %v", over.Reason, err)
	}
	if _, _, err := own.Submit(ctx, shell("long", "sleep 3600")); err != nil {
		t.Fatal(err)
	}
	// Each server reads out what it has, and one of three may have it last.
	wait.Success(t, "the record of the run", func() error {
		_, err := own.Get(ctx, "long")
		return err
	})
	if _, err := own.Cancel(ctx, "long"); err != nil {
		t.Error(err)
	}
	if over, err := own.Wait(ctx, "long"); err != nil || over.State != run.Cancelled {
		t.Errorf("%s, %v", over.State, err)
	}
	if _, err := own.Get(ctx, "nobody-knows"); !errors.Is(err, client.ErrNotFound) {
		t.Error(err)
	}
	if violations := told.take(); violations != nil {
		t.Error(violations)
	}
}

func (c *natsCluster) operatorWorks(ctx context.Context, t *testing.T) {
	t.Helper()
	_, js, told := c.dial("operator")
	all := client.New(js)
	work := func(name string, err error) {
		t.Helper()
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	work("set a limit", all.SetConcurrency(ctx, "new", 1))
	_, _, err := all.Submit(ctx, client.Request{ID: "secret", Queue: "other", Command: []string{"true"}, SecretEnv: map[string]client.Secret{"TOKEN": "t"}})
	work("submit", err)
	_, err = all.Wait(ctx, "secret")
	work("wait", err)
	_, err = all.Get(ctx, "secret")
	work("get", err)
	attempt, err := all.Replay(ctx, "fails", nil)
	work("replay", err)
	work("watch", all.Watch(ctx, "fails", func(record client.Run) bool { return record.Attempt < attempt || !record.State.Final() }))
	runs, err := all.List(ctx, client.ListOptions{})
	work("list", err)
	if len(runs) != 3 {
		t.Errorf("%d runs are listed, want 3", len(runs))
	}
	queues, err := all.Queues(ctx)
	work("list queues", err)
	for _, queue := range queues {
		_, err := all.Usage(ctx, queue)
		work("look at queue "+queue.Name, err)
	}
	c.operatorSchedules(ctx, t, all, work)
	_, err = all.PutContext(ctx, []byte("files"))
	work("store the files of a build", err)
	if violations := told.take(); violations != nil {
		t.Error(violations)
	}
}

// operatorSchedules has a queue and a schedule come, work and go.
func (*natsCluster) operatorSchedules(ctx context.Context, t *testing.T, all *client.Client, work func(string, error)) {
	t.Helper()
	work("create a queue", all.CreateQueue(ctx, client.Queue{Name: "passing", Concurrency: 1}))
	soon := time.Now().Add(time.Second)
	_, err := all.CreateSchedule(ctx, client.Schedule{Name: "once", At: &soon, Request: client.Request{Queue: "passing", Command: []string{"true"}}})
	work("create a schedule", err)
	var id string
	wait.Success(t, "the schedule's run", func() error {
		schedule, err := all.Schedule(ctx, "once")
		if id = schedule.Run; err == nil && id == "" {
			err = errors.New("it has not begun")
		}
		return err
	})
	_, err = all.Wait(ctx, id)
	work("wait for its run", err)
	_, err = all.Schedules(ctx)
	work("list schedules", err)
	work("pause", all.PauseSchedule(ctx, "once"))
	work("resume", all.ResumeSchedule(ctx, "once"))
	work("delete the schedule", all.DeleteSchedule(ctx, "once"))
	_, err = all.UpdateQueue(ctx, "passing", false, func(queue *client.Queue) error { queue.Draining = true; return nil })
	work("drain the queue", err)
	wait.Success(t, "the queue to be deleted", func() error { return all.DeleteQueue(ctx, "passing") })
}

func (c *natsCluster) logsWork(ctx context.Context, t *testing.T) {
	t.Helper()
	_, js, told := c.dial("dispatcher")
	written, err := logstream.Create(ctx, js, logstream.Config{MaxBytes: 1 << 20, Replicas: 3})
	if err != nil {
		t.Fatal(err)
	}
	log := logevent.Log{Queue: "default", Run: "fails", Attempt: 1, Pod: "pod", Container: "run"}
	place, err := written.Place(ctx, log)
	if err != nil {
		t.Fatal(err)
	}
	batch := logevent.Batch{First: 1, Lines: []logevent.Line{{Seq: 1, Time: time.Now(), Text: []byte("hello")}}}
	version, err := written.Publish(ctx, log, batch.Encode(), place.Version, false)
	if err != nil {
		t.Fatal(err)
	}
	var unended []logevent.Log
	if err := written.Unended(ctx, 0, func(log logevent.Log) { unended = append(unended, log) }); err != nil || !slices.Contains(unended, log) {
		t.Errorf("the dispatcher finds %v, %v", unended, err)
	}
	if _, err := written.Publish(ctx, log, logevent.Batch{First: 2, End: true}.Encode(), version, true); err != nil {
		t.Fatal(err)
	}

	archive := t.TempDir()
	_, shipping, toldShipper := c.dial("logshipper")
	t.Setenv("ROPEWALK_LOG_ARCHIVE", "file://"+archive)
	t.Setenv("ROPEWALK_SHIP_AGE", "100ms")
	settings, err := config.LoadLogs()
	if err != nil {
		t.Fatal(err)
	}
	kept, err := logship.Open(ctx, settings, nil)
	if err != nil {
		t.Fatal(err)
	}
	shipper, stop := context.WithCancel(ctx)
	defer stop()
	ended := make(chan error, 1)
	go func() {
		ended <- logship.Run(shipper, shipping, settings, kept, metrics.New("test"), zerolog.New(io.Discard))
	}()
	wait.Success(t, "the log to be archived to its end", func() error {
		_, over, err := kept.Reached(ctx, log)
		if err == nil && !over {
			err = errors.New("it is not")
		}
		return err
	})
	stop()
	if err := wait.Receive(t, "end of the shipper", ended); err != nil {
		t.Error(err)
	}
	if violations := append(told.take(), toldShipper.take()...); violations != nil {
		t.Error(violations)
	}
}

func (c *natsCluster) readerWorks(ctx context.Context, t *testing.T) {
	t.Helper()
	_, js, told := c.dial("reader")
	looking := client.New(js)
	if _, err := looking.Get(ctx, "long"); err != nil {
		t.Error(err)
	}
	if runs, err := looking.List(ctx, client.ListOptions{State: run.Cancelled}); err != nil || len(runs) != 1 {
		t.Errorf("%d runs, %v", len(runs), err)
	}
	queues, err := looking.Queues(ctx)
	if err != nil {
		t.Error(err)
	}
	for _, queue := range queues[:1] {
		if _, err := looking.Usage(ctx, queue); err != nil {
			t.Error(err)
		}
	}
	stream, err := logstream.Open(ctx, js)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Read(ctx, "fails", func() bool { return false }, func(logstream.Arrival) bool { return false }); err != nil {
		t.Error(err)
	}
	if violations := told.take(); violations != nil {
		t.Error(violations)
	}
}

// refuses publishes to and listens on what each must not. The server says no to
// each of them by name.
func (c *natsCluster) refuses(_ context.Context, t *testing.T) {
	t.Helper()
	deleting := []string{"$JS.API.STREAM.DELETE.RUNS", "$JS.API.STREAM.DELETE.KV_ropewalk-runs", "$JS.API.STREAM.DELETE.RUN_LOGS", "$JS.API.STREAM.PURGE.KV_ropewalk-runs"}
	making := []string{"$JS.API.STREAM.CREATE.MINE", "$JS.API.STREAM.UPDATE.RUN_LOGS"}
	writing := []string{"$KV.ropewalk-runs.default.x", "$KV.ropewalk-secrets.default.x", "ropewalk.index.default.x", "ropewalk.logs.00.default.x.1.p.c"}
	asking := []string{"ropewalk.runs.default.x", "$KV.ropewalk-cancels.default.x", "ropewalk.due.default.x.2", "$KV.ropewalk-queues.default"}
	taking := []string{"$JS.API.CONSUMER.CREATE.RUNS.mine", "$JS.API.CONSUMER.MSG.NEXT.RUNS.dispatch-default", "$JS.ACK.RUNS.dispatch-default.1.1.1.1.0", "$JS.API.CONSUMER.DELETE.RUNS.dispatch-default"}
	secrets := []string{"$JS.API.DIRECT.GET.KV_ropewalk-secrets", "$JS.API.DIRECT.GET.KV_ropewalk-secrets.$KV.ropewalk-secrets.default.x", "$JS.API.STREAM.MSG.GET.KV_ropewalk-secrets", "$JS.API.CONSUMER.CREATE.KV_ropewalk-secrets.mine"}
	waiting := []string{"$JS.API.DIRECT.GET.RUNS", "$JS.API.STREAM.MSG.GET.RUNS"}
	shipping := []string{"$JS.ACK.RUN_LOGS.ship-00.1.1.1.1.0", "$JS.API.STREAM.PURGE.RUN_LOGS"}
	for role, refused := range map[string][]string{
		"dispatcher": slices.Concat(deleting, shipping, []string{"$JS.API.CONSUMER.DELETE.RUNS.dispatch-default", "$JS.API.STREAM.MSG.GET.KV_ropewalk-secrets", "$SYS.REQ.SERVER.PING", "other.subject"}),
		"logshipper": slices.Concat(deleting[:2], making, writing, asking, taking, secrets, waiting, []string{"$JS.API.DIRECT.GET.KV_ropewalk-runs"}),
		"server": slices.Concat(deleting, making, writing, taking, secrets, waiting, shipping, []string{
			"ropewalk.runs.other.x", "$KV.ropewalk-cancels.other.x", "ropewalk.due.other.x.2", "$KV.ropewalk-queues.default",
			"$JS.API.DIRECT.GET.KV_ropewalk-runs", "$JS.API.DIRECT.GET.KV_ropewalk-runs.$KV.ropewalk-runs.other.x",
			"$JS.API.DIRECT.GET.RUNS.ropewalk.runs.other.x", "$JS.API.CONSUMER.CREATE.KV_ropewalk-runs.mine",
			"$JS.API.CONSUMER.CREATE.KV_ropewalk-runs.mine.$KV.ropewalk-runs.other.>", "$JS.API.CONSUMER.CREATE.KV_ropewalk-runs.mine.$KV.ropewalk-runs.>",
		}),
		// It writes lines of its own, and whatever else it may is tried by the
		// tests of the plugin, which are this user's.
		"zenml": slices.Concat(deleting, making, writing, taking, secrets, waiting, shipping, []string{
			"ropewalk.runs.other.x", "$KV.ropewalk-cancels.other.x", "ropewalk.due.default.x.2", "$KV.ropewalk-queues.default",
			"ropewalk.logs.00.default.x.1.pod.run", "ropewalk.logs.00.other.x.1.zenml-server.server", "ropewalk.answers",
			"$JS.API.STREAM.CREATE.KV_ropewalk-runs", "$JS.API.STREAM.UPDATE.KV_ropewalk-runs", "$JS.API.STREAM.DELETE.KV_ropewalk-zenml", "$JS.API.STREAM.PURGE.KV_ropewalk-zenml",
			"$JS.API.DIRECT.GET.KV_ropewalk-runs", "$JS.API.DIRECT.GET.KV_ropewalk-runs.$KV.ropewalk-runs.other.x",
			"$JS.API.DIRECT.GET.RUNS.ropewalk.runs.default.x", "$JS.API.STREAM.MSG.GET.KV_ropewalk-runs", "$JS.API.STREAM.MSG.GET.RUN_LOGS",
			"$JS.API.DIRECT.GET.RUN_LOGS", "$JS.API.DIRECT.GET.RUN_LOGS.ropewalk.logs.00.default.x.1.pod.run", "$JS.API.CONSUMER.CREATE.RUN_LOGS.mine",
			"$JS.API.CONSUMER.CREATE.KV_ropewalk-runs.mine", "$JS.API.CONSUMER.CREATE.KV_ropewalk-runs.mine.$KV.ropewalk-runs.other.>",
			"$JS.API.CONSUMER.CREATE.KV_ropewalk-runs.mine.$KV.ropewalk-runs.>", "$JS.API.CONSUMER.DELETE.KV_ropewalk-runs.mine",
		}),
		"operator": slices.Concat(deleting, making, writing, taking, secrets, shipping),
		"reader":   slices.Concat(deleting, making, writing, asking, taking, secrets, waiting, shipping),
	} {
		conn, _, told := c.dial(role)
		for _, subject := range refused {
			if err := conn.Publish(subject, nil); err != nil {
				t.Fatal(err)
			}
			if !isRefused(t, conn, told, subject) {
				t.Errorf("%s may publish to %s", role, subject)
			}
		}
		for _, subject := range []string{">", "_INBOX.>", "ropewalk.>", "$JS.>", "$KV.>", "_INBOX.other.>"} {
			if _, err := conn.Subscribe(subject, func(*nats.Msg) {}); err != nil {
				t.Fatal(err)
			}
			if !isRefused(t, conn, told, subject) {
				t.Errorf("%s may listen to %s", role, subject)
			}
		}
	}
}

// isRefused reports whether the connection was told that it may not use the
// subject that it has just used. A server tells of what comes on a connection in
// its order, so that it has said so by the time that it refuses a subject which
// nobody may use.
func isRefused(t *testing.T, conn *nats.Conn, told *violations, subject string) (seen bool) {
	t.Helper()
	const nobodys = "nobody.may.use.this"
	if err := conn.Publish(nobodys, nil); err != nil {
		t.Fatal(err)
	}
	wait.Until(t, "a subject to be refused that nobody may use", func() bool {
		over := false
		for _, violation := range told.take() {
			seen = seen || violates(violation, "publish", subject) || violates(violation, "subscription", subject)
			over = over || violates(violation, "publish", nobodys)
		}
		return over
	})
	return seen
}

func violates(violation, how, subject string) bool {
	return strings.Contains(strings.ToLower(violation), strings.ToLower(fmt.Sprintf("violation for %s to %q", how, subject)))
}

func (c *natsCluster) serverStaysInside(ctx context.Context, t *testing.T) {
	t.Helper()
	_, js, told := c.dial("server")
	own := client.New(js)
	// Nothing answers what is refused: it is waited for until the server has said
	// no on the side.
	untilRefused := func(call func(context.Context) error) error {
		calling, cancel := context.WithCancel(ctx)
		defer cancel()
		ended := make(chan error, 1)
		go func() { ended <- call(calling) }()
		var err error
		wait.Until(t, "an answer, or that the server says no", func() bool {
			select {
			case err = <-ended:
				return true
			default:
			}
			if told.take() == nil {
				return false
			}
			cancel()
			err = wait.Receive(t, "end of the call", ended)
			return true
		})
		return err
	}
	err := untilRefused(func(ctx context.Context) error {
		_, _, err := own.Submit(ctx, client.Request{ID: "intruder", Queue: "other", Command: []string{"true"}})
		return err
	})
	if err == nil {
		t.Error("it submitted to another queue")
	}
	if _, _, err := own.In("default").Submit(ctx, client.Request{Queue: "other", Command: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "queue default") {
		t.Errorf("its own client says %v", err)
	}
	err = untilRefused(func(ctx context.Context) error {
		_, err := own.In("other").Get(ctx, "secret")
		return err
	})
	if err == nil {
		t.Error("it read a run of another queue")
	}
	_, operator, _ := c.dial("operator")
	if _, err := client.New(operator).Get(ctx, "intruder"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("the run of the intruder: %v", err)
	}
	c.noSmuggling(ctx, t, js, operator)
}

// noSmuggling has the server deliver records of the own queue to the subject of
// another one, by a consumer that it may make.
func (c *natsCluster) noSmuggling(ctx context.Context, t *testing.T, js, operator jetstream.JetStream) {
	t.Helper()
	request := []byte(`{"stream_name": "KV_ropewalk-runs", "config": {"name": "smuggler", "ack_policy": "none", "deliver_subject": "ropewalk.runs.other.smuggled", "filter_subject": "$KV.ropewalk-runs.default.>", "inactive_threshold": 1000000000}}`)
	reply, err := js.Conn().RequestWithContext(ctx, "$JS.API.CONSUMER.CREATE.KV_ropewalk-runs.smuggler.$KV.ropewalk-runs.default.>", request)
	if err != nil {
		t.Fatal(err)
	}
	// The server gives up a consumer that nobody listens to.
	_, looking, _ := c.dial("dispatcher")
	wait.Until(t, "the consumer to have delivered, or to be gone", func() bool {
		consumer, err := looking.PushConsumer(ctx, "KV_ropewalk-runs", "smuggler")
		return errors.Is(err, jetstream.ErrConsumerNotFound) || err == nil && consumer.CachedInfo().Delivered.Consumer > 0
	})
	// What came to the other queue would be there before what comes now has ended.
	all := client.New(operator)
	if _, _, err := all.Submit(ctx, client.Request{ID: "after", Queue: "other", Command: []string{"true"}}); err != nil {
		t.Fatal(err)
	}
	if _, err := all.Wait(ctx, "after"); err != nil {
		t.Fatal(err)
	}
	if _, err := all.Get(ctx, "smuggled"); !errors.Is(err, client.ErrNotFound) {
		t.Errorf("a consumer delivered to another queue: %v; the server answered %s", err, reply.Data)
	}
}

// zenmlWorks does by hand what a ZenML server does that no program of ours does:
// it makes its bucket as the plugin does, follows the records of its queue by a
// durable consumer, and adds lines to a log of its own.
func (c *natsCluster) zenmlWorks(ctx context.Context, t *testing.T) {
	t.Helper()
	_, js, told := c.dial("zenml")
	must := func(what string, err error) {
		t.Helper()
		if err != nil {
			t.Fatalf("%s: %v; %v", what, err, told.take())
		}
	}
	records, err := js.Stream(ctx, "KV_ropewalk-runs")
	must("look at the records", err)
	_, err = js.CreateOrUpdateStream(ctx, jetstream.StreamConfig{
		Name: "KV_ropewalk-zenml", Subjects: []string{"$KV.ropewalk-zenml.>"}, MaxAge: 90 * 24 * time.Hour, MaxMsgsPerSubject: 1,
		AllowDirect: true, AllowRollup: true, DenyDelete: true, Discard: jetstream.DiscardNew, Replicas: records.CachedInfo().Config.Replicas,
	})
	must("make the bucket", err)
	notes, err := js.KeyValue(ctx, "ropewalk-zenml")
	must("open the bucket", err)
	_, err = notes.Put(ctx, "workload", []byte("[]"))
	must("note", err)
	// What it has just made need not answer at once; the plugin tries again.
	wait.Success(t, "the note", func() error {
		_, err := notes.Get(ctx, "workload")
		return err
	})
	if info, err := js.Stream(ctx, "KV_ropewalk-zenml"); err != nil || info.CachedInfo().Config.Replicas != 3 {
		t.Errorf("the bucket: %+v, %v", info, err)
	}
	reporter, err := js.CreateOrUpdateConsumer(ctx, "KV_ropewalk-runs", jetstream.ConsumerConfig{
		Durable: "zenml-1-default", FilterSubject: "$KV.ropewalk-runs.default.>", AckPolicy: jetstream.AckExplicitPolicy,
	})
	must("follow the records", err)
	var record jetstream.Msg
	wait.Success(t, "a record", func() error {
		record, err = reporter.Next(jetstream.FetchContext(ctx))
		return err
	})
	must("settle it", record.DoubleAck(ctx))
	line := logevent.Log{Queue: "default", Run: "fails", Attempt: 1, Pod: "zenml-server", Container: "server"}
	batch := logevent.Batch{First: 1, Lines: []logevent.Line{{Seq: 1, Time: time.Now(), Text: []byte("from the server")}}}
	written, err := logstream.Open(ctx, js)
	must("open the logs", err)
	_, err = written.Publish(ctx, line, batch.Encode(), 0, true)
	must("write a line", err)
	wait.Success(t, "the line", func() error {
		place, err := written.Place(ctx, line)
		if err == nil && place.Next != 2 {
			err = fmt.Errorf("the log goes on at %d", place.Next)
		}
		return err
	})
	if violations := told.take(); violations != nil {
		t.Error(violations)
	}
}

func (c *natsCluster) strangers(_ context.Context, t *testing.T) {
	t.Helper()
	for name, options := range map[string][]nats.Option{
		"without a password":    {nats.RootCAs(c.ca)},
		"with a wrong password": {nats.RootCAs(c.ca), nats.UserInfo("dispatcher", "guess")},
		"without the authority": {nats.UserInfo("dispatcher", "dispatcher-password")},
	} {
		if conn, err := nats.Connect(c.urls, options...); err == nil {
			conn.Close()
			t.Errorf("one connects %s", name)
		}
	}
	if conn, err := nats.Connect(strings.ReplaceAll(c.urls, "tls://", "nats://"), nats.UserInfo("dispatcher", "dispatcher-password")); err == nil {
		conn.Close()
		t.Error("one connects without TLS")
	}
}

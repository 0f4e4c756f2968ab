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
	"github.com/ropewalk/ropewalk/test/rig"
)

// The permissions of deploy/nats, on the three servers that its files make: a
// dispatcher and shipper of ours do their work with them, as do those who
// submit, look and operate; and none can do what is another one's.
func TestNATSPermissions(t *testing.T) {
	c := startNATS(t)
	log := c.serve()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	t.Run("streams have three replicas", func(t *testing.T) { c.replicated(ctx, t) })
	t.Run("a server submits, follows and cancels in its queue", func(t *testing.T) { c.serverWorks(ctx, t) })
	t.Run("an operator uses every command", func(t *testing.T) { c.operatorWorks(ctx, t) })
	t.Run("logs are written, archived and read", func(t *testing.T) { c.logsWork(ctx, t) })
	t.Run("a reader looks", func(t *testing.T) { c.readerWorks(ctx, t) })
	t.Run("nobody does what is another's", c.refuses)
	t.Run("a ZenML server keeps its notes on three servers", func(t *testing.T) { c.zenmlWorks(ctx, t) })
	t.Run("a server reaches no queue but its own", func(t *testing.T) { c.serverStaysInside(ctx, t) })
	t.Run("strangers stay outside", c.strangers)
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
	program := filepath.Join(dir, "dispatcher")
	if err := rig.Build(c.t.Context(), program, "github.com/ropewalk/ropewalk/cmd/dispatcher"); err != nil {
		c.t.Fatal(err)
	}
	log := filepath.Join(dir, "log")
	dispatcher, err := rig.Serve(program, c.settings("dispatcher").With(rig.Settings{
		"ROPEWALK_LAUNCHER": "local", "ROPEWALK_DATA_DIR": dir, "ROPEWALK_LOG_FORMAT": "json", "ROPEWALK_QUEUES": "other=2",
	}), log)
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(dispatcher.Kill)
	ctx, cancel := context.WithTimeout(c.t.Context(), time.Minute)
	defer cancel()
	if err := dispatcher.Ready(ctx); err != nil {
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
	if _, _, err := own.Submit(ctx, shell("long", "sleep 600")); err != nil {
		t.Fatal(err)
	}
	// Each server reads out what it has, and one of three may have it last.
	err := rig.Poll(ctx, 50*time.Millisecond, func() error {
		_, err := own.Get(ctx, "long")
		return err
	})
	if err != nil {
		t.Error(err)
	}
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
	c.operatorSchedules(ctx, all, work)
	_, err = all.PutContext(ctx, []byte("files"))
	work("store the files of a build", err)
	if violations := told.take(); violations != nil {
		t.Error(violations)
	}
}

// operatorSchedules has a queue and a schedule come, work and go.
func (c *natsCluster) operatorSchedules(ctx context.Context, all *client.Client, work func(string, error)) {
	c.t.Helper()
	work("create a queue", all.CreateQueue(ctx, client.Queue{Name: "passing", Concurrency: 1}))
	soon := time.Now().Add(time.Second)
	_, err := all.CreateSchedule(ctx, client.Schedule{Name: "once", At: &soon, Request: client.Request{Queue: "passing", Command: []string{"true"}}})
	work("create a schedule", err)
	var id string
	work("await its run", rig.Poll(ctx, 100*time.Millisecond, func() error {
		schedule, err := all.Schedule(ctx, "once")
		if id = schedule.Run; err == nil && id == "" {
			err = errors.New("it has not begun")
		}
		return err
	}))
	_, err = all.Wait(ctx, id)
	work("wait for its run", err)
	_, err = all.Schedules(ctx)
	work("list schedules", err)
	work("pause", all.PauseSchedule(ctx, "once"))
	work("resume", all.ResumeSchedule(ctx, "once"))
	work("delete the schedule", all.DeleteSchedule(ctx, "once"))
	_, err = all.UpdateQueue(ctx, "passing", false, func(queue *client.Queue) error { queue.Draining = true; return nil })
	work("drain the queue", err)
	work("delete the queue", rig.Poll(ctx, 100*time.Millisecond, func() error { return all.DeleteQueue(ctx, "passing") }))
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
	ended := make(chan error, 1)
	go func() {
		ended <- logship.Run(shipper, shipping, settings, kept, metrics.New("test"), zerolog.New(io.Discard))
	}()
	err = rig.Poll(ctx, 50*time.Millisecond, func() error {
		_, over, err := kept.Reached(ctx, log)
		if err == nil && !over {
			err = errors.New("the log is not archived to its end")
		}
		return err
	})
	stop()
	if err := errors.Join(err, <-ended); err != nil {
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
func (c *natsCluster) refuses(t *testing.T) {
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
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
			if !refusedFor(t, told, subject) {
				t.Errorf("%s may publish to %s", role, subject)
			}
		}
		for _, subject := range []string{">", "_INBOX.>", "ropewalk.>", "$JS.>", "$KV.>", "_INBOX.other.>"} {
			if _, err := conn.Subscribe(subject, func(*nats.Msg) {}); err != nil {
				t.Fatal(err)
			}
			if err := conn.Flush(); err != nil {
				t.Fatal(err)
			}
			if !refusedFor(t, told, subject) {
				t.Errorf("%s may listen to %s", role, subject)
			}
		}
	}
}

// refusedFor waits until the connection is told that it may not use a subject.
func refusedFor(t *testing.T, told *violations, subject string) bool {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	return rig.Poll(ctx, time.Millisecond, func() error {
		for _, violation := range told.take() {
			if strings.Contains(strings.ToLower(violation), strings.ToLower(fmt.Sprintf("violation for publish to %q", subject))) ||
				strings.Contains(strings.ToLower(violation), strings.ToLower(fmt.Sprintf("violation for subscription to %q", subject))) {
				return nil
			}
		}
		return errors.New("not told yet")
	}) == nil
}

func (c *natsCluster) serverStaysInside(ctx context.Context, t *testing.T) {
	t.Helper()
	_, js, _ := c.dial("server")
	own := client.New(js)
	short, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	if _, _, err := own.Submit(short, client.Request{ID: "intruder", Queue: "other", Command: []string{"true"}}); err == nil {
		t.Error("it submitted to another queue")
	}
	if _, _, err := own.In("default").Submit(ctx, client.Request{Queue: "other", Command: []string{"true"}}); err == nil || !strings.Contains(err.Error(), "queue default") {
		t.Errorf("its own client says %v", err)
	}
	if record, err := own.In("other").Get(short, "secret"); err == nil {
		t.Errorf("it read run %s of another queue", record.ID)
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
	waiting, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	err = rig.Poll(waiting, 20*time.Millisecond, func() error {
		_, err := client.New(operator).Get(ctx, "smuggled")
		return err
	})
	if err == nil {
		t.Errorf("a consumer delivered to another queue; the server answered %s", reply.Data)
	}
}

// zenmlWorks does by hand what a ZenML server does that no program of ours does:
// it makes its bucket as the plugin does, follows the records of its queue by a
// durable consumer, and adds lines to a log of its own.
func (c *natsCluster) zenmlWorks(ctx context.Context, t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
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
	soon := func(what string, try func() error) {
		t.Helper()
		must(what, rig.Poll(ctx, 50*time.Millisecond, try))
	}
	soon("look up", func() error {
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
	soon("take a record", func() error {
		record, err = reporter.Next(jetstream.FetchMaxWait(5 * time.Second))
		return err
	})
	must("settle it", record.DoubleAck(ctx))
	line := logevent.Log{Queue: "default", Run: "fails", Attempt: 1, Pod: "zenml-server", Container: "server"}
	batch := logevent.Batch{First: 1, Lines: []logevent.Line{{Seq: 1, Time: time.Now(), Text: []byte("from the server")}}}
	written, err := logstream.Open(ctx, js)
	must("open the logs", err)
	_, err = written.Publish(ctx, line, batch.Encode(), 0, true)
	must("write a line", err)
	soon("look up the line", func() error {
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

func (c *natsCluster) strangers(t *testing.T) {
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

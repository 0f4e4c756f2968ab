package main

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/ropewalk/ropewalk/client"
	"github.com/ropewalk/ropewalk/internal/run"
)

// at is a moment of the day on which the runs of these tests took place.
func at(t *testing.T, clock string) time.Time {
	t.Helper()
	moment, err := time.ParseInLocation("2006-01-02 15:04:05.000", "2030-01-31 "+clock, time.Local)
	if err != nil {
		t.Fatal(err)
	}
	return moment
}

// failedRun is a run with a bit of everything, some of it hostile.
func failedRun(t *testing.T) client.Run {
	t.Helper()
	started, finished, code := at(t, "10:00:02.000"), at(t, "10:00:05.500"), 3
	return client.Run{
		ID: "train", Queue: "gpu", State: run.Failed, Reason: run.AppError, ExitCode: &code, Attempt: 1,
		Message:  run.Explain(run.AppError, "The container ended with exit code 3: \x1b]0;mine\aoh no."),
		Image:    "registry.example.com/team/train:1.4",
		Job:      &run.Job{Namespace: "runs", Name: "run-train-1", UID: "1-2-3"},
		QueuedAt: at(t, "10:00:00.000"), StartedAt: &started, FinishedAt: &finished,
		Owner: "host-1", Labels: map[string]string{"team": "ml", "evil": "\x1b[2J"},
		History: []run.Change{
			{State: run.Queued, Attempt: 1, At: at(t, "10:00:00.000")},
			{State: run.Preparing, Attempt: 1, At: at(t, "10:00:00.250")},
			{State: run.Running, Attempt: 1, At: at(t, "10:00:02.000")},
			{State: run.Failed, Attempt: 1, At: at(t, "10:00:05.500")},
		},
		Evidence: &run.Evidence{
			Attempt: 1, Missing: "Not all is here: \x1b[2J.",
			Events:    []run.Event{{At: at(t, "10:00:03.000"), Count: 4, Reason: "BackOff\x1b[2J", Message: "Back-off \x1b]0;mine\a"}},
			LastLines: []string{"Traceback:", "\tline 1 \x1b[31mred", "", "\u009b2J\u202eoops"},
		},
		Request: &client.Request{
			Command: []string{"python", "train.py"}, Args: []string{"--name", "a b"}, WorkingDir: "/work",
			Env: map[string]string{"B": "2", "A": "1 2"}, SecretEnv: map[string]client.Secret{"TOKEN": "hunter2"},
			Image:   client.Image{Build: &client.Build{Dockerfile: "FROM a", Secrets: map[string]client.Secret{"netrc": "hunter2"}}},
			Pod:     client.Pod{Resources: client.Resources{Limits: map[string]string{"memory": "2Gi"}}},
			Timeout: client.Duration(90 * time.Second),
		},
	}
}

func TestPrintRun(t *testing.T) {
	var out bytes.Buffer
	printRun(screen{Writer: &out, width: 60}, failedRun(t), at(t, "10:01:00.000"))
	const want = `Run:         train
Queue:       gpu
State:       failed (AppError)
Meaning:     The run ended without success; the reason says
             why.
Message:     The container ended with exit code 3:
             \x1b]0;mine\aoh no. Read the run's log; when
             the program is mended, replay the run.
Exit code:   3
Attempt:     1
Image:       registry.example.com/team/train:1.4
Command:     python train.py --name 'a b'
Directory:   /work
Environment: A='1 2' B=2
Secrets:     TOKEN netrc (build)
Limits:      memory=2Gi
Timeout:     1m30s
Labels:      evil='\x1b[2J' team=ml
Job:         runs/run-train-1
Job UID:     1-2-3
Dispatcher:  host-1
Queued:      2030-01-31 10:00:00 (60s ago)
Started:     2030-01-31 10:00:02 (58s ago)
Finished:    2030-01-31 10:00:05 (54s ago)
Duration:    3.5s

Warning events of attempt 1
  10:00:03 BackOff\x1b[2J (4 times): Back-off \x1b]0;mine\a

Last lines of the log of attempt 1
  Traceback:
      line 1 \x1b[31mred

  \u009b2J\u202eoops

Not all is here: \x1b[2J.

ATTEMPT   WAITING   PREPARING   RUNNING   TOTAL   STATE       REASON
1         250ms     1.7s        3.5s      5.5s    failed      AppError (exit code 3)

STATE       SINCE          FOR
queued      10:00:00.000   250ms
preparing   10:00:00.250   1.7s
running     10:00:02.000   3.5s
failed      10:00:05.500
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

func TestPrintHistoryOfRunThatGoesOn(t *testing.T) {
	var out bytes.Buffer
	printHistory(screen{Writer: &out}, []run.Change{
		{State: run.Failed, Attempt: 1, At: at(t, "10:00:00.000")},
		{State: run.Queued, Attempt: 2, At: at(t, "10:00:01.000")},
	}, at(t, "10:00:03.000"))
	const want = `STATE       SINCE          FOR            ATTEMPT
failed      10:00:00.000   1s             1
queued      10:00:01.000   2s until now   2
`
	if out.String() != want {
		t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
	}
}

func TestPrintRuns(t *testing.T) {
	running := failedRun(t)
	running.ID, running.State, running.Reason, running.FinishedAt = "goes-on", run.Running, "", nil
	waiting := client.Run{ID: "waits", Queue: "a\x1b[2J", State: run.Queued, Attempt: 1, QueuedAt: at(t, "10:00:30.000")}
	newer := client.Run{ID: "newer", Queue: "default", State: "par\x1bked", Attempt: 1, QueuedAt: at(t, "10:00:30.000")}
	records, now := []client.Run{failedRun(t), running, waiting, newer}, at(t, "10:01:00.000")

	t.Run("without a terminal", func(t *testing.T) {
		var out bytes.Buffer
		printRuns(screen{Writer: &out, width: 40}, records, now)
		const want = `ID        QUEUE      STATE        REASON     ATTEMPT   AGE   DURATION   IMAGE
train     gpu        failed       AppError   1         60s   3.5s       train:1.4
goes-on   gpu        running                 1         60s   58s        train:1.4
waits     a\x1b[2J   queued                  1         30s
newer     default    par\x1bked              1         30s
`
		if out.String() != want {
			t.Errorf("got:\n%s\nwant:\n%s", out.String(), want)
		}
	})
	t.Run("on a terminal, lines are cut and states coloured", func(t *testing.T) {
		var out bytes.Buffer
		printRuns(screen{Writer: &out, width: 40, terminal: true, colour: true}, records, now)
		lines := strings.Split(out.String(), "\n")
		if want := "train     gpu        \x1b[31mfailed\x1b[0m       AppEr…"; lines[1] != want {
			t.Errorf("got %q, want %q", lines[1], want)
		}
		if want := "\x1b[36mrunning\x1b[0m"; !strings.Contains(lines[2], want) {
			t.Errorf("got %q, want %q in it", lines[2], want)
		}
		if strings.Contains(lines[3], "\x1b") || strings.Contains(lines[4], "\x1b") {
			t.Errorf("what runs say must not reach the terminal: %q, %q", lines[3], lines[4])
		}
	})
}

func TestColourIsForTerminals(t *testing.T) {
	var out bytes.Buffer
	if s := newScreen(&out); s.terminal || s.colour {
		t.Errorf("a buffer is taken for a terminal: %+v", s)
	}
	file, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = file.Close() }()
	if s := newScreen(file); s.terminal || s.colour {
		t.Errorf("a file is taken for a terminal: %+v", s)
	}
	for _, state := range append(run.States(), "unknown") {
		if got := (screen{}).state(state); got != string(state) {
			t.Errorf("without colour, %s shows as %q", state, got)
		}
	}
}

func TestVerdict(t *testing.T) {
	succeeded := failedRun(t)
	succeeded.State, succeeded.Reason, succeeded.Message = run.Succeeded, "", ""
	bare := client.Run{State: run.TimedOut, Reason: run.StartTimeout}
	foreign := client.Run{State: run.Failed, Reason: run.NodeLost, Message: "node-7 is\ngone."}
	for name, c := range map[string]struct {
		record client.Run
		want   string
	}{
		"success":                           {succeeded, "succeeded in 3.5s"},
		"success whose times are not known": {client.Run{State: run.Succeeded}, "succeeded"},
		"failure":                           {failedRun(t), `failed AppError: The container ended with exit code 3: \x1b]0;mine\aoh no. Read the run's log; when the program is mended, replay the run.`},
		"no message":                        {bare, "timed_out StartTimeout: The run did not start within the time allowed. See what it waited for in the message, mend that, and replay the run."},
		"a message that says nothing to do": {foreign, "failed NodeLost: node-7 is gone. Replay the run."},
	} {
		t.Run(name, func(t *testing.T) {
			if got := verdict(screen{}, c.record); got != c.want {
				t.Errorf("got  %q\nwant %q", got, c.want)
			}
		})
	}
}

func TestChangeLine(t *testing.T) {
	line := changeLine(screen{}, failedRun(t), at(t, "10:00:05.500"))
	want := `10:00:05  train                       failed     AppError: The container ended with exit code 3: \x1b]0;mine\aoh no. Read`
	if !strings.HasPrefix(line, want) {
		t.Errorf("got  %q\nwant %q", line, want)
	}
}

func TestJSONForTerminals(t *testing.T) {
	const hostile = "\x1b[2J \u009b31m \u202e \U000e0001 <ö>"
	var out bytes.Buffer
	if err := writeJSON(&out, map[string]string{"text": hostile}); err != nil {
		t.Fatal(err)
	}
	const want = "{\n  \"text\": \"\\u001b[2J \\u009b31m \\u202e \\udb40\\udc01 <ö>\"\n}\n"
	if out.String() != want {
		t.Errorf("got  %q\nwant %q", out.String(), want)
	}
	var back map[string]string
	if err := json.Unmarshal(out.Bytes(), &back); err != nil || back["text"] != hostile {
		t.Errorf("it reads back as %q, %v", back["text"], err)
	}
}

func TestReportSaysNothingTwice(t *testing.T) {
	var out bytes.Buffer
	if code := report(&out, nil); code != exitOK || out.Len() > 0 {
		t.Errorf("success: code %d, %q", code, out.String())
	}
	if code := report(&out, errTold); code != exitFailure || out.Len() > 0 {
		t.Errorf("told already: code %d, %q", code, out.String())
	}
	if code := report(&out, t.Context().Err()); code != exitOK || out.Len() > 0 {
		t.Errorf("a context that goes on: code %d, %q", code, out.String())
	}
}

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/doctor"
	"github.com/ropewalk/ropewalk/internal/natstest"
	"github.com/ropewalk/ropewalk/internal/queue"
)

// examined is what doctor says in an environment, by the names of the checks.
func examined(t *testing.T, options doctorOptions, environ map[string]string) (findings map[string]doctor.Finding, healthy bool) {
	t.Helper()
	for name, value := range environ {
		t.Setenv(name, value)
	}
	var stdout bytes.Buffer
	a := &app{stdin: strings.NewReader(""), stdout: &stdout, stderr: io.Discard}
	err := a.doctor(t.Context(), options, formatJSON)
	var report struct {
		Healthy  bool
		Findings []doctor.Finding
	}
	if decoding := json.Unmarshal(stdout.Bytes(), &report); decoding != nil {
		t.Fatalf("%v (%v): %s", decoding, err, stdout.String())
	}
	if (err == nil) != report.Healthy {
		t.Errorf("healthy is %t, and the command's error %v", report.Healthy, err)
	}
	findings = map[string]doctor.Finding{}
	for _, finding := range report.Findings {
		findings[finding.Check] = finding
		if finding.Found == "" || finding.Status == doctor.Failed && finding.ToDo == "" && finding.Check != "nats" {
			t.Errorf("the finding says too little: %+v", finding)
		}
	}
	return findings, report.Healthy
}

// served is a NATS server with all that a dispatcher makes there, and the
// environment in which doctor finds it.
func serverWithStreams(t *testing.T, options ...func(*server.Options)) (jetstream.JetStream, map[string]string) {
	t.Helper()
	conn, js := natstest.Start(t, options...)
	environ := map[string]string{"ROPEWALK_NATS_URL": conn.ConnectedUrl(), "ROPEWALK_LAUNCHER": config.LauncherLocal}
	t.Setenv("ROPEWALK_LAUNCHER", config.LauncherLocal)
	settings, err := config.LoadServe()
	if err != nil {
		t.Fatal(err)
	}
	definitions, _, err := prepareNATS(t.Context(), settings, js)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := queue.CreateCancellations(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.CreateDue(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.CreateSchedules(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	if _, err := queue.CreateStarts(t.Context(), js, 1); err != nil {
		t.Fatal(err)
	}
	known, err := definitions.Get(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	_, err = js.CreateConsumer(t.Context(), queue.Stream, jetstream.ConsumerConfig{
		Durable: queue.ConsumerPrefix + known.Name, FilterSubject: queue.Subjects + known.Name + ".>", AckPolicy: jetstream.AckExplicitPolicy,
		AckWait: settings.Runs.AckWait, MaxDeliver: -1, MaxAckPending: known.Concurrency,
	})
	if err != nil {
		t.Fatal(err)
	}
	return js, environ
}

// wantFinding demands what a check says, and to do.
func wantFinding(t *testing.T, findings map[string]doctor.Finding, check string, status doctor.Status, says string) {
	t.Helper()
	finding, there := findings[check]
	if text := finding.Found + " " + finding.ToDo; !there || finding.Status != status || !strings.Contains(text, says) {
		t.Errorf("%s is %s: %s; want %s: %s", check, finding.Status, text, status, says)
	}
}

func TestDoctorFindsNothingWrong(t *testing.T) {
	_, environ := serverWithStreams(t)
	environ["ROPEWALK_LOG_ARCHIVE"] = "file://" + t.TempDir()
	findings, healthy := examined(t, doctorOptions{}, environ)
	if healthy {
		t.Error("the stream of logs is missing, and that is not seen")
	}
	wantFinding(t, findings, "streams", doctor.Failed, "Some streams are missing: RUN_LOGS.")
	delete(environ, "ROPEWALK_LOG_ARCHIVE")
	t.Setenv("ROPEWALK_LOG_ARCHIVE", "")
	findings, healthy = examined(t, doctorOptions{}, environ)
	if !healthy {
		t.Errorf("not healthy: %+v", findings)
	}
	wantFinding(t, findings, "settings", doctor.OK, "valid")
	wantFinding(t, findings, "nats", doctor.OK, "answers at nats://127.0.0.1")
	wantFinding(t, findings, "jetstream", doctor.OK, "no limit")
	wantFinding(t, findings, "nats disk sync", doctor.Unknown, "--nats-monitor")
	wantFinding(t, findings, "streams", doctor.OK, "All 9 streams are there, each on 1 server.")
	wantFinding(t, findings, "queues", doctor.OK, "default (2)")
	wantFinding(t, findings, "log archive", doctor.Warning, "ROPEWALK_LOG_ARCHIVE")
}

func TestDoctorNamesEverySettingThatIsWrong(t *testing.T) {
	findings, healthy := examined(t, doctorOptions{}, map[string]string{
		"ROPEWALK_LAUNCHER": config.LauncherLocal, "ROPEWALK_ACK_WAIT": "soon", "ROPEWALK_NATS_URI": "nats://here",
	})
	if healthy || len(findings) != 2 {
		t.Errorf("found %+v", findings)
	}
	wantFinding(t, findings, "setting ROPEWALK_ACK_WAIT", doctor.Failed, "ROPEWALK_ACK_WAIT=30s")
	wantFinding(t, findings, "setting ROPEWALK_NATS_URI", doctor.Failed, "ROPEWALK_NATS_UR")
}

func TestDoctorNamesWhatIsWrongWithNATS(t *testing.T) {
	bare := func(t *testing.T, options ...func(*server.Options)) map[string]string {
		t.Helper()
		conn, _ := natstest.Start(t, options...)
		return map[string]string{"ROPEWALK_NATS_URL": conn.ConnectedUrl()}
	}
	for says, c := range map[string]struct {
		broken func(t *testing.T) (environ map[string]string)
		check  string
		status doctor.Status
		want   string
	}{
		"nobody listens": {
			func(*testing.T) map[string]string {
				return map[string]string{"ROPEWALK_NATS_URL": "nats://127.0.0.1:1"}
			},
			"nats", doctor.Failed, "no NATS server answers",
		},
		"no JetStream": {
			func(t *testing.T) map[string]string {
				t.Helper()
				return bare(t, func(o *server.Options) { o.JetStream = false })
			},
			"jetstream", doctor.Failed, "without JetStream",
		},
		"nothing there yet": {func(t *testing.T) map[string]string { t.Helper(); return bare(t) }, "streams", doctor.Warning, "Start a dispatcher"},
		"a stream is gone": {
			func(t *testing.T) map[string]string {
				t.Helper()
				js, environ := serverWithStreams(t)
				if err := js.DeleteStream(t.Context(), queue.DueStream); err != nil {
					t.Fatal(err)
				}
				return environ
			},
			"streams", doctor.Failed, "Some streams are missing: RUN_DUE.",
		},
		"fewer copies than configured": {
			func(t *testing.T) map[string]string {
				t.Helper()
				_, environ := serverWithStreams(t)
				environ["ROPEWALK_NATS_REPLICAS"] = "2"
				return environ
			},
			"streams", doctor.Failed, "RUNS is kept by 1 server, not by 2",
		},
		"a consumer that was changed by hand": {
			func(t *testing.T) map[string]string {
				t.Helper()
				js, environ := serverWithStreams(t)
				consumer, err := js.Consumer(t.Context(), queue.Stream, queue.ConsumerPrefix+"default")
				if err != nil {
					t.Fatal(err)
				}
				changed := consumer.CachedInfo().Config
				changed.MaxAckPending = 1000
				if _, err := js.UpdateConsumer(t.Context(), queue.Stream, changed); err != nil {
					t.Fatal(err)
				}
				return environ
			},
			"queues", doctor.Failed, "the consumer of queue default lets 1000 runs be under way, not 2",
		},
		"an account with too small a store": {
			func(t *testing.T) map[string]string {
				t.Helper()
				url := natsURL(t, accountWith(t, map[string]string{"max_file": "10MB"}))
				return map[string]string{"ROPEWALK_NATS_URL": url, "ROPEWALK_LOG_ARCHIVE": "file://" + t.TempDir()}
			},
			"jetstream", doctor.Failed, "may store 10.0 MiB, and the stream of logs alone is to have 1.0 GiB",
		},
		"an account with too few streams": {
			func(t *testing.T) map[string]string {
				t.Helper()
				return map[string]string{"ROPEWALK_NATS_URL": natsURL(t, accountWith(t, map[string]string{"max_streams": "3"}))}
			},
			"jetstream", doctor.Failed, "may have 3 streams and has 0; Ropewalk needs 9 more",
		},
	} {
		t.Run(says, func(t *testing.T) {
			t.Setenv("ROPEWALK_LAUNCHER", config.LauncherLocal)
			findings, _ := examined(t, doctorOptions{}, c.broken(t))
			wantFinding(t, findings, c.check, c.status, c.want)
		})
	}
}

// accountWith is a configuration in which everybody has an account with limits.
func accountWith(t *testing.T, limits map[string]string) string {
	t.Helper()
	var text strings.Builder
	for name, value := range limits {
		_, _ = fmt.Fprintf(&text, "%s: %s\n", name, value)
	}
	return fmt.Sprintf(`listen: "127.0.0.1:-1"
jetstream { store_dir: %q }
accounts { RUNS { jetstream { %s }, users: [{user: ropewalk, password: hunter2}] } }
no_auth_user: ropewalk
`, t.TempDir(), text.String())
}

// natsURL starts a server with a configuration.
func natsURL(t *testing.T, configuration string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "nats.conf")
	if err := os.WriteFile(path, []byte(configuration), 0o600); err != nil {
		t.Fatal(err)
	}
	configured, err := server.ProcessConfigFile(path)
	if err != nil {
		t.Fatal(err)
	}
	conn, _ := natstest.Start(t, func(o *server.Options) { *o = *configured; o.NoLog, o.NoSigs = true, true })
	return conn.ConnectedUrl()
}

func TestDoctorTellsHowTheServerSyncs(t *testing.T) {
	for says, c := range map[string]struct {
		always   bool
		replicas string
		status   doctor.Status
		want     string
	}{
		"always":             {true, "1", doctor.OK, "before it acknowledges it"},
		"now and then":       {false, "1", doctor.Warning, "every 2m0s only"},
		"with three servers": {false, "3", doctor.OK, "3 servers hold each message"},
	} {
		t.Run(says, func(t *testing.T) {
			t.Setenv("ROPEWALK_LAUNCHER", config.LauncherLocal)
			free, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				t.Fatal(err)
			}
			monitor := free.Addr().(*net.TCPAddr)
			_ = free.Close()
			conn, _ := natstest.Start(t, func(o *server.Options) {
				o.SyncAlways, o.HTTPHost, o.HTTPPort = c.always, "127.0.0.1", monitor.Port
			})
			environ := map[string]string{"ROPEWALK_NATS_URL": conn.ConnectedUrl(), "ROPEWALK_NATS_REPLICAS": c.replicas}
			findings, _ := examined(t, doctorOptions{monitor: "http://" + monitor.String()}, environ)
			wantFinding(t, findings, "nats disk sync", c.status, c.want)
		})
	}
	t.Run("to the system account, without its monitoring", func(t *testing.T) {
		t.Setenv("ROPEWALK_LAUNCHER", config.LauncherLocal)
		configuration := fmt.Sprintf(`listen: "127.0.0.1:-1"
jetstream { store_dir: %q, sync_interval: always }
accounts { SYS { users: [{user: sys, password: hunter2}] } }
system_account: SYS
no_auth_user: sys
`, t.TempDir())
		patient := &patient{settings: &config.Config{}}
		conn, err := nats.Connect(natsURL(t, configuration))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(conn.Close)
		patient.conn = conn
		if finding := patient.lookAtSync(t.Context()); finding.Status != doctor.OK {
			t.Errorf("found %+v", finding)
		}
	})
	t.Run("not, where the monitoring does not answer", func(t *testing.T) {
		_, environ := serverWithStreams(t)
		findings, _ := examined(t, doctorOptions{monitor: "http://127.0.0.1:1"}, environ)
		wantFinding(t, findings, "nats disk sync", doctor.Unknown, "Check --nats-monitor")
	})
}

func TestDoctorNamesWhatIsWrongWithTheArchive(t *testing.T) {
	_, environ := serverWithStreams(t)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("a folder that is a file", func(t *testing.T) {
		t.Setenv("ROPEWALK_LOG_ARCHIVE", "file://"+file)
		findings, _ := examined(t, doctorOptions{}, environ)
		wantFinding(t, findings, "log archive", doctor.Failed, "Make the folder writable")
	})
	for code, want := range map[string]string{
		"AccessDenied": "s3:PutObject", "NoSuchBucket": "Create the bucket", "InvalidAccessKeyId": "valid credentials",
	} {
		t.Run(code, func(t *testing.T) {
			bucket := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/xml")
				w.Header().Set("Connection", "close")
				w.WriteHeader(http.StatusForbidden)
				_, _ = fmt.Fprintf(w, "<Error><Code>%s</Code><Message>no</Message></Error>", code)
			}))
			t.Cleanup(bucket.Close)
			for name, value := range map[string]string{
				"ROPEWALK_LOG_ARCHIVE": "s3://logs", "ROPEWALK_S3_ENDPOINT": bucket.URL, "ROPEWALK_S3_PATH_STYLE": "true",
				"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_EC2_METADATA_DISABLED": "true",
			} {
				t.Setenv(name, value)
			}
			findings, healthy := examined(t, doctorOptions{}, environ)
			wantFinding(t, findings, "log archive", doctor.Failed, want)
			if healthy {
				t.Error("it counts as healthy")
			}
		})
	}
}

func TestDoctorOnATerminalAndInAPipe(t *testing.T) {
	finding := doctor.Bad("Start \x1b[2J one.", "No server.")
	finding.Check = "nats"
	var out bytes.Buffer
	printFinding(screen{Writer: &out}, finding)
	if want := "failed   nats                              No server. Start \\x1b[2J one.\n"; out.String() != want {
		t.Errorf("got %q, want %q", out.String(), want)
	}
	out.Reset()
	printFinding(screen{Writer: &out, colour: true}, finding)
	if !strings.HasPrefix(out.String(), "\x1b[31mfailed ") {
		t.Errorf("in colour: %q", out.String())
	}
}

func TestDoctorEndsWhenTheServerHangs(t *testing.T) {
	t.Setenv("ROPEWALK_LAUNCHER", config.LauncherLocal)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // it takes connections, and says nothing
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = silent.Close() })
	findings, _ := examined(t, doctorOptions{}, map[string]string{"ROPEWALK_NATS_URL": "nats://" + silent.Addr().String()})
	wantFinding(t, findings, "nats", doctor.Failed, "timeout")
	wantFinding(t, findings, "queues", doctor.Skipped, "jetstream")
}

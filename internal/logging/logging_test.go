package logging

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestMessagesAreJSONWhereNobodyWatches(t *testing.T) {
	for sentence, format := range map[string]string{
		"auto without a terminal": FormatAuto,
		"json":                    FormatJSON,
		"an unknown format":       "xml",
	} {
		t.Run(sentence, func(t *testing.T) {
			var out bytes.Buffer
			log := New(&out, "info", format)
			before := time.Now().Truncate(time.Millisecond) // as the time is written
			log.Error().Err(errors.New("no room")).Str(RunID, "r1").Msg("job not created")
			var message map[string]string
			if err := json.Unmarshal(out.Bytes(), &message); err != nil {
				t.Fatalf("%s: %v", out.String(), err)
			}
			at, err := time.Parse(time.RFC3339Nano, message["time"])
			if err != nil || at.Before(before) || at.After(time.Now()) || !strings.HasSuffix(message["time"], "Z") || len(message["time"]) != len("2026-01-02T15:04:05.000Z") {
				t.Errorf("the time is %q", message["time"])
			}
			delete(message, "time")
			want := map[string]string{"level": "error", "message": "job not created", "err": "no room", "run_id": "r1"}
			for name, value := range want {
				if message[name] != value {
					t.Errorf("%s is %q, want %q", name, message[name], value)
				}
			}
			if len(message) != len(want) {
				t.Errorf("got %v, want %v", message, want)
			}
		})
	}
}

func TestTheConsoleFormatIsPlainInAFile(t *testing.T) {
	var out bytes.Buffer
	log := New(&out, "info", FormatConsole)
	log.Info().Str(Queue, "gpu").Msg("queue opened")
	text := out.String()
	if !strings.HasSuffix(text, "INF queue opened queue=gpu\n") || strings.Contains(text, "\x1b") {
		t.Errorf("got %q", text)
	}
	if _, err := time.Parse("15:04:05.000", strings.Fields(text)[0]); err != nil {
		t.Errorf("the time: %v", err)
	}
}

func TestAFileIsNoTerminal(t *testing.T) {
	file, err := os.Create(t.TempDir() + "/log")
	if err != nil {
		t.Fatal(err)
	}
	log := New(file, "info", FormatAuto)
	log.Info().Msg("hello")
	if err := file.Close(); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(file.Name())
	if err != nil || !json.Valid(text) {
		t.Errorf("got %q, %v", text, err)
	}
}

func TestLevels(t *testing.T) {
	for level, want := range map[string]string{
		"trace": "trace debug info warn error", "debug": "debug info warn error", "info": "info warn error",
		"warn": "warn error", "error": "error", "": "info warn error", "loud": "info warn error",
	} {
		t.Run(level, func(t *testing.T) {
			var out bytes.Buffer
			log := New(&out, level, FormatJSON)
			log.Trace().Msg("trace")
			log.Debug().Msg("debug")
			log.Info().Msg("info")
			log.Warn().Msg("warn")
			log.Error().Msg("error")
			var got []string
			for line := range strings.Lines(out.String()) {
				var message struct{ Message string }
				if err := json.Unmarshal([]byte(line), &message); err != nil {
					t.Fatal(err)
				}
				got = append(got, message.Message)
			}
			if strings.Join(got, " ") != want {
				t.Errorf("got %v, want %s", got, want)
			}
		})
	}
}

// The race detector is what fails here, and a line that is not whole.
func TestMessagesOfManyDoNotMix(t *testing.T) {
	for _, format := range []string{FormatJSON, FormatConsole} {
		var out bytes.Buffer
		log := New(&out, "info", format)
		var all sync.WaitGroup
		for range 8 {
			all.Go(func() {
				for range 50 {
					log.Info().Str(Component, "queue").Msg("hello")
				}
			})
		}
		all.Wait()
		whole := 0
		for line := range strings.Lines(out.String()) {
			if strings.Count(line, "hello") == 1 && strings.Count(line, "queue") == 1 {
				whole++
			}
		}
		if whole != 8*50 {
			t.Errorf("%s: %d whole lines, want %d", format, whole, 8*50)
		}
	}
}

package rig

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"time"
)

// Settings are environment variables by name.
type Settings map[string]string

// With returns a copy with more settings, or others.
func (s Settings) With(more Settings) Settings {
	all := maps.Clone(s)
	maps.Copy(all, more)
	return all
}

// environ is the environment of a process that is given these settings: theirs
// and what every program needs, but nothing else of this process's, where a
// stray variable would decide what is tested.
func (s Settings) environ() []string {
	env := []string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.TempDir()}
	for name, value := range s {
		env = append(env, name+"="+value)
	}
	return env
}

// Dispatcher is one `dispatcher serve` process.
type Dispatcher struct {
	*Process
	// Address is where it serves its health and metrics.
	Address string
	// Log is the file that it logs to.
	Log string
	// StartedAt is when the process was started.
	StartedAt time.Time
}

// Serve starts a dispatcher with the given settings and a free address for its
// health and metrics, which it keeps when the settings name one. It does not
// wait until it is ready; see Ready.
func Serve(program string, settings Settings, logPath string) (*Dispatcher, error) {
	address := settings["ROPEWALK_HTTP_ADDR"]
	if address == "" {
		var err error
		if address, err = FreeAddress(); err != nil {
			return nil, err
		}
		settings = settings.With(Settings{"ROPEWALK_HTTP_ADDR": address})
	}
	process, err := Start(program, []string{"serve"}, settings.environ(), logPath)
	if err != nil {
		return nil, err
	}
	return &Dispatcher{Process: process, Address: address, Log: logPath, StartedAt: time.Now()}, nil
}

// Ready waits until the dispatcher says that it is ready.
func (d *Dispatcher) Ready(ctx context.Context) error {
	err := Poll(ctx, 20*time.Millisecond, func() error {
		select {
		case <-d.Done():
			return Stop(fmt.Errorf("it ended; its log is %s", d.Log))
		default:
		}
		_, err := d.Get(ctx, "/readyz")
		return err
	})
	if err != nil {
		return fmt.Errorf("wait for the dispatcher to be ready: %w", err)
	}
	return nil
}

// Get reads one of the dispatcher's pages.
func (d *Dispatcher) Get(ctx context.Context, path string) (string, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+d.Address+path, nil)
	if err != nil {
		return "", fmt.Errorf("ask for %s: %w", path, err)
	}
	request.Close = true // so that no idle connection outlives the test
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return "", fmt.Errorf("ask for %s: %w", path, err)
	}
	body, err := io.ReadAll(response.Body)
	if err := errors.Join(err, response.Body.Close()); err != nil {
		return "", fmt.Errorf("read %s: %w", path, err)
	}
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s answers %s: %.200s", filepath.Base(path), response.Status, body)
	}
	return string(body), nil
}

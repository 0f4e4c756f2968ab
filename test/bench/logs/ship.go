package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/archive"
	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logship"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/metrics"
	"github.com/ropewalk/ropewalk/internal/ship"
	"github.com/ropewalk/ropewalk/internal/sink/file"
	"github.com/ropewalk/ropewalk/test/rig"
)

// sample is a line as programs write them; no two are the same.
func sample(i int) string {
	return fmt.Sprintf("2026-01-02 15:04:%02d,%03d INFO trainer.loop step=%d loss=%.6f lr=%.3e samples/s=%d", i/1000%60, i%1000, i, 1/float64(i+1), 1e-3/float64(i%97+1), 4000+i*7919%1000)
}

// filled makes a stream with the logs of runs, of so much text each, and a file
// with the same text.
func (b *bench) filled(ctx context.Context, js jetstream.JetStream, runs, bytesEach int, plain io.Writer) error {
	stream, err := logstream.Create(ctx, js, logstream.Config{MaxBytes: -1, Replicas: 1})
	if err != nil {
		return err
	}
	for r := range runs {
		log := logevent.Log{Queue: "default", Run: fmt.Sprint("run-", r), Attempt: 1, Pod: "pod", Container: "run"}
		version, next := uint64(0), uint64(1)
		for size := 0; size < bytesEach; {
			var builder logevent.Builder
			for builder.Size() < 256<<10 && size < bytesEach {
				text := sample(int(next) + int(builder.Count()))
				builder.Add(time.Now(), 0, []byte(text))
				size += len(text) + 1
				if _, err := fmt.Fprintln(plain, text); err != nil {
					return err
				}
			}
			if version, err = stream.Publish(ctx, log, builder.Encode(next, logevent.Position{Time: time.Now(), Ordinal: 1}, false), version, false); err != nil {
				return err
			}
			next += builder.Count()
		}
		var none logevent.Builder
		if _, err := stream.Publish(ctx, log, none.Encode(next, logevent.Position{}, true), version, true); err != nil {
			return err
		}
	}
	return nil
}

// tally counts what a shipper does, and tells when it has done all.
type tally struct {
	*metrics.Metrics
	puts, finished atomic.Int64
	want           int64
	done           chan struct{}
}

// counted is a sink whose logs' ends are counted.
type counted struct {
	ship.Sink
	tally *tally
}

func (c counted) Finish(ctx context.Context, log logevent.Log, lines []logevent.Line, next uint64) error {
	err := c.Sink.Finish(ctx, log, lines, next)
	if err == nil && c.tally.finished.Add(1) == c.tally.want {
		close(c.tally.done)
	}
	return err
}

// objects counts what is put into a folder.
type objects struct {
	*file.Folder
	puts *atomic.Int64
}

func (o objects) Put(ctx context.Context, key string, body io.Reader, size int64) error {
	o.puts.Add(1)
	return o.Folder.Put(ctx, key, body, size)
}

// shipped ships until so many logs are there to their ends, with the settings'
// defaults, and returns how long that took and how many objects were written.
func shipped(ctx context.Context, js jetstream.JetStream, dir string, logs int) (took, cpu time.Duration, puts int64, err error) {
	settings, err := config.LoadLogs()
	if err != nil {
		return 0, 0, 0, err
	}
	folder, err := file.New(dir)
	if err != nil {
		return 0, 0, 0, err
	}
	t := &tally{Metrics: metrics.New("bench"), want: int64(logs), done: make(chan struct{})}
	kept, err := archive.New(objects{folder, &t.puts})
	if err != nil {
		return 0, 0, 0, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began, used := time.Now(), cpuTime()
	ended := make(chan error, 1)
	go func() { ended <- logship.Run(ctx, js, settings, counted{kept, t}, t, zerolog.Nop()) }()
	select {
	case <-t.done:
	case err := <-ended:
		return 0, 0, 0, errors.Join(err, errors.New("the shipper ended early"))
	}
	took, cpu = time.Since(began), cpuTime()-used
	cancel()
	return took, cpu, t.puts.Load(), <-ended
}

// shipping starts a shipper, and returns once it stands by for every partition.
// What it returns waits until so many lines were confirmed, and ends it.
func shipping(ctx context.Context, js jetstream.JetStream, dir string, lines int) (await func() error, err error) {
	settings, err := config.LoadLogs()
	if err != nil {
		return nil, err
	}
	// The last lines shall not wait for others: the pod goes on.
	settings.Logs.ShipAge, settings.Logs.ShipBytes = 100*time.Millisecond, 2<<20
	folder, err := file.New(dir)
	if err != nil {
		return nil, err
	}
	kept, err := archive.New(folder)
	if err != nil {
		return nil, err
	}
	counts := &confirmed{Metrics: metrics.New("bench"), want: int64(lines), done: make(chan struct{})}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan error, 1)
	go func() { ended <- logship.Run(ctx, js, settings, kept, counts, zerolog.Nop()) }()
	await = func() error {
		defer cancel()
		select {
		case <-counts.done:
			cancel()
			return <-ended
		case err := <-ended:
			return errors.Join(err, context.Cause(ctx), errors.New("the shipper ended early"))
		}
	}
	err = rig.Poll(ctx, 50*time.Millisecond, func() error {
		stream, err := js.Stream(ctx, logstream.Name)
		if err == nil && stream.CachedInfo().State.Consumers < logstream.Partitions {
			err = errors.New("not all partitions have a shipper")
		}
		return err
	})
	if err != nil {
		cancel()
		return nil, errors.Join(err, <-ended)
	}
	return await, nil
}

// confirmed tells when so many lines were shipped.
type confirmed struct {
	*metrics.Metrics
	lines atomic.Int64
	want  int64
	done  chan struct{}
}

func (c *confirmed) Shipped(lines, size int, age time.Duration) {
	c.Metrics.Shipped(lines, size, age)
	if n := c.lines.Add(int64(lines)); n >= c.want && n-int64(lines) < c.want {
		close(c.done)
	}
}

// cpuTime is what this process has used so far.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic("getrusage: " + err.Error())
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// ship measures the shipper from a filled stream to a folder, and gzip with the
// same text.
func (b *bench) ship(ctx context.Context) error {
	server, err := b.nats(ctx)
	if err != nil {
		return err
	}
	defer server.Kill()
	conn, js, err := server.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	plain, err := os.Create(filepath.Join(b.dir, "plain"))
	if err != nil {
		return err
	}
	defer func() { _ = plain.Close() }()
	const runs = 16
	if err := b.filled(ctx, js, runs, b.options.shipBytes/runs, plain); err != nil {
		return err
	}
	text, err := plain.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	dir := filepath.Join(b.dir, "archive")
	took, cpu, _, err := shipped(ctx, js, dir, runs)
	if err != nil {
		return err
	}
	kept, err := sizeOf(dir)
	if err != nil {
		return err
	}
	gzip := exec.CommandContext(ctx, "gzip", "-c", plain.Name())
	packed := &written{}
	gzip.Stdout = packed
	began := time.Now()
	if err := gzip.Run(); err != nil {
		return fmt.Errorf("gzip: %w", err)
	}
	gzipTook, gzipCPU := time.Since(began), gzip.ProcessState.UserTime()+gzip.ProcessState.SystemTime()
	mb := float64(text) / 1e6
	b.found("shipper, stream to folder", fmt.Sprintf("%.0f MB/s, %.0f MB/s per core, to %.0f%%", mb/took.Seconds(), mb/cpu.Seconds(), 100*float64(kept)/float64(text)), "", true)
	b.found("gzip of the same text", fmt.Sprintf("%.0f MB/s, %.0f MB/s per core, to %.0f%%", mb/gzipTook.Seconds(), mb/gzipCPU.Seconds(), 100*float64(packed.n)/float64(text)), "", true)
	ratio := gzipCPU.Seconds() / cpu.Seconds()
	b.found("shipper : gzip, per core", fmt.Sprintf("%.2f", ratio), "", true)
	return nil
}

type written struct{ n int64 }

func (w *written) Write(data []byte) (int, error) {
	w.n += int64(len(data))
	return len(data), nil
}

func sizeOf(dir string) (size int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		info, err := entry.Info()
		if err == nil {
			size += info.Size()
		}
		return err
	})
	return size, err
}

// requests counts objects written for one large run, and for many small ones.
func (b *bench) requests(ctx context.Context) error {
	server, err := b.nats(ctx)
	if err != nil {
		return err
	}
	defer server.Kill()
	conn, js, err := server.Connect(ctx)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := b.filled(ctx, js, 1, b.options.shipBytes, io.Discard); err != nil {
		return err
	}
	_, _, large, err := shipped(ctx, js, filepath.Join(b.dir, "large"), 1)
	if err != nil {
		return err
	}
	if err := js.DeleteStream(ctx, logstream.Name); err != nil {
		return err
	}
	const small = 50
	if err := b.filled(ctx, js, small, 900<<10, io.Discard); err != nil {
		return err
	}
	_, _, puts, err := shipped(ctx, js, filepath.Join(b.dir, "small"), small)
	if err != nil {
		return err
	}
	b.found("writes per GiB of one log", fmt.Sprintf("%.0f", float64(large)*float64(1<<30)/float64(b.options.shipBytes)), "", true)
	b.found("writes per run of 900 KiB", fmt.Sprintf("%.2f", float64(puts)/small), "1", puts == small)
	return nil
}

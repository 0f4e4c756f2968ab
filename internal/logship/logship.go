// Package logship is the wiring that the logshipper and the embedded default
// share: it opens the archive that the settings name, and ships every partition
// of the stream to it.
package logship

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"
	"golang.org/x/sync/errgroup"

	"github.com/ropewalk/ropewalk/internal/archive"
	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/retry"
	"github.com/ropewalk/ropewalk/internal/ship"
	"github.com/ropewalk/ropewalk/internal/sink/file"
	"github.com/ropewalk/ropewalk/internal/sink/s3"
)

// ErrNowhere tells that the settings name no archive.
var ErrNowhere = errors.New("nothing says where logs are kept; set ROPEWALK_LOG_ARCHIVE to s3://BUCKET/PREFIX, gcplog://PROJECT/LOG or file:///FOLDER")

// Archive is where logs are kept, and read from without a cluster.
type Archive interface {
	ship.Sink
	// Logs lists the logs of a run, or of all runs if the id is empty, of
	// which something was written since then.
	Logs(ctx context.Context, runID string, since time.Time) ([]archive.Stored, error)
	// Read gives lines from a sequence on to take, each once and in order,
	// until that returns false, a line is missing, or there is no more. It
	// returns the next sequence, and whether the log ends there.
	Read(ctx context.Context, log logevent.Log, from uint64, take func(logevent.Line) bool) (next uint64, ended bool, err error)
	// Check reads a whole log, and says whether its lines are all there.
	Check(ctx context.Context, stored archive.Stored) (archive.Verdict, error)
	// Probe tells whether logs can be kept and read; its error is an
	// [*archive.ProbeError].
	Probe(ctx context.Context) error
	// Lag is how long what was confirmed may be missing from what is read.
	Lag() time.Duration
	// Close lets go of connections and memory.
	Close() error
}

// Requests counts what is asked of the archive.
type Requests interface {
	SinkRequest(operation string)
	SinkRefused(reason string)
}

// Open opens the archive of the settings. Requests may be nil. The caller closes
// what it returns.
func Open(ctx context.Context, settings *config.Config, requests Requests) (Archive, error) {
	where := settings.Archive()
	switch {
	case where.Folder != "":
		folder, err := file.New(where.Folder)
		if err != nil {
			return nil, err
		}
		return archive.New(folder)
	case where.Bucket != "":
		with := s3.Settings{
			Bucket: where.Bucket, Prefix: where.Prefix, Region: settings.AWS.Region, Endpoint: settings.Logs.S3Endpoint,
			PathStyle: settings.Logs.S3PathStyle, Encryption: settings.Logs.S3Encryption, KMSKey: settings.Logs.S3KMSKey,
			Tags: settings.Logs.S3Tags,
		}
		if requests != nil {
			with.Count = requests.SinkRequest
		}
		bucket, err := s3.New(ctx, with)
		if err != nil {
			return nil, err
		}
		return archive.New(bucket)
	case where.CloudLog != "":
		return openCloudLog(ctx, settings, where, requests)
	default:
		return nil, ErrNowhere
	}
}

// Counter counts what is shipped.
type Counter interface {
	ship.Counter
	// Stray: a message was passed over that does not belong on the stream.
	Stray(reason string)
}

// mostBytes bounds the memory of what a shipper holds. Beside it, the client has
// up to 4 MiB of each partition on their way, and each can be encoding one object,
// for 12 MiB at the default size: 448 MiB if all of that happens at once, and
// twice that by the time the garbage is collected. A shipper fits into 1 GiB.
const mostBytes = 192 << 20

// Run ships the whole stream to the sink until ctx ends. Any number of
// processes may do so: each partition is one's at a time.
func Run(ctx context.Context, js jetstream.JetStream, settings *config.Config, sink ship.Sink, counter Counter, log zerolog.Logger) error {
	shipper, err := ship.New(ship.Config{
		Sink: sink, Counter: counter, Log: log, Bytes: settings.Logs.ShipBytes, Age: settings.Logs.ShipAge,
		MostBytes: mostBytes, Partitions: logstream.Partitions, Now: time.Now,
	})
	if err != nil {
		return err
	}
	var stream *logstream.Stream
	told := false
	err = retry.Do(ctx, retry.Network, func() error {
		stream, err = logstream.Open(ctx, js)
		return err
	}, func(err error, _ time.Duration) {
		if !told {
			told = true
			log.Warn().Err(err).Msg("cannot open the stream of logs, trying until it works")
		}
	})
	if err != nil {
		return stopped(ctx, err)
	}
	strays := &strays{counter: counter, log: log, said: make(map[string]bool)}
	parts, failing := errgroup.WithContext(ctx)
	for rank, partition := range rand.Perm(logstream.Partitions) { //nolint:gosec // who gets what is no secret
		parts.Go(func() error {
			select {
			case <-time.After(time.Duration(rank) * stagger):
			case <-failing.Done():
				return failing.Err()
			}
			return shipPartition(failing, shipper, stream, partition, strays)
		})
	}
	return stopped(ctx, parts.Wait())
}

// stagger is what lies between the first asking for one partition and for the
// next. Who asks first gets a partition, and each process asks in an order of
// its own, so that those which start together share them.
const stagger = 150 * time.Millisecond

// stopped makes the end that was asked for none of an error.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil //nolint:nilerr // whatever it is, it is of the stop
	}
	return err
}

// strays counts what does not belong on the stream, and says so once for each
// reason: whoever sends one sends many.
type strays struct {
	counter Counter
	log     zerolog.Logger
	mu      sync.Mutex
	said    map[string]bool
}

func (s *strays) stray(reason string, err error) {
	s.counter.Stray(reason)
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.said[reason] {
		s.said[reason] = true
		s.log.Warn().Err(err).Str("reason", reason).Msg("a message on the stream of logs is none of ours and is passed over; further ones are counted and not said")
	}
}

// shipPartition ships one partition, and begins anew when the server has lost
// the consumer or we the server.
func shipPartition(ctx context.Context, shipper *ship.Shipper, stream *logstream.Stream, partition int, strays *strays) error {
	return retry.Do(ctx, retry.Network, func() error {
		reader, err := stream.ReadPartition(ctx, partition, strays.stray)
		if err != nil {
			return err
		}
		defer reader.Close()
		return shipper.Run(ctx, source{reader})
	}, func(err error, _ time.Duration) {
		strays.log.Warn().Err(err).Int("partition", partition).Msg("cannot read a partition of the logs, beginning anew")
	})
}

// source gives the shipper what the stream gives.
type source struct{ *logstream.PartitionReader }

func (s source) Next(ctx context.Context) (ship.Delivery, error) {
	d, err := s.PartitionReader.Next(ctx)
	return ship.Delivery(d), err
}

// Package gcplog keeps the lines of logs in Google Cloud Logging, and reads them
// back.
//
// A line is an entry of the log's monitored resource, k8s_container. Cloud
// Logging keeps entries of the same time, log name and insertId once, so that
// lines may be written again; what it has can be asked for only with some delay
// and a small quota, so that a shipper is never told how far a log is.
//
// docs/log-layout.md has the fields of an entry.
package gcplog

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	logging "cloud.google.com/go/logging/apiv2"
	"cloud.google.com/go/logging/apiv2/loggingpb"
	"github.com/googleapis/gax-go/v2"
	"golang.org/x/sync/errgroup"
	"google.golang.org/api/option"
	"google.golang.org/genproto/googleapis/api/monitoredres"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/ropewalk/ropewalk/internal/logevent"
)

// Counter counts, for metrics. Its methods return at once.
type Counter interface {
	// SinkRequest: a request was answered, or not.
	SinkRequest(operation string)
	// SinkRefused: a line was refused for good, for a reason.
	SinkRefused(reason string)
}

// Settings say where lines are kept. Credentials come from the library's own
// chain: a file, workload identity, the machine's account.
type Settings struct {
	// Project and Log name the log; the log's name may have any characters.
	Project, Log string
	// Location, Cluster and Namespace name the cluster that the pods are of.
	// Who only reads may leave them empty.
	Location, Cluster, Namespace string
	// Endpoint is the server's address if it is not Google's own. One that
	// begins with http:// is spoken to without TLS and without credentials.
	Endpoint string
	// Counter may be nil.
	Counter Counter
	// Now may be nil for the machine's clock.
	Now func() time.Time
}

// Logging keeps lines. It is safe for concurrent use.
type Logging struct {
	settings Settings
	client   *logging.Client
	name     string
	writing  []gax.CallOption
}

// New returns a sink. It reaches nothing yet but, where the credentials' chain
// asks for it, the machine's metadata. The caller calls Close.
func New(ctx context.Context, settings Settings) (*Logging, error) {
	if settings.Project == "" || settings.Log == "" {
		return nil, errors.New("gcplog: Project and Log are required")
	}
	if settings.Counter == nil {
		settings.Counter = uncounted{}
	}
	if settings.Now == nil {
		settings.Now = time.Now
	}
	options := []option.ClientOption{option.WithGRPCDialOption(grpc.WithChainUnaryInterceptor(counting(settings.Counter)))}
	if host, plain := strings.CutPrefix(settings.Endpoint, "http://"); plain {
		options = append(options, option.WithEndpoint(host), option.WithoutAuthentication(),
			option.WithGRPCDialOption(grpc.WithTransportCredentials(insecure.NewCredentials())))
	} else if settings.Endpoint != "" {
		options = append(options, option.WithEndpoint(strings.TrimPrefix(settings.Endpoint, "https://")))
	}
	client, err := logging.NewClient(ctx, options...)
	if err != nil {
		return nil, fmt.Errorf("set up Cloud Logging: %w", err)
	}
	return &Logging{
		settings: settings, client: client,
		name:    "projects/" + settings.Project + "/logs/" + url.PathEscape(settings.Log),
		writing: patience(),
	}, nil
}

// Close ends the connections.
func (l *Logging) Close() error { return l.client.Close() }

type uncounted struct{}

func (uncounted) SinkRequest(string) {}
func (uncounted) SinkRefused(string) {}

// counting counts every try of a request, by the method's name.
func counting(counter Counter) grpc.UnaryClientInterceptor {
	return func(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
		counter.SinkRequest(method[strings.LastIndexByte(method, '/')+1:])
		return invoke(ctx, method, request, reply, conn, options...)
	}
}

// patience is how often and how long a request is tried. A quota that is used
// up is waited for here: what was written of a batch need not be written again.
func patience() []gax.CallOption {
	return []gax.CallOption{
		gax.WithTimeout(time.Minute),
		gax.WithRetry(func() gax.Retryer {
			return gax.OnCodes([]codes.Code{codes.Unavailable, codes.ResourceExhausted, codes.Internal, codes.Aborted}, gax.Backoff{
				Initial: 100 * time.Millisecond, Max: 15 * time.Second, Multiplier: 2,
			})
		}),
	}
}

// Reached cannot be known.
func (*Logging) Reached(context.Context, logevent.Log) (next uint64, ended bool, err error) {
	return 0, false, nil
}

// Lag is how long after it was written an entry may be missing from what is
// read. Usually it is a few seconds.
func (*Logging) Lag() time.Duration { return 30 * time.Second }

// The service takes requests of 10 MB. What a request has beside its entries is
// small.
const (
	mostEntries = 1000
	mostBytes   = 8 << 20
	// atOnce is how many requests are under way for one log.
	atOnce = 4
)

// Put keeps lines of a log that goes on.
func (l *Logging) Put(ctx context.Context, log logevent.Log, lines []logevent.Line) error {
	entries := make([]*loggingpb.LogEntry, len(lines))
	for i := range lines {
		entries[i] = lineEntry(log, &lines[i])
	}
	return l.write(ctx, log, entries)
}

// Finish keeps the last lines of a log, and then an entry that says so.
func (l *Logging) Finish(ctx context.Context, log logevent.Log, lines []logevent.Line, next uint64) error {
	if err := l.Put(ctx, log, lines); err != nil {
		return err
	}
	at := l.settings.Now()
	if len(lines) > 0 {
		at = lines[len(lines)-1].Time
	}
	return l.write(ctx, log, []*loggingpb.LogEntry{endEntry(log, next, at)})
}

// write writes entries in requests of a good size.
func (l *Logging) write(ctx context.Context, log logevent.Log, entries []*loggingpb.LogEntry) error {
	requests, ctx := errgroup.WithContext(ctx)
	requests.SetLimit(atOnce)
	for len(entries) > 0 {
		n, size := 0, 0
		for n < len(entries) && n < mostEntries {
			if size += proto.Size(entries[n]) + 8; size > mostBytes && n > 0 {
				break
			}
			n++
		}
		some := entries[:n]
		requests.Go(func() error { return l.request(ctx, log, some) })
		entries = entries[n:]
	}
	return requests.Wait()
}

// request writes entries by one request if all of them are taken. What is
// refused for good is replaced by an entry that says so.
func (l *Logging) request(ctx context.Context, log logevent.Log, entries []*loggingpb.LogEntry) error {
	refused, err := l.send(ctx, log, entries)
	if err != nil && status.Code(err) == codes.InvalidArgument && len(entries) > 1 {
		// Nothing was written, and it is not said because of which entry.
		half := len(entries) / 2
		if err := l.request(ctx, log, entries[:half]); err != nil {
			return err
		}
		return l.request(ctx, log, entries[half:])
	}
	if err != nil && status.Code(err) == codes.InvalidArgument {
		refused, err = map[int]error{0: err}, nil
	}
	if err != nil {
		return fmt.Errorf("write to Cloud Logging: %w", err)
	}
	for i, reason := range refused {
		if err := l.replace(ctx, log, entries[i], reason); err != nil {
			return err
		}
	}
	return nil
}

// replace writes that a line was refused in its place. If that is refused too, it
// is not the line that is wrong, and nothing is given up.
func (l *Logging) replace(ctx context.Context, log logevent.Log, entry *loggingpb.LogEntry, reason error) error {
	refused, err := l.send(ctx, log, []*loggingpb.LogEntry{refusedEntry(entry, reason, l.settings.Now())})
	if err == nil {
		err = refused[0]
	}
	if err != nil {
		return fmt.Errorf("write to Cloud Logging: %w (and before: %w)", err, reason)
	}
	l.settings.Counter.SinkRefused(status.Code(reason).String())
	return nil
}

// send sends one request, and returns which of its entries were refused for
// good while the others were taken.
func (l *Logging) send(ctx context.Context, log logevent.Log, entries []*loggingpb.LogEntry) (refused map[int]error, err error) {
	_, err = l.client.WriteLogEntries(ctx, &loggingpb.WriteLogEntriesRequest{
		LogName: l.name, Entries: entries, PartialSuccess: true, Labels: logLabels(log),
		Resource: &monitoredres.MonitoredResource{Type: "k8s_container", Labels: map[string]string{
			"project_id": l.settings.Project, "location": l.settings.Location, "cluster_name": l.settings.Cluster,
			"namespace_name": l.settings.Namespace, "pod_name": log.Pod, "container_name": log.Container,
		}},
	}, l.writing...)
	if err == nil {
		return nil, nil
	}
	for _, detail := range status.Convert(err).Details() {
		partial, ok := detail.(*loggingpb.WriteLogEntriesPartialErrors)
		if !ok {
			continue
		}
		refused = make(map[int]error, len(partial.GetLogEntryErrors()))
		for i, problem := range partial.GetLogEntryErrors() {
			entryErr := status.ErrorProto(problem)
			if status.Code(entryErr) != codes.InvalidArgument || int(i) >= len(entries) || i < 0 {
				return nil, entryErr // such as a permission, which can be given
			}
			refused[int(i)] = entryErr
		}
		if len(refused) > 0 {
			return refused, nil
		}
	}
	return nil, err
}

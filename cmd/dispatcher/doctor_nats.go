package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"
	"github.com/rs/zerolog"

	"github.com/ropewalk/ropewalk/internal/config"
	"github.com/ropewalk/ropewalk/internal/doctor"
	"github.com/ropewalk/ropewalk/internal/logstream"
	"github.com/ropewalk/ropewalk/internal/natsconn"
	"github.com/ropewalk/ropewalk/internal/queue"
	"github.com/ropewalk/ropewalk/internal/runstore"
)

func (p *patient) natsChecks() []doctor.Check {
	return []doctor.Check{
		{Name: "nats", Look: p.lookAtNATS},
		{Name: "jetstream", Needs: []string{"nats"}, Look: p.lookAtJetStream},
		{Name: "nats disk sync", Needs: []string{"jetstream"}, Look: p.lookAtSync},
		{Name: "streams", Needs: []string{"jetstream"}, Look: p.lookAtStreams},
		{Name: "queues", Needs: []string{"jetstream"}, Look: p.lookAtQueues},
	}
}

func (p *patient) lookAtNATS(ctx context.Context) doctor.Finding {
	conn, js, err := natsconn.Dial(ctx, natsOptions(p.settings, "ropewalk-doctor"), zerolog.Nop())
	if err != nil {
		return doctor.Bad("See whether ROPEWALK_NATS_URL names the right server, and ROPEWALK_NATS_CREDENTIALS or ROPEWALK_NATS_USER one of its users.", "%v.", err)
	}
	p.conn, p.js = conn, js
	if err := natsconn.RequireVersion(conn.ConnectedServerVersion()); err != nil {
		return doctor.Bad("Update the NATS server.", "%v.", err)
	}
	return doctor.Good("nats-server %s answers at %s.", conn.ConnectedServerVersion(), conn.ConnectedUrlRedacted())
}

// streams are all that dispatchers keep on the server.
func (p *patient) streams() []string {
	const bucket = "KV_" // as the server names the stream of a bucket
	names := []string{
		queue.Stream, queue.DueStream, runstore.IndexStream,
		bucket + queue.DefinitionBucket, bucket + queue.CancellationBucket, bucket + queue.ScheduleBucket, bucket + queue.StartBucket, bucket + runstore.Bucket, bucket + runstore.RequestBucket,
	}
	if p.settings.Archive() != (config.Archive{}) {
		names = append(names, logstream.Name)
	}
	return names
}

func (p *patient) lookAtJetStream(ctx context.Context) doctor.Finding {
	account, err := p.js.AccountInfo(ctx)
	switch {
	case errors.Is(err, jetstream.ErrJetStreamNotEnabled), errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount):
		return doctor.Bad("Start the server with -js, or give the account JetStream.", "The server at %s runs without JetStream.", p.conn.ConnectedUrlRedacted())
	case err != nil:
		return doctor.Bad("Let these credentials publish to $JS.API.> and subscribe to _INBOX.>.", "JetStream does not answer: %v.", err)
	}
	tier := account.Tier
	if limited, ok := account.Tiers[fmt.Sprintf("R%d", p.settings.NATS.Replicas)]; ok {
		tier = limited
	}
	limits := tier.Limits
	const raise = "Raise the JetStream limits of the account."
	there := p.countStreams(ctx)
	missing := len(p.streams()) - there
	if limits.MaxStreams > 0 && tier.Streams+missing > limits.MaxStreams {
		return doctor.Bad(raise, "The account may have %d streams and has %d; Ropewalk needs %d more.", limits.MaxStreams, tier.Streams, missing)
	}
	need := int64(0)
	if p.settings.Archive() != (config.Archive{}) {
		need = int64(p.settings.Logs.StreamBytes)
	}
	if limits.MaxStore > 0 && limits.MaxStore < need {
		return doctor.Bad(raise+" Or lower ROPEWALK_LOG_STREAM_BYTES.", "The account may store %s, and the stream of logs alone is to have %s.", bytesOf(uint64(limits.MaxStore)), bytesOf(uint64(need)))
	}
	const full = 0.8
	if limits.MaxStore > 0 && float64(tier.Store) > full*float64(limits.MaxStore) {
		return doctor.Doubtful(raise, "The account stores %s of the %s that it may; when that is full, no run can be submitted.", bytesOf(tier.Store), bytesOf(uint64(limits.MaxStore)))
	}
	most := "no limit"
	if limits.MaxStore > 0 {
		most = "a limit of " + bytesOf(uint64(limits.MaxStore))
	}
	return doctor.Good("The account stores %s in %s, with %s.", bytesOf(tier.Store), plural(tier.Streams, "stream"), most)
}

func (p *patient) countStreams(ctx context.Context) (there int) {
	for _, name := range p.streams() {
		if _, err := p.js.Stream(ctx, name); err == nil {
			there++
		}
	}
	return there
}

// bytesOf writes a number of bytes in the unit that suits it.
func bytesOf(n uint64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, units := float64(n), []string{"KiB", "MiB", "GiB", "TiB"}
	at := -1
	for value >= unit && at < len(units)-1 {
		value /= unit
		at++
	}
	return fmt.Sprintf("%.1f %s", value, units[at])
}

// lookAtSync finds out whether an acknowledged write is on disk. A client may
// not ask a server for its configuration, unless it is of the system account;
// the server's monitoring tells everybody who can reach it.
func (p *patient) lookAtSync(ctx context.Context) doctor.Finding {
	const enough = 3
	if p.settings.NATS.Replicas >= enough {
		return doctor.Good("%d servers hold each message, so that none is lost with a machine (ROPEWALK_NATS_REPLICAS).", p.settings.NATS.Replicas)
	}
	const todo = "Set sync_interval: always in the jetstream block of the server's configuration, or keep three copies (ROPEWALK_NATS_REPLICAS=3)."
	server, err := p.jetStreamConfig(ctx)
	switch {
	case err != nil && p.options.monitor != "":
		return doctor.Hidden("Check --nats-monitor.", "The server's monitoring does not tell: %v.", err)
	case err != nil:
		return doctor.Hidden("Give its monitoring address by --nats-monitor http://HOST:8222, or make sure that its configuration has sync_interval: always.",
			"Whether the server syncs each write to disk is not told to these credentials.")
	case server.SyncAlways:
		return doctor.Good("The server syncs each write to disk before it acknowledges it.")
	}
	every := server.SyncInterval
	if every == 0 {
		every = 2 * time.Minute // its default
	}
	return doctor.Doubtful(todo, "The server syncs to disk every %s only; runs that were acknowledged since are lost if its machine fails.", every)
}

// jetStreamConfig is what we read of a server's JetStream configuration.
type jetStreamConfig struct {
	SyncInterval time.Duration `json:"sync_interval"`
	SyncAlways   bool          `json:"sync_always"`
}

var errNotTold = errors.New("the answer holds no JetStream configuration")

// jetStreamConfig asks the server's monitoring, if its address is given, else
// the server itself, which answers the system account only.
func (p *patient) jetStreamConfig(ctx context.Context) (jetStreamConfig, error) {
	type tells struct {
		Config *jetStreamConfig `json:"config"`
	}
	var answer struct {
		tells
		Data tells `json:"data"` // around it, when the server itself is asked
	}
	body, err := p.askServer(ctx)
	if err == nil {
		err = json.Unmarshal(body, &answer)
	}
	switch {
	case err != nil:
		return jetStreamConfig{}, err
	case answer.Config != nil:
		return *answer.Config, nil
	case answer.Data.Config != nil:
		return *answer.Data.Config, nil
	default:
		return jetStreamConfig{}, errNotTold
	}
}

func (p *patient) askServer(ctx context.Context) ([]byte, error) {
	if p.options.monitor == "" {
		const soon = 2 * time.Second
		limited, cancel := context.WithTimeout(ctx, soon)
		defer cancel()
		answer, err := p.conn.RequestWithContext(limited, "$SYS.REQ.SERVER.PING.JSZ", []byte(`{"config": true}`))
		if err != nil {
			return nil, err
		}
		return answer.Data, nil
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, strings.TrimSuffix(p.options.monitor, "/")+"/jsz?config=true", http.NoBody)
	if err != nil {
		return nil, err
	}
	request.Close = true
	response, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { _ = response.Body.Close() }()
	const most = 1 << 20
	body, err := io.ReadAll(io.LimitReader(response.Body, most))
	if err == nil && response.StatusCode != http.StatusOK {
		err = fmt.Errorf("it answers %s", response.Status)
	}
	return body, err
}

// lookAtStreams looks at what all streams have in common.
func (p *patient) lookAtStreams(ctx context.Context) doctor.Finding {
	names := p.streams()
	var missing, wrong []string
	for _, name := range names {
		stream, err := p.js.Stream(ctx, name)
		if errors.Is(err, jetstream.ErrStreamNotFound) {
			missing = append(missing, name)
			continue
		}
		if err != nil {
			return doctor.Bad("Let these credentials ask for it ($JS.API.STREAM.INFO."+name+").", "Stream %s cannot be looked up: %v.", name, err)
		}
		have := stream.CachedInfo().Config
		if have.Replicas != p.settings.NATS.Replicas {
			wrong = append(wrong, fmt.Sprintf("%s is kept by %s, not by %d", name, plural(have.Replicas, "server"), p.settings.NATS.Replicas))
		}
		if have.Storage != jetstream.FileStorage {
			wrong = append(wrong, name+" is kept in memory")
		}
		if have.Sealed || have.DenyPurge && name == queue.Stream {
			wrong = append(wrong, name+" is sealed or may not be purged")
		}
	}
	switch {
	case len(missing) == len(names):
		return doctor.Doubtful("Start a dispatcher, which makes them.", "There are no streams of Ropewalk's yet.")
	case missing != nil:
		return doctor.Bad("Restart a dispatcher, which makes them.", "Some streams are missing: %s.", strings.Join(missing, ", "))
	case wrong != nil:
		return doctor.Bad("Restart a dispatcher, which sets the replicas; what is kept in memory or sealed must be deleted first, with all in it.", "Streams are not as configured: %s.", strings.Join(wrong, "; "))
	}
	return doctor.Good("All %d streams are there, each on %s.", len(names), plural(p.settings.NATS.Replicas, "server"))
}

func (p *patient) lookAtQueues(ctx context.Context) doctor.Finding {
	queues, wrong, err := queue.Inspect(ctx, p.js, p.settings.NATS.Replicas, p.settings.Runs.AckWait)
	switch {
	case errors.Is(err, queue.ErrNotSetUp):
		return doctor.Doubtful("Start a dispatcher, which makes them.", "There are no queues yet.")
	case err != nil:
		return doctor.Bad("Set the queue that it names anew by dispatcher queue set, or check the credentials for NATS.", "The queues cannot be looked at: %v.", err)
	case wrong != nil:
		return doctor.Bad("Undo what somebody has changed by hand, by nats stream edit and nats consumer edit; dispatchers set consumers right when they start.", "Queues are not as configured: %s.", strings.Join(wrong, "; "))
	}
	names := make([]string, len(queues))
	for i, known := range queues {
		names[i] = fmt.Sprintf("%s (%d)", known.Name, known.Concurrency)
	}
	slices.Sort(names)
	return doctor.Good("Queues and their limits: %s.", strings.Join(names, ", "))
}

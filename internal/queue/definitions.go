package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/run"
)

// DefinitionBucket holds the definition of every queue under its name.
const DefinitionBucket = "ropewalk-queues"

// MaxConcurrency bounds a queue's limit: the server keeps every message that is
// held in memory, about 2 KB each.
const MaxConcurrency = 100_000

// Definition is what is known of a queue, live: a change reaches every
// dispatcher without a restart.
type Definition struct {
	Name string `json:"name"`
	// Concurrency is the most runs of the queue that may be under way at
	// once, over all dispatchers.
	Concurrency int `json:"concurrency"`
	// Pinned is set once a person has set the queue by command: from then on
	// the environment of a dispatcher no longer changes it.
	Pinned bool `json:"pinned,omitempty"`
}

// Validate returns an error in words for whoever set the definition.
func (d Definition) Validate() error {
	if !run.ValidQueue(d.Name) {
		return fmt.Errorf("queue name %q must be at most %d lower-case letters, digits and '-', beginning and ending with a letter or digit", d.Name, run.MaxQueueLength)
	}
	if d.Concurrency < 1 || d.Concurrency > MaxConcurrency {
		return fmt.Errorf("concurrency of queue %s is %d; it must be from 1 to %d", d.Name, d.Concurrency, MaxConcurrency)
	}
	return nil
}

// Definitions reads and changes the queues' definitions. It is safe for
// concurrent use.
type Definitions struct {
	js     jetstream.JetStream
	bucket jetstream.KeyValue
}

// ErrNotSetUp tells a client that no dispatcher has ever run on this server.
var ErrNotSetUp = errors.New("this NATS server has no Ropewalk queues yet; start a dispatcher on it first (dispatcher serve or dispatcher dev)")

// CreateDefinitions makes the stream of requests and the bucket of definitions
// where they are missing, and opens them. Replicas is the number of servers
// that hold each message.
func CreateDefinitions(ctx context.Context, js jetstream.JetStream, replicas int) (*Definitions, error) {
	bucket, err := js.CreateOrUpdateKeyValue(ctx, jetstream.KeyValueConfig{
		Bucket: DefinitionBucket, Description: "Ropewalk: the queues and their limits", Replicas: replicas,
	})
	if err != nil {
		return nil, fmt.Errorf("create bucket %s: %w", DefinitionBucket, err)
	}
	d := &Definitions{js: js, bucket: bucket}
	return d, d.createStream(ctx, replicas)
}

// OpenDefinitions opens what a dispatcher has created.
func OpenDefinitions(ctx context.Context, js jetstream.JetStream) (*Definitions, error) {
	bucket, err := js.KeyValue(ctx, DefinitionBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, ErrNotSetUp
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", DefinitionBucket, err)
	}
	return &Definitions{js: js, bucket: bucket}, nil
}

// duplicateWindow is how long the server knows the ids of messages that are
// gone. Within it, a repeated publish is answered as a duplicate; outside, the
// record of the run tells. Two minutes are the server's default, and its
// memory pays for more.
const duplicateWindow = 2 * time.Minute

func streamConfig(replicas int, queues []string) jetstream.StreamConfig {
	subjects := make([]string, len(queues))
	for i, queue := range queues {
		subjects[i] = Subjects + queue + ".>"
	}
	slices.Sort(subjects)
	return jetstream.StreamConfig{
		Name: Stream, Description: "Ropewalk: requests that wait or are under way",
		// One subject filter a queue, so that a publish to a queue that does
		// not exist is answered with an error, not with silence.
		Subjects:  subjects,
		Retention: jetstream.WorkQueuePolicy,
		// One message for a run at a time, and a full stream tells the
		// publisher so.
		MaxMsgsPerSubject: 1, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true,
		Duplicates: duplicateWindow, AllowDirect: true, Replicas: replicas,
	}
}

// createStream makes the stream, or adds to it; it never takes away what
// another dispatcher has configured.
func (d *Definitions) createStream(ctx context.Context, replicas int) error {
	existing, err := d.js.Stream(ctx, Stream)
	if err == nil {
		config := existing.CachedInfo().Config
		wanted := streamConfig(replicas, nil)
		if config.Replicas == wanted.Replicas {
			return nil
		}
		config.Replicas = wanted.Replicas
		if _, err := d.js.UpdateStream(ctx, config); err != nil {
			return fmt.Errorf("update stream %s: %w", Stream, err)
		}
		return nil
	}
	if !errors.Is(err, jetstream.ErrStreamNotFound) {
		return fmt.Errorf("look up stream %s: %w", Stream, err)
	}
	// A stream has at least one subject.
	_, err = d.js.CreateStream(ctx, streamConfig(replicas, []string{"default"}))
	if err != nil && !errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another dispatcher was faster
		return fmt.Errorf("create stream %s: %w", Stream, err)
	}
	return nil
}

// Seed brings the definitions in line with a dispatcher's settings: a queue
// that is missing is created; one that is there takes the limit, if the
// setting is explicit, unless a person has pinned another by command.
func (d *Definitions) Seed(ctx context.Context, wanted Definition, explicit bool) error {
	if err := wanted.Validate(); err != nil {
		return err
	}
	current, revision, err := d.get(ctx, wanted.Name)
	switch {
	case errors.Is(err, ErrNoQueue):
		return d.put(ctx, wanted, 0)
	case err != nil:
		return err
	case current.Pinned || !explicit || current.Concurrency == wanted.Concurrency:
		return d.openSubject(ctx, wanted.Name)
	default:
		return d.put(ctx, wanted, revision)
	}
}

// Set creates or changes a queue by a person's command.
func (d *Definitions) Set(ctx context.Context, wanted Definition) error {
	if err := wanted.Validate(); err != nil {
		return err
	}
	wanted.Pinned = true
	_, revision, err := d.get(ctx, wanted.Name)
	if err != nil && !errors.Is(err, ErrNoQueue) {
		return err
	}
	return d.put(ctx, wanted, revision)
}

// ErrNoQueue: there is no queue of that name.
var ErrNoQueue = run.ErrNoQueue

// Get returns the definition of a queue, or [ErrNoQueue].
func (d *Definitions) Get(ctx context.Context, name string) (Definition, error) {
	definition, _, err := d.get(ctx, name)
	return definition, err
}

func (d *Definitions) get(ctx context.Context, name string) (Definition, uint64, error) {
	entry, err := d.bucket.Get(ctx, name)
	if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrInvalidKey) {
		return Definition{}, 0, fmt.Errorf("%s: %w", name, ErrNoQueue)
	}
	if err != nil {
		return Definition{}, 0, fmt.Errorf("read queue %s: %w", name, err)
	}
	definition, err := decodeDefinition(entry)
	return definition, entry.Revision(), err
}

func (d *Definitions) put(ctx context.Context, definition Definition, revision uint64) error {
	value, err := json.Marshal(definition)
	if err != nil {
		return fmt.Errorf("encode queue %s: %w", definition.Name, err)
	}
	// The subject opens first: a queue that is listed can be published to.
	if err := d.openSubject(ctx, definition.Name); err != nil {
		return err
	}
	if revision == 0 {
		_, err = d.bucket.Create(ctx, definition.Name, value)
	} else {
		_, err = d.bucket.Update(ctx, definition.Name, value, revision)
	}
	if err != nil && !errors.Is(err, jetstream.ErrKeyExists) { // two replicas that start together seed the same
		return fmt.Errorf("write queue %s: %w", definition.Name, err)
	}
	return nil
}

// openSubject adds a queue's subject to the stream. A stream's update has no
// compare-and-set, so two at once may undo one another: it looks again until
// the subject is there.
func (d *Definitions) openSubject(ctx context.Context, queue string) error {
	subject := Subjects + queue + ".>"
	const tries = 20
	for range tries {
		stream, err := d.js.Stream(ctx, Stream)
		if err != nil {
			return fmt.Errorf("look up stream %s: %w", Stream, err)
		}
		config := stream.CachedInfo().Config
		if slices.Contains(config.Subjects, subject) {
			return nil
		}
		config.Subjects = append(config.Subjects, subject)
		slices.Sort(config.Subjects)
		if _, err := d.js.UpdateStream(ctx, config); err != nil {
			return fmt.Errorf("open subject %s: %w", subject, err)
		}
	}
	return fmt.Errorf("open subject %s: other changes to stream %s keep undoing it", subject, Stream)
}

// List returns every definition, by name.
func (d *Definitions) List(ctx context.Context) ([]Definition, error) {
	var all []Definition
	watcher, err := d.bucket.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	defer func() { _ = watcher.Stop() }() // fails only when it has stopped already
	for {
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("list queues: %w", ctx.Err())
		case entry, open := <-watcher.Updates():
			if !open {
				return nil, errors.New("list queues: the connection to NATS was closed")
			}
			if entry == nil {
				slices.SortFunc(all, func(a, b Definition) int { return strings.Compare(a.Name, b.Name) })
				return all, nil
			}
			definition, err := decodeDefinition(entry)
			if err != nil {
				return nil, err
			}
			all = append(all, definition)
		}
	}
}

// Watch calls changed with every definition that there is, and then with each
// new or changed one, until ctx ends; refused with what is none. It survives
// reconnections.
func (d *Definitions) Watch(ctx context.Context, changed func(Definition), refused func(error)) error {
	watcher, err := d.bucket.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("watch queues: %w", err)
	}
	defer func() { _ = watcher.Stop() }() // fails only when it has stopped already
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case entry, open := <-watcher.Updates():
			if !open {
				return errors.New("watch queues: the connection to NATS was closed")
			}
			if entry == nil { // what was there has been sent
				continue
			}
			definition, err := decodeDefinition(entry)
			if err != nil {
				refused(err) // the queue goes on as it was; the others must not suffer
				continue
			}
			changed(definition)
		}
	}
}

func decodeDefinition(entry jetstream.KeyValueEntry) (Definition, error) {
	var definition Definition
	if err := json.Unmarshal(entry.Value(), &definition); err != nil {
		return Definition{}, fmt.Errorf("decode queue %s: %w", entry.Key(), err)
	}
	if definition.Name != entry.Key() {
		return Definition{}, fmt.Errorf("the definition under the name %s is one of queue %q", entry.Key(), definition.Name)
	}
	// A limit of 0 would be taken by the server for none at all.
	return definition, definition.Validate()
}

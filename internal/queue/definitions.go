package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/ensure"
	"github.com/ropewalk/ropewalk/internal/run"
)

// DefinitionBucket holds the definition of every queue under its name.
const DefinitionBucket = "ropewalk-queues"

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
	bucket, err := ensure.Bucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: DefinitionBucket, Description: "Ropewalk: the queues and their limits", Replicas: replicas,
	})
	if err != nil {
		return nil, err
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
			return ensure.Readable(ctx, existing)
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
	created, err := d.js.CreateStream(ctx, streamConfig(replicas, []string{"default"}))
	if errors.Is(err, jetstream.ErrStreamNameAlreadyInUse) { // another dispatcher was faster
		created, err = d.js.Stream(ctx, Stream)
	}
	if err != nil {
		return fmt.Errorf("create stream %s: %w", Stream, err)
	}
	return ensure.Readable(ctx, created)
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
		err = d.put(ctx, wanted, 0)
	case err != nil:
	case current.Pinned || !explicit || current.Concurrency == wanted.Concurrency:
		return d.openSubject(ctx, current)
	default:
		current.Concurrency = wanted.Concurrency
		err = d.put(ctx, current, revision)
	}
	if errors.Is(err, errChanged) {
		return nil // another replica that starts just now seeds the same, or a person has set it
	}
	return err
}

// Set sets the limit of a queue by a person's command, and creates the queue
// where it is missing. What else is set for it stays.
func (d *Definitions) Set(ctx context.Context, wanted Definition) error {
	_, err := d.Update(ctx, wanted.Name, true, func(definition *Definition) error {
		definition.Concurrency = wanted.Concurrency
		return nil
	})
	return err
}

// ErrQueueExists: there is a queue of that name already.
var ErrQueueExists = errors.New("there is such a queue already")

// Create creates a queue by a person's command, or returns [ErrQueueExists].
func (d *Definitions) Create(ctx context.Context, wanted Definition) error {
	wanted.Pinned = true
	if err := wanted.Validate(); err != nil {
		return err
	}
	if _, _, err := d.get(ctx, wanted.Name); !errors.Is(err, ErrNoQueue) {
		if err == nil {
			err = fmt.Errorf("%s: %w", wanted.Name, ErrQueueExists)
		}
		return err
	}
	return d.put(ctx, wanted, 0)
}

// Update changes a queue by a person's command and returns what it is then.
// Change may be called several times, with what others have just made of it. A
// queue that is missing is created if create is set, and else is [ErrNoQueue].
func (d *Definitions) Update(ctx context.Context, name string, create bool, change func(*Definition) error) (Definition, error) {
	const tries = 20
	for try := range tries {
		letOthersWrite(ctx, try)
		definition, revision, err := d.get(ctx, name)
		if errors.Is(err, ErrNoQueue) && create {
			definition, err = Definition{Name: name}, nil
		}
		if err != nil && revision == 0 {
			return Definition{}, err
		}
		// One that is wrong can be put right: what it will be is validated.
		before := definition.Concurrency
		if err := change(&definition); err != nil {
			return Definition{}, err
		}
		definition.Name, definition.Pinned = name, definition.Pinned || revision == 0 || definition.Concurrency != before
		if err := definition.Validate(); err != nil {
			return Definition{}, err
		}
		if err = d.put(ctx, definition, revision); !errors.Is(err, errChanged) {
			return definition, err
		}
	}
	return Definition{}, fmt.Errorf("change queue %s: others keep changing it", name)
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
	// The subject opens first, so that a queue that is listed can be published
	// to, and is looked at again once the definition counts.
	if err := d.openSubject(ctx, definition); err != nil {
		return err
	}
	if revision == 0 {
		_, err = d.bucket.Create(ctx, definition.Name, value)
	} else {
		_, err = d.bucket.Update(ctx, definition.Name, value, revision)
	}
	if overtaken(err) {
		return fmt.Errorf("write queue %s: %w", definition.Name, errChanged)
	}
	if err != nil {
		return fmt.Errorf("write queue %s: %w", definition.Name, err)
	}
	return d.settleSubjects(ctx, func(map[string]string) {})
}

// errChanged: somebody else has changed the definition since it was read.
var errChanged = errors.New("it has changed meanwhile")

// openSubject has the stream take a queue's requests, as its definition says or
// is about to say.
func (d *Definitions) openSubject(ctx context.Context, definition Definition) error {
	return d.settleSubjects(ctx, func(subjects map[string]string) { subjects[definition.Name] = definition.subject() })
}

// settleSubjects gives the stream the subject of every queue that is defined,
// after change has had its way with them. They are by queue; one of a queue that
// is not defined stays, since somebody may be about to define it.
//
// A stream's update has no compare-and-set, so that of two at once one may undo
// the other. Therefore the definitions, which have it, are what counts: they are
// looked at again after every update, and whoever writes one calls this
// afterwards.
func (d *Definitions) settleSubjects(ctx context.Context, change func(subjects map[string]string)) error {
	const tries = 20
	for range tries {
		defined, err := d.subjects(ctx)
		if err != nil {
			return err
		}
		stream, err := d.js.Stream(ctx, Stream)
		if err != nil {
			return fmt.Errorf("look up stream %s: %w", Stream, err)
		}
		config := stream.CachedInfo().Config
		wanted := make(map[string]string, len(config.Subjects))
		for _, subject := range config.Subjects {
			name, _, _ := strings.Cut(strings.TrimPrefix(subject, Subjects), ".")
			wanted[name] = subject
		}
		maps.Copy(wanted, defined)
		change(wanted)
		subjects := slices.Sorted(maps.Values(wanted))
		if slices.Equal(subjects, slices.Sorted(slices.Values(config.Subjects))) {
			return nil
		}
		config.Subjects = subjects
		if _, err := d.js.UpdateStream(ctx, config); err != nil {
			return fmt.Errorf("set the subjects of stream %s: %w", Stream, err)
		}
	}
	return fmt.Errorf("set the subjects of stream %s: other changes keep undoing it", Stream)
}

// subjects has the subject of every queue that is defined. A definition that is
// wrong is passed over; its subject stays as it is.
func (d *Definitions) subjects(ctx context.Context) (map[string]string, error) {
	subjects := map[string]string{}
	err := d.each(ctx, func(entry jetstream.KeyValueEntry) error {
		if definition, err := decodeDefinition(entry); err == nil {
			subjects[definition.Name] = definition.subject()
		}
		return nil
	})
	return subjects, err
}

// List returns every definition, by name.
func (d *Definitions) List(ctx context.Context) ([]Definition, error) {
	var all []Definition
	err := d.each(ctx, func(entry jetstream.KeyValueEntry) error {
		definition, err := decodeDefinition(entry)
		all = append(all, definition)
		return err
	})
	if err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b Definition) int { return strings.Compare(a.Name, b.Name) })
	return all, nil
}

// each calls do with the newest entry of every queue, until it returns an error.
func (d *Definitions) each(ctx context.Context, do func(jetstream.KeyValueEntry) error) error {
	watcher, err := d.bucket.WatchAll(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return fmt.Errorf("list queues: %w", err)
	}
	defer func() { _ = watcher.Stop() }() // fails only when it has stopped already
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("list queues: %w", ctx.Err())
		case entry, open := <-watcher.Updates():
			if !open {
				return errors.New("list queues: the connection to NATS was closed")
			}
			if entry == nil {
				return nil
			}
			if err := do(entry); err != nil {
				return err
			}
		}
	}
}

// Watch calls changed with every definition that there is, and then with each
// new or changed one, until ctx ends; deleted with the name of one that is gone,
// and refused with what is none. It survives reconnections.
func (d *Definitions) Watch(ctx context.Context, changed func(Definition), deleted func(name string), refused func(error)) error {
	watcher, err := d.bucket.WatchAll(ctx)
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
			if entry.Operation() != jetstream.KeyValuePut {
				deleted(entry.Key())
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

// InUseError is why a queue cannot be deleted yet.
type InUseError struct{ Queue, Why string }

func (e *InUseError) Error() string { return "queue " + e.Queue + " cannot be deleted: " + e.Why }

// leftovers are runs that keep a queue from being deleted.
type leftovers struct{ stream, subject, what string }

func underWay(queue string) leftovers {
	return leftovers{Stream, Subjects + queue + ".>", "that wait or are under way"}
}

// hasNo returns an [*InUseError] if a queue has such runs.
func (d *Definitions) hasNo(ctx context.Context, queue string, left leftovers) error {
	count, err := countMessages(ctx, d.js, left.stream, left.subject)
	if err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
		return err
	}
	if count > 0 {
		return &InUseError{queue, fmt.Sprintf("it has runs %s: %d", left.what, count)}
	}
	return nil
}

// Delete deletes a queue that has been drained and has no runs left, neither
// waiting nor under way nor waiting to be tried again; an [*InUseError] says
// what is in the way. What was recorded of its runs stays.
func (d *Definitions) Delete(ctx context.Context, name string) error {
	definition, revision, err := d.get(ctx, name)
	if err != nil {
		return err
	}
	switch {
	case name == "default":
		return &InUseError{name, "requests that name no queue go there"}
	case !definition.Draining:
		return &InUseError{name, "it takes new runs; first: dispatcher queue drain " + name}
	}
	for _, left := range []leftovers{
		underWay(name),
		{DueStream, ScheduleSubjects + name + ".>", "that wait for their next attempt"},
		{DueStream, DueSubjects + name + ".>", "that are about to be tried again"},
	} {
		if err := d.hasNo(ctx, name, left); err != nil {
			return err
		}
	}
	// The definition goes first: from then on no dispatcher makes the consumer
	// anew.
	if err := d.bucket.Delete(ctx, name, jetstream.LastRevision(revision)); err != nil {
		return fmt.Errorf("delete queue %s: %w", name, err)
	}
	if err := d.settleSubjects(ctx, func(subjects map[string]string) { delete(subjects, name) }); err != nil {
		return err
	}
	// Nothing can come in any more. What has come in while we looked, a replay
	// for one, would wait for ever.
	if err := d.hasNo(ctx, name, underWay(name)); err != nil {
		return errors.Join(err, d.put(context.WithoutCancel(ctx), definition, 0))
	}
	if err := d.js.DeleteConsumer(ctx, Stream, ConsumerPrefix+name); err != nil && !errors.Is(err, jetstream.ErrConsumerNotFound) {
		return fmt.Errorf("delete the consumer of queue %s: %w", name, err)
	}
	return nil
}

package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/ropewalk/ropewalk/internal/batchget"
	"github.com/ropewalk/ropewalk/internal/ensure"
	"github.com/ropewalk/ropewalk/internal/run"
)

// The names of what holds schedules. The server keeps their times: a message
// under ScheduledSubjects, with the schedule in its headers, brings forth one
// under FiredSubjects at each time. Both are in [DueStream].
const (
	// ScheduleBucket holds every schedule under its name, with its request's
	// secrets.
	ScheduleBucket = "ropewalk-schedules"
	// ScheduledSubjects and FiredSubjects precede the schedule's name. Who may
	// publish to the second may have a schedule run its request.
	ScheduledSubjects = "ropewalk.schedules.run."
	FiredSubjects     = "ropewalk.fired."

	firedConsumer = "fired"
)

// Errors of schedules, for errors.Is.
var (
	// ErrNoSchedule: there is no schedule of that name.
	ErrNoSchedule = errors.New("no such schedule")
	// ErrScheduleExists: there is one already.
	ErrScheduleExists = errors.New("there is such a schedule already")
	// ErrNoCron: the NATS server is too old for schedules by the calendar.
	ErrNoCron = errors.New("times by the calendar need nats-server 2.14 or newer")
)

// CronSupported tells by a server's version whether it keeps schedules by the
// calendar, and not only single times.
func CronSupported(version string) bool {
	var major, minor int
	_, err := fmt.Sscanf(version, "%d.%d", &major, &minor)
	return err == nil && (major > 2 || major == 2 && minor >= 14)
}

// Schedules reads and changes schedules, and tells of their times. It is safe
// for concurrent use.
type Schedules struct {
	js     jetstream.JetStream
	bucket jetstream.KeyValue
}

// CreateSchedules makes the bucket where it is missing, and opens it. The stream
// is that of [CreateDue].
func CreateSchedules(ctx context.Context, js jetstream.JetStream, replicas int) (*Schedules, error) {
	bucket, err := ensure.Bucket(ctx, js, jetstream.KeyValueConfig{
		Bucket: ScheduleBucket, Description: "Ropewalk: schedules", Replicas: replicas,
	})
	if err != nil {
		return nil, err
	}
	return &Schedules{js, bucket}, nil
}

// OpenSchedules opens what a dispatcher has created.
func OpenSchedules(ctx context.Context, js jetstream.JetStream) (*Schedules, error) {
	bucket, err := js.KeyValue(ctx, ScheduleBucket)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		return nil, ErrNotSetUp
	}
	if err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", ScheduleBucket, err)
	}
	return &Schedules{js, bucket}, nil
}

// Create stores a schedule and has the server keep its times.
func (s *Schedules) Create(ctx context.Context, schedule run.Schedule) (run.Schedule, error) {
	if schedule.At != nil { // the server keeps whole seconds; rounded down it would be early
		at := schedule.At.UTC().Add(time.Second - time.Nanosecond).Truncate(time.Second)
		schedule.At = &at
	}
	if err := schedule.Validate(); err != nil {
		return run.Schedule{}, err
	}
	if _, err := newCalendar(schedule); err != nil {
		return run.Schedule{}, err
	}
	if version := s.js.Conn().ConnectedServerVersion(); schedule.Cron != "" && !CronSupported(version) {
		return run.Schedule{}, fmt.Errorf("%w, and this one is %s; a single time (--at, --after) works", ErrNoCron, version)
	}
	schedule.ChangedAt = time.Now().UTC()
	value, err := schedule.Encode()
	if err != nil {
		return run.Schedule{}, fmt.Errorf("encode schedule %s: %w", schedule.Name, err)
	}
	_, err = s.bucket.Create(ctx, schedule.Name, value)
	switch {
	case errors.Is(err, jetstream.ErrKeyExists):
		return run.Schedule{}, fmt.Errorf("%s: %w", schedule.Name, ErrScheduleExists)
	case errors.Is(err, nats.ErrMaxPayload):
		return run.Schedule{}, fmt.Errorf("schedule %s: %w", schedule.Name, ErrTooLarge)
	case err != nil:
		return run.Schedule{}, fmt.Errorf("write schedule %s: %w", schedule.Name, err)
	}
	return schedule, s.arrange(ctx, schedule)
}

// Get returns a schedule, or [ErrNoSchedule].
func (s *Schedules) Get(ctx context.Context, name string) (run.Schedule, error) {
	schedule, _, err := s.get(ctx, name)
	return schedule, err
}

func (s *Schedules) get(ctx context.Context, name string) (run.Schedule, uint64, error) {
	entry, err := s.bucket.Get(ctx, name)
	if errors.Is(err, jetstream.ErrKeyNotFound) || errors.Is(err, jetstream.ErrInvalidKey) {
		return run.Schedule{}, 0, fmt.Errorf("%s: %w", name, ErrNoSchedule)
	}
	if err != nil {
		return run.Schedule{}, 0, fmt.Errorf("read schedule %s: %w", name, err)
	}
	schedule, err := decodeSchedule(entry)
	return schedule, entry.Revision(), err
}

// deleted reports whether a schedule was deleted: the mark of that is there. That
// there is nothing proves nothing, since a server of a cluster may not have heard
// of a new schedule yet.
func (s *Schedules) deleted(ctx context.Context, name string) (bool, error) {
	message, found, err := batchget.Last(ctx, s.js, "KV_"+ScheduleBucket, "$KV."+ScheduleBucket+"."+name)
	return found && message.Operation != "", err
}

func decodeSchedule(entry jetstream.KeyValueEntry) (run.Schedule, error) {
	var schedule run.Schedule
	if err := json.Unmarshal(entry.Value(), &schedule); err != nil {
		return run.Schedule{}, fmt.Errorf("decode schedule %s: it is not one", entry.Key()) // the error could quote a secret
	}
	if schedule.Name != entry.Key() {
		return run.Schedule{}, fmt.Errorf("the schedule under the name %s is one of the name %q", entry.Key(), schedule.Name)
	}
	return schedule, schedule.Validate()
}

// List returns every schedule, by name.
func (s *Schedules) List(ctx context.Context) ([]run.Schedule, error) {
	lister, err := s.bucket.ListKeys(ctx, jetstream.IgnoreDeletes())
	if err != nil {
		return nil, fmt.Errorf("list schedules: %w", err)
	}
	var all []run.Schedule
	for name := range lister.Keys() {
		schedule, err := s.Get(ctx, name)
		if errors.Is(err, ErrNoSchedule) {
			continue // deleted meanwhile
		}
		if err != nil {
			_ = lister.Stop() // fails only when it has stopped already
			return nil, err
		}
		all = append(all, schedule)
	}
	slices.SortFunc(all, func(a, b run.Schedule) int { return strings.Compare(a.Name, b.Name) })
	return all, ctx.Err()
}

// Pause stops a schedule, and Resume sets it going again. Both may be repeated.
func (s *Schedules) Pause(ctx context.Context, name string) error {
	return s.setPaused(ctx, name, true)
}

// Resume sets a schedule going again, from now on.
func (s *Schedules) Resume(ctx context.Context, name string) error {
	return s.setPaused(ctx, name, false)
}

func (s *Schedules) setPaused(ctx context.Context, name string, paused bool) error {
	schedule, err := s.update(ctx, name, func(schedule *run.Schedule) bool {
		if schedule.Paused != paused {
			schedule.Paused, schedule.ChangedAt = paused, time.Now().UTC()
		}
		return true // what was read may be a moment old; the write tells
	})
	if err != nil {
		return err
	}
	return s.arrange(ctx, schedule)
}

// update changes a schedule, unless change says that there is nothing to
// change.
func (s *Schedules) update(ctx context.Context, name string, change func(*run.Schedule) bool) (run.Schedule, error) {
	const tries = 20
	for try := range tries {
		letOthersWrite(ctx, try)
		schedule, revision, err := s.get(ctx, name)
		if err != nil || !change(&schedule) {
			return schedule, err
		}
		value, err := schedule.Encode()
		if err != nil {
			return run.Schedule{}, fmt.Errorf("encode schedule %s: %w", name, err)
		}
		_, err = s.bucket.Update(ctx, name, value, revision)
		if err == nil {
			return schedule, nil
		}
		if !overtaken(err) {
			return run.Schedule{}, fmt.Errorf("write schedule %s: %w", name, err)
		}
	}
	return run.Schedule{}, fmt.Errorf("change schedule %s: others keep changing it", name)
}

// Delete deletes a schedule. Its runs stay what they are.
func (s *Schedules) Delete(ctx context.Context, name string) error {
	if _, _, err := s.get(ctx, name); errors.Is(err, ErrNoSchedule) {
		return err // one that cannot be read can be deleted all the same
	}
	// Its times go last: one that comes meanwhile finds no schedule.
	if err := s.bucket.Delete(ctx, name); err != nil {
		return fmt.Errorf("delete schedule %s: %w", name, err)
	}
	return s.disarrange(ctx, name)
}

// Note writes down what became of a time, unless that of a later one is known.
func (s *Schedules) Note(ctx context.Context, name string, firing run.Firing) error {
	_, err := s.update(ctx, name, func(schedule *run.Schedule) bool {
		if schedule.Last != nil && !firing.At.After(schedule.Last.At) {
			return false
		}
		schedule.Last = &firing
		if firing.Outcome == run.FiringStarted {
			schedule.Run = firing.Run
			schedule.Started++
		} else {
			schedule.Passed++
		}
		return true
	})
	if errors.Is(err, ErrNoSchedule) {
		return nil
	}
	return err
}

// arranged is the payload of the message that the server keeps the times of.
type arranged struct {
	ChangedAt time.Time `json:"changedAt"`
}

// arrange has the server keep the times of a schedule, as it stands. It may be
// repeated, by anybody at once: what is arranged already is left alone, since
// arranging it anew could lose a time that is just coming.
func (s *Schedules) arrange(ctx context.Context, schedule run.Schedule) error {
	if schedule.Paused || schedule.Done() {
		return s.disarrange(ctx, schedule.Name)
	}
	const tries = 20
	for try := range tries {
		letOthersWrite(ctx, try)
		there, sequence, err := s.arrangedNow(ctx, schedule.Name)
		if err != nil || sequence > 0 && !there.ChangedAt.Before(schedule.ChangedAt) {
			return err
		}
		value, err := json.Marshal(arranged{schedule.ChangedAt})
		if err != nil {
			return fmt.Errorf("encode schedule %s: %w", schedule.Name, err)
		}
		message := nats.NewMsg(ScheduledSubjects + schedule.Name)
		message.Data = value
		options := append(times(schedule),
			jetstream.WithScheduleTarget(FiredSubjects+schedule.Name), jetstream.WithExpectLastSequencePerSubject(sequence))
		ack, err := s.js.PublishMsg(ctx, message, options...)
		if overtaken(err) {
			continue
		}
		var api *jetstream.APIError
		if errors.As(err, &api) && api.ErrorCode == jetstream.JSErrCodeSchedulePatternInvalid {
			return &run.InvalidError{Problems: []run.Problem{{Field: "cron", Message: "is not understood by the NATS server, or its time zone is not known there"}}}
		}
		if err != nil {
			return fmt.Errorf("arrange the times of schedule %s: %w", schedule.Name, err)
		}
		// Whoever has deleted it meanwhile may have removed its times before
		// these came. Those of a new one of its name come after them.
		if gone, err := s.deleted(ctx, schedule.Name); err == nil && gone {
			return s.disarrange(ctx, schedule.Name, jetstream.WithPurgeSequence(ack.Sequence+1))
		}
		return nil
	}
	return fmt.Errorf("arrange the times of schedule %s: others keep changing it", schedule.Name)
}

func times(schedule run.Schedule) []jetstream.PublishOpt {
	if schedule.At != nil {
		return []jetstream.PublishOpt{jetstream.WithScheduleAt(*schedule.At)}
	}
	options := []jetstream.PublishOpt{jetstream.WithScheduleCron(cronPattern(schedule.Cron))}
	if schedule.TimeZone != "" {
		options = append(options, jetstream.WithScheduleTimeZone(schedule.TimeZone))
	}
	return options
}

// arrangedNow is what the server keeps for a schedule; the sequence is 0 when it
// is nothing.
func (s *Schedules) arrangedNow(ctx context.Context, name string) (there arranged, sequence uint64, err error) {
	stream, err := s.js.Stream(ctx, DueStream)
	if err == nil {
		var message *jetstream.RawStreamMsg
		if message, err = stream.GetLastMsgForSubject(ctx, ScheduledSubjects+name); err == nil {
			_ = json.Unmarshal(message.Data, &there) // what is none was not ours, and is replaced
			return there, message.Sequence, nil
		}
	}
	if errors.Is(err, jetstream.ErrMsgNotFound) {
		return arranged{}, 0, nil
	}
	return arranged{}, 0, fmt.Errorf("look up the times of schedule %s: %w", name, err)
}

// disarrange has the server forget the times of a schedule, or those of them that
// more says. It may be repeated.
func (s *Schedules) disarrange(ctx context.Context, name string, more ...jetstream.StreamPurgeOpt) error {
	stream, err := s.js.Stream(ctx, DueStream)
	if err == nil {
		err = stream.Purge(ctx, append(more, jetstream.WithPurgeSubject(ScheduledSubjects+name))...)
	}
	if err != nil {
		return fmt.Errorf("remove the times of schedule %s: %w", name, err)
	}
	return nil
}

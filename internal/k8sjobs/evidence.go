package k8sjobs

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"

	"github.com/ropewalk/ropewalk/internal/run"
)

const (
	// evidenceTimeout bounds each request for events or log. The run's slot is
	// held for as long, and a log may have to come from a node that is lost.
	evidenceTimeout = 5 * time.Second
	// logBytes bounds what is read of a log: container runtimes write lines of
	// at most 16 KiB, with a time and a mark before each.
	logBytes = run.EvidenceLines * (16<<10 + 64)
	// mostEvents is more than one pod has; the API server drops the oldest.
	mostEvents = 100
)

// evidence reads what goes with the end of an attempt that did not succeed: the
// newest warnings about its pod, and the last lines of its log. It makes two
// requests, more where an event is late, one where there can be no log, and none
// where there was no pod. It reads what there is: only the context's end is an
// error.
func (l *Launcher) evidence(ctx context.Context, s Sight, seen run.Observation) (*run.Evidence, error) {
	pod, found := witness(s)
	if !found {
		if len(s.Refusals) == 0 {
			return nil, nil
		}
		return &run.Evidence{Events: newest(s.Refusals)}, nil
	}
	evidence := &run.Evidence{}
	var lacking []error
	events, err := l.warnings(ctx, pod, seen.Reason)
	if err != nil {
		lacking = append(lacking, fmt.Errorf("the pod's events cannot be read: %s", refusal(err).Message))
	}
	evidence.Events = newest(events)
	if container, wrote := speaker(pod); wrote && seen.Reason != run.NodeLost {
		limited, cancel := context.WithTimeout(ctx, evidenceTimeout)
		defer cancel()
		text, err := l.tail(limited, pod, container)
		switch {
		case apierrors.IsNotFound(err):
			lacking = append(lacking, errors.New("the pod is gone, and its log with it"))
		case errors.Is(err, errNoLog):
			lacking = append(lacking, err)
		case err != nil:
			lacking = append(lacking, fmt.Errorf("the pod's log cannot be read: %s", refusal(err).Message))
		}
		evidence.LastLines = run.LastLines(text)
	}
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err := errors.Join(lacking...); err != nil {
		evidence.Missing = sentence("Not all is here", err.Error())
	}
	return evidence, nil
}

// witness is the pod that tells of the end: the newest one that failed, else the
// newest.
func witness(s Sight) (PodSight, bool) {
	if len(s.Pods) == 0 {
		return PodSight{}, false
	}
	for _, pod := range slices.Backward(s.Pods) {
		if pod.Status.Phase == corev1.PodFailed {
			return pod, true
		}
	}
	return s.Pods[len(s.Pods)-1], true
}

// speaker is the container whose log tells of the pod's end, if it can have
// written any.
func speaker(pod PodSight) (name string, wrote bool) {
	name, _ = blamed(pod)
	for _, status := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
		if status.Name == name {
			ended := status.State.Terminated
			return name, status.State.Running != nil || ended != nil && ended.StartedAt.Unix() > 0
		}
	}
	return name, false
}

// eventLag is when the event that explains a pod's state is looked for again:
// they are written apart, and those of a busy node queue up behind each other. It
// is looked for at once and four times more, within 7.5 s.
var eventLag = wait.Backoff{Duration: 500 * time.Millisecond, Factor: 2, Steps: 5} //nolint:gochecknoglobals // it never changes

// warnings lists the warning events about a pod. For an end that the cluster
// tells of by an event for certain, it waits for one a little.
func (l *Launcher) warnings(ctx context.Context, pod PodSight, reason run.Reason) (events []*corev1.Event, err error) {
	expected := reason == run.ImagePullFailed || reason == run.InvalidPodSpec || reason == run.Unschedulable
	_ = wait.ExponentialBackoffWithContext(ctx, eventLag, func(ctx context.Context) (done bool, _ error) {
		limited, cancel := context.WithTimeout(ctx, evidenceTimeout)
		defer cancel()
		events, err = l.listWarnings(limited, pod)
		return len(events) > 0 || !expected || err != nil, nil
	}) // that none came is no error
	return events, err
}

func (l *Launcher) listWarnings(ctx context.Context, pod PodSight) ([]*corev1.Event, error) {
	list, err := l.client.CoreV1().Events(pod.Namespace).List(ctx, metav1.ListOptions{
		FieldSelector: "involvedObject.uid=" + string(pod.UID) + ",type=" + corev1.EventTypeWarning, Limit: mostEvents,
	})
	if err != nil {
		return nil, err
	}
	events := make([]*corev1.Event, len(list.Items))
	for i := range list.Items {
		events[i] = &list.Items[i]
	}
	return events, nil
}

// errNoLog: in the place of a log, or of its end, came the node's words.
var errNoLog = errors.New("the node does not give the log to its end")

// tail reads the last lines of a container's log. A log that breaks off is told
// as far as it came.
func (l *Launcher) tail(ctx context.Context, pod PodSight, container string) (string, error) {
	stream, err := l.client.CoreV1().Pods(pod.Namespace).GetLogs(pod.Name, &corev1.PodLogOptions{
		Container: container, Timestamps: true, TailLines: new(int64(run.EvidenceLines)), LimitBytes: new(int64(logBytes)),
	}).Stream(ctx)
	if err != nil {
		return "", err
	}
	defer func() { _ = stream.Close() }()
	log, err := io.ReadAll(io.LimitReader(stream, logBytes))
	if end := bytes.LastIndexByte(log, '\n'); len(log) == logBytes && end >= 0 {
		log = log[:end+1] // the last line is cut, perhaps within its time
	}
	text, words := written(string(log))
	if err == nil && words != "" {
		err = fmt.Errorf("%w: %.300s", errNoLog, words)
	}
	return text, err
}

// written is what the program wrote of a log with times, and what the node said
// in its place. That the container was removed, or its log cannot be read, comes
// as a line of it and with status 200 (kubernetes/kubernetes issue 142258); such
// a line has no time.
func written(log string) (text, words string) {
	var lines, said []string
	for line := range strings.Lines(log) {
		at, rest, _ := strings.Cut(line, " ")
		if _, err := time.Parse(time.RFC3339Nano, at); err != nil {
			said = append(said, strings.TrimSpace(line))
			continue
		}
		lines = append(lines, rest)
	}
	return strings.Join(lines, ""), strings.Join(said, "; ")
}

// newest is the newest of some events, oldest first.
func newest(events []*corev1.Event) []run.Event {
	events = slices.Clone(events)
	slices.SortStableFunc(events, func(a, b *corev1.Event) int { return said(a).Compare(said(b)) })
	var told []run.Event
	for _, event := range events[max(0, len(events)-run.EvidenceEvents):] {
		times := cmp.Or(event.Count, 1)
		if event.Series != nil {
			times = max(times, event.Series.Count)
		}
		told = append(told, run.NewEvent(said(event).UTC(), int(times), event.Reason, event.Message))
	}
	return told
}

// schedule notes when the run's newest pod got its node. The cluster dates that
// in whole seconds; when it was just now, our own clock tells it better.
func (f *follower) schedule(s Sight) time.Time {
	if len(s.Pods) == 0 {
		return time.Time{}
	}
	pod := s.Pods[len(s.Pods)-1]
	condition := podCondition(pod, corev1.PodScheduled)
	if condition == nil || condition.Status != corev1.ConditionTrue {
		return time.Time{}
	}
	if pod.UID != f.scheduled {
		f.scheduled, f.scheduledAt = pod.UID, condition.LastTransitionTime.Time
		if age := s.Now.Sub(f.scheduledAt); age > 0 && age < 2*time.Second {
			f.scheduledAt = s.Now
		}
	}
	return f.scheduledAt
}

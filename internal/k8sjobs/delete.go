package k8sjobs

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/run"
)

// collecting is how long the cluster's garbage collector is given to delete the
// pods of a Job that is gone. What is left then was orphaned on purpose.
const collecting = 10 * time.Second

// Delete removes the Job of this very UID and all it made, and waits until the
// cluster says that nothing of it runs any more. It returns nil when it was gone
// already, and may be repeated. Its text says in the cluster's words what went
// wrong, and the context's error is returned as it is.
//
// It deletes in the foreground: the API's default for Jobs leaves the pods to
// themselves in some versions, and is in no hurry about them in the others.
func (l *Launcher) Delete(ctx context.Context, job run.Job) error {
	if job.UID == "" {
		return fmt.Errorf("delete job %s: its UID is not known", job.Name)
	}
	view := l.watch.follow(uid(job))
	defer l.watch.unfollow(view)
	gone, err := l.deleteJob(ctx, job)
	if err != nil {
		return err
	}
	if gone {
		l.watch.lost(view)
	}
	var missing absence
	var orphaned orphans
	for {
		now := time.Now()
		sight, _ := l.watch.look(view, job)
		again := missing.since(!sight.Gone, now)
		if !sight.Gone && !now.Before(again) {
			// The watch may be away. It is asked for the pods all the same.
			if again, sight.Gone, err = missing.ask(ctx, l, job); err != nil {
				return err
			}
			if sight.Gone {
				l.watch.lost(view)
			}
		}
		if sight.Gone {
			if _, alive := current(sight); !alive {
				return nil
			}
			again = orphaned.end(ctx, l, sight)
		}
		if err := view.wait(ctx, again); err != nil {
			return err
		}
	}
}

// deleteJob asks the API to delete the Job. It reports whether there is none.
func (l *Launcher) deleteJob(ctx context.Context, job run.Job) (gone bool, err error) {
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	err = l.client.BatchV1().Jobs(job.Namespace).Delete(call, job.Name, metav1.DeleteOptions{
		PropagationPolicy: new(metav1.DeletePropagationForeground),
		Preconditions:     &metav1.Preconditions{UID: new(uid(job))},
	})
	switch {
	case err == nil:
		return false, nil
	case apierrors.IsNotFound(err), apierrors.IsConflict(err):
		return true, nil // a conflict: the name is another Job's now
	case ctx.Err() != nil:
		return false, ctx.Err()
	default:
		return false, fmt.Errorf("delete job %s: %s", job.Name, refusal(err).Message)
	}
}

// orphans ends the pods of a Job that is gone. The cluster deletes them itself
// unless somebody deleted the Job without them; as long as one runs, the attempt
// is not over, and another must not begin.
type orphans struct{ deadline time.Time }

// end deletes what the garbage collector has left, and returns when to look
// again. Errors are not told: it is tried again then.
func (o *orphans) end(ctx context.Context, l *Launcher, sight Sight) time.Time {
	now := time.Now()
	if o.deadline.IsZero() {
		o.deadline = now.Add(collecting)
	}
	if now.Before(o.deadline) {
		return o.deadline
	}
	left := false
	for _, pod := range sight.Pods {
		if ended(pod) || pod.Gone || pod.DeletionTimestamp != nil {
			continue
		}
		left = true
		call, cancel := context.WithTimeout(ctx, callTimeout)
		err := l.client.CoreV1().Pods(pod.Namespace).Delete(call, pod.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &pod.UID}})
		cancel()
		if err != nil && ctx.Err() != nil {
			return time.Time{}
		}
	}
	if !left {
		return time.Time{} // they are ending; the watch tells when they have
	}
	o.deadline = now.Add(collecting)
	return o.deadline
}

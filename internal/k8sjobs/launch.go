package k8sjobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/rs/zerolog"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/ropewalk/ropewalk/internal/run"
)

// callTimeout bounds one API request that is not a watch. The API server gives
// up on its own after 60 s; a request that takes half of that is better sent
// anew, perhaps to another server.
const callTimeout = 30 * time.Second

// placeholder stands for the image of a launch that has none yet.
const placeholder = "image"

// Config is what a [Launcher] works with.
type Config struct {
	Client   kubernetes.Interface
	Settings Settings
	// Logs: the logs of pods are read, by whoever is given [Launcher.Pods].
	Logs bool
	Log  zerolog.Logger
}

// Launcher makes the Jobs of attempts and tells what becomes of them. It is
// safe for concurrent use. [Launcher.Run] must run for Follow and Delete to
// return.
type Launcher struct {
	client   kubernetes.Interface
	template *Template
	// templates are for queues that have settings of their own.
	templates *templates
	watch     *watcher
}

// New returns a launcher. Its error holds everything that is wrong with the
// settings.
func New(config Config) (*Launcher, error) {
	template, err := Compile(config.Settings)
	if err != nil {
		return nil, err
	}
	watch, err := newWatcher(config)
	if err != nil {
		return nil, err
	}
	return &Launcher{client: config.Client, template: template, templates: newTemplates(template), watch: watch}, nil
}

// Run keeps the watch on the cluster. It blocks until ctx ends and returns nil:
// a cluster that is away is waited for, see [Launcher.Trouble]. It may be
// called once.
func (l *Launcher) Run(ctx context.Context) error {
	l.watch.run(ctx)
	return nil
}

// Synced is closed once the watch knows every Job and pod that there was when
// Run was called.
func (l *Launcher) Synced() <-chan struct{} { return l.watch.synced }

// Trouble is what the watch stumbles over at the moment, such as a missing
// right or a cluster that is away; nil when it works.
func (l *Launcher) Trouble() error { return l.watch.trouble() }

// Check tells, without asking the cluster, why a launch could never work: a
// [*run.InvalidError] or a [*run.LaunchError].
func (l *Launcher) Check(launch run.Launch) error {
	if launch.Image == "" {
		launch.Image = placeholder
	}
	template, err := l.templates.of(launch.Policy)
	if err == nil {
		_, _, err = template.Build(launch)
	}
	return err
}

// Launch creates the Job of an attempt, or adopts the one that is there. Its
// errors are a [*run.LaunchError], a [*run.InvalidError] or the context's. It
// makes one request, two with secrets, and may be repeated. A launch with a
// Known Job only ever adopts: the Job of that UID, or, without one, whatever Job
// the attempt may have made.
//
// A Job of ours that is being deleted is adopted like any other: what it made
// may still run, and Follow says that it was deleted once it does not.
func (l *Launcher) Launch(ctx context.Context, launch run.Launch) (job run.Job, adopted bool, err error) {
	if err := ctx.Err(); err != nil {
		return run.Job{}, false, err
	}
	if launch.Known != nil && launch.Known.UID != "" {
		return *launch.Known, true, l.adopt(ctx, *launch.Known)
	}
	if launch.Known != nil {
		job, err := l.find(ctx, launch)
		return job, true, err
	}
	template, err := l.templates.of(launch.Policy)
	if err != nil {
		return run.Job{}, false, err
	}
	wanted, secret, err := template.Build(launch)
	if err != nil {
		return run.Job{}, false, err
	}
	job, adopted, err = l.create(ctx, launch, wanted)
	if err != nil {
		return run.Job{}, false, err
	}
	if secret != nil {
		secret.OwnerReferences = ownedBy(job)
		if err := l.ensure(ctx, job, secret); err != nil {
			return run.Job{}, false, err
		}
	}
	return job, adopted, nil
}

// create makes the Job or finds that it is there.
func (l *Launcher) create(ctx context.Context, launch run.Launch, wanted *batchv1.Job) (job run.Job, adopted bool, err error) {
	found, err := l.createJob(ctx, wanted)
	if apierrors.IsAlreadyExists(err) {
		adopted = true
		if found, err = l.getJob(ctx, wanted.Namespace, wanted.Name); err == nil {
			err = l.same(found, launch)
		}
	}
	var foreign *run.LaunchError
	switch {
	case errors.As(err, &foreign):
		return run.Job{}, false, err
	case err != nil:
		return run.Job{}, false, refusedOr(ctx, err)
	}
	return run.Job{Namespace: found.Namespace, Name: found.Name, UID: string(found.UID)}, adopted, nil
}

// find finds the Job of an attempt that may have been made, with nobody left
// to tell its UID. It needs neither an image nor a policy that still allows the
// request: both may have changed since.
func (l *Launcher) find(ctx context.Context, launch run.Launch) (run.Job, error) {
	name := run.JobName(launch.Request.ID, launch.Attempt)
	found, err := l.getJob(ctx, l.template.settings.Namespace, name)
	if apierrors.IsNotFound(err) {
		return run.Job{}, &run.LaunchError{Reason: run.JobDeleted, Message: fmt.Sprintf("There is no Job %s.", name)}
	}
	if err != nil {
		return run.Job{}, refusedOr(ctx, err)
	}
	if err := l.same(found, launch); err != nil {
		return run.Job{}, err
	}
	return run.Job{Namespace: found.Namespace, Name: found.Name, UID: string(found.UID)}, nil
}

// same refuses a Job that has our name and is not our own: adopting it would
// report another's end as the run's.
func (l *Launcher) same(found *batchv1.Job, launch run.Launch) error {
	var whose string
	wanted := identity(l.template.settings.Instance, launch)
	switch {
	case found.Labels[LabelManagedBy] != ManagedBy:
		whose = "was not made by Ropewalk"
	case found.Labels[LabelInstance] != wanted[LabelInstance]:
		whose = fmt.Sprintf("belongs to the Ropewalk instance %q", found.Labels[LabelInstance])
	case found.Labels[LabelRunID] != wanted[LabelRunID], found.Labels[LabelQueue] != wanted[LabelQueue],
		found.Labels[LabelAttempt] != wanted[LabelAttempt]:
		whose = fmt.Sprintf("belongs to attempt %s of run %s in queue %s", found.Labels[LabelAttempt], found.Labels[LabelRunID], found.Labels[LabelQueue])
	case found.Annotations[AnnotationRequestHash] != launch.Request.Hash():
		whose = "was made for another request with the same run id"
	default:
		return nil
	}
	return &run.LaunchError{
		Reason:  run.InvalidRequest,
		Message: fmt.Sprintf("A Job %s is in namespace %s already, and it %s.", found.Name, found.Namespace, whose),
	}
}

// adopt finds a Job that is on record. Gone, it counts as deleted only when its
// pods have ended too: until then the attempt is not over, and Follow waits.
func (l *Launcher) adopt(ctx context.Context, job run.Job) error {
	view := l.watch.follow(uid(job))
	defer l.watch.unfollow(view)
	sight, _ := l.watch.look(view, job)
	if _, alive := current(sight); alive || sight.Job != nil && !sight.Gone {
		return nil
	}
	there, err := l.exists(ctx, job)
	if err != nil {
		return refusedOr(ctx, err)
	}
	if there {
		return nil
	}
	// The pods of a Job that is gone may run on. Only the watch knows.
	if err := l.watch.awaitSynced(ctx); err != nil {
		return err
	}
	sight, _ = l.watch.look(view, job)
	if _, alive := current(sight); alive {
		return nil
	}
	return &run.LaunchError{Reason: run.JobDeleted, Message: fmt.Sprintf("The run's Job %s is no more.", job.Name)}
}

// ensure makes the Secret of a Job, unless it is there.
func (l *Launcher) ensure(ctx context.Context, job run.Job, secret *corev1.Secret) error {
	err := l.createSecret(ctx, secret)
	if !apierrors.IsAlreadyExists(err) {
		if err != nil {
			return refusedOr(ctx, err)
		}
		return nil
	}
	call, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	found, err := l.client.CoreV1().Secrets(job.Namespace).Get(call, job.Name, metav1.GetOptions{})
	if err != nil {
		return refusedOr(ctx, err)
	}
	owner := metav1.GetControllerOf(found)
	switch {
	case owner != nil && owner.UID == uid(job):
		return nil
	case owner != nil && owner.Kind == "Job" && owner.Name == job.Name:
		// An earlier Job of the name is gone and the cluster is about to
		// collect its Secret. Another run's secrets must not be used.
		return &run.LaunchError{
			Reason: run.StartTimeout, Temporary: true,
			Message: fmt.Sprintf("The Secret %s of an earlier Job of this name is about to be deleted.", job.Name),
		}
	}
	// The pod would wait for a Secret that never comes.
	if err := l.Delete(ctx, job); err != nil {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		return &run.LaunchError{Reason: run.StartTimeout, Temporary: true, Message: sentence("The Job must be deleted again", err.Error()), Err: err}
	}
	return &run.LaunchError{
		Reason:  run.InvalidRequest,
		Message: fmt.Sprintf("A Secret %s is in namespace %s already, and it was not made for this run.", job.Name, job.Namespace),
	}
}

// exists reports whether the Job of this very UID exists.
func (l *Launcher) exists(ctx context.Context, job run.Job) (bool, error) {
	found, err := l.getJob(ctx, job.Namespace, job.Name)
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	return err == nil && found.UID == uid(job), err
}

func (l *Launcher) createJob(ctx context.Context, job *batchv1.Job) (*batchv1.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return l.client.BatchV1().Jobs(job.Namespace).Create(ctx, job, metav1.CreateOptions{})
}

func (l *Launcher) getJob(ctx context.Context, namespace, name string) (*batchv1.Job, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	return l.client.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{})
}

func (l *Launcher) createSecret(ctx context.Context, secret *corev1.Secret) error {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err := l.client.CoreV1().Secrets(secret.Namespace).Create(ctx, secret, metav1.CreateOptions{})
	return err
}

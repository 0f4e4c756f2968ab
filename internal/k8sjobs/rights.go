package k8sjobs

import (
	"context"
	"errors"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/run"
)

// Right is something that the dispatcher does in the namespace of runs.
type Right struct {
	Verb, Group, Resource, Subresource string
	// For is what it is needed for.
	For string
	// Optional: without it, less is known or done, and runs work.
	Optional bool
}

// String is the right in the words of a Role.
func (r Right) String() string {
	resource := r.Resource
	if r.Subresource != "" {
		resource += "/" + r.Subresource
	}
	return r.Verb + " " + resource
}

// Rights lists all that the shipped Role gives.
func Rights() []Right {
	rights := func(group, resource, subresource, purpose string, optional bool, verbs ...string) (all []Right) {
		for _, verb := range verbs {
			all = append(all, Right{verb, group, resource, subresource, purpose, optional})
		}
		return all
	}
	var all []Right
	all = append(all, rights("batch", "jobs", "", "runs are Jobs", false, "create", "get", "list", "watch", "delete")...)
	all = append(all, rights("batch", "jobs", "finalizers", "clusters that check owner references ask for it", true, "update")...)
	all = append(all, rights("", "pods", "", "how a run goes is read from its pods", false, "list", "watch")...)
	all = append(all, rights("", "pods", "", "a pod that was left behind when its Job was deleted is ended", true, "delete")...)
	all = append(all, rights("", "pods", "log", "logs of runs", true, "get")...)
	all = append(all, rights("", "secrets", "", "the secret environment of runs", false, "create", "get")...)
	all = append(all, rights("", "events", "", "why a pod cannot be made or started", false, "list", "watch")...)
	return all
}

// May asks the API server whether this process has a right. The error's text is
// for people.
func (l *Launcher) May(ctx context.Context, right Right) (bool, error) {
	review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{
		ResourceAttributes: &authorizationv1.ResourceAttributes{
			Namespace: l.template.settings.Namespace, Verb: right.Verb, Group: right.Group, Resource: right.Resource, Subresource: right.Subresource,
		},
	}}
	answer, err := l.client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	if err != nil {
		return false, errors.New(refusal(err).Message)
	}
	return answer.Status.Allowed, nil
}

// ErrMayNotLook: the dispatcher's own rights do not let it find out.
var ErrMayNotLook = errors.New("the dispatcher may not look")

// HasServiceAccount reports whether the service account that runs have exists.
// The shipped Role does not let it look; then the error is [ErrMayNotLook].
func (l *Launcher) HasServiceAccount(ctx context.Context) (bool, error) {
	name := l.template.settings.ServiceAccount
	_, err := l.client.CoreV1().ServiceAccounts(l.template.settings.Namespace).Get(ctx, name, metav1.GetOptions{})
	switch {
	case err == nil:
		return true, nil
	case apierrors.IsNotFound(err):
		return false, nil
	case apierrors.IsForbidden(err):
		return false, ErrMayNotLook
	default:
		return false, errors.New(refusal(err).Message)
	}
}

// Try has the API server check the Job of a launch, admission included, without
// making it. What it warns of goes to [ClientConfig.Warn]: that its pods would
// be refused by pod security, for one. Errors are as for [Launcher.Launch].
func (l *Launcher) Try(ctx context.Context, launch run.Launch) error {
	wanted, _, err := l.template.Build(launch)
	if err != nil {
		return err
	}
	_, err = l.client.BatchV1().Jobs(wanted.Namespace).Create(ctx, wanted, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
	if err != nil {
		return refusedOr(ctx, err)
	}
	return nil
}

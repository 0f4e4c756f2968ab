package k8sjobs

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"syscall"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/ropewalk/ropewalk/internal/run"
)

func TestRefusalTellsWhatMayPass(t *testing.T) {
	jobs := schema.GroupResource{Group: "batch", Resource: "jobs"}
	status := func(code int32, reason metav1.StatusReason, message string) error {
		return &apierrors.StatusError{ErrStatus: metav1.Status{Status: metav1.StatusFailure, Code: code, Reason: reason, Message: message}}
	}
	terminating := apierrors.NewForbidden(jobs, "a", errors.New("unable to create new content in namespace runs because it is being terminated"))
	terminating.ErrStatus.Details.Causes = []metav1.StatusCause{{Type: "NamespaceTerminating"}}
	for sentence, test := range map[string]struct {
		err       error
		reason    run.Reason
		temporary bool
		says      string
	}{
		"nobody listens": {
			&url.Error{Op: "Post", URL: "https://10.0.0.1/apis", Err: fmt.Errorf("dial tcp 10.0.0.1:443: connect: %w", syscall.ECONNREFUSED)},
			run.StartTimeout, true, "The cluster cannot be reached: dial tcp 10.0.0.1:443: connect: connection refused.",
		},
		"nobody answers": {
			&url.Error{Op: "Post", URL: "https://10.0.0.1/apis", Err: context.DeadlineExceeded},
			run.StartTimeout, true, "The cluster cannot be reached: no answer within 30s.",
		},
		"the Job is not valid": {
			apierrors.NewInvalid(schema.GroupKind{Group: "batch", Kind: "Job"}, "a", field.ErrorList{field.Required(field.NewPath("spec", "template"), "")}),
			run.InvalidPodSpec, false, "spec.template: Required value",
		},
		"the Job cannot be read": {
			apierrors.NewBadRequest("unknown field"), run.InvalidPodSpec, false, "unknown field",
		},
		"the Job is too large for the API": {
			apierrors.NewRequestEntityTooLargeError("limit is 3145728"), run.InvalidPodSpec, false, "larger than the API server takes",
		},
		"the Job is too large for its store": {
			status(500, metav1.StatusReasonUnknown, "etcdserver: request is too large"), run.InvalidPodSpec, false, "larger than the API server takes",
		},
		"the quota is used up": {
			apierrors.NewForbidden(jobs, "a", errors.New("exceeded quota: q, requested: count/jobs.batch=1")),
			run.QuotaExceeded, true, "quota has no room for the Job",
		},
		"a right is missing": {
			apierrors.NewForbidden(jobs, "a", errors.New(`User "x" cannot create resource "jobs"`)),
			run.StartTimeout, true, `User "x" cannot create`,
		},
		"the credentials have run out": {
			apierrors.NewUnauthorized("Unauthorized"), run.StartTimeout, true, "credentials: Unauthorized.",
		},
		"a webhook says no": {
			status(403, metav1.StatusReasonForbidden, `admission webhook "policy.example.com" denied the request: no team label`),
			run.PolicyRefused, false, "no team label.",
		},
		"an admission policy says no": {
			status(422, metav1.StatusReasonInvalid, `jobs.batch "a" is forbidden: ValidatingAdmissionPolicy 'p' with binding 'b' denied request: no team label`),
			run.PolicyRefused, false, "no team label.",
		},
		"a webhook is away": {
			apierrors.NewInternalError(errors.New("failed calling webhook")), run.StartTimeout, true, "failed calling webhook",
		},
		"the namespace does not exist": {
			apierrors.NewNotFound(schema.GroupResource{Resource: "namespaces"}, "runs"), run.StartTimeout, true, `namespaces "runs" not found`,
		},
		"the namespace is being deleted": {
			terminating, run.StartTimeout, true, "The namespace is being deleted",
		},
		"the API server is busy": {
			apierrors.NewTooManyRequests("too many requests", 3), run.StartTimeout, true, "is overloaded and asks to wait 3s",
		},
		"the API server starts": {
			apierrors.NewServiceUnavailable("not ready"), run.StartTimeout, true, "could not do it: not ready.",
		},
		"two wrote at once": {
			apierrors.NewConflict(schema.GroupResource{Resource: "resourcequotas"}, "q", errors.New("modified")), run.StartTimeout, true, "modified",
		},
	} {
		t.Run(sentence, func(t *testing.T) {
			got := refusal(fmt.Errorf("create: %w", test.err))
			if got.Reason != test.reason || got.Temporary != test.temporary || !strings.Contains(got.Message, test.says) {
				t.Errorf("got %s, temporary %v: %s", got.Reason, got.Temporary, got.Message)
			}
			if !errors.Is(got, test.err) {
				t.Error("the cause is lost")
			}
			if !strings.HasSuffix(got.Message, ".") || strings.Contains(got.Message, "https://") {
				t.Errorf("the message reads badly: %s", got.Message)
			}
		})
	}
}

func TestAnEndedContextIsNoRefusal(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := refusedOr(ctx, errors.New("client rate limiter: context canceled")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

package k8sjobs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/ropewalk/ropewalk/internal/run"
)

// refusal says what an API error on the way to a Job means for the run, and
// decides alone whether it may pass. What may pass has the reason that the run
// would be given up with.
//
// Missing rights are among what may pass: a Role is mended while runs wait, and
// failing them all would help nobody.
func refusal(err error) *run.LaunchError {
	refused := &run.LaunchError{Reason: run.StartTimeout, Temporary: true, Err: err}
	var status apierrors.APIStatus
	if !errors.As(err, &status) {
		refused.Message = sentence("The cluster cannot be reached", unreachable(err))
		return refused
	}
	words, code := status.Status().Message, int(status.Status().Code)
	switch {
	case strings.Contains(words, "denied the request"), strings.Contains(words, "denied request"):
		// Webhooks choose their code freely. The first is how the API server
		// reports a webhook's answer, the second an admission policy's.
		refused.Reason, refused.Temporary = run.PolicyRefused, false
		refused.Message = sentence("An admission policy of the cluster refuses the Job", words)
	case code == http.StatusForbidden && strings.Contains(words, "exceeded quota"):
		refused.Reason = run.QuotaExceeded
		refused.Message = sentence("The namespace's quota has no room for the Job", words)
	case code == http.StatusForbidden && apierrors.HasStatusCause(err, "NamespaceTerminating"):
		refused.Message = sentence("The namespace is being deleted", words)
	case code == http.StatusForbidden:
		refused.Message = sentence("The cluster does not let the dispatcher do this; bind its service account to the Role that comes with Ropewalk", words)
	case code == http.StatusUnauthorized:
		refused.Message = sentence("The cluster does not accept the dispatcher's credentials", words)
	case code == http.StatusUnprocessableEntity:
		refused.Reason, refused.Temporary = run.InvalidPodSpec, false
		refused.Message = sentence("The API server refuses the Job", words)
	case code == http.StatusBadRequest:
		refused.Reason, refused.Temporary = run.InvalidPodSpec, false
		refused.Message = sentence("The API server cannot read the Job", words)
	case code == http.StatusRequestEntityTooLarge, strings.Contains(words, "request is too large"):
		refused.Reason, refused.Temporary = run.InvalidPodSpec, false
		refused.Message = sentence("The Job is larger than the API server takes; keep large values out of the request's arguments and environment", words)
	case code == http.StatusNotFound:
		refused.Message = sentence("What the Job needs is not there", words)
	case code == http.StatusTooManyRequests:
		refused.Message = sentence("The API server is overloaded"+asksToWait(err), words)
	default:
		refused.Message = sentence("The API server could not do it"+asksToWait(err), words)
	}
	return refused
}

func asksToWait(err error) string {
	if seconds, asks := apierrors.SuggestsClientDelay(err); asks && seconds > 0 {
		return fmt.Sprintf(" and asks to wait %ds", seconds)
	}
	return ""
}

// unreachable is the cause of a request that got no answer, without the URL
// around it.
func unreachable(err error) string {
	if request, is := errors.AsType[*url.Error](err); is {
		err = request.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Sprintf("no answer within %s", callTimeout)
	}
	return err.Error()
}

// refusedOr is the error of an API call to hand on: the context's own when it
// has ended, else what the API's means.
func refusedOr(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return refusal(err)
}

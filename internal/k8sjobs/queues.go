package k8sjobs

import (
	"encoding/json"
	"fmt"
	"sync"

	"github.com/ropewalk/ropewalk/internal/run"
)

// templates are the pod templates of queues that have settings of their own,
// compiled once for each policy. It is safe for concurrent use.
type templates struct {
	base *Template

	mu       sync.Mutex
	compiled map[string]compiled // by the policy's JSON
}

// compiled is a template, or what is wrong with the policy.
type compiled struct {
	template *Template
	err      error
}

// mostTemplates bounds what is kept: more than one for each queue, since
// policies change; when it is full, all are made anew.
const mostTemplates = 256

func newTemplates(base *Template) *templates {
	return &templates{base: base, compiled: make(map[string]compiled)}
}

// of returns the template for runs of a queue with that policy, whose namespace
// is the launcher's business and not looked at. Its error is a
// [*run.LaunchError]: the policy does not fit, which is not the request's fault.
func (t *templates) of(policy run.Policy) (*Template, error) {
	mayset, known := policy.MayOverridePod()
	if policy.ServiceAccount == "" && len(policy.PodTemplatePatch) == 0 && !known {
		return t.base, nil
	}
	key, err := json.Marshal(run.Policy{ServiceAccount: policy.ServiceAccount, PodTemplatePatch: policy.PodTemplatePatch, MayOverride: policy.MayOverride})
	if err != nil {
		return nil, unfit(err)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if made, ok := t.compiled[string(key)]; ok {
		return made.template, made.err
	}
	settings := t.base.settings
	settings.QueuePatch = string(policy.PodTemplatePatch)
	if policy.ServiceAccount != "" {
		settings.ServiceAccount = policy.ServiceAccount
	}
	if known {
		settings.RequestMaySet, settings.RequestMaySetBy = mayset, "its queue (--may-override)"
	}
	var made compiled
	if made.template, err = Compile(settings); err != nil {
		made.err = unfit(err)
	}
	if len(t.compiled) >= mostTemplates {
		clear(t.compiled)
	}
	t.compiled[string(key)] = made
	return made.template, made.err
}

func unfit(err error) error {
	return &run.LaunchError{
		Reason: run.InvalidPodSpec, Err: err,
		Message: sentence("What is set for the run's queue does not fit", fmt.Sprint(err)),
	}
}

// CheckPatch says what is wrong with a patch of the pod template that a queue is
// to have.
func CheckPatch(patch string) error {
	_, err := Compile(Settings{Namespace: "default", Instance: "check", Security: Restricted(), QueuePatch: patch})
	return err
}

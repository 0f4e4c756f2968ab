package k8sjobs

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/run"
)

// endsWith follows a Job whose pod ends with an exit code.
func endsWith(s *stage, code int) *followed {
	condition, phase := failed(9, "BackoffLimitExceeded"), corev1.PodFailed
	if code == 0 {
		condition, phase = complete(9), corev1.PodSucceeded
	}
	s.sees(now(podOf(phase, exited(code, "Error"))).Pod, false)
	s.sees(now(jobOf(condition)), false)
	return s.follow()
}

func TestAnAttemptThatFailedIsReadOnce(t *testing.T) {
	onStage(t, func(s *stage) {
		warned := metav1.NewTime(time.Unix(100, 0))
		for i := range run.EvidenceEvents + 2 {
			s.events.Items = append(s.events.Items, corev1.Event{
				Reason: "Unhealthy", Message: fmt.Sprintf("word %d", i), Count: 3,
				LastTimestamp: metav1.NewTime(warned.Add(-time.Duration(i) * time.Second)),
			})
		}
		const at = "2026-01-02T03:04:05.678901234Z "
		s.log = strings.Repeat(at+"line\n", 30) + at + "last \x1b[2J\n"
		f := endsWith(s, 3)
		f.ends(run.Failed, run.AppError)
		s.asked("list events", "get pods/log")
		evidence := f.final.Evidence
		if evidence == nil || len(evidence.LastLines) != run.EvidenceLines || evidence.LastLines[run.EvidenceLines-1] != "last \x1b[2J" {
			t.Fatalf("the evidence is %+v", evidence)
		}
		last := run.Event{At: warned.UTC(), Count: 3, Reason: "Unhealthy", Message: "word 0"}
		if len(evidence.Events) != run.EvidenceEvents || !reflect.DeepEqual(evidence.Events[run.EvidenceEvents-1], last) {
			t.Errorf("the events are %+v, want the last to be %+v", evidence.Events, last)
		}
	})
}

func TestASuccessfulRunCostsNoRequest(t *testing.T) {
	onStage(t, func(s *stage) {
		f := endsWith(s, 0)
		f.ends(run.Succeeded, "")
		s.asked()
		if f.final.Evidence != nil {
			t.Errorf("the evidence is %+v", f.final.Evidence)
		}
	})
}

func TestEvidenceThatCannotBeReadIsNoErrorButIsTold(t *testing.T) {
	for says, c := range map[string]struct {
		err  error
		want string
	}{
		"the pod is gone": {apierrors.NewNotFound(corev1.Resource("pods"), "run-a-1"), "the pod is gone, and its log with it"},
		"a missing right": {apierrors.NewForbidden(corev1.Resource("pods"), "run-a-1", nil), "bind its service account to the Role"},
	} {
		t.Run(says, func(t *testing.T) {
			onStage(t, func(s *stage) {
				s.answers(func(request string) error {
					if request == "get pods/log" {
						return c.err
					}
					return nil
				})
				f := endsWith(s, 3)
				f.ends(run.Failed, run.AppError)
				if evidence := f.final.Evidence; evidence == nil || !strings.Contains(evidence.Missing, c.want) {
					t.Errorf("the evidence is %+v, want it to say %q", evidence, c.want)
				}
			})
		})
	}
}

func TestWhatALongLogIsCutInIsNotTheNodesWord(t *testing.T) {
	const at = "2026-01-02T03:04:05Z "
	long := at + strings.Repeat("x", logBytes)
	for says, log := range map[string]string{
		"a line":             long,
		"the time of a line": at + strings.Repeat("x", logBytes-len(at)-5) + "\n" + long,
	} {
		t.Run(says, func(t *testing.T) {
			onStage(t, func(s *stage) {
				s.log = log
				f := endsWith(s, 3)
				f.ends(run.Failed, run.AppError)
				if got := f.final.Evidence; got == nil || got.Missing != "" || len(got.LastLines) != 1 || !strings.HasPrefix(got.LastLines[0], "xxx") {
					t.Errorf("the evidence is %+v", got)
				}
			})
		})
	}
}

func TestWhatTheNodeSaysInTheLogsPlaceIsNotTheProgramsWord(t *testing.T) {
	const removed = "unable to retrieve container logs for containerd://5e9b"
	for says, c := range map[string]struct {
		log  string
		want []string
	}{
		"instead of the log":       {removed, nil},
		"where the log breaks off": {"2026-01-02T03:04:05.6Z begun\n2026-01-02T03:04:06Z \n" + removed + "\n", []string{"begun"}},
	} {
		t.Run(says, func(t *testing.T) {
			onStage(t, func(s *stage) {
				s.log = c.log
				f := endsWith(s, 3)
				f.ends(run.Failed, run.AppError)
				want := &run.Evidence{LastLines: c.want, Missing: "Not all is here: the node does not give the log to its end: " + removed + "."}
				if !reflect.DeepEqual(f.final.Evidence, want) {
					t.Errorf("the evidence is %+v, want %+v", f.final.Evidence, want)
				}
			})
		})
	}
}

func TestALogThatHangsDoesNotHoldTheRun(t *testing.T) {
	onStage(t, func(s *stage) {
		s.answers(func(request string) error {
			if request == "get pods/log" {
				<-time.After(evidenceTimeout)
				return errNotFound
			}
			return nil
		})
		f := endsWith(s, 3)
		f.goesOn()
		s.passes(evidenceTimeout)
		f.ends(run.Failed, run.AppError)
	})
}

func TestAPodThatNeverWroteIsAskedForNoLog(t *testing.T) {
	onStage(t, func(s *stage) {
		giveUpOn(s)
		s.passes(eventPatience())
		s.asked(withoutEvent("delete jobs")...)
	})
}

func TestAnEventThatComesLateIsWaitedFor(t *testing.T) {
	onStage(t, func(s *stage) {
		f, job := giveUpOn(s)
		s.passes(eventPatience() - 1)
		f.goesOn()
		s.mu.Lock()
		s.events.Items = []corev1.Event{{Reason: "Failed", Message: "not found"}}
		s.mu.Unlock()
		s.passes(1)
		s.asked(withoutEvent("delete jobs")...)
		s.sees(podOf(corev1.PodPending).Pod, true)
		s.sees(job, true)
		f.ends(run.Failed, run.ImagePullFailed)
		if evidence := f.final.Evidence; evidence == nil || len(evidence.Events) != 1 {
			t.Errorf("the evidence is %+v, want the event", evidence)
		}
	})
}

func TestAProgramDoesNotEndBeforeItStarts(t *testing.T) {
	pod := podOf(corev1.PodFailed, exited(3, "Error"))
	end := program(pod).Terminated
	end.FinishedAt = metav1.NewTime(end.StartedAt.Add(-time.Second))
	if got := finishedAt(pod); !got.Equal(end.StartedAt.Time) {
		t.Errorf("it started at %s and ended at %s", end.StartedAt, got)
	}
}

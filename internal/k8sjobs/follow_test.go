package k8sjobs

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/ropewalk/ropewalk/internal/run"
)

// stage is a launcher whose watch is fed by hand and whose API answers as the
// test says, so that the clock can be made up. What a cluster really does is
// tested on a cluster; here it is what is made of it, and when.
type stage struct {
	*testing.T
	launcher *Launcher

	mu       sync.Mutex
	requests []string
	answer   func(request string) error // nil is success
	events   corev1.EventList           // what there is of them, and of the log
	log      string
}

// onStage runs a test in which time is made up.
func onStage(t *testing.T, test func(*stage)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{T: t, answer: func(string) error { return nil }}
		client, err := kubernetes.NewForConfigAndClient(&rest.Config{Host: "http://cluster", QPS: 1000, Burst: 1000}, &http.Client{Transport: s})
		if err != nil {
			t.Fatal(err)
		}
		settings := restricted()
		settings.Patience = patient
		if s.launcher, err = New(Config{Client: client, Settings: settings}); err != nil {
			t.Fatal(err)
		}
		close(s.launcher.watch.synced)
		test(s)
	})
}

// RoundTrip is the API server.
func (s *stage) RoundTrip(request *http.Request) (*http.Response, error) {
	verb, resource := verbOf(request)
	s.mu.Lock()
	s.requests = append(s.requests, verb+" "+resource)
	answer := s.answer
	var body any = jobOf()
	switch verb + " " + resource {
	case "list events":
		body = s.events
	case "get pods/log":
		body = json.RawMessage(s.log)
	}
	s.mu.Unlock()
	code := http.StatusOK
	if err := answer(verb + " " + resource); err != nil {
		var status apierrors.APIStatus
		if !errors.As(err, &status) {
			return nil, err
		}
		failure := status.Status()
		failure.APIVersion, failure.Kind = "v1", "Status"
		body, code = failure, int(failure.Code)
	}
	text, raw := body.(json.RawMessage)
	if !raw {
		var err error
		if text, err = json.Marshal(body); err != nil {
			return nil, err
		}
	}
	return &http.Response{StatusCode: code, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(string(text)))}, nil
}

func (s *stage) answers(answer func(request string) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.answer = answer
}

// asked demands what was asked of the API so far.
func (s *stage) asked(want ...string) {
	s.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	if !slices.Equal(s.requests, want) {
		s.Errorf("the API was asked %q, want %q", s.requests, want)
	}
}

var errNotFound = apierrors.NewNotFound(schema.GroupResource{Group: "batch", Resource: "jobs"}, "run-a-1")

// passes lets time pass.
func (s *stage) passes(duration time.Duration) {
	<-time.After(duration)
	synctest.Wait()
}

// sees puts an object into the watch, or takes it out.
func (s *stage) sees(object any, gone bool) {
	s.Helper()
	w := s.launcher.watch
	informer, changed := w.jobs, w.jobChanged
	switch object.(type) {
	case *corev1.Pod:
		informer, changed = w.pods, w.podChanged
	case *corev1.Event:
		informer, changed = w.events, w.eventChanged
	}
	var err error
	if gone {
		err = informer.GetStore().Delete(object)
	} else {
		err = informer.GetStore().Update(object)
	}
	if err != nil {
		s.Fatal(err)
	}
	changed(object, gone)
	synctest.Wait()
}

// follow follows the Job in the background.
func (s *stage) follow() *followed {
	ctx, cancel := context.WithCancel(s.Context())
	f := &followed{stage: s, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(f.done)
		f.final, f.err = s.launcher.Follow(ctx, run.Job{Namespace: "runs", Name: "run-a-1", UID: "job"}, func(seen run.Observation) {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.told = append(f.told, fmt.Sprintf("%s %s", seen.State, seen.Message))
		})
	}()
	synctest.Wait()
	return f
}

type followed struct {
	stage  *stage
	cancel context.CancelFunc
	done   chan struct{}
	final  run.Observation
	err    error

	mu   sync.Mutex
	told []string
}

// goesOn demands that the run is not over.
func (f *followed) goesOn() {
	f.stage.Helper()
	synctest.Wait()
	select {
	case <-f.done:
		f.stage.Fatalf("Follow returned %+v, %v", f.final, f.err)
	default:
	}
}

// ends demands that the run is over by now.
func (f *followed) ends(state run.State, reason run.Reason) {
	f.stage.Helper()
	synctest.Wait()
	select {
	case <-f.done:
		if f.err != nil || f.final.State != state || f.final.Reason != reason {
			f.stage.Errorf("Follow returned %+v, %v; want %s %s", f.final, f.err, state, reason)
		}
	default:
		f.cancel()
		f.stage.Fatal("Follow goes on")
	}
}

func (f *followed) says(want ...string) {
	f.stage.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	if !reflect.DeepEqual(f.told, want) {
		f.stage.Errorf("told:\n%s\nwant:\n%s", strings.Join(f.told, "\n"), strings.Join(want, "\n"))
	}
}

// now moves an object's times, which count from t0, to the time of the test.
func now[T any](object T) T {
	shift := time.Since(t0).Truncate(time.Second)
	for _, found := range times(reflect.ValueOf(&object)) {
		if found.Unix() > 0 {
			*found = found.Add(shift)
		}
	}
	return object
}

// times finds every time in what a pointer points to.
func times(value reflect.Value) (found []*time.Time) {
	if moment, is := reflect.TypeAssert[*time.Time](value); is {
		return []*time.Time{moment}
	}
	if value.Kind() == reflect.Slice {
		for i := range value.Len() {
			found = append(found, times(value.Index(i).Addr())...)
		}
		return found
	}
	if value.Kind() != reflect.Pointer || value.IsNil() {
		return nil
	}
	switch inner := value.Elem(); inner.Kind() {
	case reflect.Slice, reflect.Pointer:
		return times(inner)
	case reflect.Struct:
		for i := range inner.NumField() {
			if inner.Type().Field(i).IsExported() {
				found = append(found, times(inner.Field(i).Addr())...)
			}
		}
	default:
	}
	return found
}

func TestFollowTellsWhatIsNewAndNoMore(t *testing.T) {
	onStage(t, func(s *stage) {
		s.sees(now(jobOf()), false)
		f := s.follow()
		pod := now(podOf(corev1.PodPending, waits("run", "ContainerCreating", ""))).Pod
		s.sees(pod, false)
		s.sees(pod, false)
		s.passes(time.Minute)
		s.sees(now(podOf(corev1.PodRunning, running(3))).Pod, false)
		s.sees(now(podOf(corev1.PodFailed, exited(3, "Error"))).Pod, false)
		s.sees(now(jobOf(failed(9, "BackoffLimitExceeded"))), false)
		f.ends(run.Failed, run.AppError)
		f.says("pending ", "pending Node node-1 pulls the image or sets the container up.", "running ")
		s.asked("list events", "get pods/log")
	})
}

func TestAJobThatTheWatchHasYetToSeeIsNotGone(t *testing.T) {
	onStage(t, func(s *stage) {
		f := s.follow()
		s.passes(lag - 1)
		f.goesOn()
		s.sees(now(jobOf(complete(9))), false)
		s.passes(settle + 10*time.Second)
		f.ends(run.Succeeded, "")
		s.asked()
	})
}

func TestAnAbsentJobIsAskedForOnce(t *testing.T) {
	onStage(t, func(s *stage) {
		s.answers(func(string) error { return errNotFound })
		f := s.follow()
		s.passes(lag)
		f.ends(run.Failed, run.JobDeleted)
		s.asked("get jobs")
	})
}

func TestAnAbsentJobThatExistsIsWaitedFor(t *testing.T) {
	onStage(t, func(s *stage) {
		f := s.follow()
		s.passes(lag)
		f.goesOn()
		s.asked("get jobs")
		s.answers(func(string) error { return errors.New("connection refused") })
		s.passes(lag)
		f.goesOn()
		s.asked("get jobs", "get jobs")
		f.cancel()
		<-f.done
		if !errors.Is(f.err, context.Canceled) {
			s.Errorf("Follow returned %v", f.err)
		}
	})
}

func TestADeletionIsBelievedForTheRightUIDOnly(t *testing.T) {
	onStage(t, func(s *stage) {
		job := now(jobOf())
		s.sees(job, false)
		f := s.follow()
		other := job.DeepCopy()
		other.UID = "other"
		s.launcher.watch.jobChanged(other, true)
		f.goesOn()
		s.sees(job, true)
		f.ends(run.Failed, run.JobDeleted)
		s.asked()
	})
}

func TestAJobWhoseNameIsAnothersIsGone(t *testing.T) {
	onStage(t, func(s *stage) {
		other := now(jobOf())
		other.UID = "other"
		s.sees(other, false)
		s.follow().ends(run.Failed, run.JobDeleted)
		s.asked()
	})
}

func TestAJobThatIsDeletedAsSoonAsItHasEndedHasEnded(t *testing.T) {
	onStage(t, func(s *stage) {
		s.sees(now(jobOf()), false)
		pod := now(podOf(corev1.PodSucceeded, exited(0, "Completed"))).Pod
		s.sees(pod, false)
		f := s.follow()
		// Both changes are there before anybody looks, as with a TTL of 0.
		ended := now(jobOf(complete(9)))
		w := s.launcher.watch
		if err := w.jobs.GetStore().Delete(ended); err != nil {
			s.Fatal(err)
		}
		w.jobChanged(ended, false)
		w.jobChanged(ended, true)
		f.ends(run.Succeeded, "")
	})
}

func TestTheLastStateOfWhatVanishedUnseenIsUsed(t *testing.T) {
	onStage(t, func(s *stage) {
		w := s.launcher.watch
		view := w.follow("job")
		defer w.unfollow(view)
		pod := podOf(corev1.PodFailed, exited(3, "Error")).Pod
		handlers(w.podChanged).OnDelete(cache.DeletedFinalStateUnknown{Key: "runs/run-a-1-x", Obj: pod})
		handlers(w.jobChanged).OnDelete(cache.DeletedFinalStateUnknown{Key: "runs/run-a-1", Obj: jobOf()})
		handlers(w.jobChanged).OnDelete(cache.DeletedFinalStateUnknown{Key: "runs/run-b-1"}) // with nothing known
		sight, absent := w.look(view, run.Job{Namespace: "runs", Name: "run-a-1", UID: "job"})
		if !sight.Gone || absent || sight.Job == nil || len(sight.Pods) != 1 || !sight.Pods[0].Gone || sight.Pods[0].Pod != pod {
			s.Errorf("seen: %+v, absent %v", sight, absent)
		}
		if len(view.kick) != 1 {
			s.Error("the follower was not woken")
		}
	})
}

// giveUpOn follows a run whose image cannot be pulled until patience ends.
func giveUpOn(s *stage) (*followed, *batchv1.Job) {
	job := now(jobOf())
	s.sees(job, false)
	f := s.follow()
	s.passes(10 * time.Second)
	s.sees(now(podOf(corev1.PodPending, waits("run", "ErrImagePull", "not found"))).Pod, false)
	s.passes(patient.ImagePull - 1)
	f.goesOn()
	s.asked()
	s.passes(1)
	return f, job
}

// eventPatience is how long an event that explains an end is waited for.
func eventPatience() (patience time.Duration) {
	wait := eventLag.Duration
	for range eventLag.Steps - 1 {
		patience += wait
		wait = time.Duration(float64(wait) * eventLag.Factor)
	}
	return patience
}

// withoutEvent is what is asked while the event that explains an end does not
// come, and then.
func withoutEvent(then ...string) []string {
	return append(slices.Repeat([]string{"list events"}, eventLag.Steps), then...)
}

func TestARunIsGivenUpOnlyOnceItsJobIsGone(t *testing.T) {
	onStage(t, func(s *stage) {
		f, job := giveUpOn(s)
		s.passes(eventPatience())
		s.asked(withoutEvent("delete jobs")...)
		f.goesOn()
		s.passes(lag)
		f.goesOn()
		s.asked(withoutEvent("delete jobs", "get jobs")...) // in case the watch is away
		s.sees(podOf(corev1.PodPending).Pod, true)
		s.sees(job, true)
		f.ends(run.Failed, run.ImagePullFailed)
	})
}

func TestARunIsGivenUpHoweverLongItsJobCannotBeDeleted(t *testing.T) {
	onStage(t, func(s *stage) {
		s.answers(func(request string) error {
			if request == "delete jobs" {
				return apierrors.NewServiceUnavailable("not ready")
			}
			return errNotFound
		})
		f, job := giveUpOn(s)
		f.goesOn()
		s.answers(func(string) error { return errNotFound })
		s.sees(podOf(corev1.PodPending).Pod, true)
		s.sees(job, true)
		s.passes(time.Minute)
		f.ends(run.Failed, run.ImagePullFailed)
		f.mu.Lock()
		defer f.mu.Unlock()
		if last := f.told[len(f.told)-1]; !strings.Contains(last, "could not pull the image") || !strings.Contains(last, "cannot be deleted yet") || !strings.Contains(last, "not ready") {
			s.Errorf("told last: %s", last)
		}
	})
}

func TestPatienceWithAnImageBeginsAnewOnceItWasThere(t *testing.T) {
	onStage(t, func(s *stage) {
		s.sees(now(jobOf()), false)
		f := s.follow()
		failing := now(podOf(corev1.PodPending, waits("run", "ErrImagePull", "not found"))).Pod
		s.sees(failing, false)
		s.passes(patient.ImagePull - time.Second)
		s.sees(now(podOf(corev1.PodPending, waits("run", "ContainerCreating", ""))).Pod, false)
		s.sees(failing, false)
		s.passes(patient.ImagePull - time.Second)
		f.goesOn()
		s.asked()
		f.cancel()
		<-f.done
	})
}

func TestADeletedPodIsToldFromOneThatEndedByItself(t *testing.T) {
	for sentence, test := range map[string]struct {
		before podEdit
		reason run.Reason
	}{
		"deleted while it ran":        {deletedAt(6), run.JobDeleted},
		"deleted after it had failed": {exited(1, "Error"), run.AppError},
	} {
		t.Run(sentence, func(t *testing.T) {
			onStage(t, func(s *stage) {
				s.sees(now(jobOf()), false)
				f := s.follow()
				s.sees(now(podOf(corev1.PodRunning, test.before)).Pod, false)
				last := now(podOf(corev1.PodFailed, exited(1, "Error"), deletedNow(9))).Pod
				s.sees(last, false)
				s.sees(last, true)
				s.sees(now(jobOf(failed(11, "BackoffLimitExceeded"))), false)
				f.ends(run.Failed, test.reason)
			})
		})
	}
}

func TestThePodsOfADeletedJobAreWaitedFor(t *testing.T) {
	onStage(t, func(s *stage) {
		job, pod := now(jobOf()), now(podOf(corev1.PodRunning, running(3))).Pod
		s.sees(job, false)
		s.sees(pod, false)
		f := s.follow()
		s.sees(job, true)
		f.goesOn()
		deleting := now(podOf(corev1.PodRunning, running(3), deletedAt(9))).Pod
		s.sees(deleting, false)
		s.passes(2 * collecting)
		f.goesOn()
		s.asked() // the cluster deletes the pod; nobody else need
		s.sees(deleting, true)
		f.ends(run.Failed, run.JobDeleted)
	})
}

func TestThePodsThatADeletedJobLeftBehindAreDeleted(t *testing.T) {
	onStage(t, func(s *stage) {
		job, pod := now(jobOf()), now(podOf(corev1.PodRunning, running(3))).Pod
		s.sees(job, false)
		s.sees(pod, false)
		f := s.follow()
		s.sees(job, true)
		s.passes(collecting)
		s.asked("delete pods")
		s.passes(collecting)
		s.asked("delete pods", "delete pods")
		s.sees(pod, true)
		f.ends(run.Failed, run.JobDeleted)
	})
}

func TestDeleteNeedsAUID(t *testing.T) {
	onStage(t, func(s *stage) {
		if err := s.launcher.Delete(s.Context(), run.Job{Namespace: "runs", Name: "run-a-1"}); err == nil {
			s.Error("a Job of an unknown UID was deleted")
		}
		s.asked()
	})
}

func TestDeleteBelievesTheAPIWhileTheWatchIsAway(t *testing.T) {
	onStage(t, func(s *stage) {
		s.sees(now(jobOf()), false)
		done := make(chan error)
		go func() {
			done <- s.launcher.Delete(s.Context(), run.Job{Namespace: "runs", Name: "run-a-1", UID: "job"})
		}()
		synctest.Wait()
		s.answers(func(string) error { return errNotFound })
		s.passes(lag)
		if err := <-done; err != nil {
			s.Error(err)
		}
		s.asked("delete jobs", "get jobs")
	})
}

func TestAKnownJobIsAdoptedWithoutARequestWhenTheWatchHasIt(t *testing.T) {
	onStage(t, func(s *stage) {
		s.sees(now(jobOf()), false)
		known := &run.Job{Namespace: "runs", Name: "run-a-1", UID: "job"}
		job, adopted, err := s.launcher.Launch(s.Context(), run.Launch{Known: known})
		if err != nil || !adopted || job != *known {
			s.Errorf("Launch = %+v, %v, %v", job, adopted, err)
		}
		s.asked()
	})
}

func TestAKnownJobThatIsGoneIsAdoptedWhileItsPodRuns(t *testing.T) {
	onStage(t, func(s *stage) {
		pod := now(podOf(corev1.PodRunning, running(3))).Pod
		s.sees(pod, false)
		known := &run.Job{Namespace: "runs", Name: "run-a-1", UID: "job"}
		if _, adopted, err := s.launcher.Launch(s.Context(), run.Launch{Known: known}); err != nil || !adopted {
			s.Errorf("Launch: adopted %v, %v", adopted, err)
		}
		s.answers(func(string) error { return errNotFound })
		s.sees(pod, true)
		_, _, err := s.launcher.Launch(s.Context(), run.Launch{Known: known})
		var refused *run.LaunchError
		if !errors.As(err, &refused) || refused.Reason != run.JobDeleted || refused.Temporary {
			s.Errorf("Launch: %v", err)
		}
	})
}

func TestWatchTroubleIsToldOnceAndSoIsItsEnd(t *testing.T) {
	onStage(t, func(s *stage) {
		var log strings.Builder
		w := s.launcher.watch
		w.log = w.log.Output(&log)
		away := errors.New("connection refused")
		for _, err := range []error{nil, away, away, nil, nil, apierrors.NewResourceExpired("too old")} {
			w.note(s.Context(), "jobs", err)
			if s.launcher.Trouble() == nil && errors.Is(err, away) {
				s.Error("no trouble is known")
			}
		}
		if err := s.launcher.Trouble(); err != nil {
			s.Errorf("trouble is left: %v", err)
		}
		if got := strings.Count(log.String(), "\n"); got != 2 {
			s.Errorf("%d lines were logged, want 2:\n%s", got, log.String())
		}
	})
}

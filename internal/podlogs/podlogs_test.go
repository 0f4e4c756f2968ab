package podlogs_test

import (
	"context"
	"fmt"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"go.uber.org/goleak"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"

	"github.com/ropewalk/ropewalk/internal/logevent"
	"github.com/ropewalk/ropewalk/internal/logfollow"
	"github.com/ropewalk/ropewalk/internal/podlogs"
	"github.com/ropewalk/ropewalk/internal/podlogs/podlogtest"
	"github.com/ropewalk/ropewalk/internal/run"
	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(wait.Goroutines(m)) }

// stream keeps the batches of one log.
type stream struct {
	mu      sync.Mutex
	batches []logevent.Batch
}

func (s *stream) Place(context.Context, logevent.Log) (logevent.Place, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.batches) == 0 {
		return logevent.Place{Next: 1}, nil
	}
	last := s.batches[len(s.batches)-1]
	return logevent.Place{Version: uint64(len(s.batches)), Next: last.Next(), Reached: last.Reached, Ended: last.End}, nil
}

func (s *stream) Publish(_ context.Context, _ logevent.Log, data []byte, version uint64, _ bool) (uint64, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	batch, err := logevent.Decode(data)
	if err != nil {
		return 0, err
	}
	if version != uint64(len(s.batches)) {
		return 0, logevent.ErrOvertaken
	}
	s.batches = append(s.batches, batch)
	return version + 1, nil
}

func (s *stream) Unended(context.Context, time.Duration, func(logevent.Log)) error { return nil }

// text is what the stream has, with gaps as "<gap>".
func (s *stream) text() (text string, ended bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var all strings.Builder
	for _, batch := range s.batches {
		for _, line := range batch.Lines {
			if line.Flags&logevent.Gap != 0 {
				all.WriteString("<gap>\n")
				continue
			}
			all.Write(append(line.Text, '\n'))
		}
		ended = ended || batch.End
	}
	return all.String(), ended
}

type uncounted struct{}

func (uncounted) Followed(int, int) {}
func (uncounted) Lost(string)       {}
func (uncounted) Waiting(int)       {}

const namespace = "runs"

// clientOf returns a client of an API, for the length of the test.
func clientOf(t *testing.T, api *rig.LogAPI) kubernetes.Interface {
	t.Helper()
	server := httptest.NewServer(api)
	t.Cleanup(server.Close)
	client, err := kubernetes.NewForConfig(&rest.Config{Host: server.URL, QPS: -1})
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// scene is an API with one pod, which is followed.
type scene struct {
	api    *rig.LogAPI
	log    *rig.ContainerLog
	stream *stream
	job    run.Job
	// follow begins to follow; it returns what ends that.
	follow func() (stop func())
}

func newScene(t *testing.T, silence time.Duration) *scene {
	t.Helper()
	s := &scene{api: rig.NewLogAPI(), stream: &stream{}, job: run.Job{Namespace: namespace, Name: "job", UID: "job"}}
	s.api.Set(rig.LogPod(namespace, "r", "job", false))
	s.log = s.api.Log("job-pod", "run")
	follower, err := logfollow.New(logfollow.Config{Stream: s.stream, Counter: uncounted{}, Log: zerolog.Nop(), Silence: silence})
	if err != nil {
		t.Fatal(err)
	}
	s.follow = func() (stop func()) {
		client := clientOf(t, s.api)
		watch := podlogtest.NewWatch(client, namespace, "a=b")
		pods, err := podlogs.New(podlogs.Config{Client: client, Watch: watch, Namespace: namespace, Selector: "a=b"})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() { watch.Run(ctx) })
		all.Go(func() {
			_ = pods.Logs(ctx, s.job, make(chan struct{}), func(c *podlogs.Container) {
				all.Go(func() { _ = follower.Follow(ctx, c.Log(), c) })
			})
		})
		return func() {
			cancel()
			all.Wait()
		}
	}
	return s
}

// end ends the container, and then its pod.
func (s *scene) end() {
	s.log.End()
	s.api.Set(rig.LogPod(namespace, "r", "job", true))
}

// await waits until the stream has a text, and its end if it shall have one.
func (s *scene) await(t *testing.T, want string, end bool) {
	t.Helper()
	wait.Success(t, fmt.Sprintf("the stream to have %.300q, ended %v", want, end), func() error {
		if got, ended := s.stream.text(); got != want || ended != end {
			return fmt.Errorf("it has %.300q, ended %v", got, ended)
		}
		return nil
	})
}

func TestLinesOfOneTimeSurviveAdoptionAtEveryLine(t *testing.T) {
	t.Parallel()
	s := newScene(t, time.Minute)
	at := time.Now().Truncate(time.Second)
	var want strings.Builder
	for i := range 30 {
		line := fmt.Sprintf("line %d\n", i)
		if i%3 == 0 {
			line = "the same\n"
		}
		s.log.Write(at.Add(time.Duration(i/10)*time.Nanosecond), line)
		want.WriteString(line)
		if i%4 == 0 {
			stop := s.follow()
			s.await(t, want.String(), false)
			stop()
		}
	}
	defer s.follow()()
	s.await(t, want.String(), false)
	s.end()
	s.await(t, want.String(), true)
}

func TestAReadingThatHasGoneSilentIsReplaced(t *testing.T) {
	t.Parallel()
	// An answer that comes later than that makes the next reading wait for
	// longer, up to eight times as long.
	s := newScene(t, time.Second)
	defer s.follow()()
	s.log.Write(time.Now(), "one\n")
	s.await(t, "one\n", false)
	opened := s.api.Opened()
	s.log.Silence()
	s.log.Write(time.Now(), "two\n")
	s.await(t, "one\ntwo\n", false)
	if s.api.Opened() <= opened {
		t.Error("the log was not opened again")
	}
	s.end()
	s.await(t, "one\ntwo\n", true)
}

func TestRotationBehindOurBackIsAGap(t *testing.T) {
	t.Parallel()
	s := newScene(t, time.Minute)
	at := time.Now().Add(-time.Minute)
	s.log.Write(at, "one\n")
	stop := s.follow()
	s.await(t, "one\n", false)
	stop()
	s.log.Write(at.Add(time.Second), "lost\n")
	s.log.Rotate()
	s.log.Write(at.Add(10*time.Second), "two\n")
	defer s.follow()()
	s.await(t, "one\n<gap>\ntwo\n", false)
	s.end()
	s.await(t, "one\n<gap>\ntwo\n", true)
}

func TestAPodThatIsRemovedBeforeItsEndWasSeenIsAGap(t *testing.T) {
	t.Parallel()
	s := newScene(t, time.Minute)
	defer s.follow()()
	s.log.Write(time.Now(), "one\n")
	s.await(t, "one\n", false)
	s.api.Remove("job-pod")
	s.await(t, "one\n<gap>\n", true)
}

// counted is a watch that knows how many pods a Job had, and may lag behind that.
type counted struct {
	*podlogtest.Watch
	succeeded, failed int
	lags              bool
}

func (c *counted) PodsCounted(run.Job) (succeeded, failed int, known bool) {
	return c.succeeded, c.failed, true
}

func (c *counted) PodsOf(job run.Job) []*corev1.Pod {
	if c.lags {
		return nil
	}
	return c.Watch.PodsOf(job)
}

func TestTheClusterIsAskedForPodsOnlyWhereTheWatchLags(t *testing.T) {
	t.Parallel()
	for says, c := range map[string]struct {
		succeeded, failed int
		ended, lags       bool
		asked             bool
	}{
		"all were seen":              {1, 0, true, false, false},
		"one has yet to be seen":     {2, 0, true, false, true},
		"the one that failed is not": {1, 1, true, false, true},
		"its end is not seen":        {1, 0, false, false, true},
		"nothing was seen":           {1, 0, true, true, true},
	} {
		t.Run(says, func(t *testing.T) {
			api := rig.NewLogAPI()
			api.Set(rig.LogPod(namespace, "r", "job", c.ended))
			client := clientOf(t, api)
			watch := &counted{podlogtest.NewWatch(client, namespace, "a=b"), c.succeeded, c.failed, c.lags}
			pods, err := podlogs.New(podlogs.Config{Client: client, Watch: watch, Namespace: namespace, Selector: "a=b"})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var all sync.WaitGroup
			defer all.Wait()
			defer cancel()
			all.Go(func() { watch.Run(ctx) })
			if !cache.WaitForCacheSync(ctx.Done(), watch.Pods().HasSynced) {
				t.Fatal("the watch does not begin")
			}
			before := api.Listed()
			over, found, ended := make(chan struct{}), make(chan *podlogs.Container, 2), make(chan error, 1)
			close(over)
			all.Go(func() {
				ended <- pods.Logs(ctx, run.Job{Namespace: namespace, Name: "job", UID: "job"}, over, func(c *podlogs.Container) { found <- c })
			})
			if container := wait.Receive(t, "container", found); container.Log().Pod != "job-pod" {
				t.Errorf("found %+v", container.Log())
			}
			api.Set(rig.LogPod(namespace, "r", "job", true))
			if err := wait.Receive(t, "end of the Job's logs", ended); err != nil {
				t.Error(err)
			}
			if asked := api.Listed() > before; asked != c.asked {
				t.Errorf("the cluster was asked: %v, want %v", asked, c.asked)
			}
		})
	}
}

func TestBuildersHaveLogsOfTheirOwn(t *testing.T) {
	t.Parallel()
	s := newScene(t, time.Minute)
	hash := strings.Repeat("0123456789", 7)[:63]
	pod := rig.LogPod(namespace, "", "build", false)
	pod.Labels = map[string]string{"ropewalk.dev/build": hash}
	s.api.Set(pod)
	client := clientOf(t, s.api)
	watch := podlogtest.NewWatch(client, namespace, "a=b")
	pods, err := podlogs.New(podlogs.Config{Client: client, Watch: watch, Namespace: namespace, Selector: "a=b"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() { watch.Run(ctx) })
	found := make(chan logevent.Log, 1)
	all.Go(func() {
		_ = pods.Logs(ctx, run.Job{Namespace: namespace, Name: "build", UID: "build"}, make(chan struct{}), func(c *podlogs.Container) { found <- c.Log() })
	})
	want := logevent.Log{Queue: "builds", Run: "_build-" + hash[:40], Attempt: 1, Pod: "build-pod", Container: "run"}
	if got := wait.Receive(t, "container of the builder", found); got != want {
		t.Errorf("%+v; want %+v", got, want)
	}
}

package dispatch_test

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"github.com/ropewalk/ropewalk/internal/run"
)

// cluster is the least that keeps a launcher's contract, with Jobs that end
// when a test says so. What real launchers do is tested with real ones, by
// internal/launchtest; here it is the core that is on trial.
type cluster struct {
	mu      sync.Mutex
	jobs    map[string]*job
	created map[string]int
	refuse  func() error // asked before each launch
	check   func(run.Launch) error
}

type job struct {
	identity run.Job
	changes  chan run.Observation
}

func newCluster() *cluster {
	return &cluster{jobs: map[string]*job{}, created: map[string]int{}}
}

func (c *cluster) Check(launch run.Launch) error {
	if c.check != nil {
		return c.check(launch)
	}
	return nil
}

func (c *cluster) Launch(_ context.Context, launch run.Launch) (run.Job, bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.refuse != nil {
		if err := c.refuse(); err != nil {
			return run.Job{}, false, err
		}
	}
	name := run.JobName(launch.Request.ID, launch.Attempt)
	if there := c.jobs[name]; there != nil {
		return there.identity, true, nil
	}
	if launch.Known != nil {
		return run.Job{}, false, &run.LaunchError{Reason: run.JobDeleted, Message: "The Job is gone."}
	}
	c.created[name]++
	c.jobs[name] = &job{
		identity: run.Job{Namespace: "test", Name: name, UID: fmt.Sprintf("%s-%d", name, c.created[name])},
		changes:  make(chan run.Observation, 10),
	}
	return c.jobs[name].identity, false, nil
}

func (c *cluster) Follow(ctx context.Context, identity run.Job, report func(run.Observation)) (run.Observation, error) {
	c.mu.Lock()
	changes := c.jobs[identity.Name].changes
	c.mu.Unlock()
	for {
		select {
		case <-ctx.Done():
			return run.Observation{}, ctx.Err()
		case seen := <-changes:
			if seen.State.Final() {
				changes <- seen // a Job that is over stays over for whoever looks next
				return seen, nil
			}
			report(seen)
		}
	}
}

// show lets the Job of a run's first attempt be seen in a state.
func (c *cluster) show(t *testing.T, id string, seen run.Observation) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	name := run.JobName(id, 1)
	if c.jobs[name] == nil {
		t.Fatalf("there is no Job %s", name)
	}
	c.jobs[name].changes <- seen
}

func (c *cluster) Delete(_ context.Context, identity run.Job) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if there := c.jobs[identity.Name]; there != nil && there.identity.UID == identity.UID {
		delete(c.jobs, identity.Name)
	}
	return nil
}

// delete removes a Job behind the dispatcher's back.
func (c *cluster) delete(id string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.jobs, run.JobName(id, 1))
}

func (c *cluster) launches(id string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.created[run.JobName(id, 1)]
}

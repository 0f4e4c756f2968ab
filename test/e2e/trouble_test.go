//go:build e2e

package e2e

import (
	"errors"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/ropewalk/ropewalk/internal/testing/wait"
	"github.com/ropewalk/ropewalk/test/rig"
)

// awaitTold waits until a run that is not over says what it waits for.
func (w *world) awaitTold(id string, says string) rig.Record {
	w.t.Helper()
	record := w.awaitRun(id, "the record to say "+says, func(r rig.Record) bool { return strings.Contains(r.Message, says) })
	if record.Final() {
		w.t.Errorf("run %s should wait, but is %s (%s): %s", id, record.State, record.Reason, record.Message)
	}
	return record
}

func TestRunWaitsForRoomInTheQuota(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("1"))
	quotas := parts.cluster.Client.CoreV1().ResourceQuotas(w.namespace)
	_, err := quotas.Create(w.call(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "full"},
		Spec:       corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{"count/jobs.batch": resource.MustParse("0")}},
	}, metav1.CreateOptions{})
	must(t, err)
	ctx := wait.Context(t, "the quota to be in force")
	must(t, rig.Poll(ctx, 50*time.Millisecond, func() error {
		quota, err := quotas.Get(ctx, "full", metav1.GetOptions{})
		if err == nil && len(quota.Status.Hard) == 0 {
			err = errors.New("the quota is not in force yet")
		}
		return err
	}))
	w.serve(1)
	w.publish("default", "patient", script("exit 0"))
	w.awaitTold("patient", "exceeded quota")
	must(t, quotas.Delete(w.call(), "full", metav1.DeleteOptions{}))
	w.awaitFinal([]string{"patient"})
	w.check(load{ids: []string{"patient"}, code: map[string]int{}})
}

func TestRunWaitsForPermission(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("1"))
	w.serve(1)
	must(t, parts.cluster.RevokeRBAC(wait.Context(t, "the rights to be gone"), w.namespace, w.account))
	w.publish("default", "patient", script("exit 0"))
	w.awaitTold("patient", "forbidden")
	must(t, parts.cluster.ApplyRBAC(w.call(), w.namespace, manifest))
	w.awaitFinal([]string{"patient"})
	w.check(load{ids: []string{"patient"}, code: map[string]int{}})
}

func TestRunWaitsForAClusterThatIsAway(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("2").With(gated()))
	proxy, err := rig.NewProxy(parts.cluster.Config.Host)
	must(t, err)
	t.Cleanup(func() {
		if err := proxy.Cut(); err != nil && !t.Failed() {
			t.Error(err)
		}
	})
	must(t, parts.cluster.WriteKubeconfig(w.call(), w.namespace, w.account, proxy.Address(), w.kubeconfig()))
	w.serve(1)
	w.publish("default", "under-way", held("exit 0"))
	w.inState("under-way", "running")

	must(t, proxy.Cut())
	w.publish("default", "patient", script("exit 0"))
	w.awaitTold("patient", "refused")
	// What ends meanwhile must be seen afterwards.
	w.letGo("under-way")
	w.awaitJobs("", "the run to end behind the dispatcher's back", func(c rig.Counts) bool { return c.Active == 0 })
	must(t, proxy.Mend())
	runs := load{ids: []string{"under-way", "patient"}, code: map[string]int{}}
	w.awaitFinal(runs.ids)
	w.check(runs)
}

func TestRunThatTheClusterRefusesFailsWithItsWords(t *testing.T) {
	t.Parallel()
	w := newWorld(t, limitedTo("1"))
	w.serve(1)
	w.publish("default", "refused", script("exit 0").with("pod", map[string]any{
		"resources": map[string]any{"requests": map[string]string{"memory": "2Gi"}, "limits": map[string]string{"memory": "1Gi"}},
	}))
	w.publish("default", "next", script("exit 0"))
	w.awaitFinal([]string{"refused", "next"})
	record := w.records.Now()["refused"]
	if record.State != "failed" || record.Reason != "InvalidPodSpec" || !strings.Contains(record.Message, "must be less than or equal to memory limit") {
		t.Errorf("the run is %s (%s): %s", record.State, record.Reason, record.Message)
	}
	w.check(load{ids: []string{"next"}, code: map[string]int{}})
}

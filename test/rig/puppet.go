package rig

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// PuppetLabel is the label, and the taint, of a node without a kubelet. Only
// pods that select and tolerate it come there.
const PuppetLabel = "example.com/puppet"

// Puppet is a node without a kubelet: nothing runs on it, and its test says what
// becomes of the pods that it is given. It shows life as a kubelet does, so that
// the cluster takes it for a node like any other.
type Puppet struct {
	cluster *Cluster
	Name    string

	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	ready bool
	since metav1.Time
}

// NewPuppet adds a node with one CPU and waits until pods are scheduled there.
// The caller removes it.
func (c *Cluster) NewPuppet(ctx context.Context, name string) (*Puppet, error) {
	beating, stop := context.WithCancel(context.WithoutCancel(ctx))
	p := &Puppet{cluster: c, Name: name, stop: stop}
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{PuppetLabel: name}},
		Spec:       corev1.NodeSpec{Taints: []corev1.Taint{{Key: PuppetLabel, Effect: corev1.TaintEffectNoSchedule}}},
	}
	if _, err := c.Client.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); err != nil {
		stop()
		return nil, fmt.Errorf("create node %s: %w", name, err)
	}
	if err := p.Ready(ctx, true); err != nil {
		return p, err
	}
	p.done.Go(func() { p.beat(beating) })
	err := Poll(ctx, 50*time.Millisecond, func() error {
		node, err := c.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err == nil && len(node.Spec.Taints) > 1 {
			err = errors.New("it still has the taints of a new one")
		}
		return err
	})
	if err != nil {
		return p, fmt.Errorf("wait for node %s: %w", name, err)
	}
	return p, nil
}

// beat says again and again what the node has said last: one that keeps silent
// is taken for lost after some 40 s.
func (p *Puppet) beat(ctx context.Context) {
	ticker := time.NewTicker(5 * time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
			p.mu.Lock()
			_ = p.report(ctx) // the next one may come through
			p.mu.Unlock()
		case <-ctx.Done():
			return
		}
	}
}

// Ready has the node say whether it is.
func (p *Puppet) Ready(ctx context.Context, ready bool) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ready, p.since = ready, metav1.Now()
	return p.report(ctx)
}

// report writes the node's status. The caller holds the lock.
func (p *Puppet) report(ctx context.Context) error {
	status := corev1.ConditionFalse
	if p.ready {
		status = corev1.ConditionTrue
	}
	room := corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("1Gi"), "pods": resource.MustParse("10")}
	return p.patch(ctx, map[string]any{"status": corev1.NodeStatus{
		Capacity: room, Allocatable: room,
		Conditions: []corev1.NodeCondition{{
			Type: corev1.NodeReady, Status: status, Reason: "Puppet", Message: "its test says so", LastHeartbeatTime: metav1.Now(), LastTransitionTime: p.since,
		}},
	}})
}

func (p *Puppet) patch(ctx context.Context, change any) error {
	text, err := json.Marshal(change)
	if err != nil {
		return fmt.Errorf("encode the status of node %s: %w", p.Name, err)
	}
	_, err = p.cluster.Client.CoreV1().Nodes().Patch(ctx, p.Name, types.StrategicMergePatchType, text, metav1.PatchOptions{}, "status")
	if err != nil {
		return fmt.Errorf("patch the status of node %s: %w", p.Name, err)
	}
	return nil
}

// Run waits for a pod of the namespace to be given to the node, and says that
// its containers run.
func (p *Puppet) Run(ctx context.Context, namespace string) (pod *corev1.Pod, err error) {
	pods := p.cluster.Client.CoreV1().Pods(namespace)
	err = Poll(ctx, 50*time.Millisecond, func() error {
		list, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + p.Name + ",status.phase=Pending"})
		if err == nil && len(list.Items) == 0 {
			err = errors.New("it has none")
		}
		if err == nil {
			pod = &list.Items[0]
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("wait for a pod on node %s: %w", p.Name, err)
	}
	now := metav1.Now()
	pod.Status.Phase, pod.Status.StartTime = corev1.PodRunning, &now
	for _, container := range pod.Spec.Containers {
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, corev1.ContainerStatus{
			Name: container.Name, Image: container.Image, State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: now}},
		})
	}
	if pod, err = pods.UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil {
		return nil, fmt.Errorf("let a pod run on node %s: %w", p.Name, err)
	}
	return pod, nil
}

// Disrupted waits until the cluster has marked a pod as one that it disrupts,
// and then lets it be gone, as a kubelet or the pod garbage collector does.
func (p *Puppet) Disrupted(ctx context.Context, pod *corev1.Pod) error {
	pods, now := p.cluster.Client.CoreV1().Pods(pod.Namespace), int64(0)
	err := Poll(ctx, 50*time.Millisecond, func() error {
		found, err := pods.Get(ctx, pod.Name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, condition := range found.Status.Conditions {
			if condition.Type == corev1.DisruptionTarget && found.DeletionTimestamp != nil {
				return nil
			}
		}
		return errors.New("the cluster leaves it alone")
	})
	if err == nil { // a pod of a Job is kept until it is seen to have ended
		_, err = pods.Patch(ctx, pod.Name, types.StrategicMergePatchType, []byte(`{"status": {"phase": "Failed"}}`), metav1.PatchOptions{}, "status")
	}
	if err == nil {
		err = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{GracePeriodSeconds: &now})
	}
	if err != nil {
		return fmt.Errorf("wait for pod %s to be disrupted: %w", pod.Name, err)
	}
	return nil
}

// Remove takes the node out of the cluster again.
func (p *Puppet) Remove(ctx context.Context) error {
	p.stop()
	p.done.Wait()
	err := p.cluster.Client.CoreV1().Nodes().Delete(ctx, p.Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete node %s: %w", p.Name, err)
	}
	return nil
}

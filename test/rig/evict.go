package rig

import (
	"context"
	"fmt"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Evict removes a pod as draining its node would.
func (c *Cluster) Evict(ctx context.Context, namespace, pod string) error {
	err := c.Client.PolicyV1().Evictions(namespace).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: pod, Namespace: namespace}})
	if err != nil {
		return fmt.Errorf("evict pod %s: %w", pod, err)
	}
	return nil
}

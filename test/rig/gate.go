package rig

import (
	"context"
	"errors"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// A gate holds a run until its test lets it go, so that no test guesses how long
// a run must last. The gate is an annotation of the run's pod, which the pod sees
// as a file: that works on every cluster, and needs no way from the pod to the
// test.
const (
	// GatePatch is the pod template patch that gives a run's pod its gate.
	GatePatch = `{"spec": {` +
		`"volumes": [{"name": "gate", "downwardAPI": {"items": [{"path": "open", "fieldRef": {"fieldPath": "metadata.annotations['example.com/gate']"}}]}}], ` +
		`"containers": [{"name": "run", "volumeMounts": [{"name": "gate", "mountPath": "/gate"}]}]}}`
	// GateOpen is true in a shell of the pod once the gate is open, and AwaitGate
	// waits for that.
	GateOpen  = `[ -s /gate/open ]`
	AwaitGate = `until ` + GateOpen + `; do sleep 0.1; done`

	openGate = `{"metadata": {"annotations": {"example.com/gate": "open"}}}`
)

// OpenGate lets a run go that is held. It waits until the run has a pod. A pod
// that is being deleted sees no change of its annotations any more.
func OpenGate(ctx context.Context, client kubernetes.Interface, namespace, runID string) error {
	pods := client.CoreV1().Pods(namespace)
	err := Poll(ctx, 100*time.Millisecond, func() error {
		list, err := pods.List(ctx, metav1.ListOptions{LabelSelector: labelRunID + "=" + runID})
		if err == nil && len(list.Items) == 0 {
			err = errors.New("it has no pod")
		}
		if err != nil {
			return err
		}
		for _, pod := range list.Items {
			if _, err := pods.Patch(ctx, pod.Name, types.MergePatchType, []byte(openGate), metav1.PatchOptions{}); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("let run %s go: %w", runID, err)
	}
	return nil
}

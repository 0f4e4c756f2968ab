package k8sjobs

import (
	"strconv"

	"github.com/ropewalk/ropewalk/internal/run"
)

// The labels of everything that is made here. They are contracts: the log
// shipper and people find a run's pods by them.
const (
	LabelManagedBy = "app.kubernetes.io/managed-by"
	LabelInstance  = "app.kubernetes.io/instance"
	LabelRunID     = labelPrefix + "run-id"
	LabelQueue     = labelPrefix + "queue"
	LabelAttempt   = labelPrefix + "attempt"

	labelPrefix = "ropewalk.dev/"

	// ManagedBy is the value of [LabelManagedBy].
	ManagedBy = "ropewalk"

	// AnnotationRequestHash holds [run.Request.Hash]: a Job of the right name
	// with another hash belongs to another request.
	AnnotationRequestHash = "ropewalk.dev/request-hash"

	// ContainerName is the container that runs the request's command. What
	// else a pod may hold comes from the operator or from the cluster.
	ContainerName = "run"
)

// Selector is the label selector of everything that an installation made.
func Selector(instance string) string {
	return LabelManagedBy + "=" + ManagedBy + "," + LabelInstance + "=" + instance
}

// identity is what tells the Job of one attempt from every other.
func identity(instance string, launch run.Launch) map[string]string {
	return map[string]string{
		LabelManagedBy: ManagedBy,
		LabelInstance:  instance,
		LabelRunID:     launch.Request.ID,
		LabelQueue:     launch.Request.Queue,
		LabelAttempt:   strconv.Itoa(launch.Attempt),
	}
}

package rig

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestEventsAreWarningsAndWhatIsAskedForInTheirOrder(t *testing.T) {
	event := func(name, kind, reason string, at int64) *corev1.Event {
		return &corev1.Event{
			ObjectMeta: metav1.ObjectMeta{Name: name + reason, Namespace: "here"}, Type: kind, Reason: reason, Message: "it did\n",
			InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: name}, LastTimestamp: metav1.NewTime(time.Unix(at, 0)), Count: 2,
		}
	}
	client := fake.NewClientset(
		event("other", corev1.EventTypeNormal, "Pulled", 1), event("run-a-x", corev1.EventTypeNormal, "Started", 3), event("other", corev1.EventTypeWarning, "Failed", 2),
	)
	got, err := Events(t.Context(), client, "here", "run-a")
	want := []string{"00:00:02 Warning Failed pod/other: it did (2 times)", "00:00:03 Normal Started pod/run-a-x: it did (2 times)"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("Events = %q, %v; want %q", got, err, want)
	}
}

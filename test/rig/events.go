package rig

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

// mostEvents are as many as somebody reads to understand a failure.
const mostEvents = 40

// Events tells the newest events of a namespace, oldest first, one a line: all
// warnings, and what else is said of the objects whose names begin with one of
// these words.
func Events(ctx context.Context, client kubernetes.Interface, namespace string, about ...string) ([]string, error) {
	list, err := client.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list the events of %s: %w", namespace, err)
	}
	events := slices.DeleteFunc(list.Items, func(event corev1.Event) bool {
		return event.Type != corev1.EventTypeWarning && !slices.ContainsFunc(about, func(word string) bool {
			return strings.HasPrefix(event.InvolvedObject.Name, word)
		})
	})
	slices.SortStableFunc(events, func(a, b corev1.Event) int { return happened(&a).Compare(happened(&b)) })
	var told []string
	for _, event := range events[max(0, len(events)-mostEvents):] {
		count := event.Count
		if event.Series != nil {
			count = max(count, event.Series.Count)
		}
		times := ""
		if count > 1 {
			times = fmt.Sprintf(" (%d times)", count)
		}
		told = append(told, fmt.Sprintf("%s %s %s %s/%s: %.500s%s", happened(&event).UTC().Format(time.TimeOnly), event.Type, event.Reason,
			strings.ToLower(event.InvolvedObject.Kind), event.InvolvedObject.Name, strings.TrimSpace(event.Message), times))
	}
	return told, nil
}

// happened is when an event last happened. Which of its times is set depends on
// who wrote it.
func happened(event *corev1.Event) time.Time {
	switch {
	case event.Series != nil && !event.Series.LastObservedTime.IsZero():
		return event.Series.LastObservedTime.Time
	case !event.LastTimestamp.IsZero():
		return event.LastTimestamp.Time
	case !event.EventTime.IsZero():
		return event.EventTime.Time
	}
	return event.CreationTimestamp.Time
}

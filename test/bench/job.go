package main

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// captureJob has a dispatcher make one Job, and keeps it as the bare loop's
// template: both create the same objects.
func (b *bench) captureJob(ctx context.Context) error {
	return b.on(ctx, func(s *stage) error {
		if err := s.serve(ctx, 1, b.options.Workers); err != nil {
			return err
		}
		if err := s.publish(ctx, 1); err != nil {
			return err
		}
		if err := s.awaitCreated(ctx, 1); err != nil {
			return err
		}
		name := s.observer.Jobs()[0].Name
		job, err := b.cluster.Client.BatchV1().Jobs(s.namespace).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("read Job %s: %w", name, err)
		}
		b.job = asCreated(job)
		return nil
	})
}

// asCreated takes from a Job what the API server has added to it.
func asCreated(job *batchv1.Job) *batchv1.Job {
	created := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: job.Name, Labels: job.Labels, Annotations: job.Annotations},
		Spec:       *job.Spec.DeepCopy(),
	}
	created.Spec.Selector = nil
	// Labels of the pods and of the Job are the same but for the server's.
	for _, labels := range []map[string]string{created.Labels, created.Spec.Template.Labels} {
		maps.DeleteFunc(labels, func(name, _ string) bool {
			return strings.HasSuffix(name, "controller-uid") || strings.HasSuffix(name, "job-name")
		})
	}
	return created
}

// create makes the nth Job as a bare loop would, and returns its name and how
// long the call took.
func (s *stage) create(ctx context.Context, n int) (string, time.Duration, error) {
	return s.createIn(ctx, "default", n)
}

// createIn is create for a Job that is labelled as one of another queue.
func (s *stage) createIn(ctx context.Context, queue string, n int) (string, time.Duration, error) {
	job := s.bench.job.DeepCopy()
	id := runID(n)
	job.Name = "run-" + id + "-1"
	for _, labels := range []map[string]string{job.Labels, job.Spec.Template.Labels} {
		labels["ropewalk.dev/run-id"], labels["ropewalk.dev/queue"] = id, queue
	}
	at := time.Now()
	_, err := s.client.Client.BatchV1().Jobs(s.namespace).Create(ctx, job, metav1.CreateOptions{})
	if err != nil {
		return "", 0, fmt.Errorf("create Job %s: %w", job.Name, err)
	}
	return job.Name, time.Since(at), nil
}

package rig

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// LogAPI stands in for as much of the Kubernetes API as reading logs takes: pods
// listed and watched, and logs with the node's times. It keeps the API's habits:
// a log is read from a whole second on, and an open reading ends with the
// container. It is for more pods than a node takes, and for troubles that a
// node cannot be made to have.
type LogAPI struct {
	mux *http.ServeMux

	mu      sync.Mutex
	version int
	pods    map[string]*corev1.Pod
	events  []podEvent
	news    chan struct{} // closed with the next event
	logs    map[string]*ContainerLog
	opened  int
	listed  int
}

type podEvent struct {
	kind    string
	version int
	pod     *corev1.Pod
}

// NewLogAPI returns an API without pods.
func NewLogAPI() *LogAPI {
	a := &LogAPI{mux: http.NewServeMux(), pods: make(map[string]*corev1.Pod), news: make(chan struct{}), logs: make(map[string]*ContainerLog)}
	a.mux.HandleFunc("GET /api/v1/namespaces/{namespace}/pods", a.listOrWatch)
	a.mux.HandleFunc("GET /api/v1/namespaces/{namespace}/pods/{pod}/log", a.read)
	return a
}

// ServeHTTP answers one request.
func (a *LogAPI) ServeHTTP(w http.ResponseWriter, r *http.Request) { a.mux.ServeHTTP(w, r) }

// Set makes a pod, or changes it.
func (a *LogAPI) Set(pod *corev1.Pod) {
	a.mu.Lock()
	defer a.mu.Unlock()
	kind := "MODIFIED"
	if a.pods[pod.Name] == nil {
		kind = "ADDED"
	}
	a.note(kind, pod.DeepCopy())
}

// Remove removes a pod with its logs. Readings of them end.
func (a *LogAPI) Remove(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	pod := a.pods[name]
	a.note("DELETED", pod.DeepCopy())
	delete(a.pods, name)
	for _, container := range pod.Spec.Containers {
		if log := a.logs[name+"/"+container.Name]; log != nil {
			log.End()
			delete(a.logs, name+"/"+container.Name)
		}
	}
}

// note adds an event. The caller holds the lock.
func (a *LogAPI) note(kind string, pod *corev1.Pod) {
	a.version++
	pod.ResourceVersion = strconv.Itoa(a.version)
	pod.TypeMeta = metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}
	a.pods[pod.Name] = pod
	a.events = append(a.events, podEvent{kind, a.version, pod})
	close(a.news)
	a.news = make(chan struct{})
}

// Log is the log of a container.
func (a *LogAPI) Log(pod, container string) *ContainerLog {
	a.mu.Lock()
	defer a.mu.Unlock()
	log := a.logs[pod+"/"+container]
	if log == nil {
		log = &ContainerLog{changed: make(chan struct{})}
		a.logs[pod+"/"+container] = log
	}
	return log
}

// Opened is how many readings of logs were begun so far.
func (a *LogAPI) Opened() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.opened
}

// Listed is how often pods were listed so far.
func (a *LogAPI) Listed() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.listed
}

func (a *LogAPI) listOrWatch(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if r.FormValue("watch") == "" {
		a.mu.Lock()
		a.listed++
		list := corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}, ListMeta: metav1.ListMeta{ResourceVersion: strconv.Itoa(a.version)}}
		for _, pod := range a.pods {
			list.Items = append(list.Items, *pod)
		}
		a.mu.Unlock()
		_ = json.NewEncoder(w).Encode(list) // whoever asked is gone
		return
	}
	since, _ := strconv.Atoi(r.FormValue("resourceVersion")) // none is the beginning
	send := func(kind string, object any) bool {
		return json.NewEncoder(w).Encode(map[string]any{"type": kind, "object": object}) == nil
	}
	if r.FormValue("sendInitialEvents") == "true" {
		a.mu.Lock()
		pods, version := a.pods, a.version
		all := make([]*corev1.Pod, 0, len(pods))
		for _, pod := range pods {
			all = append(all, pod)
		}
		a.mu.Unlock()
		for _, pod := range all {
			send("ADDED", pod)
		}
		mark := &corev1.Pod{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Pod"}}
		mark.ResourceVersion = strconv.Itoa(version)
		mark.Annotations = map[string]string{metav1.InitialEventsAnnotationKey: "true"}
		send("BOOKMARK", mark)
		since = version
	}
	for {
		a.mu.Lock()
		news, events := a.news, a.events
		a.mu.Unlock()
		for _, event := range events {
			if event.version > since {
				if !send(event.kind, event.pod) {
					return
				}
				since = event.version
			}
		}
		_ = http.NewResponseController(w).Flush() // whoever asked is gone
		select {
		case <-news:
		case <-r.Context().Done():
			return
		}
	}
}

func (a *LogAPI) read(w http.ResponseWriter, r *http.Request) {
	pod, container := r.PathValue("pod"), r.FormValue("container")
	a.mu.Lock()
	a.opened++
	log, known := a.logs[pod+"/"+container]
	a.mu.Unlock()
	if !known {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusNotFound)
		_ = json.NewEncoder(w).Encode(metav1.Status{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Status"}, Status: metav1.StatusFailure, Code: http.StatusNotFound,
			Reason: metav1.StatusReasonNotFound, Message: "pods " + strconv.Quote(pod) + " not found",
		})
		return
	}
	var since time.Time
	if text := r.FormValue("sinceTime"); text != "" {
		since, _ = time.Parse(time.RFC3339, text) // as it was written by a client of ours
	}
	w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(w).Flush()
	log.copy(r.Context(), w, since, r.FormValue("follow") == "true")
}

// ContainerLog is what one container has written.
type ContainerLog struct {
	mu      sync.Mutex
	lines   []logLine
	rotated int // of them, are gone
	ended   bool
	silent  bool
	changed chan struct{}
}

type logLine struct {
	at   time.Time
	text string
}

// Write adds a line, with its newline if it has one.
func (l *ContainerLog) Write(at time.Time, text string) {
	l.change(func() { l.lines = append(l.lines, logLine{at, text}) })
}

// End ends the log.
func (l *ContainerLog) End() { l.change(func() { l.ended = true }) }

// Rotate removes what was written so far.
func (l *ContainerLog) Rotate() { l.change(func() { l.rotated = len(l.lines) }) }

// Silence has the readings that are open now give nothing any more, and stay
// open; new ones are well.
func (l *ContainerLog) Silence() { l.change(func() { l.silent = true }) }

func (l *ContainerLog) change(how func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	how()
	close(l.changed)
	l.changed = make(chan struct{})
}

func (l *ContainerLog) copy(ctx context.Context, w http.ResponseWriter, since time.Time, follow bool) {
	l.mu.Lock()
	l.silent = false
	l.mu.Unlock()
	var next int
	for {
		l.mu.Lock()
		next = max(next, l.rotated)
		lines, ended, silent, changed := l.lines[next:], l.ended, l.silent, l.changed
		next = len(l.lines)
		l.mu.Unlock()
		if silent {
			<-ctx.Done()
			return
		}
		for _, line := range lines {
			if line.at.Before(since) {
				continue
			}
			if _, err := io.WriteString(w, line.at.Format(time.RFC3339Nano)+" "+line.text); err != nil {
				return
			}
		}
		_ = http.NewResponseController(w).Flush() // whoever asked is gone
		if !follow || ended {
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// LogPod is a pod of one container of a run, as the watch of logs wants it: it
// runs, or has ended.
func LogPod(namespace, runID, job string, ended bool) *corev1.Pod {
	state, phase := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}, corev1.PodRunning
	if ended {
		state, phase = corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{}}, corev1.PodSucceeded
	}
	pod := &corev1.Pod{
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "run"}}},
		Status: corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{
			Name: "run", State: state,
		}}},
	}
	pod.Namespace, pod.Name, pod.UID = namespace, fmt.Sprintf("%s-pod", job), types.UID(job+"-pod")
	pod.OwnerReferences = []metav1.OwnerReference{{APIVersion: "batch/v1", Kind: "Job", Name: job, UID: types.UID(job), Controller: new(true)}}
	pod.Labels = map[string]string{"ropewalk.dev/run-id": runID, "ropewalk.dev/queue": "default", "ropewalk.dev/attempt": "1"}
	return pod
}

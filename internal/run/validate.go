package run

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Problem is one thing that is wrong with a request.
type Problem struct {
	// Field is the JSON path of what is wrong, such as "env[A B]", or empty
	// when it is the payload as a whole.
	Field   string `json:"field"`
	Message string `json:"message"`
}

// InvalidError lists everything that is wrong with a request. Its text is for
// the publisher and quotes no value that may be secret.
type InvalidError struct{ Problems []Problem }

func (e *InvalidError) Error() string {
	texts := make([]string, len(e.Problems))
	for i, problem := range e.Problems {
		texts[i] = strings.TrimSpace(problem.Field + " " + problem.Message)
	}
	return strings.Join(texts, "; ")
}

func invalid(field, message string) error {
	return &InvalidError{Problems: []Problem{{Field: field, Message: message}}}
}

const (
	// MaxIDLength is the length of a Kubernetes label value, which the id
	// becomes.
	MaxIDLength = 63
	// MaxQueueLength leaves room for the queue in consumer and label names.
	MaxQueueLength = 40
	// MaxTimeout is the longest run: activeDeadlineSeconds is a 32-bit number.
	MaxTimeout = Duration((1<<31 - 1) * time.Second)
)

var (
	idPattern       = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9_-]*[A-Za-z0-9])?$`)
	queuePattern    = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`)
	envPattern      = regexp.MustCompile(`^([-_a-zA-Z]|\.[-_a-zA-Z0-9])[-._a-zA-Z0-9]*$`) // what Kubernetes calls an EnvVarName, and a Secret's key; neither may be "." nor begin with ".."
	quantityPattern = regexp.MustCompile(`^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$`)
	namePattern     = regexp.MustCompile(`^([A-Za-z0-9][-A-Za-z0-9_.]{0,61})?[A-Za-z0-9]$`) // a label's name or value
	prefixPattern   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`)
	resourcePattern = regexp.MustCompile(`^([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$`)
)

// ownLabels is the prefix of the labels and annotations that Ropewalk sets; a
// request that could set them could take another run's Job for its own.
const ownLabels = "ropewalk.dev/"

// ValidID reports whether id can name a run: at most [MaxIDLength] letters,
// digits, "-" and "_", with a letter or digit at both ends. It is a subject
// token, a key and a label value at once.
func ValidID(id string) bool { return len(id) <= MaxIDLength && idPattern.MatchString(id) }

// ValidQueue reports whether name can name a queue: at most [MaxQueueLength]
// lower-case letters, digits and "-", with a letter or digit at both ends.
func ValidQueue(name string) bool {
	return len(name) <= MaxQueueLength && queuePattern.MatchString(name)
}

// Validate returns an [*InvalidError] with every problem of the request, in
// the order of its fields, or nil. It knows what can be known without the
// operator's settings and without a cluster.
func (r Request) Validate() error {
	v := &validation{}
	if r.Version != Version {
		v.add("version", "is %d; this dispatcher reads version %d only", r.Version, Version)
	}
	if !ValidID(r.ID) {
		v.add("id", "must be at most %d letters, digits, '-' and '_', beginning and ending with a letter or digit", MaxIDLength)
	}
	if !ValidQueue(r.Queue) {
		v.add("queue", "must be at most %d lower-case letters, digits and '-', beginning and ending with a letter or digit", MaxQueueLength)
	}
	v.image(r.Image)
	if r.Image.prebuilt() && len(r.Command) == 0 {
		v.add("command", "is empty; the prebuilt runner image needs a command to run")
	}
	if len(r.Command) > 0 && r.Command[0] == "" {
		v.add("command[0]", "is empty; the first word is the program to run")
	}
	for i, word := range slices.Concat(r.Command, r.Args) {
		if strings.ContainsRune(word, 0) {
			field := fmt.Sprintf("command[%d]", i)
			if i >= len(r.Command) {
				field = fmt.Sprintf("args[%d]", i-len(r.Command))
			}
			v.add(field, "holds a NUL byte, which no program can be given")
		}
	}
	if strings.ContainsRune(r.WorkingDir, 0) {
		v.add("workingDir", "holds a NUL byte")
	}
	v.env(r)
	v.pod(r.Pod)
	v.timeout(r.Timeout)
	v.retry(r.Retry)
	v.labels("labels", r.Labels, true)
	v.labels("annotations", r.Annotations, false)
	return v.err()
}

type validation struct{ problems []Problem }

func (v *validation) add(field, format string, args ...any) {
	v.problems = append(v.problems, Problem{Field: field, Message: fmt.Sprintf(format, args...)})
}

func (v *validation) err() error {
	if v.problems == nil {
		return nil
	}
	return &InvalidError{Problems: v.problems}
}

func (v *validation) env(r Request) {
	for _, name := range slices.Sorted(maps.Keys(r.Env)) {
		field := fmt.Sprintf("env[%s]", name)
		if !envPattern.MatchString(name) {
			v.add(field, "is not a name that an environment variable can have: letters, digits, '_', '-' and '.', not beginning with a digit")
		}
		if strings.ContainsRune(r.Env[name], 0) {
			v.add(field, "holds a NUL byte, which no environment can")
		}
		if _, twice := r.SecretEnv[name]; twice {
			v.add(field, "is in secretEnv too; give it once")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(r.SecretEnv)) {
		field := fmt.Sprintf("secretEnv[%s]", name)
		if !envPattern.MatchString(name) || len(name) > 253 {
			v.add(field, "is not a name that an environment variable can have: letters, digits, '_', '-' and '.', not beginning with a digit, at most 253")
		}
		if strings.ContainsRune(r.SecretEnv[name].Reveal(), 0) {
			v.add(field, "holds a NUL byte, which no environment can")
		}
	}
}

func (v *validation) pod(pod Pod) {
	v.quantities("pod.resources.requests", pod.Resources.Requests)
	v.quantities("pod.resources.limits", pod.Resources.Limits)
	v.labels("pod.nodeSelector", pod.NodeSelector, true)
	for i, toleration := range pod.Tolerations {
		field := fmt.Sprintf("pod.tolerations[%d]", i)
		switch toleration.Operator {
		case "", "Equal":
			if toleration.Key == "" {
				v.add(field+".key", "is empty, which goes with operator Exists only")
			}
		case "Exists":
			if toleration.Value != "" {
				v.add(field+".value", "must be empty with operator Exists")
			}
		default:
			v.add(field+".operator", "must be Equal or Exists")
		}
		switch toleration.Effect {
		case "", "NoSchedule", "PreferNoSchedule", "NoExecute":
		default:
			v.add(field+".effect", "must be NoSchedule, PreferNoSchedule or NoExecute")
		}
	}
	if name := pod.ServiceAccount; name != "" && !isDNSName(name) {
		v.add("pod.serviceAccount", "is not the name of a service account: lower-case letters, digits, '-' and '.'")
	}
	if name := pod.PriorityClassName; name != "" && !isDNSName(name) {
		v.add("pod.priorityClassName", "is not the name of a priority class: lower-case letters, digits, '-' and '.'")
	}
}

func (v *validation) timeout(timeout Duration) {
	switch {
	case timeout < 0:
		v.add("timeout", "must not be negative")
	case timeout > 0 && timeout < Duration(time.Second):
		v.add("timeout", "must be at least 1s")
	case timeout > MaxTimeout:
		v.add("timeout", "must be at most %s", MaxTimeout)
	}
}

func (v *validation) retry(retry Retry) {
	if retry.Attempts < 0 || retry.Attempts > MaxAttempts {
		v.add("retry.attempts", "must be from 0 to %d", MaxAttempts)
	}
	if retry.First < 0 || retry.Most < 0 {
		v.add("retry", "has a wait that is negative")
	}
	if retry.First > 0 && retry.Most > 0 && retry.First > retry.Most {
		v.add("retry.first", "is longer than retry.most")
	}
	for i, reason := range retry.Reasons {
		if !slices.Contains(Reasons(), reason) {
			v.add(fmt.Sprintf("retry.reasons[%d]", i), "%.40q is not a reason; there are %v", string(reason), Reasons())
		}
	}
}

func (v *validation) quantities(field string, quantities map[string]string) {
	for _, name := range slices.Sorted(maps.Keys(quantities)) {
		if !resourcePattern.MatchString(name) {
			v.add(fmt.Sprintf("%s[%s]", field, name), "is not the name of a resource such as cpu, memory or nvidia.com/gpu")
		}
		if !quantityPattern.MatchString(quantities[name]) {
			v.add(fmt.Sprintf("%s[%s]", field, name), "%.40q is not a quantity such as 500m, 2 or 1.5Gi", quantities[name])
		}
	}
}

// labels checks label keys, and label values too where values is set:
// annotations may have any.
func (v *validation) labels(field string, labels map[string]string, values bool) {
	for _, key := range slices.Sorted(maps.Keys(labels)) {
		at := fmt.Sprintf("%s[%s]", field, key)
		prefix, name, prefixed := strings.Cut(key, "/")
		if !prefixed {
			prefix, name = "", key
		}
		switch {
		case strings.HasPrefix(key, ownLabels):
			v.add(at, "begins with %s, which Ropewalk keeps for itself", ownLabels)
		case prefixed && !isDNSName(prefix), !namePattern.MatchString(name):
			v.add(at, "is not a key that Kubernetes allows: [prefix.example.com/]name, the name of at most 63 letters, digits, '-', '_' and '.'")
		}
		if values && labels[key] != "" && !namePattern.MatchString(labels[key]) {
			v.add(at, "%.80q is not a value that Kubernetes allows: at most 63 letters, digits, '-', '_' and '.'", labels[key])
		}
	}
}

func isDNSName(name string) bool { return len(name) <= 253 && prefixPattern.MatchString(name) }

package run

// Reason says, for programs, why a run did not succeed. The list is closed:
// a new reason is a new version of the wire format.
type Reason string

// The reasons. The comment of each is its meaning.
const (
	ImagePullFailed  Reason = "ImagePullFailed"
	ImageBuildFailed Reason = "ImageBuildFailed"
	Unschedulable    Reason = "Unschedulable"
	InvalidPodSpec   Reason = "InvalidPodSpec"
	StartTimeout     Reason = "StartTimeout"
	OOMKilled        Reason = "OOMKilled"
	Evicted          Reason = "Evicted"
	Preempted        Reason = "Preempted"
	NodeLost         Reason = "NodeLost"
	JobDeleted       Reason = "JobDeleted"
	AppError         Reason = "AppError"
	DeadlineExceeded Reason = "DeadlineExceeded"
	CancelledByUser  Reason = "Cancelled"
	QuotaExceeded    Reason = "QuotaExceeded"
	InvalidRequest   Reason = "InvalidRequest"
	PolicyRefused    Reason = "PolicyRefused"
)

// Reasons lists every reason.
func Reasons() []Reason {
	return []Reason{
		ImagePullFailed, ImageBuildFailed, Unschedulable, InvalidPodSpec, StartTimeout,
		OOMKilled, Evicted, Preempted, NodeLost, JobDeleted, AppError, DeadlineExceeded,
		CancelledByUser, QuotaExceeded, InvalidRequest, PolicyRefused,
	}
}

// explanation is what a reason means, and what its reader can do about it.
type explanation struct{ happened, todo string }

var explanations = map[Reason]explanation{
	ImagePullFailed:  {"The node could not pull the image.", "Check the image reference, that the image exists, and that the pull secret may read it; then replay the run."},
	ImageBuildFailed: {"The image could not be built.", "Read the last lines of the build, mend the Dockerfile or the builder's access, and replay the run."},
	Unschedulable:    {"No node could take the pod.", "Ask for fewer resources, relax the node selector and tolerations, or add nodes; then replay the run."},
	InvalidPodSpec:   {"The cluster refused the Job or its pod.", "Correct what the message names in the request or in the operator's settings, and replay the run."},
	StartTimeout:     {"The run did not start within the time allowed.", "See what it waited for in the message, mend that, and replay the run."},
	OOMKilled:        {"The container used more memory than its limit and was killed.", "Raise resources.limits.memory or use less memory, and replay the run."},
	Evicted:          {"The node evicted the pod.", "Replay the run; if it happens again, ask for the memory and storage that it really uses."},
	Preempted:        {"A pod of higher priority took the place of this one.", "Replay the run, or give it a higher priority class."},
	NodeLost:         {"The machine that the run was on was lost.", "Replay the run."},
	JobDeleted:       {"Somebody or something else deleted the run's Job.", "Find out who (the API server's audit log knows), and replay the run."},
	AppError:         {"The program ended with an exit code other than 0.", "Read the run's log; when the program is mended, replay the run."},
	DeadlineExceeded: {"The run took longer than its timeout.", "Give it a longer timeout or less to do, and replay it."},
	CancelledByUser:  {"The run was cancelled.", "Nothing is to be done; replay it to run it again."},
	QuotaExceeded:    {"The namespace's resource quota has no room for the run.", "Raise the quota or wait for other work to end, and replay the run."},
	InvalidRequest:   {"The request could not be understood or is not valid.", "Correct every field that the message names, and submit it again under a new id."},
	PolicyRefused:    {"The operator's policy does not allow the request.", "Change what the message names, or ask the operator to allow it."},
}

// Happened is one sentence that says what a reason means.
func (r Reason) Happened() string { return explanations[r].happened }

// ToDo is one sentence that says what the owner of the run can do next.
func (r Reason) ToDo() string { return explanations[r].todo }

// Infrastructure reports whether the run itself had no part in the failure, so
// that it may be tried again without using up the run's own retries.
func (r Reason) Infrastructure() bool {
	switch r {
	case Evicted, Preempted, NodeLost, JobDeleted:
		return true
	default:
		return false
	}
}

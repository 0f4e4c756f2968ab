// Package k8sjobs is the launcher that runs attempts as Kubernetes Jobs. It is
// the only place that knows what a run looks like to a cluster, in four steps:
//
//   - build: [Template.Build] turns a launch into a Job and, for secret
//     environment, a Secret. It is pure.
//   - launch: [Launcher.Launch] creates the Job or adopts the one that is
//     there. Which API errors may pass, [refusal] decides alone.
//   - watch: [Launcher.Run] keeps one set of informers, stripped to what is
//     used, and wakes whoever follows a Job. Nothing polls.
//   - classify: [Classify] tells a run's state and reason from what is known of
//     its Job and pods. It is pure too.
//
// It knows nothing of queues, messages or records. The wiring in cmd calls
// [NewClient] and [New] and hands the [Launcher] to the core in package
// dispatch, whose interface of that name it satisfies.
package k8sjobs

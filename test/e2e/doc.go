// Package e2e shows that Ropewalk keeps its promises where it will be used: on
// a real cluster, with a real nats-server process and dispatcher processes
// that are killed, stopped and cut off while they work. Everything is judged
// from outside, by a watch of its own on the Kubernetes API and by the run
// records as they stand in NATS.
//
// The tests are behind the build tag e2e and need KUBECONFIG to lead to a
// cluster, as its administrator, whose nodes can run the image "busybox" (or
// the one that E2E_IMAGE names). `make e2e` runs them. Each test works in a
// namespace of its own and removes it; what the processes logged is kept when
// a test fails.
package e2e

// Package rig sets up the real parts that the end-to-end tests and the
// benchmark run against: a nats-server process with its store on disk, a
// namespace with a service account that has the shipped Role and no more,
// dispatcher processes, and two observers of what they do: one on the
// Kubernetes API, one on the run records.
//
// It sees the dispatcher from outside, as any other program would: it imports
// nothing of Ropewalk's own packages, so that a mistake in one of them cannot
// hide itself here.
package rig

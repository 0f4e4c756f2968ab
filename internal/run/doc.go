// Package run holds what every part of Ropewalk agrees on about a run: the
// request that a publisher sends, the states and the table of transitions
// between them, the closed list of reasons why a run did not succeed, the
// record that is kept of it, and the values that the parts hand to each other
// (a delivery, an observation, a decision).
//
// It does nothing with any of them: no input, no output, no clock. Everything
// here may be imported from everywhere, and it imports the standard library
// only.
package run

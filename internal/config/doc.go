// Package config holds every setting of Ropewalk: its environment variable,
// default, meaning and example in one tree of structs, from which the
// settings are read, docs/settings.md is written, and `dispatcher settings`
// is answered.
//
// It is the only user of envconfig, which it wraps once, because envconfig by
// itself stops at the first error, quotes the value in it (secrets too), takes
// an empty variable for a set one, and passes unknown names in silence. Here
// all problems come at once, each names its variable, what is wrong and an
// example of right, and no secret is in any of them.
//
// The package only reads and checks. It knows no Kubernetes types, so that
// what imports it stays quick to build; k8sjobs decodes what is left as text.
// The commands call it once at start and hand the groups on.
package config

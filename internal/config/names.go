package config

import (
	"regexp"
	"slices"
	"strings"
)

// ours reports whether a name begins like those of variables that are ours
// alone, so that an unknown one is a mistake.
func ours(name string) bool {
	return strings.HasPrefix(name, "ROPEWALK_") ||
		strings.HasPrefix(name, "ZENML_KUBERNETES_WORKLOAD_MANAGER_") ||
		strings.HasPrefix(name, "ZENML_AWS_KUBERNETES_WORKLOAD_MANAGER_") ||
		strings.HasPrefix(name, "ZENML_GCP_KUBERNETES_WORKLOAD_MANAGER_")
}

// jobMark is what the local launcher sets in the processes of a run. A run may
// call our commands, for which it is not a setting and no mistake either.
const jobMark = "ROPEWALK_JOB_UID"

// serverPrefix begins the names of the ZenML server's own variables, of which
// Ropewalk reads three; it has many others, so only what is nearMiss letters
// or fewer away from one of the three is taken for a mistake.
const (
	serverPrefix = "ZENML_SERVER_"
	nearMiss     = 2
)

// unknownNames finds the variables that look like settings and are none.
func unknownNames(environ []string, all []field) []Problem {
	known := make([]string, len(all))
	for i, f := range all {
		known[i] = f.name
	}
	values := make(map[string]string, len(environ))
	for _, assignment := range environ {
		name, value, _ := strings.Cut(assignment, "=")
		values[name] = value
	}
	var problems []Problem
	for name, value := range values {
		if !ours(name) && !strings.HasPrefix(name, serverPrefix) || slices.Contains(known, name) ||
			name == jobMark || fromService(name, value, values) {
			continue
		}
		if nearest, distance := nearestName(name, known); ours(name) || distance <= nearMiss {
			problems = append(problems, Problem{Name: name, Message: "is not a setting; the nearest one is " + nearest})
		}
	}
	slices.SortFunc(problems, func(a, b Problem) int { return strings.Compare(a.Name, b.Name) })
	return problems
}

// servicePattern is the family of variables that Kubernetes sets in every pod
// for each Service of its namespace: a Service called ropewalk-nats makes
// ROPEWALK_NATS_SERVICE_HOST, ROPEWALK_NATS_PORT_4222_TCP_ADDR and more.
var servicePattern = regexp.MustCompile(`^([A-Z0-9_]+?)_(SERVICE_HOST|SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT|PORT_[0-9]+_(?:TCP|UDP|SCTP)(?:_(?:PROTO|PORT|ADDR))?)$`)

// serviceURL is what the family's <SERVICE>_PORT holds.
var serviceURL = regexp.MustCompile(`^(tcp|udp|sctp)://`)

// fromService reports whether Kubernetes set the variable and not a person.
// A bare <NAME>_PORT could be a person's mistake (ROPEWALK_HTTP_PORT=8080), so
// it must look like Kubernetes' own, or have the service's host beside it.
func fromService(name, value string, values map[string]string) bool {
	match := servicePattern.FindStringSubmatch(name)
	if match == nil {
		return false
	}
	if match[2] != "PORT" {
		return true
	}
	_, host := values[match[1]+"_SERVICE_HOST"]
	return host || serviceURL.MatchString(value)
}

// nearestName returns the known name that takes the fewest changes of a letter
// to get to, and how many.
func nearestName(name string, known []string) (nearest string, distance int) {
	distance = -1
	for _, candidate := range known {
		if d := editDistance(name, candidate); distance < 0 || d < distance {
			nearest, distance = candidate, d
		}
	}
	return nearest, distance
}

// editDistance is Levenshtein's: insertions, deletions and replacements of one
// byte. It keeps one row of the table.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

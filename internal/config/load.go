package config

import (
	"os"
	"reflect"
	"strings"
)

// role is a kind of command: what it reads, and what it must have.
type role struct {
	// reads tells the groups that the command needs, by their names in
	// Config. The others hold their defaults, and nothing that is wrong with
	// them is the command's business.
	reads func(group string) bool
	// local: the command launches local processes, whatever the default.
	local bool
	// launches: the rules for what launches runs apply.
	launches bool
	// archives: the rules for where logs are kept apply.
	archives bool
}

// LoadClient reads what commands need that only talk to the queue: the NATS
// group. The other groups of the result hold their defaults. An error is an
// [*Error] with every problem.
func LoadClient() (*Config, error) {
	return load(role{reads: func(group string) bool { return group == "NATS" }})
}

// LoadLogs reads what the shipper needs, and what commands need that read logs:
// NATS and where logs are kept. An error is an [*Error] with every problem.
func LoadLogs() (*Config, error) {
	return load(role{archives: true, reads: func(group string) bool {
		switch group {
		case "NATS", "HTTP", "Log", "Launch", "Logs", "AWS", "GCP", "Kubernetes":
			return true
		default:
			return false
		}
	}})
}

// LoadProbe reads what is needed to ask a process of ours how it is. An error
// is an [*Error] with every problem.
func LoadProbe() (*Config, error) {
	return load(role{reads: func(group string) bool { return group == "HTTP" }})
}

// LoadServe reads and checks every setting. An error is an [*Error] with every
// problem.
func LoadServe() (*Config, error) { return load(serving()) }

func serving() role { return role{reads: func(string) bool { return true }, launches: true} }

// LoadDev reads what the embedded default needs: everything but the NATS
// group, which holds its defaults, since a server is in the process. The
// launcher is the local one. An error is an [*Error] with every problem.
func LoadDev() (*Config, error) {
	return load(role{reads: func(group string) bool { return group != "NATS" }, launches: true, local: true})
}

// loader gathers what one reading of the environment finds.
type loader struct {
	config   *Config
	fields   map[string]field
	problems []Problem
}

func load(r role) (*Config, error) {
	l := r.read()
	if l.problems != nil {
		return nil, &Error{Problems: l.problems}
	}
	return l.config, nil
}

// read reads the process's own environment, which is where envconfig looks.
func (r role) read() *loader {
	all := fields()
	l := &loader{config: &Config{facts: make(map[string]fact, len(all))}, fields: make(map[string]field, len(all))}
	for _, f := range all {
		value := os.Getenv(f.name) //nolint:forbidigo // envconfig cannot tell blank from set
		f.set = strings.TrimSpace(value) != "" && r.reads(f.group)
		l.fields[f.name] = f
		l.config.facts[f.name] = fact{set: f.set}
		l.take(f)
	}
	if r.local {
		l.useLocal()
	}
	if r.reads("NATS") {
		l.natsRules()
	}
	if r.launches || r.archives {
		l.logRules()
	}
	if r.launches {
		l.queueRules()
		l.podRules()
		l.kubernetesRules()
	}
	l.problems = append(l.problems, unknownNames(os.Environ(), all)...) //nolint:forbidigo // envconfig does not look for names it does not know
	return l
}

// take puts the value of one variable, or its default, in its place.
func (l *loader) take(f field) {
	value, err := process(f, f.set)
	if err == nil {
		value, err = f.check(value)
	}
	if err != nil {
		l.problem(f.name, "%v", err)
		return
	}
	l.config.at(f).Set(value)
}

// at is the place of a setting in the tree.
func (c *Config) at(f field) reflect.Value { return reflect.ValueOf(c).Elem().FieldByIndex(f.index) }

// problem notes what is wrong with a variable.
func (l *loader) problem(name, format string, args ...any) {
	problem := l.fields[name].problemf(format, args...)
	l.problems = append(l.problems, problem)
	noted := l.config.facts[name]
	noted.problem = problem.Message
	l.config.facts[name] = noted
}

// sound reports whether nothing is wrong with any of the variables so far: a
// rule over several of them says nothing new when one could not be read.
func (l *loader) sound(names ...string) bool {
	for _, name := range names {
		if l.config.facts[name].problem != "" {
			return false
		}
	}
	return true
}

func (l *loader) set(name string) bool { return l.config.facts[name].set }

// require notes a problem if the variable is not set.
func (l *loader) require(name, why string) {
	if !l.set(name) {
		l.problem(name, "is not set; %s", why)
	}
}

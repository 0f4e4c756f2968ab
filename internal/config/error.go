package config

import (
	"fmt"
	"strings"
)

// Problem is one thing that is wrong with the environment.
type Problem struct {
	// Name is the variable.
	Name string `json:"name"`
	// Message says what is wrong and goes on after the name.
	Message string `json:"message"`
	// Example is an assignment that is right; empty for an unknown name.
	Example string `json:"example,omitempty"`
}

// String is the problem in one line.
func (p Problem) String() string {
	line := p.Name + " " + p.Message
	if p.Example != "" {
		line += "; for example " + p.Example
	}
	return line
}

// Error is everything that is wrong with the environment. No value of a secret
// is in it.
type Error struct {
	Problems []Problem `json:"problems"`
}

// Error has one line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, problem := range e.Problems {
		lines[i] = problem.String()
	}
	return strings.Join(lines, "\n")
}

// problemf describes what is wrong with the variable of a field, in one line.
func (f field) problemf(format string, args ...any) Problem {
	return Problem{
		Name:    f.name,
		Message: strings.Join(strings.Fields(fmt.Sprintf(format, args...)), " "),
		Example: f.assignment(),
	}
}

// assignment is the example as a shell would take it.
func (f field) assignment() string {
	value := f.example
	if strings.ContainsAny(value, " \"{}[]") {
		value = "'" + value + "'"
	}
	return f.name + "=" + value
}

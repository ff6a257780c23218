package config

import (
	"fmt"
	"strings"
)

// A Problem is one mistake in the configuration.
type Problem struct {
	File   string `json:"file"`
	Line   int    `json:"line,omitempty"` // counted from 1; 0: the file as a whole
	What   string `json:"what"`
	Remedy string `json:"remedy,omitempty"` // what the administrator can do
}

// Error returns "file:line: what: remedy".
func (p Problem) Error() string {
	var b strings.Builder
	b.WriteString(p.File)
	if p.Line > 0 {
		fmt.Fprintf(&b, ":%d", p.Line)
	}
	b.WriteString(": " + p.What)
	if p.Remedy != "" {
		b.WriteString(": " + p.Remedy)
	}
	return b.String()
}

// Problems is the error that Load and Parse return: every mistake of the file,
// in the order of its lines, never empty.
type Problems []Problem

// Error returns one problem on each line.
func (ps Problems) Error() string {
	lines := make([]string, len(ps))
	for i, p := range ps {
		lines[i] = p.Error()
	}
	return strings.Join(lines, "\n")
}

// A fault is a Problem that does not know its place yet.
type fault struct{ what, remedy string }

// faultf returns a fault with the given remedy; what is wrong is formatted.
func faultf(remedy, format string, args ...any) *fault {
	return &fault{what: fmt.Sprintf(format, args...), remedy: remedy}
}

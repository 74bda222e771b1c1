package config

import (
	"bytes"
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is a file that cannot be used. It has at least one Problem; they are sorted by place.
type Error struct {
	File     string
	Problems []Problem
}

// Problem is something in the file that is wrong.
type Problem struct {
	Line   int    // from 1
	Column int    // from 1, in bytes
	Key    string // with its table, such as "rule.path"; "" where the file is no TOML at that place
	Msg    string // what is wrong, and what would be right
}

// Error is a line for each problem.
func (e *Error) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = fmt.Sprintf("%s:%d:%d: %s", e.File, p.Line, p.Column, p)
	}
	return strings.Join(lines, "\n")
}

// String gives the key and what is wrong with it.
func (p Problem) String() string {
	if p.Key == "" {
		return p.Msg
	}
	return p.Key + ": " + p.Msg
}

// place is a byte of the file.
type place struct{ line, column int }

func placeOf(data []byte, offset int) place {
	before := data[:offset]
	return place{1 + bytes.Count(before, []byte("\n")), offset - bytes.LastIndexByte(before, '\n')}
}

// problems collects them.
type problems []Problem

func (p *problems) add(at place, key, format string, args ...any) {
	*p = append(*p, Problem{at.line, at.column, key, fmt.Sprintf(format, args...)})
}

// onLine tells whether there is one on the line already.
func (p *problems) onLine(line int) bool {
	return slices.ContainsFunc(*p, func(q Problem) bool { return q.Line == line })
}

func (p *problems) sort() {
	slices.SortStableFunc(*p, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
}

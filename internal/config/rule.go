package config

import (
	"slices"
	"strings"

	"github.com/bmatcuk/doublestar/v4"
)

// Rules are asked in their order, and the first one that matches decides.
type Rules []Rule

// Decide gives the action of the first Rule that matches. Without one the bool is false.
func (r Rules) Decide(c Candidate) (Action, bool) {
	for _, rule := range r {
		if rule.Match(c) {
			return rule.Action, true
		}
	}
	return "", false
}

// Action is what is done with a dead sock-file.
type Action string

// The actions.
const (
	Reap   Action = "reap"   // remove it
	Report Action = "report" // tell of it, and keep it
	Ignore Action = "ignore" // neither
)

// Rule says what is done with which sock-files. All of its conditions must hold, an empty one always does; of the
// alternatives in a condition one must. The patterns are doublestar's, https://github.com/bmatcuk/doublestar; one that is not
// valid, which [Load] does not let pass, matches nothing.
type Rule struct {
	Path   []string
	UID    []uint32
	Comm   []string
	Cgroup []string
	Action Action
}

// Candidate is a sock-file that a decision is needed for.
type Candidate struct {
	// Path is absolute and clean, and no directory in it is a symlink: were there two paths for one file, whoever names it
	// could go around a rule.
	Path string

	UID    uint32 // of the owner; of the file where the owner is not known
	Comm   string // of the owner; "" where it is not known, which no pattern matches
	Cgroup string // of the owner, as in cgroup(7)'s /proc/PID/cgroup; "" where it is not known, which no pattern matches
}

// Match tells whether all conditions hold.
func (r Rule) Match(c Candidate) bool {
	return matchAny(r.Path, c.Path) &&
		(len(r.UID) == 0 || slices.Contains(r.UID, c.UID)) &&
		matchAny(slashless(r.Comm...), slashless(c.Comm)[0]) &&
		matchAny(r.Cgroup, c.Cgroup)
}

func matchAny(patterns []string, s string) bool {
	return len(patterns) == 0 || s != "" && slices.ContainsFunc(patterns, func(pattern string) bool {
		return doublestar.MatchUnvalidated(pattern, s)
	})
}

// slashless puts a byte that no process's name has for the slash, which is nothing special there (kworker/0:1), but to a
// pattern's * is the end of a directory's name.
func slashless(names ...string) []string {
	for i, name := range names {
		if strings.Contains(name, "/") {
			names = slices.Clone(names) // the caller's
			names[i] = strings.ReplaceAll(name, "/", "\x00")
		}
	}
	return names
}

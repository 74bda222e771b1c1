package config

import (
	"slices"
	"testing"

	"pgregory.net/rapid"
)

func TestMatch(t *testing.T) {
	redis := Candidate{Path: "/run/redis/redis.sock", UID: 110, Comm: "redis-server", Cgroup: "/system.slice/redis.service"}
	unowned := Candidate{Path: "/run/x.sock", UID: 110}
	for _, tt := range []struct {
		rule Rule
		c    Candidate
		want bool
	}{
		{Rule{}, redis, true},
		{Rule{}, Candidate{}, true},
		{Rule{Path: []string{"/run/**/*.sock"}, UID: []uint32{110}, Comm: []string{"redis*"}, Cgroup: []string{"/system.slice/**"}}, redis, true},
		// All must hold.
		{Rule{Path: []string{"/run/**"}, UID: []uint32{0}}, redis, false},
		{Rule{Path: []string{"/run/**"}, Comm: []string{"nginx"}}, redis, false},
		{Rule{UID: []uint32{110}, Cgroup: []string{"/user.slice/**"}}, redis, false},
		// Of a list, one.
		{Rule{Path: []string{"/tmp/**", "/run/**"}, UID: []uint32{0, 110}, Comm: []string{"nginx", "redis*"}}, redis, true},
		{Rule{UID: []uint32{0}}, Candidate{UID: 0}, true},
		// What is not known is matched by no pattern.
		{Rule{Comm: []string{"*"}}, unowned, false},
		{Rule{Cgroup: []string{"/**"}}, unowned, false},
		{Rule{UID: []uint32{110}}, unowned, true},
		// The patterns.
		{Rule{Path: []string{"/run/**/*.sock"}}, Candidate{Path: "/run/x.sock"}, true},
		{Rule{Path: []string{"/run/*.sock"}}, redis, false},
		{Rule{Path: []string{"/run/*"}}, Candidate{Path: "/run/.hidden"}, true},
		{Rule{Path: []string{"/run/{redis,nginx}/*"}}, redis, true},
		{Rule{Path: []string{"/run/redis"}}, redis, false},
		{Rule{Path: []string{"/RUN/**"}}, redis, false},
		{Rule{Cgroup: []string{"/system.slice/**"}}, Candidate{Cgroup: "/system.slice"}, true},
		{Rule{Cgroup: []string{"/"}}, Candidate{Cgroup: "/"}, true},
		{Rule{Path: []string{`/run/\*`}}, Candidate{Path: "/run/*"}, true},
		{Rule{Path: []string{`/run/\*`}}, Candidate{Path: "/run/x"}, false},
		{Rule{Path: []string{"/run/["}}, Candidate{Path: "/run/["}, false},
		// Bytes that are no text, or no line of it.
		{Rule{Path: []string{"/run/*"}}, Candidate{Path: "/run/\xff\n\x1b"}, true},
		{Rule{Path: []string{"/run/?"}}, Candidate{Path: "/run/\xff"}, true},
		{Rule{Path: []string{"/run/??"}}, Candidate{Path: "/run/\xff\xfe"}, true},
		{Rule{Path: []string{"/run/\u00e9"}}, Candidate{Path: "/run/\xe9"}, false},
		{Rule{Path: []string{"/run/[!a]"}}, Candidate{Path: "/run/\xff"}, true},
		{Rule{Path: []string{"/run/a\nb"}}, Candidate{Path: "/run/a\nb"}, true},
		// A slash is nothing special in a name.
		{Rule{Comm: []string{"*"}}, Candidate{Comm: "kworker/0:1"}, true},
		{Rule{Comm: []string{"kworker/*"}}, Candidate{Comm: "kworker/0:1"}, true},
		{Rule{Comm: []string{"kworker?0:1"}}, Candidate{Comm: "kworker/0:1"}, true},
	} {
		before := slices.Clone(tt.rule.Comm)
		if got := tt.rule.Match(tt.c); got != tt.want {
			t.Errorf("%+v matches %+v: %v, want %v", tt.rule, tt.c, got, tt.want)
		}
		if !slices.Equal(before, tt.rule.Comm) {
			t.Errorf("Match changed the rule: %q, before %q", tt.rule.Comm, before)
		}
	}
}

func TestNoRule(t *testing.T) {
	if action, ok := Rules(nil).Decide(Candidate{Path: "/run/x"}); ok || action != "" {
		t.Errorf("no rule decides %q", action)
	}
}

// TestFirstMatchWins: a decision is that of a rule that matches, no rule before it matches, and rules after it do not matter.
func TestFirstMatchWins(t *testing.T) {
	// Few of each, so that rules and candidates meet.
	element := rapid.SampledFrom([]string{"a", "b", "*", "**", "?"})
	pattern := rapid.Custom(func(t *rapid.T) string { return "/" + element.Draw(t, "1") + "/" + element.Draw(t, "2") })
	rule := rapid.Custom(func(t *rapid.T) Rule {
		return Rule{
			Path:   rapid.SliceOfN(pattern, 0, 2).Draw(t, "path"),
			UID:    rapid.SliceOfN(rapid.Uint32Range(0, 3), 0, 2).Draw(t, "uid"),
			Comm:   rapid.SliceOfN(element, 0, 2).Draw(t, "comm"),
			Cgroup: rapid.SliceOfN(pattern, 0, 2).Draw(t, "cgroup"),
			Action: rapid.SampledFrom([]Action{Reap, Report, Ignore}).Draw(t, "action"),
		}
	})
	name := rapid.SampledFrom([]string{"a", "b", "c"})
	rapid.Check(t, func(t *rapid.T) {
		rules := Rules(rapid.SliceOfN(rule, 0, 6).Draw(t, "rules"))
		c := Candidate{
			Path:   "/" + name.Draw(t, "dir") + "/" + name.Draw(t, "base"),
			UID:    rapid.Uint32Range(0, 3).Draw(t, "uid"),
			Comm:   name.Draw(t, "comm"),
			Cgroup: "/" + name.Draw(t, "slice"),
		}
		action, ok := rules.Decide(c)
		first := slices.IndexFunc(rules, func(r Rule) bool { return r.Match(c) })
		if ok != (first >= 0) || ok && action != rules[first].Action {
			t.Fatalf("decided %q, %v; the first match is %d", action, ok, first)
		}
		if !ok {
			return
		}
		more := append(slices.Clone(rules[:first+1]), rapid.SliceOfN(rule, 0, 3).Draw(t, "after")...)
		if got, _ := more.Decide(c); got != action {
			t.Fatalf("with other rules after it: %q, before %q", got, action)
		}
		// Another condition can only narrow a rule.
		narrowed := rules[first]
		narrowed.UID = []uint32{c.UID + 1}
		if narrowed.Match(c) {
			t.Fatalf("%+v matches %+v, of another user", narrowed, c)
		}
	})
}

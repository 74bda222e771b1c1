package daemon

import (
	"fmt"
	"os"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestRuleMatchesTheFile: a rule is asked about where the file is, and neither about the way by which its owner named it nor about what
// that way leads to later.
func TestRuleMatchesTheFile(t *testing.T) {
	p := newPlace(t)
	p.serve(p.config(fmt.Sprintf("[[rule]]\npath = [%q]\naction = \"report\"\n", p.path("kept/**"))))
	for _, dir := range []string{"kept", "free"} {
		must(t, os.Mkdir(p.path(dir), 0o755))
	}
	link := func(to string) {
		_ = os.Remove(p.path("link"))
		must(t, os.Symlink(p.path(to), p.path("link")))
	}
	c, o := p.dial(), startPuppet(t)
	link("kept")
	c.watch(o.pid(), p.path("link/a"), p.path("link/b"))
	o.do("bind", p.path("link/a"))
	c.claimed(o.child.PID(), p.path("link/a"))
	link("free")
	o.do("bind", p.path("link/b"))
	c.claimed(o.child.PID(), p.path("link/b"))
	link("kept")
	o.kill()
	for name, dryRun := range map[string]bool{"a": true, "b": false} {
		if e := c.wantOutcome(p.path("link/"+name), "removed"); e.DryRun != dryRun {
			t.Errorf("%s: %+v", name, e)
		}
	}
	kept(t, p.path("kept/a"))
	if exists(t, p.path("free/b")) {
		t.Error("free/b is kept")
	}
}

// TestRuleInChroot: the path from the daemon's root directory counts, not the one that the process has for it.
func TestRuleInChroot(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	p.serve(p.config(fmt.Sprintf(`
[[rule]]
path = ["/in/**"]
action = "ignore"
[[rule]]
path = [%q]
action = "report"
`, p.path("jail/in/**"))))
	must(t, os.MkdirAll(p.path("jail/in"), 0o755))
	c, o := p.dial(), startPuppet(t)
	o.do("chroot", p.path("jail"))
	o.do("bind", "/in/s")
	c.watch(o.pid())
	c.claimed(o.child.PID(), "/in/s")
	o.kill()
	if e := c.wantOutcome("/in/s", "removed"); !e.DryRun {
		t.Errorf("%+v", e)
	}
	kept(t, p.path("jail/in/s"))
}

package daemon

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/watch"
)

// TestRules: the first one that matches beats what a client asks for.
func TestRules(t *testing.T) {
	p := newPlace(t)
	d := p.serve(p.config(fmt.Sprintf(`
[[rule]]
path = ["%[1]s/ignored/first.sock"]
action = "reap"
[[rule]]
path = ["%[1]s/ignored/**"]
action = "ignore"
[[rule]]
path = ["%[1]s/reported/**"]
action = "report"
[[rule]]
comm = ["quiet*"]
action = "report"
`, p.base)))
	for _, dir := range []string{"ignored", "ignored/sub", "reported", "free"} {
		must(t, os.Mkdir(p.path(dir), 0o755))
	}
	must(t, os.Symlink(p.path("ignored"), p.path("free/link")))
	c := p.dial()
	o, quiet := startPuppet(t), startPuppet(t)
	ignored := []string{p.path("ignored/a"), p.path("ignored/sub/b"), p.path("ignored/c")}
	for _, path := range ignored {
		o.do("bind", path)
	}
	for _, path := range []string{"ignored/first.sock", "reported/a", "reported/late", "free/a"} {
		if path != "reported/late" {
			o.do("bind", p.path(path))
		}
	}
	quiet.do("comm", "quiet server")
	quiet.do("bind", p.path("free/quiet"))
	c.watch(quiet.pid())
	// In other words the same files.
	c.watch(o.pid(), p.path("reported/late"), p.path("free/link/a"), p.path("free/../ignored/c"), p.path("ignored/./sub//b"))
	o.do("bind", p.path("reported/late"))
	c.claimed(o.child.PID(), p.path("reported/late"))
	o.kill()
	quiet.kill()
	for _, path := range []string{p.path("ignored/first.sock"), p.path("free/a")} {
		c.gone(path)
		if e := c.wantOutcome(path, "removed"); e.DryRun {
			t.Errorf("%+v", e)
		}
	}
	for _, path := range []string{p.path("reported/a"), p.path("reported/late"), p.path("free/quiet")} {
		if e := c.wantOutcome(path, "removed"); !e.DryRun {
			t.Errorf("%+v", e)
		}
		kept(t, path)
	}
	flush(t, p, c)
	kept(t, ignored...)
	for _, path := range append(ignored, p.path("free/link/a")) {
		if events, err := c.c.History(t.Context(), path); len(events) > 0 || err != nil {
			t.Errorf("%s: %+v, %v", path, events, err)
		}
	}

	// Another configuration is for what is claimed from then on.
	d.Reload(p.config(fmt.Sprintf("[[rule]]\nuid = [%d]\naction = \"report\"\n", os.Geteuid())))
	o = startPuppet(t)
	o.do("bind", p.path("free/b"))
	c.watch(o.pid())
	d.Reload(p.config(""))
	o.do("bind", p.path("ignored/d"))
	c.watch(o.pid())
	o.kill()
	c.gone(p.path("ignored/d"))
	if e := c.wantOutcome(p.path("free/b"), "removed"); !e.DryRun {
		t.Errorf("%+v", e)
	}
	kept(t, p.path("free/b"))
}

// TestRulesOfUsers: a rule for one user says nothing of another's files.
func TestRulesOfUsers(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	must(t, os.WriteFile(p.conf, []byte(fmt.Sprintf("[[rule]]\nuid = [%d]\naction = \"report\"\n", hostile)), 0o600))
	p.start()
	must(t, os.Mkdir(p.path("open"), 0o777))
	must(t, os.Chmod(p.path("open"), 0o777))
	c := p.dial()
	for uid, dryRun := range map[uint32]bool{hostile: true, victim: false} {
		path := p.path(fmt.Sprintf("open/%d", uid))
		o := startPuppet(t, as(uid))
		o.do("bind", path)
		c.watch(o.pid())
		o.kill()
		if e := c.wantOutcome(path, "removed"); e.DryRun != dryRun || exists(t, path) != dryRun {
			t.Errorf("%+v", e)
		}
	}
	p.stop()
}

// TestBindspaces: whoever binds in one is watched, nobody need be registered.
func TestBindspaces(t *testing.T) {
	p := newPlace(t)
	space, later := p.path("space"), p.path("later")
	must(t, os.Mkdir(space, 0o755))
	before, leftover := startPuppet(t), startPuppet(t)
	before.do("bind", p.path("space/before"))
	leftover.do("bind", p.path("space/leftover"))
	leftover.kill()
	d := p.serve(p.config(fmt.Sprintf("[[bindspace]]\npath = %q\nsweep = true\n[[bindspace]]\npath = %q\n", space, later)))
	c := p.dial()
	c.gone(p.path("space/leftover"))
	o := startPuppet(t)
	o.do("bind", p.path("space/s"))
	if claim := c.claimed(o.child.PID(), p.path("space/s")); claim.Source != "bindspace" {
		t.Errorf("%+v", claim)
	}
	must(t, os.Mkdir(later, 0o755)) // it need not be there at the start
	o.do("bind", p.path("later/s"))
	c.claimed(o.child.PID(), p.path("later/s"))
	c.claimed(before.child.PID(), p.path("space/before"))
	o.do("bind", p.path("elsewhere"))
	o.kill()
	before.kill()
	for _, path := range []string{p.path("space/s"), p.path("later/s"), p.path("space/before")} {
		c.wantOutcome(path, "removed")
		c.gone(path)
	}
	kept(t, p.path("elsewhere"))

	// Without it in the configuration nobody looks there.
	d.Reload(p.config(fmt.Sprintf("[[bindspace]]\npath = %q\n", space)))
	c.until("it is not watched any more", func() bool {
		return len(slices.DeleteFunc(d.watcher.Owners(), func(o *watch.Owner) bool { return o.Identity().PID != 0 })) == 1
	})
	o = startPuppet(t)
	o.do("bind", p.path("later/s"))
	o.do("bind", p.path("space/s"))
	c.claimed(o.child.PID(), p.path("space/s"))
	o.kill()
	c.gone(p.path("space/s"))
	kept(t, p.path("later/s"))
}

// TestBindspaceKilled: what was seen there is known to the next daemon.
func TestBindspaceKilled(t *testing.T) {
	p := newPlace(t)
	must(t, os.Mkdir(p.path("space"), 0o755))
	must(t, os.WriteFile(p.conf, []byte(fmt.Sprintf("[[bindspace]]\npath = %q\n", p.path("space"))), 0o600))
	p.start()
	o, lives, fresh := startPuppet(t), startPuppet(t), startPuppet(t)
	o.do("bind", p.path("space/s"))
	lives.do("bind", p.path("space/lives"))
	c := p.dial()
	c.recorded(p, o, p.path("space/s"))
	c.recorded(p, lives, p.path("space/lives"))
	p.child.Kill()
	fresh.do("bind", p.path("space/new")) // while nobody looks
	o.kill()
	p.start()
	c = p.dial()
	c.gone(p.path("space/s"))
	c.claimed(fresh.child.PID(), p.path("space/new"))
	lives.answers(p.path("space/lives"))
	lives.kill()
	fresh.kill()
	c.gone(p.path("space/lives"), p.path("space/new"))
	p.noRecords()
	p.stop()
}

// TestDryRun: nothing is removed, and what would be is told.
func TestDryRun(t *testing.T) {
	p := newPlace(t)
	must(t, os.Mkdir(p.path("space"), 0o755))
	o := startPuppet(t)
	o.do("bind", p.path("space/leftover"))
	o.kill()
	p.serve(p.config(fmt.Sprintf("dry_run = true\n[[bindspace]]\npath = %q\nsweep = true\n", p.path("space"))))
	c := p.dial()
	if s, err := c.c.Status(t.Context()); err != nil || !s.DryRun {
		t.Error(s, err)
	}
	o = startPuppet(t)
	o.do("bind", p.path("s"))
	o.do("bind", p.path("space/s"))
	c.watch(o.pid())
	c.claimed(o.child.PID(), p.path("space/s"))
	o.kill()
	for _, path := range []string{p.path("s"), p.path("space/s")} {
		if e := c.wantOutcome(path, "removed"); !e.DryRun {
			t.Errorf("%+v", e)
		}
	}
	kept(t, p.path("s"), p.path("space/s"), p.path("space/leftover"))
}

package daemon

import (
	"path/filepath"
	"slices"
	"testing"

	"github.com/sockwatch/sockwatch/client"
)

// TestReport: what a process reports goes with it, and with the daemon killed before.
func TestReport(t *testing.T) {
	p := newPlace(t)
	p.start()
	socket := filepath.Join(p.dir, NotifyName)
	for _, name := range []string{"s", "killed"} {
		path := p.path(name)
		o := startPuppet(t)
		o.do("bind", path)
		o.do("bound", socket, path)
		c := p.dial()
		if claim := c.claimed(o.child.PID(), path); claim.Source != "notify" {
			t.Errorf("%+v", claim)
		}
		if owner, _ := c.owner(o.child.PID()); owner.RegisteredBy != nil {
			t.Errorf("%+v", owner)
		}
		if name == "killed" {
			c.recorded(p, o, path)
			p.child.Kill()
			o.kill()
			p.start()
			c = p.dial()
		} else {
			o.kill()
			c.wantOutcome(path, "removed")
		}
		c.gone(path)
	}
	p.noRecords()
	p.stop()
}

// TestReportOfOthers: who reports a file of another user's is refused, and the daemon's log says so.
func TestReportOfOthers(t *testing.T) {
	p := hostilePlace(t)
	socket := filepath.Join(p.dir, NotifyName)
	dead(t, 0, p.path("open/root"))
	dead(t, victim, p.path("open/victim"))
	dead(t, 0, p.path("secret/root"))
	own := startPuppet(t, as(hostile))
	own.do("bind", p.path("open/own"))
	others := []string{p.path("open/root"), p.path("open/victim"), p.path("secret/root"), p.control()}
	for _, path := range append(slices.Clone(others), p.path("open/own")) {
		own.do("bound", socket, path)
	}
	c := p.dial()
	c.claimed(own.child.PID(), p.path("open/own")) // after the others, which are taken in their order
	owner, _ := c.owner(own.child.PID())
	if slices.ContainsFunc(owner.Claims, func(c client.Claim) bool { return c.Path.Path != p.path("open/own") }) {
		t.Errorf("%+v", owner)
	}
	for _, path := range others {
		if len(lines(p.logged(), "a report is refused", `"uid":1234`, path)) != 1 {
			t.Errorf("the log does not say that %s is refused:\n%s", path, p.logged())
		}
	}
	own.kill()
	c.gone(p.path("open/own"))
	for _, path := range others {
		kept(t, path)
	}
	p.stop()
}

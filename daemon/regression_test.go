package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestKilledWhileRemoving: a file that was renamed to be removed is removed by the next daemon.
func TestKilledWhileRemoving(t *testing.T) {
	p := newPlace(t)
	p.start()
	o := startPuppet(t)
	path, private := p.path("s"), p.path(".sockwatch-abc")
	o.do("bind", path)
	p.dial().watch(o.pid())
	p.child.Kill()
	o.kill()
	must(t, os.Rename(path, private))
	p.start()
	p.dial().gone(private)
	p.stop()
}

// TestLongPath: a path that no system call takes is the client's mistake.
func TestLongPath(t *testing.T) {
	p := newPlace(t)
	p.start()
	c := p.dial()
	o := startPuppet(t)
	for _, path := range []string{"/" + strings.Repeat("a", 300), "/" + strings.Repeat("a", 255) + strings.Repeat("/a", 1920), strings.Repeat("/a", 2500)} {
		if _, err := c.c.Watch(t.Context(), client.WatchRequest{Process: o.pid(), Paths: []string{path}}); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("%d bytes: %.80v", len(path), err)
		}
	}
	p.stop()
}

// TestSweepAndRules: an administrator's rule holds for the sweep at start too, and History tells of what it removes.
func TestSweepAndRules(t *testing.T) {
	p := newPlace(t)
	must(t, os.Mkdir(p.path("space"), 0o755))
	o := startPuppet(t)
	for _, name := range []string{"ignored", "reported", "swept"} {
		o.do("bind", p.path("space/"+name))
	}
	o.kill()
	p.serve(p.config(fmt.Sprintf(`
[[rule]]
path = ["%[1]s/ignored"]
action = "ignore"
[[rule]]
path = ["%[1]s/reported"]
action = "report"
[[bindspace]]
path = "%[1]s"
sweep = true
`, p.path("space"))))
	c := p.dial()
	c.gone(p.path("space/swept"))
	flush(t, p, c)
	kept(t, p.path("space/ignored"), p.path("space/reported"))
	if events, err := c.c.History(t.Context(), p.path("space/swept")); len(events) == 0 || err != nil {
		t.Error("History does not tell of what was swept:", err)
	}
}

// TestFailedWatch: what was refused has done nothing.
func TestFailedWatch(t *testing.T) {
	p := newPlace(t)
	p.serve(config.Default())
	c := p.dial()
	o := startPuppet(t)
	o.do("bind", p.path("s"))
	if _, err := c.c.Watch(t.Context(), client.WatchRequest{Process: o.pid(), Paths: []string{p.base}}); !errors.Is(err, client.ErrInvalid) {
		t.Error(err)
	}
	if owner, there := c.owner(o.child.PID()); there {
		t.Errorf("it is watched: %+v", owner)
	}
	o.kill()
	flush(t, p, c)
	kept(t, p.path("s"))
}

// TestUnwatchLeavesNoRecord
func TestUnwatchLeavesNoRecord(t *testing.T) {
	p := newPlace(t)
	p.start()
	c := p.dial()
	o := startPuppet(t)
	for i := range 400 {
		path := p.path(fmt.Sprint(i))
		w := c.watch(o.pid(), path)
		o.do("bind", path)
		must(t, c.c.Unwatch(t.Context(), w.ID))
		must(t, os.Remove(path))
		o.do("close", path)
	}
	p.noRecords()
	p.stop()
}

// TestChrootedPending: a pending claim of a process with another root directory, after a restart with it dead.
func TestChrootedPending(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	p.start()
	o := startPuppet(t)
	jail := p.path("jail")
	must(t, os.MkdirAll(filepath.Join(jail, p.base), 0o755))
	o.do("chroot", jail)
	path := p.path("s")
	p.dial().watch(o.pid(), path)
	p.child.Kill()
	o.kill()
	dead(t, 0, path) // another process's, outside
	p.start()
	flush(t, p, p.dial())
	kept(t, path)
	p.stop()
}

// TestChrootedFile: an identified one; after a restart with it alive, it is still watched below its root.
func TestChrootedFile(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	p.start()
	o := startPuppet(t)
	jail := p.path("jail")
	must(t, os.MkdirAll(jail, 0o755))
	o.do("chroot", jail)
	o.do("bind", "/s")
	o.do("bind", "/t")
	p.dial().watch(o.pid(), "/s")
	t.Log(p.dial().owner(o.child.PID()))
	t.Log(p.logged())
	p.restart()
	c := p.dial()
	t.Log(c.owner(o.child.PID()))
	o.kill()
	c.gone(filepath.Join(jail, "s"), filepath.Join(jail, "t"))
	p.stop()
}

// TestBindspaceSymlink: a bindspace in a directory of a user's, who makes a symlink of it to root's.
func TestBindspaceSymlink(t *testing.T) {
	testutil.Require(t, testutil.Root)
	for _, sweep := range []bool{false, true} {
		t.Run(fmt.Sprint("sweep=", sweep), func(t *testing.T) {
			p := newPlace(t)
			must(t, os.Mkdir(p.path("open"), 0o700))
			must(t, os.Chmod(p.path("open"), 0o777))
			must(t, os.Mkdir(p.path("roots"), 0o755))
			dead(t, 0, p.path("roots/dead"))
			startPuppet(t, as(hostile)).do("symlink", p.path("roots"), p.path("open/space"))
			must(t, os.WriteFile(p.conf, []byte(fmt.Sprintf("[[bindspace]]\npath = %q\nsweep = %v\n", p.path("open/space"), sweep)), 0o600))
			p.start()
			flush(t, p, p.dial())
			dead(t, 0, p.path("roots/later"))
			flush(t, p, p.dial())
			kept(t, p.path("roots/dead"), p.path("roots/later"))
			p.stop()
		})
	}
}

// TestRestoreWithoutBindspace
func TestRestoreWithoutBindspace(t *testing.T) {
	p := newPlace(t)
	must(t, os.MkdirAll(p.path("a/space"), 0o755))
	p.start()
	o := startPuppet(t)
	o.do("bind", p.path("s"))
	_, err := p.dial().c.Watch(t.Context(), client.WatchRequest{Process: o.pid(), Bindspaces: []string{p.path("a/space")}})
	must(t, err)
	p.child.Kill()
	must(t, os.RemoveAll(p.path("a")))
	p.start()
	o.kill()
	p.dial().gone(p.path("s"))
	p.stop()
}

// TestRuleOfDeadInBindspace: what is dead in a bindspace when it is watched, with no sweep.
func TestRuleOfDeadInBindspace(t *testing.T) {
	p := newPlace(t)
	must(t, os.Mkdir(p.path("space"), 0o755))
	o := startPuppet(t)
	o.do("bind", p.path("space/ignored"))
	o.do("bind", p.path("space/other"))
	o.kill()
	p.serve(p.config(fmt.Sprintf("[[rule]]\npath = [\"%[1]s/ignored\"]\naction = \"ignore\"\n[[bindspace]]\npath = \"%[1]s\"\n", p.path("space"))))
	c := p.dial()
	flush(t, p, c)
	kept(t, p.path("space/ignored"))
	t.Log("other exists:", exists(t, p.path("space/other")))
}

// TestHistoryOfTheDead: for users other than root, too: run it as nobody.
func TestHistoryOfTheDead(t *testing.T) {
	p := newPlace(t)
	p.start()
	o := startPuppet(t)
	o.do("bind", p.path("s"))
	p.dial().watch(o.pid())
	p.child.Kill()
	o.kill()
	p.start()
	c := p.dial()
	c.gone(p.path("s"))
	if e := c.wantOutcome(p.path("s"), "removed"); e.UID == nil || int(*e.UID) != os.Geteuid() {
		t.Errorf("%+v", e)
	}
	p.stop()
}

// TestFoundAndUnwatched: what the daemon has found by itself is not lost when a client who has registered the same process is done with it.
func TestFoundAndUnwatched(t *testing.T) {
	p := newPlace(t)
	must(t, os.Mkdir(p.path("space"), 0o755))
	p.serve(p.config(fmt.Sprintf("[[bindspace]]\npath = %q\n", p.path("space"))))
	c := p.dial()
	o := startPuppet(t)
	found, more := p.path("space/found"), p.path("space/more")
	o.do("bind", found)
	c.recorded(p, o, found)
	w := c.watch(o.pid())
	must(t, c.c.Unwatch(t.Context(), w.ID))
	other := startPuppet(t)
	other.do("bind", p.path("space/other"))
	c.recorded(p, other, p.path("space/other")) // after whatever the end of the other owner has led to
	if records := p.recordsOf(o); len(records) != 1 {
		t.Errorf("records %q, want the one of what was found", records)
	}
	o.do("bind", more) // which is found as the owner that it was
	c.recorded(p, o, more)
	c.recorded(p, o, found)
	o.kill()
	other.kill()
	c.gone(found, more)
	p.noRecords()
}

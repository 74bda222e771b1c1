package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// claimEverywhere has a hostile process try to have paths claimed by each way there is; none may be. The paths are there.
func claimEverywhere(t *testing.T, p *place, own *puppetOf, want error, paths ...string) {
	t.Helper()
	own.do("dial", p.control())
	w, err := own.watch(own.pid())
	must(t, err)
	for _, path := range paths {
		if _, err := own.watch(own.pid(), path); !errors.Is(err, want) {
			t.Errorf("watch %s: %v; want: %v", path, err, want)
		}
		if _, err := own.try("claim", w.ID, path); !errors.Is(err, want) {
			t.Errorf("claim %s: %v; want: %v", path, err, want)
		}
		own.do("bound", p.notify(), path)
		if len(lines(p.logged(), "a request is refused", `"uid":1234`, path)) == 0 {
			t.Errorf("the log does not say that %s is refused", path)
		}
	}
	// What is reported is taken in its order.
	last := p.path("open/last" + own.pid())
	own.do("bind", last)
	own.do("bound", p.notify(), last)
	c := p.dial()
	c.claimed(own.child.PID(), last)
	owner, _ := c.owner(own.child.PID())
	for _, path := range paths {
		if slices.ContainsFunc(owner.Claims, func(c client.Claim) bool { return c.Path.Path == path }) {
			t.Errorf("%s is claimed: %+v", path, owner)
		}
		if len(lines(p.logged(), "a report is refused", `"uid":1234`, path)) == 0 {
			t.Errorf("the log does not say that the report of %s is refused", path)
		}
	}
}

func (p *place) notify() string { return filepath.Join(p.dir, NotifyName) }

// TestHostileSystemSocket: root's, in a directory of root's, served and dead; and that of the machine, where there is one.
func TestHostileSystemSocket(t *testing.T) {
	p := hostilePlace(t)
	must(t, os.Mkdir(p.path("dbus"), 0o755))
	served, left := p.path("dbus/system_bus_socket"), p.path("dbus/left")
	bus := startPuppet(t)
	bus.do("bind", served)
	must(t, os.Chmod(served, 0o666))
	dead(t, 0, left)
	must(t, os.Chmod(left, 0o666))
	paths := []string{served, left}
	for _, path := range []string{"/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket"} {
		if exists(t, path) {
			paths = append(paths, path)
		}
	}
	own := startAttacker(t, as(hostile))
	own.do("mkdir", p.path("open/dir"))
	own.do("symlink", p.path("dbus"), p.path("open/dir/dbus"))
	claimEverywhere(t, p, own, client.ErrNotPermitted, append(paths, p.path("open/dir/dbus/system_bus_socket"), p.path("open/dir/dbus/left"))...)
	own.kill()
	p.served()
	kept(t, paths...)
	bus.answers(served)
	p.stop()
}

// TestHostileLinks: another name for another user's sock-file, in the own directory, where the kernel allows that to be made.
func TestHostileLinks(t *testing.T) {
	p := hostilePlace(t)
	own := startAttacker(t, as(hostile))
	own.do("mkdir", p.path("open/dir"))
	var paths []string
	for uid, name := range map[uint32]string{0: "root", victim: "victim"} {
		file, link := p.path("open/"+name), p.path("open/dir/"+name)
		dead(t, uid, file)
		if _, err := own.try("link", file, link); err != nil { // fs.protected_hardlinks: then root makes it
			must(t, os.Link(file, link))
			must(t, os.Lchown(p.path("open/dir"), hostile, hostile))
		}
		paths = append(paths, file, link)
	}
	claimEverywhere(t, p, own, client.ErrNotPermitted, paths...)
	own.kill()
	p.served()
	kept(t, paths...)
	p.stop()
}

// TestHostileMknod: anybody may make a sock-file without a socket by mknod(2). It is his own, and no more of anybody else's is removed by it.
func TestHostileMknod(t *testing.T) {
	p := hostilePlace(t)
	own := startAttacker(t, as(hostile))
	own.do("dial", p.control())
	fake, linked, link, victims := p.path("open/fake"), p.path("open/linked"), p.path("open/link"), p.path("open/victim")
	other := startAttacker(t, as(victim))
	other.do("mknod", victims)
	own.do("mknod", fake)
	own.do("mknod", linked)
	own.do("link", linked, link)
	_, err := own.watch(own.pid(), fake, linked)
	must(t, err)
	if _, err := own.watch(own.pid(), victims); !errors.Is(err, client.ErrNotPermitted) {
		t.Error(err)
	}
	own.kill()
	c := p.dial()
	c.gone(fake)
	if e := c.wantOutcome(linked, "refused"); e.Reason != "hard-linked" {
		t.Errorf("%+v", e)
	}
	p.served()
	kept(t, linked, link, victims)
	p.stop()
}

// TestHostileMount: a filesystem of its own, in a user namespace in which it is root. What it has there goes with it, and what has the same
// path outside is another file.
func TestHostileMount(t *testing.T) {
	testutil.Require(t, testutil.UserNS)
	p := hostilePlace(t)
	path, fake, faked := p.path("open/s"), p.path("open/fake"), p.path("open/faked")
	for _, path := range []string{path, fake, faked} {
		dead(t, 0, path)
	}
	own := startAttacker(t, inNamespaces(0))
	own.do("tmpfs", p.path("open"))
	own.do("bind", path)
	own.do("mknod", fake)
	own.do("link", fake, faked)
	own.do("dial", p.control())
	w, err := own.watch(own.pid(), path, fake)
	must(t, err)
	if w.Claims != 2 {
		t.Errorf("%+v", w)
	}
	// Outside of it, below its root directory: what is root's stays root's.
	for _, path := range []string{p.path("secret/root"), p.path("dbus")} {
		if _, err := own.try("claim", w.ID, path); err == nil && exists(t, path) {
			t.Errorf("%s is claimed", path)
		}
	}
	own.do("bound", p.notify(), faked)
	c := p.dial()
	own.kill()
	c.until("the end of it", func() bool { _, there := c.owner(own.child.PID()); return !there })
	p.served()
	kept(t, path, fake, faked)
	p.stop()
}

// TestHostileSwap: a thread exchanges the own directory with a symlink to root's, and one name with another, while the file there is
// claimed and let go, reported, and removed at the ends of processes.
func TestHostileSwap(t *testing.T) {
	const rounds, deaths = 3000, 8
	p := hostilePlace(t)
	must(t, os.Mkdir(p.path("roots"), 0o755))
	must(t, os.Mkdir(p.path("everybodys"), 0o700))
	must(t, os.Chmod(p.path("everybodys"), 0o777)) // where only the file's owner keeps him off
	dead(t, 0, p.path("roots/s"))
	dead(t, 0, p.path("everybodys/s"))
	dead(t, 0, p.path("open/rootfile"))
	swapper := startAttacker(t, as(hostile))
	for name, target := range map[string]string{"open/r": "roots", "open/e": "everybodys"} {
		swapper.do("mkdir", p.path(name))
		swapper.do("symlink", p.path(target), p.path(name+"x"))
	}
	own := startPuppet(t, as(hostile))
	own.do("bind", p.path("open/file"))
	for _, pair := range [][2]string{{"open/r", "open/rx"}, {"open/e", "open/ex"}, {"open/file", "open/rootfile"}} {
		t.Run(filepath.Base(pair[0]), func(t *testing.T) {
			path := p.path(pair[0])
			if pair[0] != "open/file" {
				path += "/s"
			}
			swapper.do("exchange", p.path(pair[0]), p.path(pair[1]))
			for i := 0; i < deaths || swapped(t, swapper) < rounds; i++ {
				own := startAttacker(t, as(hostile))
				own.do("dial", p.control())
				if pair[0] == "open/file" { // a name for the own file may be gone by now
					_, _ = own.try("bind", p.path("open/new"))
					_, _ = own.try("link", p.path("open/new"), p.path("open/file"))
				} else {
					_, _ = own.try("bind", path)
				}
				w, err := own.watch(own.pid())
				must(t, err)
				for range 10 {
					_, err := own.try("claim", w.ID, path)
					if err != nil && !errors.Is(err, client.ErrNotPermitted) && !errors.Is(err, client.ErrInvalid) {
						t.Error(err)
					}
					own.do("bound", p.notify(), path)
				}
				own.kill()
			}
			t.Log(swapper.do("exchanged"), "rounds")
		})
	}
	p.served()
	kept(t, p.path("roots/s"), p.path("everybodys/s"))
	if !exists(t, p.path("open/rootfile")) && !exists(t, p.path("open/file")) {
		t.Error("root's file is gone")
	}
	rootsFile(t, p.path("open/rootfile"), p.path("open/file"))
	p.stop()
}

// rootsFile fails the test unless one of the names is of a file of root's.
func rootsFile(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		var st unix.Stat_t
		if unix.Lstat(name, &st) == nil && st.Uid == 0 {
			return
		}
	}
	t.Errorf("root's file is gone from %q", names)
}

func swapped(t *testing.T, swapper *puppetOf) int {
	t.Helper()
	n, err := strconv.Atoi(swapper.do("rounds"))
	must(t, err)
	return n
}

// TestHostileBindspace: a bindspace that is a symlink to one's own directory when it is registered, and to root's when sockets appear there.
func TestHostileBindspace(t *testing.T) {
	p := hostilePlace(t)
	own := startAttacker(t, as(hostile))
	own.do("dial", p.control())
	own.do("mkdir", p.path("open/mine"))
	own.do("symlink", p.path("open/mine"), p.path("open/space"))
	own.do("symlink", p.path("secret"), p.path("open/spacex"))
	for what, dir := range map[string]string{"root's": p.path("secret"), "a file": p.path("open/space/none"), "a link": p.path("open/spacex")} {
		if _, err := own.try("watchspace", own.pid(), dir); !errors.Is(err, client.ErrNotPermitted) && !errors.Is(err, client.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(t, unix.Mkfifo(p.path("open/fifo"), 0o666)) // nobody may be kept waiting there
	if _, err := own.try("watchspace", own.pid(), p.path("open/fifo")); err == nil {
		t.Error("a fifo is a bindspace")
	}
	own.do("watchspace", own.pid(), p.path("open/space"))
	must(t, unix.Renameat2(unix.AT_FDCWD, p.path("open/space"), unix.AT_FDCWD, p.path("open/spacex"), unix.RENAME_EXCHANGE))
	roots := startPuppet(t)
	for i := range 20 {
		dead(t, 0, p.path(fmt.Sprint("secret/", i)))
		roots.do("bind", p.path(fmt.Sprint("secret/live", i)))
	}
	own.do("bind", p.path("open/mine/s"))
	own.kill()
	p.served()
	for i := range 20 {
		kept(t, p.path(fmt.Sprint("secret/", i)), p.path(fmt.Sprint("secret/live", i)))
	}
	p.stop()
}

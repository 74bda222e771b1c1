package daemon

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// hostilePlace is a daemon of root's, with directories that everybody may write to: open, and sticky as /tmp is.
func hostilePlace(t *testing.T) *place {
	t.Helper()
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	for name, mode := range map[string]os.FileMode{"open": 0o777, "sticky": 0o777 | os.ModeSticky, "secret": 0o700} {
		must(t, os.Mkdir(p.path(name), 0o700))
		must(t, os.Chmod(p.path(name), mode))
	}
	p.start()
	return p
}

// dead has a process of a user leave a dead sock-file.
func dead(t *testing.T, uid uint32, path string) {
	t.Helper()
	o := startPuppet(t, as(uid))
	o.do("bind", path)
	o.kill()
}

// TestTrustOfFiles: each file of somebody else's is refused by name, and is there when the hostile process is dead.
func TestTrustOfFiles(t *testing.T) {
	p := hostilePlace(t)
	for _, path := range []string{"open/victim", "sticky/victim"} {
		dead(t, victim, p.path(path))
	}
	for _, path := range []string{"open/root", "sticky/root", "secret/root"} {
		dead(t, 0, p.path(path))
	}
	own := startPuppet(t, as(hostile))
	own.do("bind", p.path("open/moved"))
	must(t, os.Rename(p.path("open/moved"), p.path("secret/own"))) // its own, where it cannot get
	must(t, os.Link(p.path("open/victim"), p.path("open/hardlink")))
	own.do("mkdir", p.path("open/dir"))
	own.do("symlink", p.path("open/victim"), p.path("open/dir/victim"))
	own.do("symlink", p.path("open/root"), p.path("open/dir/root"))
	own.do("symlink", p.path("secret"), p.path("open/dir/secret"))
	own.do("symlink", p.path("sticky"), p.path("open/dir/sticky"))
	own.do("symlink", "/proc/1/root", p.path("open/dir/magic"))
	must(t, os.WriteFile(p.path("open/file"), nil, 0o666))

	files := []string{
		"open/victim", "sticky/victim", "open/root", "sticky/root", "secret/root", "secret/own", "open/hardlink", "open/dir/victim", "open/dir/root",
		"open/file", "open/dir",
	}
	own.do("dial", p.control())
	w, err := own.watch(own.pid())
	must(t, err)
	for path, want := range map[string]error{
		p.path("open/victim"):            client.ErrNotPermitted,
		p.path("sticky/victim"):          client.ErrNotPermitted,
		p.path("open/root"):              client.ErrNotPermitted,
		p.path("sticky/root"):            client.ErrNotPermitted,
		p.path("secret/root"):            client.ErrNotPermitted,
		p.path("secret/own"):             client.ErrNotPermitted,
		p.path("secret/none"):            client.ErrNotPermitted,
		p.path("open/../secret/root"):    client.ErrNotPermitted,
		p.path("open/hardlink"):          client.ErrNotPermitted,
		p.path("open/dir/secret/root"):   client.ErrNotPermitted,
		p.path("open/dir/sticky/root"):   client.ErrNotPermitted,
		p.path("open/dir/sticky/victim"): client.ErrNotPermitted,
		// Below a link of proc(5) that is no ordinary one: nothing is followed there.
		p.path("open/dir/magic" + p.path("open/victim")): client.ErrNotPermitted,
		p.path("open/dir/victim"):                        client.ErrInvalid, // a symlink is no sock-file
		p.path("open/dir/root"):                          client.ErrInvalid,
		p.path("open/file"):                              client.ErrInvalid,
		p.path("open/dir"):                               client.ErrInvalid,
		p.control():                                      client.ErrNotPermitted,
		filepath.Join(p.dir, NotifyName):                 client.ErrNotPermitted,
		filepath.Join(p.dir, "owners/lock"):              client.ErrNotPermitted,
		"/":                                              client.ErrInvalid,
		"":                                               client.ErrInvalid,
		"relative":                                       client.ErrInvalid,
		"./relative":                                     client.ErrInvalid,
		p.path("open/\x00s"):                             client.ErrInvalid,
		p.path("open/victim\x00"):                        client.ErrInvalid,
	} {
		if _, err := own.watch(own.pid(), path); !errors.Is(err, want) {
			t.Errorf("watch %.60q: %v; want: %v", path, err, want)
		}
		if _, err := own.try("claim", w.ID, path); !errors.Is(err, want) {
			t.Errorf("claim %.60q: %v; want: %v", path, err, want)
		}
	}
	if n := len(lines(p.logged(), "refused", `"uid":1234`, `"pid":`+own.pid())); n < 50 {
		t.Errorf("%d refusals are in the log", n)
	}
	own.do("bind", p.path("open/own"))
	must(t, errOf(own.try("claim", w.ID, p.path("open/own"))))
	own.kill()
	c := p.dial()
	c.gone(p.path("open/own")) // it is served all the same
	for _, path := range files {
		kept(t, p.path(path))
	}
	kept(t, p.control())
	p.stop()
}

func errOf(_ string, err error) error { return err }

// TestTrustAfterClaim: what is claimed while there is nothing, and is somebody else's when it comes.
func TestTrustAfterClaim(t *testing.T) {
	p := hostilePlace(t)
	own := startPuppet(t, as(hostile))
	own.do("dial", p.control())
	own.do("mkdir", p.path("open/dir"))
	_, err := own.watch(own.pid(), p.path("open/victim"), p.path("open/root"), p.path("open/dir/sub/root"), p.path("open/own"))
	must(t, err)
	dead(t, victim, p.path("open/victim"))
	dead(t, 0, p.path("open/root"))
	dead(t, 0, p.path("secret/root"))
	own.do("symlink", p.path("secret"), p.path("open/dir/sub"))
	own.do("bind", p.path("open/own"))
	own.kill()
	p.dial().gone(p.path("open/own"))
	kept(t, p.path("open/victim"), p.path("open/root"), p.path("secret/root"))

	// And what was its own is another's when the daemon comes back.
	own = startPuppet(t, as(hostile))
	own.do("dial", p.control())
	own.do("bind", p.path("open/own"))
	_, err = own.watch(own.pid(), p.path("open/late"))
	must(t, err)
	p.child.Kill()
	own.kill()
	dead(t, victim, p.path("open/late"))
	must(t, os.Rename(p.path("open/own"), p.path("open/ours")))
	dead(t, victim, p.path("open/own"))
	p.start()
	flush(t, p, p.dial())
	kept(t, p.path("open/late"), p.path("open/own"))
	p.stop()
}

// TestTrustOfProcesses: pids and ids of others.
func TestTrustOfProcesses(t *testing.T) {
	p := hostilePlace(t)
	c := p.dial()
	own, other, roots := startPuppet(t, as(hostile)), startPuppet(t, as(victim)), startPuppet(t)
	own.do("dial", p.control())
	other.do("dial", p.control())
	other.do("bind", p.path("open/other"))
	roots.do("bind", p.path("sticky/root"))
	others, err := other.watch(other.pid())
	must(t, err)
	ofRoot, byRoot := c.watch(roots.pid()), c.watch(other.pid())
	for _, process := range []string{"1", other.pid(), roots.pid(), strconv.Itoa(p.child.PID()), strconv.Itoa(os.Getpid())} {
		if _, err := own.watch(process); !errors.Is(err, client.ErrNotPermitted) {
			t.Errorf("%s: %v", process, err)
		}
	}
	ownByRoot := c.watch(own.pid())
	mine, err := own.watch(own.pid())
	must(t, err)
	for _, id := range []string{others.ID, ofRoot.ID, byRoot.ID, ownByRoot.ID, strings.Replace(mine.ID, "@1234", "@0", 1), "", "@", "../lock"} {
		for _, order := range [][]string{{"unwatch", id}, {"claim", id, p.path("open/own")}, {"release", id, p.path("open/other")}} {
			if _, err := own.try(order[0], order[1:]...); !errors.Is(err, client.ErrNoSuchOwner) {
				t.Errorf("%q: %v", order, err)
			}
		}
	}
	// It sees no other's processes.
	var owners []client.Owner
	must(t, json.Unmarshal([]byte(own.do("list")), &owners))
	if slices.ContainsFunc(owners, func(o client.Owner) bool { return o.UID != hostile }) || len(owners) == 0 {
		t.Errorf("%+v", owners)
	}
	other.kill()
	roots.kill()
	c.gone(p.path("open/other"), p.path("sticky/root"))
	if said := own.do("history"); strings.Contains(said, "open/other") || strings.Contains(said, "sticky/root") {
		t.Errorf("it is told of others' files: %s", said)
	}
	p.stop()
}

// TestTrustOfSwappedDirectories: a thread exchanges the directory of the own sock-file with one of another user, of which the file has
// the same name, while processes are registered there and die.
func TestTrustOfSwappedDirectories(t *testing.T) {
	p := hostilePlace(t)
	must(t, os.Mkdir(p.path("victims"), 0o777))
	must(t, os.Chmod(p.path("victims"), 0o777)) // so that nothing but the daemon keeps anybody from removing a file there
	dead(t, victim, p.path("victims/s"))
	swapper := startPuppet(t, as(hostile))
	swapper.do("mkdir", p.path("open/a"))
	swapper.do("symlink", p.path("victims"), p.path("open/b"))
	swapper.do("swap", p.path("open/a"), p.path("open/b"))
	deaths := 0
	for deadline := time.Now().Add(2 * time.Second); time.Now().Before(deadline); deaths++ {
		own := startPuppet(t, as(hostile))
		own.do("dial", p.control())
		_, _ = own.try("bind", p.path("open/a/s"))
		w, err := own.watch(own.pid())
		must(t, err)
		for range 20 {
			_, err := own.try("claim", w.ID, p.path("open/a/s"))
			if err != nil && !errors.Is(err, client.ErrNotPermitted) {
				t.Error(err)
			}
		}
		own.kill()
	}
	swapper.do("swapped")
	flush(t, p, p.dial())
	kept(t, p.path("victims/s"))
	t.Logf("%d deaths", deaths)
	p.stop()
}

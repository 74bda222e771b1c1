package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/records"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/reap"
)

// TestRoot: the descriptor is there until it has ended and nobody uses it any more, and for nobody who comes later.
func TestRoot(t *testing.T) {
	r, err := openRoot("/")
	must(t, err)
	for range 2 {
		_, err := r.use()
		must(t, err)
	}
	r.done()
	r.end()
	r.end()
	if _, err := r.use(); !errors.Is(err, errOtherWay) {
		t.Error(err)
	}
	if _, err := r.open(nil, "/s"); !errors.Is(err, errOtherWay) {
		t.Error(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(r.fd, &st); err != nil {
		t.Error("closed while it is in use:", err)
	}
	link := "/proc/self/fd/" + strconv.Itoa(r.fd)
	r.done()
	if to, err := os.Readlink(link); err == nil && to == "/" {
		t.Error("it is left")
	}
}

// TestRootOfTheDead: what was registered of a process that has come to its end opens nothing below another process's root directory, whose
// descriptor has the number of its own by then.
func TestRootOfTheDead(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	d := p.serve(config.Default())
	c, o := p.dial(), startPuppet(t)
	own, others := p.path("own"), p.path("others")
	must(t, os.Mkdir(own, 0o755))
	must(t, os.Mkdir(others, 0o755))
	o.do("chroot", own)
	r := d.get(c.watch(o.pid()).ID, asuser.User{})
	number := numberOf(t, own)
	path := filepath.Join(others, "s")
	dead(t, 0, path)

	o.kill()
	c.until("the process is forgotten", func() bool { return !d.has(r) })
	for fd := -1; fd < number; {
		var err error
		fd, err = unix.Open(others, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		t.Cleanup(func() { unix.Close(fd) })
	}
	if f, err := r.options(d).Open("/s"); !errors.Is(err, errOtherWay) {
		t.Error(err)
		if err == nil {
			f.Close()
		}
	}
	if err := (&control{Daemon: d}).claim(r, "/s"); namedError(err).Name != client.Interface+".NoSuchOwner" {
		t.Error(err)
	}
	flush(t, p, c)
	kept(t, path)
}

// numberOf is the descriptor of a directory in this process.
func numberOf(t *testing.T, dir string) int {
	t.Helper()
	all, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	for _, e := range all {
		if to, _ := os.Readlink("/proc/self/fd/" + e.Name()); to == dir {
			n, err := strconv.Atoi(e.Name())
			must(t, err)
			return n
		}
	}
	t.Fatal("no descriptor of " + dir)
	return 0
}

// TestRootIsLost: of a process that has ended, and that nobody has waited for yet, it is not to be seen which root directory it had. What was
// claimed below one of its own is not claimed below ours.
func TestRootIsLost(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	d := p.serve(config.Default())
	o := startPuppet(t)
	path, ours := p.path("s"), p.path("ours")
	dead(t, 0, path)
	dead(t, 0, ours)
	entry := records.Entry{ID: ownerID(o.identity(), asuser.User{})}
	entry.Process, entry.Claimant = o.identity(), &asuser.User{}
	entry.Claims = []records.Claim{
		{Path: path, Source: "explicit", Named: true, Root: fmt.Sprintf("/proc/%s/root", o.pid())},
		{Path: ours, Source: "explicit", Named: true},
	}
	must(t, o.child.Cmd.Process.Signal(unix.SIGKILL))
	must(t, unix.Waitid(unix.P_PID, o.child.PID(), nil, unix.WEXITED|unix.WNOWAIT, nil))
	must(t, d.takeUp(&remainder{Entry: entry}))
	p.dial().gone(ours)
	p.noRecords()
	kept(t, path)
	o.kill()
}

// TestRootOfTheFound: what was found in another root directory is taken up there, also when its process ends in between.
func TestRootOfTheFound(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	d := p.serve(config.Default())
	c, o := p.dial(), startPuppet(t)
	own := p.path("own")
	must(t, os.Mkdir(own, 0o755))
	o.do("chroot", own)
	o.do("bind", "/s")
	path := filepath.Join(own, "s")
	f, err := reap.Open(path)
	must(t, err)
	defer f.Close()
	rest := &remainder{Entry: records.Entry{ID: foundID(o.identity()), Record: records.Record{
		Process: o.identity(), Claims: []records.Claim{{Path: "/s", Source: "notify", File: f.ID().String(), Alive: true}},
	}}}
	must(t, d.takeUpOwner(rest))
	o.kill()
	<-rest.r.owner.Settled()
	must(t, d.takeUp(rest))
	c.gone(path)
	p.noRecords()
}

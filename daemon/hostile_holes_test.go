package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/records"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/reap"
)

// longPath is a path of nearly as many bytes as one may have, each of which is six in JSON.
func longPath(dir, name string) string {
	for len(dir) < 3700 {
		dir += "/" + strings.Repeat("\x01", 200)
	}
	return dir + "/" + name
}

// claimsOf is how many claims the daemon tells of for a process.
func (c *caller) claimsOf(o *puppetOf) int {
	c.t.Helper()
	owner, _ := c.owner(o.child.PID())
	return len(owner.Claims)
}

// fill has a process claim paths until its record is full, and gives how many were accepted.
func (p *place) fill(own *puppetOf, id string) (accepted int) {
	p.t.Helper()
	for i := range 200 {
		if _, err := own.try("claim", id, longPath(p.path("none"), fmt.Sprint(i))); err != nil {
			wantLimit(p.t, err)
			return i
		}
	}
	p.t.Fatal("there is no limit")
	return 0
}

// TestHostileRecord: what is refused since it does not fit into the record is not claimed, whichever way it was asked for.
func TestHostileRecord(t *testing.T) {
	p := hostilePlace(t)
	own := startAttacker(t, as(hostile))
	own.do("dial", p.control())
	w, err := own.watch(own.pid())
	must(t, err)
	accepted := p.fill(own, w.ID)
	for i := range 20 {
		_, err := own.try("claim", w.ID, longPath(p.path("none"), fmt.Sprint("again", i)))
		wantLimit(t, err)
		_, err = own.watch(own.pid(), p.path("open/short"), longPath(p.path("none"), fmt.Sprint("watched", i)))
		wantLimit(t, err)
	}
	if _, err := own.watch(own.pid(), p.path("open/short"), "/proc/1/root/none"); err == nil { // for another reason
		t.Error("a path through another process is claimed")
	}
	c := p.dial()
	if n := c.claimsOf(own); n != accepted || accepted == 0 {
		t.Errorf("%d claims, %d were accepted", n, accepted)
	}
	own.do("claim", w.ID, longPath(p.path("none"), "0")) // is there, and stays
	p.restart()
	c = p.dial()
	if n := c.claimsOf(own); n != accepted {
		t.Errorf("%d claims are restored, %d were accepted", n, accepted)
	}
	p.served()
	own.kill()
	p.stop()
}

// TestHostileRecordLog: records that cannot be kept, over and over, do not fill the log.
func TestHostileRecordLog(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	d := p.serve(config.Default())
	o := startPuppet(t, as(hostile))
	r, err := d.register(asuser.User{UID: hostile, GID: hostile}, client.WatchRequest{Process: o.pid()})
	must(t, err)
	began := time.Now()
	for range 1000 {
		d.keeper.tell(r.owner, records.ErrTooLarge)
	}
	if n := len(lines(p.logged(), "keep the record")); n == 0 || n > mostLogged(began) {
		t.Errorf("the log has %d of 1000", n)
	}
}

// TestHostileReplies: a reply is of bounded length, whatever there is to tell; with "more" all of it is told.
func TestHostileReplies(t *testing.T) {
	p := hostilePlace(t)
	asks := startAttacker(t, as(hostile))
	asks.do("dial", p.control())
	claims := 0
	var owners []*puppetOf
	for range 2 {
		own := startPuppet(t, as(hostile))
		owners = append(owners, own)
		w, err := asks.watch(own.pid())
		must(t, err)
		claims += p.fill(asks, w.ID)
	}
	p.wantRefused(asks.do("say", p.control(), callOf(t, "List", struct{}{})), "LimitReached", hostile)
	asks.do("list")
	c := p.dial()
	if n := c.claimsOf(owners[0]) + c.claimsOf(owners[1]); n != claims {
		t.Errorf("%d claims are told of, want %d", n, claims)
	}
	for _, own := range owners {
		own.kill()
	}
	c.until("the owners are settled", func() bool { return c.claimsOf(owners[0])+c.claimsOf(owners[1]) == 0 })
	last := p.path("open/last")
	own := startPuppet(t, as(hostile))
	own.do("bind", last)
	_, err := asks.watch(own.pid(), last)
	must(t, err)
	own.kill()
	c.wantOutcome(last, "removed")
	reply := asks.do("say", p.control(), callOf(t, "History", struct{}{}))
	if len(reply) > listingMost+1000 || !strings.Contains(reply, last) {
		t.Errorf("a reply of %d bytes, with the latest: %v", len(reply), strings.Contains(reply, last))
	}
	p.served()
	p.stop()
}

// TestHostileReported: who reports sock-files without end comes to the end of what he may have, and nobody else does. What has come to its
// end is room for more.
func TestHostileReported(t *testing.T) {
	p := hostilePlace(t)
	own := startAttacker(t, as(hostile))
	dir := p.path("open/d")
	own.do("mkdir", dir)
	for path := longPath(dir, ""); len(dir)+1 < len(path); {
		dir += "/" + strings.Repeat("\x01", 200)
		own.do("mkdir", dir)
	}
	most := reportedOfUser / reportedBytes(dir+"/100")
	for i := range most + 50 {
		path := fmt.Sprintf("%s/%03d", dir, i)
		own.do("mknod", path)
		own.do("bound", p.notify(), path)
	}
	c := p.dial()
	refused := func() int {
		return len(lines(p.logged(), "a report is refused", "LimitReached", "by reports", `"uid":1234`))
	}
	c.until("reports are refused", func() bool { return refused() > 0 })
	another := startPuppet(t, as(victim))
	another.do("bind", p.path("open/victim"))
	another.do("bound", p.notify(), p.path("open/victim"))
	c.claimed(another.child.PID(), p.path("open/victim"))
	c.until("there are many claims", func() bool { return c.claimsOf(own) >= most/2 })
	if n := c.claimsOf(own); n > most {
		t.Errorf("%d claims, want at most %d", n, most)
	}
	own.kill()
	next := startPuppet(t, as(hostile))
	next.do("bind", p.path("open/next"))
	c.until("there is room again", func() bool {
		next.do("bound", p.notify(), p.path("open/next"))
		return c.claimsOf(next) > 0
	})
	p.served()
	p.stop()
}

// TestReportToOwnDaemon: a user's own daemon takes reports of its user, and of no other.
func TestReportToOwnDaemon(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	must(t, os.Mkdir(p.path("open"), 0o700))
	must(t, os.Chmod(p.path("open"), 0o777))
	must(t, os.Chown(p.base, hostile, hostile))
	cmd := testutil.Command(t, "daemon", p.dir, p.log, p.conf)
	as(hostile)(cmd)
	p.child = testutil.Start(t, cmd)
	p.child.Expect("ready")
	c := p.dial()
	others := startPuppet(t, as(victim))
	others.do("bind", p.path("open/others"))
	others.do("bound", p.notify(), p.path("open/others"))
	c.until("the report is refused", func() bool {
		return len(lines(p.logged(), "a report is refused", "serves user 1234", `"uid":1235`)) == 1
	})
	own := startPuppet(t, as(hostile))
	own.do("bind", p.path("open/own"))
	own.do("bound", p.notify(), p.path("open/own"))
	c.claimed(own.child.PID(), p.path("open/own"))
	if _, there := c.owner(others.child.PID()); there {
		t.Error("another user's process is watched")
	}
	own.kill()
	c.gone(p.path("open/own"))
	p.stop()
}

// TestAnswering: what does not get on when it is to be opened, for a user whose patience is used up, keeps nobody else, and nothing more of his
// is opened until it has got on.
func TestAnswering(t *testing.T) {
	path := testutil.TempDir(t) + "/s"
	l, err := net.Listen("unix", path)
	must(t, err)
	defer l.Close()
	opened := func() (*reap.File, error) { return reap.Open(path) }
	var a answering
	a.spend(hostile, mostWaited)
	hang, hung := make(chan struct{}), make(chan struct{})
	_, err = a.open(hostile, func() (*reap.File, error) {
		defer close(hung)
		<-hang
		return opened()
	})
	if !errors.Is(err, errNoAnswer) {
		t.Error(err)
	}
	_, err = a.open(hostile, func() (*reap.File, error) { panic("another one would not get on either") })
	if !errors.Is(err, errNoAnswer) {
		t.Error(err)
	}
	f, err := a.open(victim, opened)
	must(t, err)
	must(t, f.Close())
	close(hang)
	<-hung
	for f = nil; f == nil; f, err = a.open(hostile, opened) {
		runtime.Gosched()
	}
	must(t, err)
	must(t, f.Close())
	if a.stuck != 0 {
		t.Errorf("%d are stuck", a.stuck)
	}
}

// TestRegistrationsOfUsers: while one user's registration does not get on, as by a filesystem that does not answer, the others' do.
func TestRegistrationsOfUsers(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	d := p.serve(config.Default())
	unlock := d.registering.lock(hostile)
	o := startPuppet(t, as(victim))
	_, err := d.register(asuser.User{UID: victim, GID: victim}, client.WatchRequest{Process: o.pid()})
	must(t, err)
	_, err = d.register(asuser.User{}, client.WatchRequest{Process: o.pid()})
	must(t, err)
	unlock()
	stuck := startPuppet(t, as(hostile))
	_, err = d.register(asuser.User{UID: hostile, GID: hostile}, client.WatchRequest{Process: stuck.pid()})
	must(t, err)
	if n := len(d.registering.locks); n != 0 {
		t.Errorf("%d locks are left", n)
	}
}

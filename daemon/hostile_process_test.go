package daemon

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
)

// TestHostilePidfd: a descriptor of pid 1, which anybody can have, says nothing, and is not kept.
func TestHostilePidfd(t *testing.T) {
	p := hostilePlace(t)
	own := startAttacker(t, as(hostile))
	message := callOf(t, "Watch", map[string]any{"process": "1"})
	p.wantRefused(own.do("say", p.control(), message, "pidfd", "1"), "NotPermitted", hostile)
	for range 200 { // more than the daemon has, if each were kept
		own.do("say", p.control(), message, "pidfd", "1")
		own.do("report", p.notify(), "BIND=/run/none\nPID=1", "pidfd", "1")
	}
	c := p.dial()
	c.until("the log says that reports are refused", func() bool {
		return len(lines(p.logged(), "a report is refused", `"uid":1234`, "process of another user")) > 0
	})
	p.served()
	c.until("the daemon has few descriptors", func() bool { return p.descriptors() <= 100 }) // a report has one until it is looked at
	p.stop()
}

// TestHostileReportOfOthers: a report about a process of another user.
func TestHostileReportOfOthers(t *testing.T) {
	p := hostilePlace(t)
	roots, victims, own := startPuppet(t), startPuppet(t, as(victim)), startAttacker(t, as(hostile))
	for _, o := range []*puppetOf{roots, victims} {
		o.do("bind", p.path("open/"+o.pid()))
	}
	own.do("bind", p.path("open/own"))
	for _, o := range []*puppetOf{roots, victims} {
		for _, path := range []string{p.path("open/own"), p.path("open/" + o.pid())} {
			own.do("report", p.notify(), "BIND="+path+"\nPID="+o.pid())
		}
		own.do("report", p.notify(), "UNBIND="+p.path("open/"+o.pid())+"\nNAME=x\nPID="+o.pid())
	}
	own.do("bound", p.notify(), p.path("open/own"))
	c := p.dial()
	c.claimed(own.child.PID(), p.path("open/own"))
	if n := len(lines(p.logged(), "a report is refused", `"uid":1234`, "process of another user")); n != 6 {
		t.Errorf("%d reports are refused:\n%s", n, p.logged())
	}
	for _, o := range []*puppetOf{roots, victims} {
		if owner, there := c.owner(o.child.PID()); there {
			t.Errorf("%+v", owner)
		}
	}
	own.kill()
	c.gone(p.path("open/own"))
	roots.answers(p.path("open/" + roots.pid()))
	p.stop()
}

// TestHostileHandedOver: connections of root's in the hands of the hostile user: one that another process has made, and one that it made
// itself before it became that user.
func TestHostileHandedOver(t *testing.T) {
	p := hostilePlace(t)
	dead(t, 0, p.path("open/root"))
	roots := startPuppet(t)
	w := p.dial().watch(roots.pid())
	message := callOf(t, "Claim", map[string]any{"id": w.ID, "path": p.path("open/root")})

	conn, err := net.Dial("unix", p.control())
	must(t, err)
	defer conn.Close()
	f, err := conn.(*net.UnixConn).File()
	must(t, err)
	defer f.Close()
	own := startAttacker(t, as(hostile), func(cmd *exec.Cmd) { cmd.ExtraFiles = []*os.File{f} })
	reply := own.do("use", message)
	p.wantRefused(reply, "SenderMismatch", 0) // in whose name it is
	if len(lines(p.logged(), "a connection is refused", "uid 1234", "uid 0")) == 0 {
		t.Error("the log does not say who it was:\n", p.logged())
	}

	mine, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: p.control()})
	must(t, err)
	defer mine.Close()
	said, err := "", errors.New("not run")
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, hostile, hostile, hostile); errno != 0 {
			err = errno
			return
		}
		said, err = exchangeMessages(mine, message, nil)
	}()
	<-done
	must(t, err)
	p.wantRefused(said, "SenderMismatch", 0)
	if owner, _ := p.dial().owner(roots.child.PID()); len(owner.Claims) != 0 {
		t.Errorf("%+v", owner)
	}
	roots.kill()
	p.served()
	kept(t, p.path("open/root"))
	p.stop()
}

// TestHostileForged: the kernel lets nobody but root say that he is somebody else. In a user namespace root of that may say any of the ids
// that are mapped there, which are its own, and in its own pid namespace any pid, which is another process's then.
func TestHostileForged(t *testing.T) {
	testutil.Require(t, testutil.UserNS)
	p := hostilePlace(t)
	dead(t, 0, p.path("open/root"))
	roots := startPuppet(t)
	w := p.dial().watch(roots.pid())
	message := callOf(t, "Claim", map[string]any{"id": w.ID, "path": p.path("open/root")})
	report := "BIND=" + p.path("open/root")

	own := startAttacker(t, as(hostile))
	for _, ids := range [][]string{{own.pid(), "0", "0"}, {own.pid(), "0", "1234"}, {own.pid(), "1234", "0"}, {roots.pid(), "1234", "1234"}, {"1", "0", "0"}} {
		for _, order := range [][]string{{"say", p.control(), message, "as"}, {"report", p.notify(), report, "as"}} {
			if said, err := own.try(order[0], append(order[1:], ids...)...); err == nil || !strings.Contains(err.Error(), unix.EPERM.Error()) {
				t.Errorf("%s as %v: %q, %v", order[0], ids, said, err)
			}
		}
	}
	nsRoot := startAttacker(t, inNamespaces(0))
	if _, err := nsRoot.try("say", p.control(), message, "as", nsRoot.pid(), "1235", "1235"); err == nil {
		t.Error("it is somebody that is not mapped")
	}
	// Its root is the hostile user.
	p.wantRefused(nsRoot.do("say", p.control(), message, "as", nsRoot.pid(), "0", "0"), "NoSuchOwner", hostile)
	nsRoot.do("report", p.notify(), report, "as", nsRoot.pid(), "0", "0")
	pidRoot := startAttacker(t, inNamespaces(unix.CLONE_NEWPID))
	p.wantRefused(pidRoot.do("say", p.control(), message, "as", "1", "0", "0"), "NoSuchOwner", hostile)
	if said, err := pidRoot.try("say", p.control(), message, "as", "4", "0", "0"); err == nil { // a thread of its own, or nobody
		p.wantRefused(said, "SenderMismatch", hostile)
	}
	// A report that is root's by its credentials would be heeded; it is last, after those.
	own.do("bind", p.path("open/own"))
	own.do("bound", p.notify(), p.path("open/own"))
	c := p.dial()
	c.claimed(own.child.PID(), p.path("open/own"))
	if n := len(lines(p.logged(), "a report is refused", `"uid":1234`, p.path("open/root"))); n != 1 {
		t.Errorf("%d reports are refused", n)
	}
	for _, o := range []*puppetOf{own, nsRoot, pidRoot, roots} {
		o.kill()
	}
	p.served()
	kept(t, p.path("open/root"))
	p.stop()
}

// TestHostileNamespace: who is root of a user namespace is the user who he is outside of it.
func TestHostileNamespace(t *testing.T) {
	testutil.Require(t, testutil.UserNS)
	p := hostilePlace(t)
	dead(t, 0, p.path("open/root"))
	dead(t, victim, p.path("open/victim"))
	victims := startPuppet(t, as(victim))
	for what, more := range map[string]uintptr{"user": 0, "user and pid": unix.CLONE_NEWPID, "all": unix.CLONE_NEWPID | unix.CLONE_NEWNET | unix.CLONE_NEWIPC} {
		t.Run(what, func(t *testing.T) {
			own := startAttacker(t, inNamespaces(more))
			own.do("dial", p.control())
			path := p.path("open/own" + own.pid())
			own.do("bind", path)
			w, err := own.watch(own.pid()) // pids are those of the daemon's namespace
			must(t, err)
			for _, process := range []string{"1", victims.pid(), strconv.Itoa(p.child.PID())} {
				if _, err := own.watch(process); !errors.Is(err, client.ErrNotPermitted) && !errors.Is(err, client.ErrNoSuchProcess) {
					t.Errorf("%s: %v", process, err)
				}
			}
			for _, path := range []string{p.path("open/root"), p.path("open/victim"), p.path("secret/root")} {
				if _, err := own.try("claim", w.ID, path); !errors.Is(err, client.ErrNotPermitted) {
					t.Errorf("%s: %v", path, err)
				}
			}
			own.kill()
			p.dial().gone(path)
		})
	}
	p.served()
	kept(t, p.path("open/root"), p.path("open/victim"))
	p.stop()
}

// TestHostileUnknownUser: a uid that reads as the one of users without a number may be anybody's.
func TestHostileUnknownUser(t *testing.T) {
	p := hostilePlace(t)
	unknown := int(overflowUID())
	own := startAttacker(t, as(uint32(unknown)))
	own.do("bind", p.path("open/s"))
	p.wantRefused(own.do("say", p.control(), callOf(t, "Watch", map[string]any{"process": own.pid()})), "NotPermitted", unknown)
	own.kill()
	p.served()
	kept(t, p.path("open/s"))
	p.stop()
}

// TestDaemonInNamespaces: a daemon in a user namespace of its own cannot tell users outside of it apart, and one in a pid namespace no
// processes. Both say no to all of them.
func TestDaemonInNamespaces(t *testing.T) {
	testutil.Require(t, testutil.Root, testutil.UserNS)
	for what, attr := range map[string]*syscall.SysProcAttr{
		"user": {
			Cloneflags:  unix.CLONE_NEWUSER,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}, {ContainerID: 1, HostID: hostile, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: 0, Size: 1}, {ContainerID: 1, HostID: hostile, Size: 1}},
		},
		"pid": {Cloneflags: unix.CLONE_NEWPID},
	} {
		t.Run(what, func(t *testing.T) {
			p := newPlace(t)
			cmd := testutil.Command(t, "daemon", p.dir, p.log, p.conf)
			cmd.Path = "/proc/self/exe"
			cmd.SysProcAttr = attr
			p.child = testutil.Start(t, cmd)
			p.child.Expect("ready")
			uid := map[string]int{"user": int(overflowUID()), "pid": victim}[what]
			own := startAttacker(t, as(victim)) // who is not mapped
			p.wantRefused(own.do("say", p.control(), callOf(t, "Status", struct{}{})), "NotPermitted", uid)
			p.stop()
		})
	}
}

// TestHostilePidReuse: a pid that is another process's by the time that the daemon looks. PID:INODE says which is meant, an owner's id too.
func TestHostilePidReuse(t *testing.T) {
	testutil.Require(t, testutil.Pidfs)
	p := hostilePlace(t)
	own := startPuppet(t, as(hostile))
	own.do("dial", p.control())
	first := startPuppet(t, as(hostile))
	first.do("bind", p.path("open/first"))
	identity := first.identity()
	w, err := own.watch(identity.String())
	must(t, err)
	first.kill()
	c := p.dial()
	c.gone(p.path("open/first"))
	c.until("the first is forgotten", func() bool {
		return errors.Is(c.c.Claim(t.Context(), w.ID, p.path("open/first")), client.ErrNoSuchOwner)
	})
	reused := reuse(t, identity.PID)
	if reused == nil {
		t.Log("the number was not given again")
		return
	}
	reused.do("bind", p.path("open/s"))
	if _, err := own.watch(identity.String(), p.path("open/s")); !errors.Is(err, client.ErrNoSuchProcess) {
		t.Errorf("a process that has the number of one that is gone: %v", err)
	}
	if _, err := own.try("claim", w.ID, p.path("open/s")); !errors.Is(err, client.ErrNoSuchOwner) {
		t.Errorf("claim for what is gone: %v", err)
	}
	for _, process := range []string{fmt.Sprint(identity.PID), reused.identity().String()} { // a victim's now
		if _, err := own.watch(process); !errors.Is(err, client.ErrNotPermitted) {
			t.Errorf("%s: %v", process, err)
		}
	}
	if n := len(lines(p.logged(), "refused", "NoSuchProcess", `"uid":1234`)); n != 1 {
		t.Errorf("%d are refused:\n%s", n, p.logged())
	}
	reused.answers(p.path("open/s"))
	p.served()
	p.stop()
}

// reuse starts a victim's process with a pid that is free, by the kernel's note of which it has given last; nil where that cannot be had.
func reuse(t *testing.T, pid int) *puppetOf {
	t.Helper()
	for range 300 {
		if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
			return nil // no CONFIG_CHECKPOINT_RESTORE
		}
		cmd := testutil.Command(t, attackerName)
		as(victim)(cmd)
		child := testutil.Start(t, cmd)
		if child.PID() == pid {
			child.Expect("ready")
			return &puppetOf{t, child}
		}
		child.Kill()
		if p, err := pidfd.Open(pid); err == nil { // somebody else has it: it may be free again some time
			_ = p.Close()
			return nil
		}
	}
	return nil
}

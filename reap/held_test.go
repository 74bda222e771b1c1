package reap

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
)

func TestHeldTypes(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		p := startPuppet(t)
		p.do("other")
		wantPaths(t, p.held())
		var paths []string
		for kind := range socketTypes {
			path := dir + "/" + kind
			p.do("bind", kind, path)
			paths = append(paths, path)
			if kind != "dgram" {
				p.do("bind", kind, path+".listening")
				p.do("listen")
				p.do("duplicate")
				paths = append(paths, path+".listening")
			}
		}
		wantPaths(t, p.held(), paths...)
	})
}

func TestHeldNames(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		p := startPuppet(t)
		var paths []string
		longest := strings.Repeat("p", len(unix.RawSockaddrUnix{}.Path)-len(dir)-1) // 108 bytes, no NUL
		for _, name := range []string{"a b", "a\nb", "\xff\xfe", " (deleted)", "x (deleted)", longest} {
			p.do("bind", "stream", dir+"/"+name)
			paths = append(paths, dir+"/"+name)
		}
		wantPaths(t, p.held(), paths...)
	})
}

func TestHeldRenamed(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		elsewhere := testutil.TempDir(t)
		p := startPuppet(t)
		p.do("bind", "stream", dir+"/old")
		p.do("rename", dir+"/old", dir+"/new")
		leaveDead(t, dir+"/old")
		wantPaths(t, p.held(), dir+"/new")
		p.do("rename", dir+"/new", elsewhere+"/s")
		wantPaths(t, p.held(elsewhere), elsewhere+"/s")
	})
}

// TestHeldHardLinked is what ssh's ControlMaster does: bind, link, unlink the first name.
func TestHeldHardLinked(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		p := startPuppet(t)
		p.do("bind", "stream", dir+"/s.tmp")
		if err := errors.Join(os.Link(dir+"/s.tmp", dir+"/s"), os.Remove(dir+"/s.tmp")); err != nil {
			t.Fatal(err)
		}
		wantPaths(t, p.held(), dir+"/s")
	})
}

func TestHeldUnlinked(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		p := startPuppet(t)
		p.do("bind", "stream", dir+"/gone")
		p.do("bind", "stream", dir+"/there")
		if err := os.Remove(dir + "/gone"); err != nil {
			t.Fatal(err)
		}
		files, err := Held(p.open())
		wantPaths(t, pathsOf(t, files), dir+"/there")
		// The table does not tell that it is unlinked: it could be in another directory.
		if os.Geteuid() != 0 && (!errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), dir+"/gone")) {
			t.Errorf("error %v does not name %s/gone", err, dir)
		}
		// Another socket has the name by now.
		bindSocket(t, dir+"/gone", unix.SOCK_STREAM)
		files, _ = Held(p.open())
		wantPaths(t, pathsOf(t, files), dir+"/there")
	})
}

func TestHeldRelative(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		p := startPuppet(t, func(cmd *exec.Cmd) { cmd.Dir = dir })
		p.do("mkdir", "sub")
		p.do("bind", "stream", "here")
		p.do("bind", "stream", "sub/../sub/there")
		wantPaths(t, p.held(), dir+"/here", dir+"/sub/there")
		p.do("chdir", dir+"/sub")
		wantPaths(t, p.held(dir), dir+"/here", dir+"/sub/there")
		p.do("bind", "stream", "../above")
		wantPaths(t, p.held(dir), dir+"/here", dir+"/sub/there", dir+"/above")
		p.do("rename", dir+"/here", dir+"/new")
		wantPaths(t, p.held(dir), dir+"/new", dir+"/sub/there", dir+"/above")
	})
}

// TestHeldRelativeLost needs a directory that nobody names.
func TestHeldRelativeLost(t *testing.T) {
	unprivileged(t, "listed", func(t *testing.T) {
		dir := testutil.TempDir(t)
		p := startPuppet(t, func(cmd *exec.Cmd) { cmd.Dir = dir })
		p.do("bind", "stream", "lost")
		p.do("chdir", "/")
		p.do("bind", "stream", dir+"/found")
		files, err := Held(p.open())
		wantPaths(t, pathsOf(t, files), dir+"/found")
		if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), `"lost"`) {
			t.Errorf("error %v does not name lost", err)
		}
	})
}

func TestHeldAccepted(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		server, client := startPuppet(t), startPuppet(t)
		server.do("bind", "stream", dir+"/s")
		server.do("listen")
		for range dumpFrom + 2 {
			client.do("connect", dir+"/s")
			server.do("accept")
		}
		client.do("connect", dir+"/s") // and is not accepted
		wantPaths(t, server.held(), dir+"/s")
		wantPaths(t, client.held())

		// Who has accepted sockets only has nothing bound.
		server.do("fork")
		wantPaths(t, server.held(), dir+"/s")
		server.do("close")
		wantPaths(t, server.held())
		server.do("killchild")
		wantPaths(t, server.held())
	})
}

// TestHeldBoundClient has sockets that are connected, and bound by themselves.
func TestHeldBoundClient(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		server, client := startPuppet(t), startPuppet(t)
		server.do("bind", "stream", dir+"/s")
		server.do("listen")
		client.do("bind", "stream", dir+"/c")
		client.do("reconnect", dir+"/s")
		server.do("bind", "dgram", dir+"/ds")
		client.do("bind", "dgram", dir+"/dc")
		client.do("reconnect", dir+"/ds")
		wantPaths(t, client.held(), dir+"/c", dir+"/dc")
		server.child.Kill()
		wantPaths(t, client.held(), dir+"/c", dir+"/dc")
	})
}

func TestHeldMany(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		p := startPuppet(t)
		for _, n := range []int{dumpFrom - 1, dumpFrom} {
			p.do("many", strconv.Itoa(n), dir+"/"+strconv.Itoa(n)+"-")
		}
		if got := p.held(); len(got) != 2*dumpFrom-1 {
			t.Errorf("got %d paths: %q", len(got), got)
		}
	})
}

// TestHeldChroot finds what is in a root directory of its own: it has a path of ours.
func TestHeldChroot(t *testing.T) {
	testutil.Require(t, testutil.Root)
	for route, as := range map[string]func(t *testing.T){
		"asked":  func(*testing.T) {},
		"listed": func(t *testing.T) { keepCapabilities(t, unix.CAP_SYS_PTRACE, unix.CAP_DAC_OVERRIDE) },
	} {
		onThread(t, route, func(t *testing.T, dir string) {
			p := startPuppet(t)
			p.do("mkdir", dir+"/run")
			p.do("chroot", dir)
			p.do("chdir", "/run")
			p.do("bind", "stream", "/run/absolute")
			p.do("bind", "stream", "relative")
			as(t)
			wantPaths(t, p.held(), dir+"/run/absolute", dir+"/run/relative")
		})
	}
}

// namespaces makes a puppet with namespaces of its own, in which it is root.
func namespaces(flags uintptr) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | flags,
			UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
		}
	}
}

func TestHeldNamespaces(t *testing.T) {
	testutil.Require(t, testutil.UserNS)
	dir := testutil.TempDir(t)
	p := startPuppet(t, namespaces(unix.CLONE_NEWNET|unix.CLONE_NEWNS))
	p.do("other")
	p.do("bind", "stream", dir+"/ours")
	p.do("mkdir", dir+"/private")
	p.do("tmpfs", dir+"/private")
	p.do("bind", "dgram", dir+"/private/theirs")
	p.do("chdir", dir+"/private")
	p.do("bind", "dgram", "relative")
	p.do("bind", "dgram", "unlinked")
	p.do("rename", "relative", "renamed")
	root := "/proc/" + strconv.Itoa(p.pid()) + "/root"
	if err := os.Remove(root + dir + "/private/unlinked"); err != nil {
		t.Fatal(err)
	}
	wantPaths(t, p.held(), dir+"/ours", root+dir+"/private/theirs", root+dir+"/private/renamed")

	// What is outside of its root directory is found only where it has a path of ours.
	p.do("mkdir", dir+"/private/jail")
	p.do("chroot", dir+"/private/jail")
	p.do("bind", "stream", "/s")
	files, err := Held(p.open())
	wantPaths(t, pathsOf(t, files), dir+"/ours", root+"/s")
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "/theirs") || !strings.Contains(err.Error(), "/renamed") {
		t.Errorf("error %v does not name theirs and renamed", err)
	}
}

// TestHeldMountNamespace has a network namespace in common with us: the table lists the sockets.
func TestHeldMountNamespace(t *testing.T) {
	onThread(t, "", func(t *testing.T, dir string) {
		testutil.Require(t, testutil.UserNS)
		p := startPuppet(t, namespaces(unix.CLONE_NEWNS))
		p.do("mkdir", dir+"/private")
		p.do("tmpfs", dir+"/private")
		p.do("bind", "stream", dir+"/ours")
		p.do("bind", "stream", dir+"/private/theirs")
		p.do("chdir", dir+"/private")
		p.do("bind", "stream", "relative")
		p.do("rename", "relative", "renamed")
		root := "/proc/" + strconv.Itoa(p.pid()) + "/root"
		if os.Geteuid() == 0 {
			keepCapabilities(t, unix.CAP_SYS_PTRACE, unix.CAP_DAC_OVERRIDE)
		}
		wantPaths(t, p.held(), dir+"/ours", root+dir+"/private/theirs", root+dir+"/private/renamed")
	})
}

// TestHeldMountNamespaceGone has a socket from a mount namespace that is gone: what the kernel calls its file begins at the mount.
func TestHeldMountNamespaceGone(t *testing.T) {
	onThread(t, "", func(t *testing.T, dir string) {
		unshareMounts(t)
		mount(t, "tmpfs", dir, "tmpfs", 0, "")
		p, binder := startPuppet(t), startPuppet(t, namespaces(unix.CLONE_NEWNS))
		for _, name := range []string{"s", "before"} {
			mail := dir + "/mail." + name
			p.do("bind", "dgram", mail)
			binder.do("bind", "stream", dir+"/"+name)
			binder.do("send", mail)
			p.do("receive")
		}
		must(t, os.Rename(dir+"/before", dir+"/after"))
		binder.child.Kill()
		wantPaths(t, p.held(), dir+"/mail.s", dir+"/mail.before", dir+"/s", dir+"/after")
	})
}

// TestHeldOutlivesProcess: the directory of a File is open, whatever its path led through.
func TestHeldOutlivesProcess(t *testing.T) {
	testutil.Require(t, testutil.UserNS)
	dir := testutil.TempDir(t)
	p := startPuppet(t, namespaces(unix.CLONE_NEWNET|unix.CLONE_NEWNS))
	p.do("tmpfs", dir)
	p.do("bind", "stream", dir+"/s")
	files, err := Held(p.open())
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	defer files[0].Close()
	p.child.Kill()
	if r := files[0].Remove(RemoveOptions{}); r.Outcome != OutcomeRemoved {
		t.Errorf("%+v", r)
	}
}

// TestHeldForeign is a process in a network namespace that the kernel does not let us ask about.
func TestHeldForeign(t *testing.T) {
	onThread(t, "", func(t *testing.T, dir string) {
		testutil.Require(t, testutil.Root)
		p := startPuppet(t, func(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET} })
		p.do("other")
		wantPaths(t, p.held())
		p.do("bind", "stream", dir+"/s")
		wantPaths(t, p.held(), dir+"/s")
		keepCapabilities(t, unix.CAP_SYS_PTRACE)
		files, err := Held(p.open())
		wantPaths(t, pathsOf(t, files))
		if !errors.Is(err, fs.ErrPermission) || !errors.Is(err, unix.EPERM) || strings.Count(err.Error(), "\n") != 0 ||
			!strings.Contains(err.Error(), strconv.Quote(dir+"/s")) || !strings.Contains(err.Error(), strconv.Itoa(p.pid())) {
			t.Errorf("error %v", err)
		}
	})
}

func TestHeldForbidden(t *testing.T) {
	unprivileged(t, "not dumpable", func(t *testing.T) {
		p := startPuppet(t)
		p.do("nondumpable")
		wantForbidden(t, p.open(), "not dumpable")
	})
	t.Run("other user", func(t *testing.T) {
		testutil.Require(t, testutil.Root)
		p := startPuppet(t)
		unprivileged(t, "", func(t *testing.T) { wantForbidden(t, openProcess(t, p.pid()), "user 0") })
	})
}

func wantForbidden(t *testing.T, p *pidfd.Process, why string) {
	t.Helper()
	files, err := Held(p)
	if len(files) > 0 || !errors.Is(err, fs.ErrPermission) || !strings.Contains(err.Error(), strconv.Itoa(p.PID())) ||
		!strings.Contains(err.Error(), why) {
		t.Errorf("%v, %v; want fs.ErrPermission and %q", files, err, why)
	}
	if _, err := Holds(p, openSeenAlive(t, testutil.TempDir(t)+"/s")); !errors.Is(err, fs.ErrPermission) {
		t.Errorf("Holds: %v; want fs.ErrPermission", err)
	}
}

func TestHeldExited(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		for _, reaped := range []bool{false, true} {
			child := startPuppet(t)
			p := child.open()
			if reaped {
				child.child.Kill()
			} else {
				if err := p.Signal(unix.SIGKILL); err != nil {
					t.Fatal(err)
				}
				if err := p.Wait(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			if files, err := Held(p); len(files) > 0 || !errors.Is(err, pidfd.ErrExited) {
				t.Errorf("reaped %v: %v, %v", reaped, files, err)
			}
			if _, err := Holds(p, openSeenAlive(t, testutil.TempDir(t)+"/s")); !errors.Is(err, pidfd.ErrExited) {
				t.Errorf("reaped %v: Holds: %v", reaped, err)
			}
		}
	})
	p := openProcess(t, os.Getpid())
	p.Close()
	if files, err := Held(p); len(files) > 0 || !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed: %v, %v", files, err)
	}
}

// TestHeldLeaderEnded: a process whose main thread has ended keeps its sockets.
func TestHeldLeaderEnded(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		p := startPuppet(t)
		p.do("bind", "stream", dir+"/s")
		p.do("bind", "stream", dir+"/t")
		p.do("end")
		// The thread said so before it had ended.
		awaitZombie(t, p.pid())
		wantPaths(t, p.held(), dir+"/s", dir+"/t")
		wantHolders(t, dir+"/s", p.pid())
	})
}

// TestHeldWhileKilled takes snapshots of a process that dies: no copy of a descriptor keeps a socket alive.
func TestHeldWhileKilled(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		for i := range 20 {
			path := filepath.Join(dir, strconv.Itoa(i))
			child := startPuppet(t)
			child.do("bind", "stream", path)
			child.do("listen")
			child.do("many", "20", path+"-")
			f := openFile(t, path)
			wantState(t, f, StateAlive, ReasonNone)
			p := child.open()

			killed := make(chan error)
			go func() { killed <- p.Signal(unix.SIGKILL) }()
			for {
				files, err := Held(p)
				for _, f := range files {
					f.Close()
				}
				if errors.Is(err, pidfd.ErrExited) {
					break
				}
				if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
					t.Errorf("Held: %v", err)
				}
			}
			if err := <-killed; err != nil {
				t.Fatal(err)
			}
			child.child.Kill()
			wantState(t, f, StateDead, ReasonNone)
		}
	})
}

// TestHeldWhileBinding removes what a snapshot finds, as if its process had died, while the process binds: the kernel
// shows the file of a socket before it finds the socket by its file. Nothing may be removed.
func TestHeldWhileBinding(t *testing.T) {
	byEachRoute(t, func(t *testing.T) {
		dir := testutil.TempDir(t)
		child := startPuppet(t)
		p := child.open()
		const n = 300
		child.child.Say("many " + strconv.Quote(strconv.Itoa(n)) + " " + strconv.Quote(dir+"/"))
		for found := 0; found < n && !t.Failed(); {
			files, err := Held(p)
			if err != nil {
				t.Error(err)
			}
			found = len(files)
			for _, f := range files {
				if r := f.Remove(RemoveOptions{}); r.Outcome != OutcomeAlive {
					t.Errorf("%+v", r)
				}
				f.Close()
			}
		}
		child.child.Expect("ok")
		if got := child.held(); len(got) != n {
			t.Errorf("%d files are left of %d", len(got), n)
		}
	})
}

// awaitZombie waits until the main thread of a process has ended.
func awaitZombie(t *testing.T, pid int) {
	t.Helper()
	for !isZombie(pid) {
		if _, err := os.Stat(procPath(pid, "stat")); err != nil {
			t.Fatal(err)
		}
		runtime.Gosched()
	}
}

func BenchmarkHeld(b *testing.B) {
	for _, n := range []int{1, 10, 1000} {
		child := startPuppet(b)
		child.do("many", strconv.Itoa(n), testutil.TempDir(b)+"/")
		p := child.open()
		b.Run("sockets="+strconv.Itoa(n), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				files, err := Held(p)
				if err != nil || len(files) != n {
					b.Fatal(len(files), err)
				}
				for _, f := range files {
					f.Close()
				}
			}
		})
	}
}

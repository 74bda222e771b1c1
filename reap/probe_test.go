package reap

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

var socketKinds = map[string]int{"stream": unix.SOCK_STREAM, "seqpacket": unix.SOCK_SEQPACKET, "dgram": unix.SOCK_DGRAM}

// TestProbe asks about sockets of every type in every state, and sees that they do not notice.
func TestProbe(t *testing.T) {
	connected := map[string]func(*testing.T, *boundSocket){
		"listening": func(t *testing.T, s *boundSocket) { listen(t, s, 5) },
		"backlog full": func(t *testing.T, s *boundSocket) {
			listen(t, s, 1)
			if n := fillBacklog(t, s); n == 0 {
				t.Error("the backlog took nobody")
			}
		},
		"connected": func(t *testing.T, s *boundSocket) {
			peer := bindSocket(t, s.path+".peer", socketType(t, s))
			listen(t, peer, 1)
			connect(t, s.fd, peer.path)
		},
	}
	states := map[int]map[string]func(*testing.T, *boundSocket){
		unix.SOCK_STREAM:    connected,
		unix.SOCK_SEQPACKET: connected,
		unix.SOCK_DGRAM: {
			"connected elsewhere": func(t *testing.T, s *boundSocket) {
				connect(t, s.fd, bindSocket(t, s.path+".peer", unix.SOCK_DGRAM).path)
			},
			"shut down": func(t *testing.T, s *boundSocket) {
				// ENOTCONN is for the direction that was not there.
				if err := unix.Shutdown(s.fd, unix.SHUT_RDWR); err != nil && err != unix.ENOTCONN {
					t.Fatal(err)
				}
			},
		},
	}
	for kindName, kind := range socketKinds {
		states[kind]["bound"] = func(*testing.T, *boundSocket) {}
		for state, enter := range states[kind] {
			t.Run(kindName+" "+state, func(t *testing.T) {
				dir := testutil.TempDir(t)
				path := filepath.Join(dir, "s")
				s := bindSocket(t, path, kind)
				enter(t, s)
				f := openFile(t, path)
				before := notices(t, s)
				for range 3 {
					wantState(t, f, StateAlive, ReasonNone)
					checkRemoval(t, f, want{outcome: OutcomeAlive})
				}
				if after := notices(t, s); after != before {
					t.Errorf("the server noticed: %+v, was %+v", after, before)
				}
				s.die()
				wantState(t, f, StateDead, ReasonNone)
				checkRemoval(t, f, want{outcome: OutcomeRemoved})
			})
		}
	}
}

func listen(t *testing.T, s *boundSocket, backlog int) {
	t.Helper()
	if socketType(t, s) == unix.SOCK_DGRAM {
		return
	}
	if err := unix.Listen(s.fd, backlog); err != nil {
		t.Fatal(os.NewSyscallError("listen", err))
	}
}

func connect(t *testing.T, fd int, path string) {
	t.Helper()
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(os.NewSyscallError("connect", err))
	}
}

// fillBacklog connects clients until the next one would wait, and tells how many it took.
func fillBacklog(t *testing.T, s *boundSocket) (n int) {
	t.Helper()
	for {
		fd, err := unix.Socket(unix.AF_UNIX, socketType(t, s)|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { unix.Close(fd) })
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: s.path})
		if err == unix.EAGAIN {
			return n
		}
		if err != nil {
			t.Fatal(err)
		}
		n++
	}
}

func socketType(t *testing.T, s *boundSocket) int {
	t.Helper()
	kind, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_TYPE)
	if err != nil {
		t.Fatal(err)
	}
	return kind
}

// noticed is all that a server could see of a client.
type noticed struct {
	events    int16
	receive   error
	peer      error
	sockError int
	nlink     uint64
	mode      uint32
	mtime     unix.Timespec
	ctime     unix.Timespec
}

func notices(t *testing.T, s *boundSocket) noticed {
	t.Helper()
	var n noticed
	fds := []unix.PollFd{{Fd: int32(s.fd), Events: unix.POLLIN | unix.POLLPRI | unix.POLLOUT | unix.POLLRDHUP}}
	if _, err := unix.Poll(fds, 0); err != nil {
		t.Fatal(err)
	}
	n.events = fds[0].Revents
	if n.events&unix.POLLIN == 0 {
		if socketType(t, s) == unix.SOCK_DGRAM {
			_, _, n.receive = unix.Recvfrom(s.fd, make([]byte, 1), unix.MSG_DONTWAIT)
		} else {
			var fd int
			if fd, _, n.receive = unix.Accept4(s.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC); n.receive == nil {
				unix.Close(fd)
			}
		}
	}
	_, n.peer = unix.Getpeername(s.fd)
	var err error
	if n.sockError, err = unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	must(t, unix.Lstat(s.path, &st))
	n.nlink, n.mode, n.mtime, n.ctime = uint64(st.Nlink), st.Mode, st.Mtim, st.Ctim //nolint:unconvert // the type differs by architecture
	return n
}

// TestProbeCountsNobody accepts what is in a full backlog: the clients of the test and no other.
func TestProbeCountsNobody(t *testing.T) {
	path := filepath.Join(testutil.TempDir(t), "s")
	s := bindSocket(t, path, unix.SOCK_STREAM)
	listen(t, s, 3)
	clients := fillBacklog(t, s)
	f := openFile(t, path)
	for range 10 {
		wantState(t, f, StateAlive, ReasonNone)
	}
	for n := 0; ; n++ {
		fd, _, err := unix.Accept4(s.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
		if err == unix.EAGAIN {
			if n != clients {
				t.Errorf("%d clients came, %d were made", n, clients)
			}
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
	}
}

// TestProbeLeavesClientsAlone probes a datagram server that has a client.
func TestProbeLeavesClientsAlone(t *testing.T) {
	path := filepath.Join(testutil.TempDir(t), "s")
	s := bindSocket(t, path, unix.SOCK_DGRAM)
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(client)
	connect(t, client, path)
	f := openFile(t, path)
	buf := make([]byte, 1)
	for i := range 10 {
		wantState(t, f, StateAlive, ReasonNone)
		must(t, unix.Send(client, []byte{byte(i)}, 0))
		wantState(t, f, StateAlive, ReasonNone)
		if n, err := unix.Read(s.fd, buf); n != 1 || err != nil || buf[0] != byte(i) {
			t.Fatalf("received %v %d, %v", buf, n, err)
		}
	}
}

// TestProbeHoldsNothing: the server's end is the end, however shortly after a probe.
func TestProbeHoldsNothing(t *testing.T) {
	path := filepath.Join(testutil.TempDir(t), "s")
	for range 100 {
		s := bindSocket(t, path, unix.SOCK_DGRAM)
		f := openFile(t, path)
		wantState(t, f, StateAlive, ReasonNone)
		s.die()
		wantState(t, f, StateDead, ReasonNone)
		must(t, os.Remove(path))
	}
}

// TestProbeSeesTheSocketNotTheProcess: what counts is the bound socket, not connections it made and not who has it.
func TestProbeSeesTheSocketNotTheProcess(t *testing.T) {
	dir := testutil.TempDir(t)
	t.Run("accepted connection", func(t *testing.T) {
		path := filepath.Join(dir, "accepted")
		s := bindSocket(t, path, unix.SOCK_STREAM)
		listen(t, s, 1)
		client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(client)
		connect(t, client, path)
		conn, _, err := unix.Accept4(s.fd, unix.SOCK_CLOEXEC)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(conn)
		f := openFile(t, path)
		wantState(t, f, StateAlive, ReasonNone)
		s.die()
		wantState(t, f, StateDead, ReasonNone)
	})
	t.Run("descriptor under way", func(t *testing.T) {
		path := filepath.Join(dir, "queued")
		s := bindSocket(t, path, unix.SOCK_STREAM)
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		must(t, unix.Sendmsg(pair[0], []byte{0}, unix.UnixRights(s.fd), nil, 0))
		s.die()
		f := openFile(t, path)
		wantState(t, f, StateAlive, ReasonNone)
		checkRemoval(t, f, want{outcome: OutcomeAlive})
		unix.Close(pair[0])
		unix.Close(pair[1])
		wantState(t, f, StateDead, ReasonNone)
	})
	t.Run("second descriptor", func(t *testing.T) {
		path := filepath.Join(dir, "dup")
		s := bindSocket(t, path, unix.SOCK_STREAM)
		dup, err := unix.FcntlInt(uintptr(s.fd), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		s.die()
		f := openFile(t, path)
		wantState(t, f, StateAlive, ReasonNone)
		unix.Close(dup)
		wantState(t, f, StateDead, ReasonNone)
	})
}

// TestProbeFollowsTheInode looks at a live socket under names that it was not bound to.
func TestProbeFollowsTheInode(t *testing.T) {
	dir := testutil.TempDir(t)
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "sub", "b")
	must(t, os.Mkdir(filepath.Dir(b), 0o700))
	s := bindSocket(t, a, unix.SOCK_STREAM)
	f := openFile(t, a)
	must(t, os.Link(a, b))
	linked := openFile(t, b)
	wantState(t, linked, StateAlive, ReasonNone)
	must(t, os.Rename(a, filepath.Join(dir, "c")))
	wantState(t, openFile(t, filepath.Join(dir, "c")), StateAlive, ReasonNone)
	// The name is what a File asks by; the search is for Remove.
	wantState(t, f, StateUnknown, ReasonNone)
	leaveDead(t, a)
	wantState(t, f, StateUnknown, ReasonNone)
	s.die()
	wantState(t, linked, StateDead, ReasonNone)
}

// TestProbeOthers is about files that are no sockets. The kernel gives the dead one's answer for them.
func TestProbeOthers(t *testing.T) {
	dir := testutil.TempDir(t)
	bindSocket(t, filepath.Join(dir, "live"), unix.SOCK_STREAM)
	must(t, os.Symlink("live", filepath.Join(dir, "link")))
	for what, create := range map[string]func(path string) error{
		"regular file":           func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"directory":              func(path string) error { return os.Mkdir(path, 0o700) },
		"fifo":                   func(path string) error { return unix.Mkfifo(path, 0o600) },
		"symlink":                func(path string) error { return os.Symlink("live", path) },
		"symlink to nothing":     func(path string) error { return os.Symlink("absent", path) },
		"hard link to a symlink": func(path string) error { return os.Link(filepath.Join(dir, "link"), path) },
	} {
		t.Run(what, func(t *testing.T) {
			path := filepath.Join(dir, what)
			leaveDead(t, path)
			f := openFile(t, path)
			must(t, os.Remove(path))
			if err := create(path); err != nil {
				t.Fatal(err)
			}
			kept := pinInode(t, path)
			wantState(t, f, StateUnknown, ReasonNone)
			checkRemoval(t, f, want{outcome: OutcomeReplaced, reason: ReasonNotSocket})
			if !kept.at(path) {
				t.Error("it was removed")
			}
			p, err := pinName(f.dir, f.name())
			if err != nil {
				t.Fatal(err)
			}
			defer p.unpin()
			pr, err := newProber()
			if err != nil {
				t.Fatal(err)
			}
			defer pr.close()
			if state, err := pr.probe(p); state != StateUnknown || !errors.Is(err, ErrNotSocket) {
				t.Errorf("probe: %v, %v", state, err)
			}
		})
	}
}

// TestProbeWithoutPermission: connect(2) wants write permission on the sock-file.
func TestProbeWithoutPermission(t *testing.T) {
	dir := testutil.TempDir(t)
	if err := os.Chmod(dir, 0o777); err != nil { // so that nothing else forbids the removal
		t.Fatal(err)
	}
	for what, s := range map[string]*boundSocket{
		"dead":  bindSocket(t, filepath.Join(dir, "dead"), unix.SOCK_STREAM),
		"alive": bindSocket(t, filepath.Join(dir, "alive"), unix.SOCK_STREAM),
	} {
		must(t, os.Chmod(s.path, 0o555))
		f := openFile(t, s.path)
		if what == "dead" {
			s.die()
		}
		t.Run(what, func(t *testing.T) {
			asNobody(t, func(t *testing.T) {
				wantState(t, f, StateUnknown, ReasonPermission)
				checkRemoval(t, f, want{OutcomeRefused, ReasonPermission, unix.EACCES})
			})
		})
	}
	wantNames(t, dir, "alive", "dead")
}

// TestProbeWithoutProcfs takes /proc away, before it was ever seen and after.
func TestProbeWithoutProcfs(t *testing.T) {
	for what, take := range map[string]func(t *testing.T, dir string){
		"unmounted": func(t *testing.T, _ string) {
			for unix.Unmount("/proc", unix.MNT_DETACH) == nil { // until the last mount is gone
			}
		},
		"covered by another filesystem": func(t *testing.T, _ string) { mount(t, "tmpfs", "/proc", "tmpfs", 0, "") },
		"forged": func(t *testing.T, dir string) {
			// Every number leads to a dead socket.
			leaveDead(t, filepath.Join(dir, "dead"))
			mount(t, "tmpfs", "/proc", "tmpfs", 0, "")
			must(t, os.MkdirAll("/proc/thread-self/fd", 0o755))
			for fd := range 256 {
				must(t, os.Symlink(filepath.Join(dir, "dead"), filepath.Join("/proc/thread-self/fd", strconv.Itoa(fd))))
			}
		},
	} {
		for _, seen := range []bool{false, true} {
			if seen && what == "forged" {
				continue // who can do that can as well remove the file
			}
			onThread(t, fmt.Sprintf("%s, seen before %v", what, seen), func(t *testing.T, dir string) {
				unshareMounts(t)
				for _, name := range []string{"alive", "was-alive"} {
					path := filepath.Join(dir, name)
					s := bindSocket(t, path, unix.SOCK_STREAM)
					f := openFile(t, path)
					if name == "was-alive" {
						wantState(t, f, StateAlive, ReasonNone)
						s.die()
					}
					defer func() {
						wantState(t, f, StateUnknown, ReasonNoProcfs)
						r := f.Remove(RemoveOptions{})
						checkResult(t, r, want{OutcomeUnknown, ReasonNoProcfs, errNoProcfs})
						checkResult(t, f.Remove(RemoveOptions{DryRun: true}), want{OutcomeUnknown, ReasonNoProcfs, errNoProcfs})
						if _, err := os.Lstat(path); err != nil {
							t.Error(err)
						}
					}()
				}
				take(t, dir)
				procfs.Store(seen)
				t.Cleanup(func() { procfs.Store(false) })
			})
		}
	}
}

func init() { helpers["serve"] = serve }

// serve binds a socket of a type to a path until its standard input ends. A third argument is where it first mounts the
// socket's directory, to bind there.
func serve() {
	path, kind := os.Args[1], socketKinds[os.Args[2]]
	if len(os.Args) > 3 {
		if err := unix.Mount(filepath.Dir(path), os.Args[3], "", unix.MS_BIND, ""); err != nil {
			fmt.Println("mount:", err)
			return
		}
		path = filepath.Join(os.Args[3], filepath.Base(path))
	}
	if _, err := tryBind(path, kind); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("bound")
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
	}
}

// TestProbeAcrossNamespaces asks about servers of which /proc/net/unix and sock_diag tell nothing here.
func TestProbeAcrossNamespaces(t *testing.T) {
	for name, flag := range map[string]uintptr{
		"network": unix.CLONE_NEWNET,
		"mount":   unix.CLONE_NEWNS,
		"pid":     unix.CLONE_NEWPID,
		"ipc":     unix.CLONE_NEWIPC,
		"all":     unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS,
	} {
		for kind := range socketKinds {
			t.Run(name+" "+kind, func(t *testing.T) {
				dir := testutil.TempDir(t)
				alias := filepath.Join(dir, "alias")
				must(t, os.Mkdir(alias, 0o700))
				path := filepath.Join(dir, "s")
				cmd := testutil.Command(t, "serve", path, kind)
				if flag&unix.CLONE_NEWNS != 0 {
					cmd = testutil.Command(t, "serve", path, kind, alias)
				}
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flag}
				if os.Geteuid() != 0 {
					testutil.Require(t, testutil.UserNS)
					cmd.SysProcAttr.Cloneflags |= unix.CLONE_NEWUSER
					cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
					cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
				} else {
					testutil.Require(t, testutil.Overlay) // the right to make namespaces
				}
				server := testutil.Start(t, cmd)
				server.Expect("bound")
				f := openFile(t, path)
				wantState(t, f, StateAlive, ReasonNone)
				checkRemoval(t, f, want{outcome: OutcomeAlive})
				server.Kill()
				wantState(t, f, StateDead, ReasonNone)
				checkRemoval(t, f, want{outcome: OutcomeRemoved})
			})
		}
	}
}

// bindInLoop binds one socket after the other, called 0, 1 and so on in dir, while look is asked about each before it can be
// seen. The socket lives until look returns.
func bindInLoop(t *testing.T, dir string, n int, look func(i int)) {
	t.Helper()
	slowBinds(t, dir)
	var begun, looked atomic.Int64
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		for i := range n {
			for begun.Load() != int64(i)+1 {
				runtime.Gosched()
			}
			s, err := tryBind(filepath.Join(dir, strconv.Itoa(i)), unix.SOCK_STREAM)
			if err != nil {
				t.Error(err)
				return
			}
			for looked.Load() != int64(i)+1 {
				runtime.Gosched()
			}
			s.die()
		}
	}()
	for i := range n {
		// A name that the kernel remembers as absent is seen from the moment in which bind makes it; the lookup of
		// one that it does not know waits for the directory's lock, and thereby for the end of bind.
		_, _ = os.Lstat(filepath.Join(dir, strconv.Itoa(i)))
		begun.Store(int64(i) + 1)
		look(i)
		looked.Store(int64(i) + 1)
	}
	<-stopped
}

// slowBinds makes each bind(2) in a directory take longer, after its file can be seen and before the probe finds the
// socket: then the kernel queues the event of the new file for who watches the directory, and tells everybody who waits for it.
//
// There is one who watches, and many who wait: fs.inotify.max_user_instances allows one user 128, which all tests that run at
// this moment share.
func slowBinds(t *testing.T, dir string) {
	t.Helper()
	watch, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(os.NewSyscallError("inotify_init1", err))
	}
	t.Cleanup(func() { unix.Close(watch) })
	if _, err := unix.InotifyAddWatch(watch, dir, unix.IN_CREATE); err != nil {
		t.Fatal(os.NewSyscallError("inotify_add_watch", err))
	}
	const waiting = 400 // of 500 that the kernel allows for one descriptor
	for range waiting {
		epoll, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
		if err != nil {
			t.Fatal(os.NewSyscallError("epoll_create1", err))
		}
		t.Cleanup(func() { unix.Close(epoll) })
		if err := unix.EpollCtl(epoll, unix.EPOLL_CTL_ADD, watch, &unix.EpollEvent{Events: unix.EPOLLIN}); err != nil {
			t.Fatal(os.NewSyscallError("epoll_ctl", err))
		}
	}
}

// TestProbeDuringBind catches files between their making and the moment from which the probe finds the socket.
func TestProbeDuringBind(t *testing.T) {
	for _, fs := range []testutil.Feature{testutil.Ext4, testutil.Tmpfs} {
		t.Run(fs.String(), func(t *testing.T) {
			dir := testutil.Dir(t, fs)
			pr, err := newProber()
			if err != nil {
				t.Fatal(err)
			}
			defer pr.close()
			caught := 0
			bindInLoop(t, dir, 500, func(i int) {
				f := waitForFile(t, filepath.Join(dir, strconv.Itoa(i)))
				defer f.Close()
				p, err := f.pinned()
				if err != nil {
					t.Error(err)
					return
				}
				if _, dead := p.ask(pr); dead {
					caught++
				}
				p.unpin()
				wantState(t, f, StateAlive, ReasonNone)
				if i%2 == 0 {
					checkResult(t, f.Remove(RemoveOptions{}), want{outcome: OutcomeAlive})
				}
			})
			t.Logf("caught %d files during their bind", caught)
		})
	}
}

// TestRemoveDuringBind is TestProbeDuringBind without anything between Open and Remove.
func TestRemoveDuringBind(t *testing.T) {
	for _, fs := range []testutil.Feature{testutil.Ext4, testutil.Tmpfs} {
		t.Run(fs.String(), func(t *testing.T) {
			dir := testutil.Dir(t, fs)
			bindInLoop(t, dir, 500, func(i int) {
				f := waitForFile(t, filepath.Join(dir, strconv.Itoa(i)))
				defer f.Close()
				checkResult(t, f.Remove(RemoveOptions{}), want{outcome: OutcomeAlive})
			})
		})
	}
}

// waitForFile opens a file as soon as it is there.
func waitForFile(t *testing.T, path string) *File {
	for {
		f, err := Open(path)
		if err == nil {
			return f
		}
		if !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
}

// TestDuringBindElsewhere links files into another directory during their bind, whose lock is not the one that bind
// holds.
func TestDuringBindElsewhere(t *testing.T) {
	dir := testutil.TempDir(t)
	binds, links := filepath.Join(dir, "binds"), filepath.Join(dir, "links")
	for _, d := range []string{binds, links} {
		must(t, os.Mkdir(d, 0o700))
	}
	early := 0
	bindInLoop(t, binds, 500, func(i int) {
		path := filepath.Join(links, strconv.Itoa(i))
		for {
			err := unix.Link(filepath.Join(binds, strconv.Itoa(i)), path)
			if err == nil {
				break
			}
			if err != unix.ENOENT {
				t.Error(err)
				return
			}
		}
		f, err := Open(path)
		if err != nil {
			t.Error(err)
			return
		}
		defer f.Close()
		switch state, reason := f.Probe(); {
		case state == StateUnknown && reason == ReasonHardLinked:
			early++
		case state != StateAlive:
			t.Errorf("%v %q", state, reason)
		}
		if r := f.Remove(RemoveOptions{}); r.Outcome != OutcomeAlive && r.Reason != ReasonHardLinked {
			t.Errorf("%v %q, %v", r.Outcome, r.Reason, r.Err)
		}
	})
	t.Logf("caught %d files during their bind", early)
}

func BenchmarkProbe(b *testing.B) {
	for _, seen := range []bool{true, false} {
		for what, live := range map[string]bool{"alive": true, "dead": false} {
			b.Run(fmt.Sprintf("%s/seen=%v", what, seen), func(b *testing.B) {
				path := filepath.Join(testutil.TempDir(b), "s")
				s := bindSocket(b, path, unix.SOCK_STREAM)
				f := openFile(b, path)
				if seen {
					wantState(b, f, StateAlive, ReasonNone)
				}
				if !live {
					s.die()
				}
				b.ReportAllocs()
				for b.Loop() {
					f.Probe()
				}
			})
		}
	}
	b.Run("connect alone", func(b *testing.B) {
		path := filepath.Join(testutil.TempDir(b), "s")
		bindSocket(b, path, unix.SOCK_STREAM)
		pin := pinInode(b, path).pin
		sock, err := sys.ProbeSocket()
		if err != nil {
			b.Fatal(err)
		}
		defer unix.Close(sock)
		b.ReportAllocs()
		for b.Loop() {
			_ = sys.ConnectFD(sock, pin)
		}
	})
}

package pidfd

import (
	"errors"
	"fmt"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestLife(t *testing.T) {
	child := idle(t)
	pid := child.PID()
	p := open(t, pid)

	if got := p.PID(); got != pid {
		t.Errorf("PID %d, want %d", got, pid)
	}
	if exited, err := p.Exited(); exited || err != nil {
		t.Errorf("exited %v, %v", exited, err)
	}
	if err := p.Signal(0); err != nil {
		t.Error(err)
	}
	id, err := p.Identity()
	if err != nil {
		t.Error(err)
	}

	kill(t, p) // a zombie from here on
	if exited, err := p.Exited(); !exited || err != nil {
		t.Errorf("zombie: exited %v, %v", exited, err)
	}
	if got := p.PID(); got != pid {
		t.Errorf("zombie: PID %d, want %d", got, pid)
	}
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Errorf("zombie: %v", err)
	}
	if again := open(t, pid); again.PID() != pid {
		t.Errorf("zombie, opened: PID %d, want %d", again.PID(), pid)
	}

	child.Kill() // reaps
	if exited, err := p.Exited(); !exited || err != nil {
		t.Errorf("reaped: exited %v, %v", exited, err)
	}
	if got := p.PID(); got != -1 {
		t.Errorf("reaped: PID %d", got)
	}
	wantErr(t, p.Signal(unix.SIGKILL), ErrExited)
	wantErr(t, p.Signal(unix.SIGKILL), unix.ESRCH)
	if again, err := p.Identity(); again != id || err != nil {
		t.Errorf("reaped: identity %v, %v; it was %v", again, err, id)
	}
	_, err = Open(pid)
	wantErr(t, err, ErrExited)
	wantErr(t, err, unix.ESRCH)
	if !strings.Contains(fmt.Sprint(err), strconv.Itoa(pid)) {
		t.Errorf("%q does not name process %d", err, pid)
	}
}

func TestOpenRefusesNumbers(t *testing.T) {
	// The last would be our own pid if the kernel saw it.
	for _, pid := range []int{0, -1, math.MinInt, math.MaxInt, 1<<32 + os.Getpid()} {
		p, err := Open(pid)
		if err == nil {
			p.Close()
			t.Errorf("opened process %d", pid)
		} else if !strings.Contains(err.Error(), strconv.Itoa(pid)) {
			t.Errorf("%q does not name process %d", err, pid)
		}
	}
	_, err := Open(math.MaxInt32)
	wantErr(t, err, ErrExited)
}

func TestOpenThread(t *testing.T) {
	for _, tid := range otherThreads(t) {
		_, err := Open(tid)
		wantErr(t, err, ErrNotLeader)
		_, err = Identity{PID: tid}.Open()
		wantErr(t, err, ErrNotLeader)
		// Whoever had this number as a process cannot have it any more.
		_, err = Identity{PID: tid, Inode: 1}.Open()
		wantErr(t, err, ErrExited)
		if errors.Is(err, ErrNotLeader) {
			t.Errorf("%v", err)
		}
	}
}

// otherThreads lists the threads of the test except the main one. Go keeps its threads.
func otherThreads(t *testing.T) []int {
	t.Helper()
	names, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		t.Fatal(err)
	}
	var tids []int
	for _, name := range names {
		tid, err := strconv.Atoi(filepath.Base(name))
		if err != nil {
			t.Fatal(err)
		}
		if tid != os.Getpid() {
			tids = append(tids, tid)
		}
	}
	if len(tids) == 0 {
		t.Fatal("a Go program with one thread")
	}
	return tids
}

// TestOpenSessionOfTheDead: the number of a dead session leader stays in use as that of the session.
func TestOpenSessionOfTheDead(t *testing.T) {
	cmd := exec.Command("sh", "-c", "sleep 1000 >/dev/null & echo $!; exec >/dev/null; read x")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	leader := testutil.Start(t, cmd)
	pid, err := strconv.Atoi(leader.Line())
	if err != nil {
		t.Fatal(err)
	}
	member := open(t, pid)
	defer func() { kill(t, member) }()
	leader.Kill()

	if stat, err := procfs.Stat(pid); err != nil || stat.Session != leader.PID() {
		t.Fatalf("session %d, %v; want %d", stat.Session, err, leader.PID())
	}
	_, err = Open(leader.PID())
	wantErr(t, err, ErrExited)
}

// TestMainThreadGone: a process lives for as long as one thread of it does.
func TestMainThreadGone(t *testing.T) {
	child := testutil.Start(t, testutil.Command(t, "maingone"))
	child.Expect("gone")
	p := open(t, child.PID())
	if exited, err := p.Exited(); exited || err != nil {
		t.Errorf("exited %v, %v", exited, err)
	}
	if e := p.Exit(); e.Reason != ReasonRunning {
		t.Errorf("exit %v", e)
	}
	if info, err := p.Info(); info.PPID != os.Getpid() || err != nil {
		t.Errorf("info %+v, %v", info, err)
	}
	child.Hangup()
	waitExit(t, p)
	if e := p.Exit(); e != (Exit{Known: true, Code: 3}) {
		t.Errorf("exit %v", e)
	}
}

func TestSignalPermission(t *testing.T) {
	initProcess := open(t, 1)
	info, err := initProcess.Info()
	if err != nil {
		t.Fatal(err)
	}
	const nobody = 65534
	asUser(t, nobody, func(uid int) {
		err := initProcess.Signal(0)
		if uid == int(info.UID) {
			if err != nil {
				t.Errorf("own process: %v", err)
			}
			return
		}
		wantErr(t, err, ErrPermission)
		wantErr(t, err, unix.EPERM)
		// Everything else needs no permission.
		if _, err := initProcess.Identity(); err != nil {
			t.Error(err)
		}
		if exited, err := initProcess.Exited(); exited || err != nil {
			t.Errorf("exited %v, %v", exited, err)
		}
		other, err := Open(1)
		if err != nil {
			t.Fatal(err)
		}
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	})
}

// asUser runs f on a thread that has the user id, if we may, and tells f which one it has.
func asUser(t *testing.T, uid int, f func(uid int)) {
	if os.Getuid() != 0 {
		f(os.Getuid())
		return
	}
	done := make(chan struct{})
	tid := 0
	go func() {
		defer close(done)
		// Never unlocked: the thread ends with the goroutine.
		runtime.LockOSThread()
		tid = unix.Gettid()
		// Package syscall would change the ids of all threads
		_, _, errno := unix.Syscall(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid))
		if errno != 0 {
			t.Error("setresuid:", errno)
			return
		}
		f(uid)
	}()
	<-done
	for unix.Tgkill(os.Getpid(), tid, 0) == nil { // or another test sees a thread that is about to end
		runtime.Gosched()
	}
}

func TestSignalNamesTheSignal(t *testing.T) {
	p := open(t, os.Getpid())
	for sig, name := range map[unix.Signal]string{1000: "signal 1000", unix.SIGKILL: "SIGKILL"} {
		if sig == unix.SIGKILL {
			p.Close()
		}
		err := p.Signal(sig)
		if err == nil || !strings.Contains(err.Error(), name) || !strings.Contains(err.Error(), strconv.Itoa(os.Getpid())) {
			t.Errorf("%v does not name %s and the process", err, name)
		}
	}
}

func TestFromFD(t *testing.T) {
	child := idle(t)
	fd, err := unix.PidfdOpen(child.PID(), unix.PIDFD_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
		t.Fatal(err)
	}
	p, err := FromFD(fd)
	if err != nil {
		unix.Close(fd)
		t.Fatal(err)
	}
	closeAtEnd(t, p)
	if p.Fd() != uintptr(fd) {
		t.Errorf("descriptor %d, want %d", p.Fd(), fd)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); flags != unix.FD_CLOEXEC || err != nil {
		t.Errorf("descriptor flags %d, %v", flags, err)
	}
	if p.PID() != child.PID() {
		t.Errorf("PID %d, want %d", p.PID(), child.PID())
	}
	opened, err := open(t, child.PID()).Identity()
	if err != nil {
		t.Fatal(err)
	}
	if id, err := p.Identity(); id != opened || err != nil {
		t.Errorf("identity %v, %v; by pid it is %v", id, err, opened)
	}
	kill(t, p)
	if e := p.Exit(); e != (Exit{Known: true, Signal: unix.SIGKILL}) {
		t.Errorf("exit %v", e)
	}
}

func TestFromFDReaped(t *testing.T) {
	child := idle(t)
	fd, err := unix.PidfdOpen(child.PID(), 0)
	if err != nil {
		t.Fatal(err)
	}
	child.Kill()
	p, err := FromFD(fd)
	if err != nil {
		unix.Close(fd)
		t.Fatal(err)
	}
	closeAtEnd(t, p)
	if p.PID() != -1 {
		t.Errorf("PID %d", p.PID())
	}
	waitExit(t, p)
	wantErr(t, p.Signal(0), ErrExited)
	_, err = p.Identity()
	wantErr(t, err, ErrExited)
	_, err = p.Info()
	wantErr(t, err, ErrExited)
}

func TestFromFDRefuses(t *testing.T) {
	opened := func(path string) func(t *testing.T) int {
		return func(t *testing.T) int {
			fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			return fd
		}
	}
	for name, makeFD := range map[string]func(t *testing.T) int{
		"file":           opened("/proc/self/stat"),
		"proc directory": opened("/proc/self"), // pidfd_send_signal(2) takes these
		"directory":      opened("/"),
		"epoll": func(t *testing.T) int {
			fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
			if err != nil {
				t.Fatal(err)
			}
			return fd
		},
	} {
		t.Run(name, func(t *testing.T) {
			fd := makeFD(t)
			_, err := FromFD(fd)
			wantErr(t, err, unix.EBADF)
			if !strings.Contains(fmt.Sprint(err), strconv.Itoa(fd)) {
				t.Errorf("%q does not name descriptor %d", err, fd)
			}
			if err := unix.Close(fd); err != nil {
				t.Errorf("the caller's descriptor: %v", err)
			}
			_, err = FromFD(fd)
			wantErr(t, err, unix.EBADF)
		})
	}
	_, err := FromFD(-22) // what SCM_PIDFD can say
	wantErr(t, err, unix.EBADF)
}

func TestFromFDThread(t *testing.T) {
	testutil.Require(t, testutil.Pidfs)
	for _, tid := range append(otherThreads(t), os.Getpid()) {
		fd, err := unix.PidfdOpen(tid, unix.PIDFD_THREAD)
		if err != nil {
			t.Fatal(err)
		}
		_, err = FromFD(fd)
		wantErr(t, err, ErrNotLeader)
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
	}
}

func TestFromProcess(t *testing.T) {
	child := idle(t)
	p, err := FromProcess(child.Cmd.Process)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, p)
	if p.PID() != child.PID() {
		t.Errorf("PID %d, want %d", p.PID(), child.PID())
	}
	if err := p.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	waitExit(t, p)
	if e := p.Exit(); e != (Exit{Known: true, Signal: unix.SIGTERM}) {
		t.Errorf("exit %v", e)
	}
	// os is not disturbed, neither in waiting nor about the status.
	var exit *exec.ExitError
	if err := child.Cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != unix.SIGTERM {
		t.Errorf("Wait of os/exec: %v", err)
	}
	_, err = FromProcess(child.Cmd.Process)
	wantErr(t, err, ErrExited)
}

func TestFromProcessReleased(t *testing.T) {
	process, err := os.FindProcess(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if err := process.Release(); err != nil {
		t.Fatal(err)
	}
	if p, err := FromProcess(process); err == nil {
		p.Close()
		t.Error("a handle from a released process")
	}
}

func TestClosed(t *testing.T) {
	p := open(t, os.Getpid())
	for range 2 {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}
	wantErr(t, p.Signal(0), os.ErrClosed)
	_, err := p.Exited()
	wantErr(t, err, os.ErrClosed)
	wantErr(t, p.Wait(t.Context()), os.ErrClosed)
	_, err = p.Identity()
	wantErr(t, err, os.ErrClosed)
	_, err = p.Info()
	wantErr(t, err, os.ErrClosed)
	if p.PID() != -1 || p.Fd() != ^uintptr(0) || p.Exit().Reason != ReasonClosed {
		t.Errorf("PID %d, Fd %d, Exit %v", p.PID(), p.Fd(), p.Exit())
	}
}

// TestCloseMeanwhile has others take the number of the descriptor as soon as it is free.
func TestCloseMeanwhile(t *testing.T) {
	for range 50 {
		p, err := Open(os.Getpid())
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		for _, use := range []func() error{
			func() error { return p.Signal(0) },
			func() error { _, err := p.Exited(); return err },
			func() error { _, err := p.Info(); return err },
			func() error { _, err := p.Identity(); return err },
			func() error { return p.Wait(background) },
		} {
			wg.Go(func() {
				for {
					if err := use(); err != nil {
						wantErr(t, err, os.ErrClosed)
						return
					}
				}
			})
		}
		for range 2 {
			wg.Go(func() {
				runtime.Gosched()
				if err := p.Close(); err != nil {
					t.Error(err)
				}
				f, err := os.Open(os.DevNull)
				if err != nil {
					t.Error(err)
					return
				}
				f.Close()
			})
		}
		wg.Wait()
	}
}

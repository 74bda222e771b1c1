//go:build failpoints

package faults

import (
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"runtime"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/pidfd"
)

// hand is a thread of another user's, or of our own: what is done by it is done by that user, and so are the processes that it forks.
type hand struct{ work chan func() }

// newHand gives a thread of a user, which ends with close.
func newHand(uid int) (hand, error) {
	h := hand{make(chan func())}
	ready := make(chan error)
	go func() {
		runtime.LockOSThread() // and not unlocked: what is not the process's user must not run anything else
		var err error
		if uid != os.Geteuid() {
			err = become(uid)
		}
		ready <- err
		for f := range h.work {
			f()
		}
	}()
	return h, <-ready
}

// become has the calling thread be of a user, and nothing else of this process.
func become(uid int) error {
	for _, call := range [][4]uintptr{
		{unix.SYS_SETGROUPS},
		{unix.SYS_SETRESGID, uintptr(uid), uintptr(uid), uintptr(uid)},
		{unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid)},
		{unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 1},
	} {
		if _, _, errno := syscall.RawSyscall(call[0], call[1], call[2], call[3]); errno != 0 {
			return fmt.Errorf("become user %d: %w", uid, errno)
		}
	}
	return nil
}

func (h hand) do(f func() error) (err error) {
	done := make(chan struct{})
	h.work <- func() { err = f(); close(done) }
	<-done
	return err
}

func (h hand) close() { close(h.work) }

// server is a process that binds and listens: some sockets from its start on, some when it is told to.
type server struct {
	pid    int
	handle *pidfd.Process
	leash  *os.File // it ends with this
	ready  *os.File
	paths  []string // of the sockets that it has by now
	later  []string
	dead   bool
}

// serve starts a server, which is ready.
func serve(h hand, now, later []string) (*server, error) {
	s := &server{later: later}
	theirLeash, leash, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer theirLeash.Close()
	ready, theirReady, err := os.Pipe()
	if err != nil {
		return nil, errors.Join(err, leash.Close())
	}
	defer theirReady.Close()
	s.leash, s.ready = leash, ready
	// What is told to it ends its wait; no runtime of ours is behind these in the child.
	fds := [2]int{int(theirLeash.Fd()), int(theirReady.Fd())}
	batches := [2][]address{addresses(now), addresses(later)}
	err = h.do(func() error {
		var errno syscall.Errno
		if s.pid, errno = forkServer(batches, fds[0], fds[1]); errno != 0 {
			return os.NewSyscallError("clone", errno)
		}
		return nil
	})
	if err == nil {
		s.handle, err = pidfd.Open(s.pid)
	}
	if err == nil {
		theirReady.Close()
		err = s.bound(now)
	}
	if err != nil {
		return nil, errors.Join(err, s.kill())
	}
	return s, nil
}

// bindMore has it bind the sockets that are to come later.
func (s *server) bindMore() error {
	if _, err := s.leash.Write([]byte{1}); err != nil {
		return err
	}
	return s.bound(s.later)
}

// bound waits until it has bound.
func (s *server) bound(paths []string) error {
	if err := s.ready.SetReadDeadline(time.Now().Add(patience)); err != nil {
		return err
	}
	if _, err := s.ready.Read(make([]byte, 1)); err != nil {
		return fmt.Errorf("a server cannot bind %q: %w", paths, err)
	}
	s.paths = append(s.paths, paths...)
	return nil
}

// kill ends it as the OOM killer does. A second time does nothing.
func (s *server) kill() error {
	if s.dead {
		return nil
	}
	s.dead = true
	var err error
	if s.pid > 0 {
		err = unix.Kill(s.pid, unix.SIGKILL)
		for {
			if _, err := unix.Wait4(s.pid, nil, 0, nil); !errors.Is(err, unix.EINTR) {
				break
			}
		}
	}
	if s.handle != nil {
		err = errors.Join(err, s.handle.Close())
	}
	return errors.Join(err, s.leash.Close(), s.ready.Close())
}

// answers is the kernel's word on whether it serves a path.
func answers(path string) error {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return err
	}
	return conn.Close()
}

// address is a sock-file's, as bind(2) wants it.
type address struct {
	raw  unix.RawSockaddrUnix
	size uintptr
}

func addresses(paths []string) []address {
	all := make([]address, len(paths))
	for i, path := range paths {
		all[i].raw.Family = unix.AF_UNIX
		for j := range len(path) {
			all[i].raw.Path[j] = int8(path[j])
		}
		all[i].size = unsafe.Offsetof(all[i].raw.Path) + uintptr(len(path)) + 1
	}
	return all
}

// forkServer forks. Of Go's runtime nothing works in the child.
//
//go:norace
func forkServer(batches [2][]address, leash, ready int) (pid int, errno syscall.Errno) {
	var b [1]byte
	low, high := uintptr(min(leash, ready)), uintptr(max(leash, ready))
	r, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if r != 0 || errno != 0 {
		return int(r), errno
	}
	if low > 3 {
		_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 3, low-1, 0)
	}
	if high > low+1 {
		_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, low+1, high-1, 0)
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE_RANGE, high+1, math.MaxUint32, 0)
	for i := 0; i < len(batches); i++ {
		for j := 0; j < len(batches[i]); j++ {
			a := &batches[i][j]
			fd, _, errno := syscall.RawSyscall(unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if errno == 0 {
				_, _, errno = syscall.RawSyscall(unix.SYS_BIND, fd, uintptr(unsafe.Pointer(&a.raw)), a.size)
			}
			if errno == 0 {
				_, _, errno = syscall.RawSyscall(unix.SYS_LISTEN, fd, 4096, 0)
			}
			if errno != 0 {
				_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 1, 0, 0)
			}
		}
		_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, uintptr(ready), uintptr(unsafe.Pointer(&b)), 1)
		for {
			n, _, errno := syscall.RawSyscall(unix.SYS_READ, uintptr(leash), uintptr(unsafe.Pointer(&b)), 1)
			if errno == unix.EINTR {
				continue
			}
			if n == 0 || errno != 0 {
				_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
			}
			break
		}
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
	return 0, 0
}

package sys

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func newSocket(t *testing.T, domain, kind int) int {
	t.Helper()
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func ownPidfd(t *testing.T) int {
	t.Helper()
	fd, err := PidfdOpen(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func TestWithCopy(t *testing.T) {
	sock, pidfd := newSocket(t, unix.AF_UNIX, unix.SOCK_STREAM), ownPidfd(t)
	want, err := Fstat(sock)
	if err != nil {
		t.Fatal(err)
	}
	failure := errors.New("failure")
	var dup int
	err = WithCopy(pidfd, sock, func(fd int) error {
		dup = fd
		if st, err := Fstat(fd); err != nil || !st.SameInode(want) || fd == sock {
			t.Errorf("descriptor %d of %d is of %+v, %v", fd, sock, st, err)
		}
		flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("flags %#x, %v", flags, err)
		}
		if syscall.ForkLock.TryLock() {
			syscall.ForkLock.Unlock()
			t.Error("a child could be forked with the copy in it")
		}
		return failure
	})
	if err != failure { //nolint:errorlint // as it is
		t.Errorf("error %v", err)
	}
	if _, err := Fstat(dup); !errors.Is(err, unix.EBADF) {
		t.Errorf("the copy is open: %v", err)
	}
	if !syscall.ForkLock.TryLock() {
		t.Fatal("ForkLock was kept")
	}
	syscall.ForkLock.Unlock()

	err = WithCopy(pidfd, dup, func(int) error { panic("there is no such descriptor") })
	if !errors.Is(err, unix.EBADF) {
		t.Errorf("error %v", err)
	}
}

func TestSockFile(t *testing.T) {
	sock := newSocket(t, unix.AF_UNIX, unix.SOCK_DGRAM)
	fd, err := SockFile(sock)
	if errors.Is(err, unix.EPERM) && os.Geteuid() != 0 {
		return // as documented
	}
	if !errors.Is(err, unix.ENOENT) {
		t.Fatalf("not bound: %d, %v", fd, err)
	}
	path := filepath.Join(t.TempDir(), "s")
	if err := unix.Bind(sock, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if fd, err = SockFile(sock); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	want, err := Lstatat(unix.AT_FDCWD, path)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := Fstat(fd); err != nil || !got.SameInode(want) {
		t.Errorf("%+v, %v; want %+v", got, err, want)
	}
	flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0)
	if err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %v", flags, err)
	}
}

func TestSocketQuestions(t *testing.T) {
	for _, tt := range []struct {
		domain, kind int
		unix         bool
	}{
		{unix.AF_UNIX, unix.SOCK_STREAM, true},
		{unix.AF_UNIX, unix.SOCK_DGRAM, true},
		{unix.AF_UNIX, unix.SOCK_SEQPACKET, true},
		{unix.AF_INET, unix.SOCK_DGRAM, false},
		{unix.AF_NETLINK, unix.SOCK_RAW, false},
	} {
		sock := newSocket(t, tt.domain, tt.kind)
		if domain, err := SocketDomain(sock); domain != tt.domain || err != nil {
			t.Errorf("%+v: domain %d, %v", tt, domain, err)
		}
		if kind, err := SocketType(sock); kind != tt.kind || err != nil {
			t.Errorf("%+v: type %d, %v", tt, kind, err)
		}
		name, err := SocketProtocol(fmt.Sprintf("/proc/self/fd/%d", sock))
		if strings.HasPrefix(name, "UNIX") != tt.unix || name == "" || err != nil {
			t.Errorf("%+v: protocol %q, %v", tt, name, err)
		}
	}
	pidfd := ownPidfd(t)
	if _, err := SocketDomain(pidfd); !errors.Is(err, unix.ENOTSOCK) {
		t.Errorf("domain of no socket: %v", err)
	}
	if name, err := SocketProtocol(fmt.Sprintf("/proc/self/fd/%d", pidfd)); err == nil {
		t.Errorf("protocol of no socket: %q", name)
	}
}

func TestConnected(t *testing.T) {
	if is, err := Connected(newSocket(t, unix.AF_UNIX, unix.SOCK_STREAM)); is || err != nil {
		t.Errorf("a new one: %v, %v", is, err)
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	if is, err := Connected(pair[0]); !is || err != nil {
		t.Errorf("one of a pair: %v, %v", is, err)
	}
	unix.Close(pair[1])
	if is, err := Connected(pair[0]); !is || err != nil {
		t.Errorf("its peer closed: %v, %v", is, err)
	}
}

package sys

import (
	"errors"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/failpoint"
)

// ProbeSocket makes an unbound AF_UNIX datagram socket for ConnectFD.
func ProbeSocket() (int, error) {
	return callInt("socket", func() (int, error) {
		return unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	})
}

// ConnectFD connects a datagram socket to the inode that fd stands for, through procfs, so that neither the length of
// a path nor what has its name by now matters. The bare errno is the answer: see reap's probe.
//
// It goes by thread-self and not by self, which is gone once the main thread has ended.
func ConnectFD(sock, fd int) error {
	if err := failpoint.Hit("connect"); err != nil {
		return err
	}
	sa := unix.SockaddrUnix{Name: "/proc/thread-self/fd/" + strconv.Itoa(fd)}
	return ignoringEINTR(func() error { return unix.Connect(sock, &sa) })
}

// Disconnect dissolves the association of a datagram socket: connect(2) with AF_UNSPEC.
func Disconnect(sock int) error {
	sa := unix.RawSockaddr{Family: unix.AF_UNSPEC}
	return call("connect", func() error {
		_, _, errno := unix.Syscall(unix.SYS_CONNECT, uintptr(sock), uintptr(unsafe.Pointer(&sa)), unsafe.Sizeof(sa.Family))
		return orNil(errno)
	})
}

// OnProcfs tells whether /proc/thread-self/fd is what it should be: a directory of procfs.
func OnProcfs() (bool, error) {
	var st unix.Statfs_t
	err := call("statfs", func() error { return unix.Statfs("/proc/thread-self/fd", &st) })
	if errors.Is(err, unix.ENOENT) {
		return false, nil
	}
	return err == nil && int64(st.Type) == unix.PROC_SUPER_MAGIC, err //nolint:unconvert // the type differs by architecture
}

package sys

import (
	"errors"
	"sync/atomic"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// WithCopy calls use with a copy of the descriptor fd of the process behind pidfd, and closes the copy: pidfd_getfd(2),
// Linux 5.6. The caller needs the right to attach to the process with ptrace(2). EBADF: the process has no such
// descriptor, or has none any more.
//
// A copy keeps what it stands for open. So it lives for as long as use runs, which must not wait for anything, and no
// child that this process forks meanwhile gets it. Where the process dies in between, it is our close(2) that ends a
// socket, and that has happened when WithCopy returns.
//
// What is no AF_UNIX socket, as the number may stand for by now, is closed by a goroutine: close(2) of a file asks its filesystem, which
// may be a FUSE one of the process's own and never answer. EBUSY: that is so of as many as there may be, and nothing was copied.
func WithCopy(pidfd, fd int, use func(fd int) error) error {
	if closing.Load() >= mostClosing {
		return wrap("pidfd_getfd", unix.EBUSY)
	}
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	dup, err := callInt("pidfd_getfd", func() (int, error) { return unix.PidfdGetfd(pidfd, fd, 0) })
	if err != nil {
		return err
	}
	defer closeCopy(dup)
	return use(dup)
}

// closing is how many copies are being closed by goroutines. Each of those that wait has a thread. It can be more than mostClosing by as
// many as are copied at the same time.
var closing atomic.Int32

const mostClosing = 16

func closeCopy(dup int) {
	if domain, err := SocketDomain(dup); err == nil && domain == unix.AF_UNIX {
		_ = Close(dup)
		return
	}
	closing.Add(1)
	go func() {
		defer closing.Add(-1)
		_ = Close(dup)
	}()
}

// siocUnixFile is SIOCUNIXFILE of un.h.
const siocUnixFile = 0x89E0

// SockFile opens the sock-file that an AF_UNIX socket is bound to, in whatever namespace that is and whatever its name
// is by now, as OpenPin would: ioctl SIOCUNIXFILE, Linux 4.11. An accepted socket gives the file of its listener.
//
// It needs CAP_NET_ADMIN in the user namespace of the socket's network namespace: EPERM. ENOENT: the socket is not bound
// to a file. Call it for no other family: the number is SIOCPROTOPRIVATE, and means other things there.
func SockFile(sock int) (int, error) {
	return callInt("ioctl SIOCUNIXFILE", func() (int, error) {
		fd, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(sock), siocUnixFile, 0)
		return int(fd), orNil(errno)
	})
}

// SocketProtocol is the kernel's name for the protocol of a socket behind a link such as /proc/PID/fd/N: of AF_UNIX it
// is "UNIX" or, since Linux 5.15, "UNIX-STREAM". It is an extended attribute of sockfs, getxattr(2), and needs the same
// permission as following the link.
func SocketProtocol(path string) (string, error) {
	var buf [64]byte // the name has room for 32
	n, err := callInt("getxattr", func() (int, error) { return unix.Getxattr(path, "system.sockprotoname", buf[:]) })
	if err != nil {
		return "", err
	}
	return unix.ByteSliceToString(buf[:n]), nil
}

// SocketDomain is the SO_DOMAIN of socket(7): the address family. ENOTSOCK for what is no socket.
func SocketDomain(sock int) (int, error) {
	return callInt("getsockopt SO_DOMAIN", func() (int, error) { return unix.GetsockoptInt(sock, unix.SOL_SOCKET, unix.SO_DOMAIN) })
}

// SocketType is the SO_TYPE of socket(7).
func SocketType(sock int) (int, error) {
	return callInt("getsockopt SO_TYPE", func() (int, error) { return unix.GetsockoptInt(sock, unix.SOL_SOCKET, unix.SO_TYPE) })
}

// Connected tells whether the socket has a peer, be it a dead one: getpeername(2).
func Connected(sock int) (bool, error) {
	var addr unix.RawSockaddrAny
	size := uint32(unsafe.Sizeof(addr))
	err := call("getpeername", func() error {
		_, _, errno := unix.Syscall(unix.SYS_GETPEERNAME, uintptr(sock), uintptr(unsafe.Pointer(&addr)), uintptr(unsafe.Pointer(&size)))
		return orNil(errno)
	})
	if errors.Is(err, unix.ENOTCONN) {
		return false, nil
	}
	return err == nil, err
}

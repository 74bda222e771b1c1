package reap

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/pidfd"
)

// borrowed is what a copy of another process's socket told.
type borrowed struct {
	pin       int // the sock-file itself, whatever its name
	id        ID
	connected bool // it may be accepted: then its listener is what is bound
}

func (b borrowed) unpin() { _ = sys.Close(b.pin) }

// errNoFile: the descriptor is not an AF_UNIX socket with a sock-file, or was closed meanwhile.
var errNoFile = errors.New("not a socket that is bound to a sock-file")

// borrow asks for the sock-file of a socket through a copy of its descriptor, whatever namespaces the process is in. The
// copy would keep the socket alive, so it is closed before borrow returns.
//
// errNoFile; ESRCH where the process is gone; else what the kernel or a sandbox said: EPERM and ENOSYS for the copy,
// EPERM also without CAP_NET_ADMIN over the network namespace of the socket.
func borrow(p *pidfd.Process, fd int) (borrowed, error) {
	b := borrowed{pin: -1}
	err := sys.WithCopy(int(p.Fd()), fd, func(sock int) error {
		// The number can be that of another descriptor by now.
		domain, err := sys.SocketDomain(sock)
		if err != nil || domain != unix.AF_UNIX {
			return errNoFile
		}
		if b.pin, err = sys.SockFile(sock); err != nil {
			return err
		}
		b.connected, err = maybeAccepted(sock)
		return err
	})
	var st sys.Stat
	if err == nil {
		st, err = sys.Fstat(b.pin)
	}
	if err == nil {
		b.id, err = identify(b.pin, st)
	}
	if err != nil && b.pin >= 0 {
		b.unpin()
	}
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EBADF) {
		err = errNoFile
	}
	return b, err
}

// maybeAccepted tells whether a socket with a sock-file can have it from a listener.
func maybeAccepted(sock int) (bool, error) {
	kind, err := sys.SocketType(sock)
	if err != nil || kind == unix.SOCK_DGRAM {
		return false, err
	}
	return sys.Connected(sock)
}

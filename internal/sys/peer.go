package sys

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// CredentialSpace is room for the credentials of a sender and nothing else: the kernel closes descriptors that were sent
// with them and gives us none.
var CredentialSpace = unix.CmsgSpace(unix.SizeofUcred)

// PassCredentials has the kernel tell of each message who sent it, and of nothing else: SO_PASSCRED, unix(7). Who is
// accepted from a listening socket that has it has it from the first byte.
func PassCredentials(fd int) error {
	return call("setsockopt SO_PASSCRED", func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1) })
}

// PeerCredentials is who connected a socket, as it was then: SO_PEERCRED, unix(7). The pid is 0 for a process that is not
// in our pid namespace.
func PeerCredentials(fd int) (unix.Ucred, error) {
	var cred unix.Ucred
	err := call("getsockopt SO_PEERCRED", func() error {
		c, err := unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err == nil {
			cred = *c
		}
		return err
	})
	return cred, err
}

// PeerGroups is the supplementary groups of the process that connected a socket, as they were then: SO_PEERGROUPS, Linux 4.13.
func PeerGroups(fd int) ([]uint32, error) {
	groups := make([]uint32, 32)
	for {
		size := uint32(4 * len(groups)) // in bytes; the kernel sets it to what it gave, or with ERANGE to what it wants
		err := call("getsockopt SO_PEERGROUPS", func() error {
			_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
				uintptr(unsafe.Pointer(&groups[0])), uintptr(unsafe.Pointer(&size)), 0)
			return orNil(errno)
		})
		switch {
		case err == nil:
			return groups[:size/4], nil
		case errors.Is(err, unix.ERANGE) && int(size/4) > len(groups):
			groups = make([]uint32, size/4)
		default:
			return nil, err
		}
	}
}

// PeerPidfd is a pidfd of the process that connected a socket: SO_PEERPIDFD, Linux 6.5,
// ENOPROTOOPT before that. Before 6.16 an error for one that was reaped. The descriptor is close-on-exec.
func PeerPidfd(fd int) (int, error) {
	return callInt("getsockopt SO_PEERPIDFD", func() (int, error) { return unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD) })
}

// HungUp tells whether the other end of a connection is closed for reading and writing at this moment: POLLHUP of
// poll(2). It is not when the other end has only said that it will send no more.
func HungUp(fd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd)}}
	_, err := callInt("poll", func() (int, error) { return unix.Poll(fds, 0) })
	return fds[0].Revents&(unix.POLLHUP|unix.POLLERR) != 0, err
}

// SetSocketMode sets the permissions that bind(2) is to give a sock-file, less the umask: fchmod(2) of a socket that is not
// yet bound (unix_bind_bsd in net/unix/af_unix.c).
func SetSocketMode(fd int, mode uint32) error {
	return call("fchmod", func() error { return unix.Fchmod(fd, mode) })
}

package sys

import (
	"errors"

	"golang.org/x/sys/unix"
)

// KernelRelease is the kernel's version, such as "6.12.9-amd64": uname(2).
func KernelRelease() (string, error) {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return "", wrap("uname", err)
	}
	return unix.ByteSliceToString(name.Release[:]), nil
}

// MaxDescriptors is how many descriptors this process may have open, and how many it may raise that to: RLIMIT_NOFILE of
// getrlimit(2).
func MaxDescriptors() (soft, hard uint64, err error) {
	var limit unix.Rlimit
	err = unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &limit)
	return limit.Cur, limit.Max, wrap("prlimit", err)
}

// TryPeerPidfd tells whether a socket gives a pidfd of its peer, SO_PEERPIDFD, and of the sender of a message, SO_PASSPIDFD:
// Linux 6.5. It is ENOPROTOOPT where not.
func TryPeerPidfd() error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return wrap("socketpair", err)
	}
	defer func() { _ = errors.Join(Close(pair[0]), Close(pair[1])) }()
	if err := unix.SetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PASSPIDFD, 1); err != nil {
		return wrap("setsockopt SO_PASSPIDFD", err)
	}
	fd, err := PeerPidfd(pair[0])
	if err != nil {
		return err
	}
	return Close(fd)
}

// TrySockFile tells whether SockFile may be called in our network namespace: EPERM where not.
func TrySockFile() error {
	sock, err := ProbeSocket()
	if err != nil {
		return err
	}
	defer func() { _ = Close(sock) }()
	fd, err := SockFile(sock)
	switch {
	case err == nil:
		_ = Close(fd)
	case errors.Is(err, unix.ENOENT): // it is not bound, which is what was allowed to be asked
		err = nil
	}
	return err
}

package sys

import (
	"errors"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// lingering gives a socket whose last close(2) waits until its peer is closed: SO_LINGER of socket(7), with more sent than was read.
func lingering(t *testing.T) (sock, peer int) {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(err)
	defer unix.Close(listener)
	must(unix.Bind(listener, &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	must(unix.Listen(listener, 1))
	addr, err := unix.Getsockname(listener)
	must(err)
	sock, err = unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(err)
	must(unix.Connect(sock, addr))
	peer, _, err = unix.Accept4(listener, unix.SOCK_CLOEXEC)
	must(err)
	must(unix.SetsockoptLinger(sock, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1, Linger: 10000}))
	must(unix.SetNonblock(sock, true))
	for {
		if _, err := unix.Write(sock, make([]byte, 64<<10)); err != nil {
			return sock, peer
		}
	}
}

// TestWithCopyOfWhatIsSlow: a descriptor that turns out not to be an AF_UNIX socket, and whose close(2) waits, keeps nobody. There are
// only so many of them at a time.
func TestWithCopyOfWhatIsSlow(t *testing.T) {
	pidfd := ownPidfd(t)
	var peers []int
	used, err := 0, error(nil)
	for range 20 * mostClosing { // a signal of the runtime's can end a close early
		var sock, peer int
		sock, peer = lingering(t)
		peers = append(peers, peer)
		closed := false
		err = WithCopy(pidfd, sock, func(int) error {
			used++
			closed = true
			return unix.Close(sock) // the copy is the last one
		})
		if !closed {
			unix.Close(peer)
			peers = peers[:len(peers)-1]
			unix.Close(sock)
		}
		if err != nil {
			break
		}
	}
	if !errors.Is(err, unix.EBUSY) || used < mostClosing {
		t.Errorf("after %d: %v", used, err)
	}
	for _, peer := range peers {
		unix.Close(peer)
	}
	for closing.Load() > 0 {
		runtime.Gosched()
	}
	if err := WithCopy(pidfd, newSocket(t, unix.AF_UNIX, unix.SOCK_STREAM), func(int) error { return nil }); err != nil {
		t.Error(err)
	}
}

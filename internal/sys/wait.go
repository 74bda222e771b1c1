package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// PeekAny waits until a child of this process has ended and tells which, without reaping it: waitid(2) with WNOWAIT. ECHILD
// when there is none.
func PeekAny() (pid int, err error) {
	var info struct {
		signo, errno, code int32
		child              struct {
			_   [0]uintptr
			pid int32
		}
		_ [unsafe.Sizeof(unix.Siginfo{})]byte // room for all of it
	}
	err = ignoringEINTR(func() error {
		return unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), unix.WEXITED|unix.WNOWAIT|unix.WALL, nil)
	})
	return int(info.child.pid), wrap("waitid", err)
}

// PidfdReap reaps the child behind a pidfd, which has ended: waitid(2) with P_PIDFD, Linux 5.4.
func PidfdReap(fd int) error {
	return wrap("waitid", ignoringEINTR(func() error {
		return unix.Waitid(unix.P_PIDFD, fd, nil, unix.WEXITED|unix.WNOHANG|unix.WALL, nil)
	}))
}

// Subreaper makes orphaned descendants children of this process: prctl(2) PR_SET_CHILD_SUBREAPER, Linux 3.4.
func Subreaper() error {
	return wrap("prctl PR_SET_CHILD_SUBREAPER", unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0))
}

// KillAll sends a signal to every process that this one may signal, itself and pid 1 apart: kill(2) of -1. It is for pid 1 of a
// container, where these are all there are.
func KillAll(sig unix.Signal) error { return wrap("kill", unix.Kill(-1, sig)) }

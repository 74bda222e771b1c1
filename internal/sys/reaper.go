package sys

import (
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// BecomeSubreaper has this process adopt its descendants whose parent ends, in place of init: PR_SET_CHILD_SUBREAPER of
// prctl(2), Linux 3.4. Children do not inherit it.
func BecomeSubreaper() error {
	return call("prctl PR_SET_CHILD_SUBREAPER", func() error { return unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) })
}

// PeekEnded gives a child that has ended, without reaping it and without waiting; 0 when there is none: waitid(2) with
// P_ALL. As long as that child is not reaped it may be given again, and hide others. ECHILD: there is no child at all.
func PeekEnded() (pid int, err error) {
	// The part of siginfo_t that SIGCHLD uses, sigaction(2). A union that has pointers in it follows the first three.
	var info struct {
		signo, errno, code int32
		child              struct {
			_   [0]uintptr
			pid int32
		}
		_ [unsafe.Sizeof(unix.Siginfo{})]byte // room for all of it
	}
	const options = unix.WEXITED | unix.WNOHANG | unix.WNOWAIT | unix.WALL
	err = call("waitid", func() error {
		return unix.Waitid(unix.P_ALL, 0, (*unix.Siginfo)(unsafe.Pointer(&info)), options, nil)
	})
	return int(info.child.pid), err
}

// PidfdReap reaps the child behind a pidfd if it has ended: waitid(2) with P_PIDFD, Linux 5.4. ECHILD: not our child, or
// reaped already.
func PidfdReap(fd int) error {
	const options = unix.WEXITED | unix.WNOHANG | unix.WALL
	return call("waitid", func() error { return unix.Waitid(unix.P_PIDFD, fd, nil, options, nil) })
}

// KillAll sends a signal to every other process of the pid namespace that this process is the init of: kill(2) of -1. ESRCH
// when there is none. It is EPERM elsewhere: there it would hit everything that the user may signal.
func KillAll(sig unix.Signal) error {
	if os.Getpid() != 1 {
		return wrap("kill", unix.EPERM)
	}
	return call("kill", func() error { return unix.Kill(-1, sig) })
}

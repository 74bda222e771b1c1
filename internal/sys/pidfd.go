package sys

import (
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// PidfdOpen is pidfd_open(2) of a process, Linux 5.3. The descriptor is close-on-exec and blocking.
func PidfdOpen(pid int) (int, error) {
	return callInt("pidfd_open", func() (int, error) { return unix.PidfdOpen(pid, 0) })
}

// PidfdSignal is pidfd_send_signal(2) as kill(2) would do it, Linux 5.1.
func PidfdSignal(fd int, sig unix.Signal) error {
	return call("pidfd_send_signal", func() error { return unix.PidfdSendSignal(fd, sig, nil, 0) })
}

// PidfdInfo is the ioctl PIDFD_GET_INFO, Linux 6.13; mask says what is wanted beyond the ids, and Mask of the result
// what was given. Before 6.13 it is ENOTTY, on 6.11 and 6.12 EINVAL. ESRCH for a process outside our pid namespace and,
// unless PIDFD_INFO_EXIT (6.15) was asked for and is known, for one that was reaped.
func PidfdInfo(fd int, mask uint64) (unix.PidfdInfo, error) {
	info := unix.PidfdInfo{Mask: mask}
	err := call("ioctl PIDFD_GET_INFO", func() error { return unix.IoctlPidfdInfo(fd, &info) })
	return info, err
}

// PidfdPeek tells how the child behind a pidfd ended, without reaping it and without waiting: waitid(2) with P_PIDFD,
// Linux 5.4. ended is false while there is nothing to reap. ECHILD: not our child, or reaped already. EBADF: not a pidfd.
func PidfdPeek(fd int) (status unix.WaitStatus, ended bool, err error) {
	// The part of siginfo_t that SIGCHLD uses, sigaction(2). A union that has pointers in it follows the first three.
	var info struct {
		signo, errno, code int32
		child              struct {
			_      [0]uintptr
			pid    int32
			uid    uint32
			status int32
		}
		_ [unsafe.Sizeof(unix.Siginfo{})]byte // room for all of it
	}
	// WALL: also children that were cloned to send another signal than SIGCHLD at their end.
	const options = unix.WEXITED | unix.WNOHANG | unix.WNOWAIT | unix.WALL
	err = call("waitid", func() error {
		return unix.Waitid(unix.P_PIDFD, fd, (*unix.Siginfo)(unsafe.Pointer(&info)), options, nil)
	})
	if err != nil || info.child.pid == 0 {
		return 0, false, err
	}
	const coreFlag = 0x80 // WCOREFLAG of wait(2)
	switch info.code {
	case cldExited:
		return unix.WaitStatus(info.child.status << 8), true, nil
	case cldDumped:
		return unix.WaitStatus(info.child.status | coreFlag), true, nil
	default:
		return unix.WaitStatus(info.child.status), true, nil
	}
}

// si_code of SIGCHLD for a process that exited and for one that dumped core: sigaction(2).
const (
	cldExited = 1
	cldDumped = 3
)

// StatusFlags is the F_GETFL of fcntl(2).
func StatusFlags(fd int) (int, error) {
	return callInt("fcntl", func() (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_GETFL, 0) })
}

// SetCloseOnExec is the F_SETFD of fcntl(2) with FD_CLOEXEC.
func SetCloseOnExec(fd int) error {
	_, err := callInt("fcntl", func() (int, error) {
		return unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC)
	})
	return err
}

// Duplicate is the F_DUPFD_CLOEXEC of fcntl(2). Both descriptors share one open file description: O_NONBLOCK set on
// one is set on the other.
func Duplicate(fd int) (int, error) {
	return callInt("fcntl", func() (int, error) { return unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0) })
}

// PidfdSignalGroup is pidfd_send_signal(2) to the process group that the process leads, Linux 6.9: EINVAL before that.
func PidfdSignalGroup(fd int, sig unix.Signal) error {
	return call("pidfd_send_signal", func() error {
		return unix.PidfdSendSignal(fd, sig, nil, unix.PIDFD_SIGNAL_PROCESS_GROUP)
	})
}

// KillGroup is kill(2) of the process group that process pid leads. ESRCH when it leads none.
func KillGroup(pid int, sig unix.Signal) error {
	if pid <= 0 {
		return wrap("kill", unix.ESRCH)
	}
	if group, err := unix.Getpgid(pid); err != nil || group != pid {
		return wrap("getpgid", errors.Join(unix.ESRCH, err))
	}
	return call("kill", func() error { return unix.Kill(-pid, sig) })
}

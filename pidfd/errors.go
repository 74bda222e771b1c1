package pidfd

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// What callers decide on, for errors.Is. The errors that wrap them also wrap the errno, where the kernel gave one, and
// name the process.
var (
	// ErrExited: the process is gone, or its number belongs to another one now.
	ErrExited = errors.New("process has exited")
	// ErrNotLeader: the number or descriptor is that of a thread other than the one that stands for its process.
	ErrNotLeader = errors.New("a thread, not a process")
	// ErrPermission: the kernel does not let us.
	ErrPermission = errors.New("not permitted")
	// ErrUnsupported: this kernel cannot, or a sandbox says so on its behalf.
	ErrUnsupported = errors.New("not supported by this kernel")
)

// errOutside is for a process that has no number here: its pid namespace is neither ours nor a descendant of it.
var errOutside = errors.New("not in our pid namespace")

// explain says what was tried on which process, and adds the sentinel that goes with the errno in err.
func explain(op string, pid int, err error) error {
	if s := sentinel(err); s != nil {
		return fmt.Errorf("%s %s: %w (%w)", op, name(pid), s, err)
	}
	return fmt.Errorf("%s %s: %w", op, name(pid), err)
}

func sentinel(err error) error {
	switch {
	case errors.Is(err, unix.ESRCH):
		return ErrExited
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES):
		return ErrPermission
	case errors.Is(err, unix.ENOSYS):
		return ErrUnsupported
	default:
		return nil
	}
}

// name is how errors call a process.
func name(pid int) string {
	if pid <= 0 {
		return "process of unknown pid"
	}
	return fmt.Sprintf("process %d", pid)
}

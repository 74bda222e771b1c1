// Package sys holds the raw Linux system calls that the rest of sockwatch is built on, one wrapper per call.
//
// EINTR is retried here and nowhere else. Errors are what os.NewSyscallError makes, so that errors.Is finds the
// errno. The package knows no policy and owns no descriptor that it returned.
package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/failpoint"
)

// call makes the system call of that name by f, again for as long as a signal interrupts it. Local filesystems hardly ever return EINTR,
// FUSE and network ones do, and Go's own preemption signal makes it frequent. The name is a failpoint and is in the error.
func call(name string, f func() error) error {
	if err := failpoint.Hit(name); err != nil {
		return wrap(name, err)
	}
	return wrap(name, ignoringEINTR(f))
}

// callInt is call for what gives a number, which is -1 with an error.
func callInt(name string, f func() (int, error)) (int, error) {
	if err := failpoint.Hit(name); err != nil {
		return -1, wrap(name, err)
	}
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, wrap(name, err)
		}
	}
}

func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// orNil is the error of a raw system call.
func orNil(errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}

// wrap names the system call in err; nil stays nil.
func wrap(call string, err error) error { return os.NewSyscallError(call, err) }

// Package sys holds the raw Linux system calls that the rest of sockwatch is built on, one wrapper per call.
//
// EINTR is retried here and nowhere else. Errors are what os.NewSyscallError makes, so that errors.Is finds the
// errno. The package knows no policy and owns no descriptor that it returned.
package sys

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// ignoringEINTR repeats f for as long as a signal interrupts it. Local filesystems hardly ever return EINTR, FUSE and
// network ones do, and Go's own preemption signal makes it frequent.
func ignoringEINTR(f func() error) error {
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// ignoringEINTRInt is ignoringEINTR for calls that return a number.
func ignoringEINTRInt(f func() (int, error)) (int, error) {
	for {
		n, err := f()
		if !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
}

// wrap names the system call in err; nil stays nil.
func wrap(call string, err error) error { return os.NewSyscallError(call, err) }

package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// IsSubreaper tells whether orphaned descendants of this process become its children: PR_SET_CHILD_SUBREAPER(2const), Linux 3.4, or
// pid 1 of a pid namespace.
func IsSubreaper() bool {
	var set int32
	err := unix.Prctl(unix.PR_GET_CHILD_SUBREAPER, uintptr(unsafe.Pointer(&set)), 0, 0, 0)
	return err == nil && set != 0 || unix.Getpid() == 1
}

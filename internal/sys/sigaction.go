//go:build linux && (amd64 || arm64)

package sys

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Sigaction is the kernel's struct sigaction, as it is on these architectures.
type Sigaction struct {
	Handler  uintptr
	Flags    uint64
	Restorer uintptr
	Mask     uint64
}

// SignalAction reads what is done on a signal: rt_sigaction(2).
func SignalAction(sig unix.Signal) (Sigaction, error) {
	var act Sigaction
	err := rtSigaction(sig, nil, &act)
	return act, err
}

// SetSignalAction sets it. The Go runtime does not know of it.
func SetSignalAction(sig unix.Signal, act Sigaction) error { return rtSigaction(sig, &act, nil) }

func rtSigaction(sig unix.Signal, act, old *Sigaction) error {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(act)),
		uintptr(unsafe.Pointer(old)), unsafe.Sizeof(Sigaction{}.Mask), 0, 0)
	if errno != 0 {
		return wrap("rt_sigaction", errno)
	}
	return nil
}

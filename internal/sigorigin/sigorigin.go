//go:build linux && (amd64 || arm64)

// Package sigorigin tells who sent a signal: a process, or the kernel on behalf of a terminal.
//
// os/signal does not pass on siginfo_t, and a program that forwards signals to a child in its own process group needs
// it: what a terminal sends has reached the child already, what kill(1) sends has not. So a few instructions are put in front of
// the Go runtime's handler. They count the signals that processes sent and go on to it.
//
// What it is not for: anything else than counting. Go's own use of signals is left as it is; signals that the program
// sends to itself (the scheduler's SIGURG) are not counted.
package sigorigin

import (
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// What the handler works on. sent is indexed by signal.
var (
	sent [65]uint32
	self uint32  //nolint:unused // the assembly reads it
	next uintptr // the Go runtime's handler
)

// hookPC is the address of the handler, as the kernel calls it: set in the assembly.
var hookPC uintptr

// hook is the handler. It cannot be called from Go.
func hook() //nolint:unused // declared for vet, which checks the assembly against it

// Track counts signal sig from now on. Call it after signal.Notify: the runtime has no handler for a signal that was
// ignored before. It is for the one goroutine that reads the counts.
func Track(sig unix.Signal) error {
	act, err := sys.SignalAction(sig)
	if err != nil {
		return err
	}
	const ignore = 1 // SIG_IGN; 0 is SIG_DFL
	switch {
	case act.Handler == hookPC:
		return nil
	case act.Handler <= ignore, next != 0 && next != act.Handler:
		return fmt.Errorf("%s is not handled by the Go runtime", unix.SignalName(sig))
	}
	self, next = uint32(os.Getpid()), act.Handler
	act.Handler = hookPC
	return sys.SetSignalAction(sig, act)
}

// TakeSent tells how many of sig processes have sent since the last call. Standard signals that come before the first
// was handled are one.
func TakeSent(sig unix.Signal) int { return int(atomic.SwapUint32(&sent[sig], 0)) }

// Package sigorigin catches signals and tells who sent them: processes, or the kernel on behalf of a terminal.
//
// os/signal does not pass on siginfo_t, and a program that forwards signals to a child in its own process group needs
// it: what a terminal sends has reached the child already, what kill(1) sends has not. Nor does it count, and to catch all signals
// by it takes a millisecond or more, because each is handed to a thread and back. So a few instructions are put in front of the Go
// runtime's handler. They count who sent what, wake the reader, and are done.
//
// What the program sends to itself (the scheduler's SIGURG) and what the kernel sends for a fault goes on to the Go runtime and is
// not told: it has the effect that the runtime gives it where os/signal does not ask for it.
package sigorigin

import "golang.org/x/sys/unix"

// Caught is what has come of one signal since it was last told. Standard signals that come before the first was handled are one,
// signal(7).
type Caught struct {
	Signal unix.Signal
	Sent   int  // by processes; 0 where Known is false
	Kernel bool // the kernel sent it, for a terminal or a timer
}

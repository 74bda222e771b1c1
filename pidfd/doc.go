// Package pidfd is a handle on a process that pid reuse cannot confuse: the kernel's pidfd, with what the kernel knows
// about the process behind it.
//
// A number says little: by the time it is used the process may be gone and the number another's. A [Process] is opened
// once and stays the same process for good: signal it, wait for its end, ask who it is and how it ended. Its [Identity] is a
// value that can be compared and stored, and turned back into a Process after a restart of one's own program.
//
// What it is not for: starting processes and reaping them. Nothing here takes a wait status away from whoever waits for
// the child (os/exec, a supervisor, a shell). No call but [Process.Wait] blocks, and no goroutine is kept. For many
// processes at once use package watch, which has one goroutine for all.
//
// Hazards. A Process holds a descriptor until Close, and nothing closes it for you. It keeps Close and its other methods
// apart, but not what you do with [Process.Fd]. A handle taken over or duplicated shares its open file description:
// setting O_NONBLOCK on it breaks package os's Wait. Holding a handle proves nothing about who gave it: anybody can open
// any process. What is read from /proc goes by number; it is checked against the handle afterwards, and discarded when
// the process was reaped in between. /proc is expected to be that of our own pid namespace. A process outside of that
// can be taken over, signals and waits as the kernel allows, and has PID 0, no Identity and no Info.
//
// Linux 5.10 and newer; from 6.9 identities are exact, from 6.15 it is known how every process ended, once it is reaped.
package pidfd

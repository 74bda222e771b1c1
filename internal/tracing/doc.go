// Package tracing makes claims of the binds that package ebpf sees: it opens the sock-file of each while it is there, checks that it
// is the one that the kernel tells of, and claims it for the process that bound it. What becomes of it then is the watcher's.
//
// What was bound before, and what was lost since the kernel told faster than it was read, is found by what the processes hold.
//
// It starts two goroutines, which Close ends. It is not for deciding what is removed: that is the watcher's Policy.
package tracing

// Package daemon is the long-running service: other programs register processes and sock-files with it, and these are cleaned up whoever
// dies, the registering program and the daemon included.
//
// It has two sockets in its runtime directory: control, the varlink interface io.sockwatch.Daemon (package client), and notify, to which
// every process may report what it has bound. What it watches is kept in records there, so that a daemon that was killed at any moment
// takes up where it was.
//
// Trust. A client gets no more than it may do itself. What it registers must be a process of its own user; paths are resolved and files
// removed with its file access alone (internal/asuser); a sock-file must belong to it. Root may do everything. A daemon that
// is not root serves its own user and root.
//
// Hazards. New takes the lock of the runtime directory, and a second daemon on it gets a *records.LockedError that says who has it. Close
// keeps all records; files are removed only at the end of processes.
package daemon

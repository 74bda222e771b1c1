// Package client talks to the sockwatch daemon, over the varlink interface io.sockwatch.Daemon on its control socket: it
// registers processes and sock-files, and asks what the daemon knows and has done. Description is the interface.
//
// It is not for a program that can watch by itself: package watch needs no daemon, but forgets all when its process ends, and
// the daemon does not. Nor is it for a process that reports its own binds: that is package notify, which needs the
// standard library alone.
//
// # Hazards
//
// A Client has one connection, and calls wait for each other: while Monitor runs, another Client is needed. A call whose
// context ends before its reply is there ends the connection. Calls are as the process that has dialled, under the user and the
// group it had then: a Client is of no use to a child that inherits it. A Client has a descriptor until Close, and no
// goroutine.
//
// Paths go to the daemon as text. One that is not UTF-8 cannot be claimed by it, and is ErrInvalid.
package client

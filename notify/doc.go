// Package notify is for the program that binds: it tells whoever watches this process, by name, which sock-files it has
// made, so that they are removed when it dies. One line does it:
//
//	l, err := notify.Listen(ctx, "unix", path)
//
// or, where the listener comes from elsewhere, notify.Bound(path) right after it was made.
//
// The watcher is found by the environment variable SOCKWATCH_NOTIFY, the address of a datagram socket, as systemd's
// NOTIFY_SOCKET is. Where it is not set everything here does nothing and says nothing, so the calls can stay in a program
// for good.
//
// The protocol is one datagram of lines KEY=value: BIND= and UNBIND= with an absolute path, NAME=, PID=.
//
// What it is not for: removing files. The watcher asks the kernel before it removes anything, so a report that is wrong or late
// harms nobody. There is no answer either: that a report was sent does not say that it was believed.
//
// A call can wait for 100 ms, when the watcher's receive queue is full. Children inherit the variable, and may report for
// themselves.
//
// Only the standard library is used. The package starts no goroutine and keeps nothing open. Outside Linux it does nothing.
package notify

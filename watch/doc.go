// Package watch removes the sock-files of processes at the moment they die: one epoll loop, one goroutine, any number
// of owners.
//
// An [Owner] is a process, known by its pidfd. A [Claim] is the record that the owner bound a sock-file; it may be made
// before the file exists. When the kernel reports the owner's end, each of its claims is settled by package reap, and
// an [Event] tells every [Subscription] what became of it. That is the only way in which this package removes anything.
//
// Claims are made by the caller; of what appears in bindspaces ([OwnerOptions]); and of what processes report ([Watcher.Notify]). The
// latter two cover the whole tree of processes below an owner: each of them that binds something becomes an Owner itself.
//
// A sock-file whose socket is still open somewhere when its owner is dead is kept. It is probed again for 200 ms; then
// the processes that hold the socket are looked for and the claim is handed on to them, to be settled at their end.
//
// What it is not for: starting processes (package spawn), surviving a restart (the daemon), sock-files that nobody claimed
// (reap.Sweep).
//
// Hazards. New starts two goroutines, the loop's and one for what happens in directories; there is one more while holders are searched
// for, and two for Notify. Close ends them all and touches no file. The loop removes files one after the other, so a filesystem that blocks blocks them all. An Owner holds one descriptor until its end is settled, and one
// more for each directory in which it claims files, shared with everybody. A subscriber that does not read loses Events, which
// [Subscription.Dropped] counts; it never delays a removal.
//
// Linux 5.10 and newer. How a process that is not our child ended is known from 6.15 on.
package watch

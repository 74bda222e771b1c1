package main

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sigorigin"
	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/spawn"
)

// signals are those that run gets. Which of them CMD has to be sent depends on who sent them: what a terminal sends to
// all its foreground processes has reached CMD, which is in run's process group.
type signals struct{ *sigorigin.Catcher }

// catchSignals begins to catch every signal that can be passed on. What was ignored when sockwatch was started, by
// nohup(1) for one, stays ignored, and CMD inherits that.
func catchSignals() (signals, error) {
	wanted := []unix.Signal{unix.SIGCHLD}
	for sig := unix.Signal(1); sig <= 64; sig++ {
		if catchable(sig) && (sigorigin.Known || forwardsUntracked(sig)) {
			wanted = append(wanted, sig)
		}
	}
	catcher, err := sigorigin.Catch(wanted...)
	return signals{catcher}, err
}

// catchable tells whether a signal is one to pass on. Left out are those that cannot be caught, and those that tell of
// a child of this program, or of its own use of a terminal or a pipe. Those of a fault are passed on when somebody has
// sent them; of a fault of its own the Go runtime tells nobody, and crashes.
func catchable(sig unix.Signal) bool {
	switch sig {
	case unix.SIGKILL, unix.SIGSTOP, unix.SIGCHLD, unix.SIGPIPE, unix.SIGTTIN, unix.SIGTTOU:
		return false
	}
	return true
}

// each calls got for every signal, until Stop, and tells whether the child has got it, too. When a child has ended or
// stopped it calls reap instead, and follows the child if that has stopped.
func (s signals) each(child *spawn.Child, got func(sig unix.Signal, reached bool, child *spawn.Child), reap func()) {
	reap() // who ended before SIGCHLD was caught
	for {
		caught, ok := s.Next()
		if !ok {
			return
		}
		for _, c := range caught {
			if c.Signal == unix.SIGCHLD {
				reap()
				follow(child)
				continue
			}
			sent := toSend(c)
			if sent == 0 {
				got(c.Signal, true, child)
			}
			for range sent {
				got(c.Signal, false, child)
			}
		}
	}
}

// toSend tells how many of a signal the child has not got, but has to be sent.
func toSend(c sigorigin.Caught) int {
	switch {
	case !sigorigin.Known && forwardsUntracked(c.Signal):
		return 1
	case c.Signal == unix.SIGHUP && c.Kernel && leadsSession():
		// The terminal hangs up: the kernel tells the leader of its session, and the others only at the leader's end.
		return c.Sent + 1
	case c.Signal == unix.SIGALRM && c.Kernel: // alarm(2) of who became this program survives execve(2), and fork(2) does not pass it on
		return c.Sent + 1
	}
	return c.Sent
}

// forwardsUntracked is a guess, where it cannot be told who sent a signal: what a terminal can send came from it if we are
// in its foreground. SIGURG, which Go's scheduler sends, and SIGTSTP keep their own effect there.
func forwardsUntracked(sig unix.Signal) bool {
	switch sig {
	case unix.SIGHUP:
		return leadsSession() || !sys.InForeground()
	case unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH:
		return !sys.InForeground()
	case unix.SIGURG, unix.SIGTSTP:
		return false
	}
	return true
}

func leadsSession() bool {
	session, err := unix.Getsid(0)
	return err == nil && session == os.Getpid()
}

// follow stops this process if the child has stopped and a shell waits for both, so that the shell takes over; its "fg"
// continues both. The child decides: it may ignore Ctrl-Z, or stop by itself as editors do.
func follow(child *spawn.Child) {
	stat, err := proc.FS("").Stat(child.PID())
	if hasEnded(child) { // then the pid may be another process's
		return
	}
	if err == nil && stat.State == 'T' {
		stopAsJob()
	}
}

// stopAsJob stops this process if it is in the foreground and a shell waits for it.
func stopAsJob() {
	if sys.InForeground() && isJob() {
		_ = unix.Tgkill(os.Getpid(), unix.Gettid(), unix.SIGSTOP)
	}
}

func hasEnded(child *spawn.Child) bool {
	select {
	case <-child.Owner().Exited():
		return true
	default:
		return false
	}
}

// isJob tells whether our parent is a shell that does job control: in our session it has a process group of its own.
// Nobody else would continue us.
func isJob() bool {
	parent := os.Getppid()
	group, err := unix.Getpgid(parent)
	if err != nil || group == unix.Getpgrp() {
		return false
	}
	theirs, err := unix.Getsid(parent)
	if err != nil {
		return false
	}
	ours, err := unix.Getsid(0)
	return err == nil && ours == theirs
}

package main

import (
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sigorigin"
	"github.com/sockwatch/sockwatch/internal/sys"
)

// signals are those that run gets. Which of them CMD has to be sent depends on who sent them: what a terminal sends to
// all its foreground processes has reached CMD, which is in run's process group.
type signals struct {
	raw  chan os.Signal
	done chan struct{}
}

// catchSignals begins to catch every signal that can be passed on. What was ignored when sockwatch was started, by
// nohup(1) for one, stays ignored, and CMD inherits that.
func catchSignals() *signals {
	s := &signals{raw: make(chan os.Signal, 64), done: make(chan struct{})}
	for sig := unix.Signal(1); sig <= 64; sig++ {
		if !catchable(sig) || signal.Ignored(sig) {
			continue
		}
		signal.Notify(s.raw, sig)
		if err := sigorigin.Track(sig); err != nil && !forwardsUntracked(sig) {
			signal.Reset(sig)
		}
	}
	return s
}

// catchable tells whether a signal is one to pass on. Left out are those that cannot be caught, and those that tell of
// a fault in this program, of a child of its own, or of its own use of a terminal or a pipe.
func catchable(sig unix.Signal) bool {
	switch sig {
	case unix.SIGKILL, unix.SIGSTOP,
		unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGSYS,
		unix.SIGCHLD, unix.SIGPIPE, unix.SIGTTIN, unix.SIGTTOU:
		return false
	}
	return true
}

// each calls got for every signal, until stop, and tells whether CMD has got it, too.
func (s *signals) each(got func(sig unix.Signal, reachedCMD bool)) {
	for {
		select {
		case sig := <-s.raw:
			got(sig.(unix.Signal), !forwards(sig.(unix.Signal)))
		case <-s.done:
			return
		}
	}
}

// forwards tells whether CMD has to be sent the signal.
func forwards(sig unix.Signal) bool {
	if sigorigin.Track(sig) != nil {
		return forwardsUntracked(sig)
	}
	if sigorigin.TakeSent(sig) > 0 {
		return true
	}
	if sig == unix.SIGTSTP {
		// Ctrl-Z has stopped CMD. Stop as well, so that the shell takes over; its "fg" continues both.
		_ = unix.Kill(os.Getpid(), unix.SIGSTOP)
	}
	return false
}

// forwardsUntracked is a guess, where it cannot be told who sent a signal: what a terminal can send came from it if we are
// in its foreground. SIGURG, which Go's scheduler sends, and SIGTSTP keep their own effect there.
func forwardsUntracked(sig unix.Signal) bool {
	switch sig {
	case unix.SIGINT, unix.SIGQUIT, unix.SIGWINCH, unix.SIGHUP:
		return !sys.InForeground()
	case unix.SIGURG, unix.SIGTSTP:
		return false
	}
	return true
}

// stop ends each. Signals are caught still, and come to nothing.
func (s *signals) stop() { close(s.done) }

// release gives the signals back their default effect.
func (s *signals) release() { signal.Stop(s.raw) }

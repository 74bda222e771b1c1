package main

import (
	"math/rand/v2"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A lane is one path: one server lives there, dies, and is back within microseconds; one remover is after its
// sock-files. They are threads of one process and tell each other by plain memory where they are, since the windows
// in which a live socket can be lost are too short for anything slower.
type lane struct {
	path string

	// The number of the life that was last bound, claimed by the remover, and ended. Lives count from 1.
	bound, claimed, dead atomic.Uint64

	*tally // of the trial
}

// tally is what happened on all lanes of a trial.
type tally struct {
	over atomic.Bool // everybody is to end

	lives    atomic.Uint64
	losses   atomic.Uint64 // lives in which the server's sock-file was removed while the socket was open
	removals atomic.Uint64 // sock-files that a remover removed
	kept     atomic.Uint64 // what else it came to: the file was alive, replaced or gone
}

// await waits until the counter has reached n. It gives up after d, and when the trial is over.
func (l *lane) await(c *atomic.Uint64, n uint64, d time.Duration) bool {
	for w := newWait(); c.Load() < n; w.pause() {
		if l.over.Load() || w.elapsed() > d {
			return false
		}
	}
	return true
}

// wait is waiting by looking again and again: at once for a while, since the other side is to be caught within
// microseconds, and then with a pause in between, since it may be waiting for this processor.
type wait struct{ start time.Time }

// eager is how long a wait goes on without pauses.
const eager = 100 * time.Microsecond

func newWait() wait { return wait{time.Now()} }

func (w wait) elapsed() time.Duration { return time.Since(w.start) }

func (w wait) pause() {
	if w.elapsed() > eager {
		yield()
	}
}

// yield lets another thread have the processor. A signal may cut it short.
func yield() { _ = unix.Nanosleep(&unix.Timespec{Nsec: 1}, nil) }

// sharpen makes the pauses of this thread microseconds long: the kernel rounds them up by 50 of them, PR_SET_TIMERSLACK.
func sharpen() error {
	return os.NewSyscallError("prctl", unix.Prctl(unix.PR_SET_TIMERSLACK, 1, 0, 0, 0))
}

// spin lets up to d pass: the two sides are to meet at every possible moment of each other's work.
func spin(d time.Duration) {
	d = rand.N(d)
	for start := time.Now(); time.Since(start) < d; {
	}
}

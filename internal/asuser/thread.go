package asuser

import (
	"fmt"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// thread is an OS thread with the credentials of a user, for good.
//
// It is never unlocked from its goroutine, so no other goroutine ever runs on it: the scheduler hands its processor on when
// the goroutine blocks (stoplockedm in Go's runtime/proc.go), and when the goroutine ends, the thread does (gdestroy returns to mstart,
// which exits it). Nor is it the parent of a thread, which would inherit the credentials: from a locked thread newm has the
// new one made by the template thread, which LockOSThread started before there was anything to inherit. So said Go 1.26.
type thread struct {
	user User
	uses int // guarded by Runner.mu

	ready chan struct{} // closed when err is known
	err   error         // why the thread could not become the user; it has ended then

	turn sync.Mutex // one function at a time
	jobs chan func()
	done chan struct{}
}

func newThread(u User) *thread {
	t := &thread{user: u, ready: make(chan struct{}), jobs: make(chan func()), done: make(chan struct{})}
	go t.start()
	return t
}

// start takes a thread that can end. The first one of the process cannot, the runtime parks it for ever, and it is what /proc/PID
// tells about.
func (t *thread) start() {
	runtime.LockOSThread()
	if unix.Gettid() != unix.Getpid() {
		t.run()
		return
	}
	// Held here, that thread cannot be given to the next goroutine.
	go t.start()
	<-t.ready
	runtime.UnlockOSThread()
}

// run never unlocks the thread.
func (t *thread) run() {
	t.err = t.user.become()
	close(t.ready)
	if t.err != nil {
		return
	}
	for f := range t.jobs {
		f()
		t.done <- struct{}{}
	}
}

// do has the thread run f. With an error it was not run.
func (t *thread) do(f func()) error {
	if <-t.ready; t.err != nil {
		return t.err
	}
	t.turn.Lock()
	defer t.turn.Unlock()
	t.jobs <- f
	<-t.done
	return nil
}

// end ends a thread that nobody uses.
func (t *thread) end() { close(t.jobs) }

// become gives the calling thread the user's credentials. Groups first: once the capabilities are gone, nothing can be changed
// any more, back to root's least of all.
func (u User) become() error {
	if err := sys.SetThreadGroups(u.Groups); err != nil {
		return err
	}
	want := slices.Sorted(slices.Values(u.Groups))
	if got, err := sys.ThreadGroups(); err != nil {
		return err
	} else if !slices.Equal(got, want) {
		return fmt.Errorf("%w: the groups are %d after setgroups of %d", unix.EPERM, got, want)
	}
	if err := sys.SetThreadFSGID(u.GID); err != nil {
		return err
	}
	if err := sys.SetThreadFSUID(u.UID); err != nil {
		return err
	}
	return sys.DropThreadCapabilities()
}

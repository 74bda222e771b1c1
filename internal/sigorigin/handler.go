//go:build linux && (amd64 || arm64)

package sigorigin

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// Known tells whether it is known on this architecture who sent a signal.
const Known = true

// What the handler works on. sent and kernel are indexed by signal.
var (
	sent, kernel [65]uint32
	self         uint32      //nolint:unused // the assembly reads it
	next         uintptr     // the Go runtime's handler
	wake         uint32      //nolint:unused // an eventfd, which is never closed: the handler may be at work on another thread still
	one          = uint64(1) //nolint:unused // the assembly writes it there
)

// faults are those that the kernel sends for what the program itself has done: SIGILL, SIGTRAP, SIGBUS, SIGFPE, SIGSEGV and SIGSYS.
//
//nolint:unused // the assembly reads it
var faults uint64 = 1<<unix.SIGILL | 1<<unix.SIGTRAP | 1<<unix.SIGBUS | 1<<unix.SIGFPE | 1<<unix.SIGSEGV | 1<<unix.SIGSYS

// hookPC is the address of the handler, as the kernel calls it: set in the assembly.
var hookPC uintptr

// hook is the handler. It cannot be called from Go.
func hook() //nolint:unused // declared for vet, which checks the assembly against it

// waker is wake, as the Go runtime waits for it.
var waker *os.File

// Catcher catches signals. There may be one at a time.
type Catcher struct {
	old      map[unix.Signal]sys.Sigaction
	once     sync.Once
	released chan struct{}
}

// Catch catches these signals from now on. Left alone is what is ignored, as SIGHUP and SIGINT may have been when the program was
// started, and what the C library has a handler for. Neither os/signal nor the Go runtime sees what is caught, SIGURG apart.
//
// A signal that the program was started with blocked is caught all the same, and a child inherits that it is blocked.
//
// A child that is being started has SIGTSTP, SIGCONT and the first real-time signals caught by the handler until its execve(2): the runtime
// gives it those signals back that it handles itself. What comes in these microseconds is told as if it had come here.
func Catch(signals ...unix.Signal) (*Catcher, error) {
	if err := makeWaker(); err != nil {
		return nil, err
	}
	act, err := sys.SignalAction(unix.SIGURG) // the scheduler's, always
	if err != nil {
		return nil, fmt.Errorf("read how signal %d is handled: %w", unix.SIGURG, err)
	}
	if act.Handler != hookPC {
		next = act.Handler
	}
	act.Handler = hookPC
	c := &Catcher{old: map[unix.Signal]sys.Sigaction{}, released: make(chan struct{})}
	for _, sig := range signals {
		if err := c.catch(sig, act); err != nil {
			c.Release()
			return nil, err
		}
	}
	if err := c.unblock(); err != nil {
		c.Release()
		return nil, err
	}
	return c, nil
}

// unblock has a thread for the signals that the program was started with blocked: all of its threads have inherited that. It starts no process.
func (c *Catcher) unblock() error {
	var blocked unix.Sigset_t
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, nil, &blocked); err != nil {
		return os.NewSyscallError("rt_sigprocmask", err)
	}
	var wanted unix.Sigset_t
	for sig := range c.old {
		if bit := uint64(1) << (sig - 1); blocked.Val[0]&bit != 0 {
			wanted.Val[0] |= bit
		}
	}
	if wanted == (unix.Sigset_t{}) {
		return nil
	}
	unblocked := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this
		unblocked <- os.NewSyscallError("rt_sigprocmask", unix.PthreadSigmask(unix.SIG_UNBLOCK, &wanted, nil))
		<-c.released
	}()
	return <-unblocked
}

func makeWaker() error {
	self = uint32(os.Getpid())
	if waker == nil {
		fd, err := sys.Eventfd()
		if err != nil {
			return err
		}
		wake, waker = uint32(fd), os.NewFile(uintptr(fd), "eventfd")
	}
	err := waker.SetReadDeadline(time.Time{})
	if err != nil { // it cannot be waited for
		_ = waker.Close()
		waker = nil
	}
	return err
}

func (c *Catcher) catch(sig unix.Signal, act sys.Sigaction) error {
	old, err := sys.SignalAction(sig)
	if err != nil {
		return fmt.Errorf("catch signal %d: %w", sig, err)
	}
	const byDefault = 0 // SIG_DFL, as the runtime leaves SIGTSTP and SIGCONT
	if old.Handler != byDefault && old.Handler != next {
		return nil
	}
	atomic.StoreUint32(&sent[sig], 0)
	atomic.StoreUint32(&kernel[sig], 0)
	c.old[sig] = old
	if err := sys.SetSignalAction(sig, act); err != nil {
		return fmt.Errorf("catch signal %d: %w", sig, err)
	}
	return nil
}

// Next waits for signals, and gives what has come since the last time, by number. After Stop it gives false.
func (c *Catcher) Next() ([]Caught, bool) {
	for {
		if _, err := waker.Read(make([]byte, 8)); err != nil {
			return nil, false
		}
		var caught []Caught
		for sig := range c.old {
			n, k := atomic.SwapUint32(&sent[sig], 0), atomic.SwapUint32(&kernel[sig], 0)
			if n != 0 || k != 0 {
				caught = append(caught, Caught{Signal: sig, Sent: int(n), Kernel: k != 0})
			}
		}
		if caught != nil {
			slices.SortFunc(caught, func(a, b Caught) int { return int(a.Signal - b.Signal) })
			return caught, true
		}
	}
}

// Stop ends Next. Signals are caught still, and come to nothing.
func (c *Catcher) Stop() { _ = waker.SetReadDeadline(time.Unix(1, 0)) }

// Release gives the signals back to the Go runtime, and their effect with that. A second call does nothing.
func (c *Catcher) Release() {
	c.once.Do(func() {
		close(c.released)
		for sig, act := range c.old {
			_ = sys.SetSignalAction(sig, act)
		}
	})
}

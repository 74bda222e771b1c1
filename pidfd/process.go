package pidfd

import (
	"errors"
	"fmt"
	"math"
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// Process is a handle on one process: it never comes to mean another one, whatever becomes of the pid. It holds one
// descriptor until Close. All methods may be called from several goroutines at once, Close among them.
type Process struct {
	// pid is the number in our pid namespace as it was when the handle was made; -1 when the process was reaped by then,
	// 0 when it has none here.
	pid int

	// mu is held for reading while fd is in use: Close must not free the number under a system call, which would then
	// hit whatever gets the number next.
	mu sync.RWMutex
	fd int // -1 once closed

	startTime atomic.Uint64 // clock ticks since boot, 0 until known; see Identity

	waitersMu sync.Mutex
	waiters   *waiters // nil until somebody waits
}

// Open opens the process with that number in our pid namespace: pidfd_open(2), Linux 5.3. A zombie can be opened.
//
// ErrExited when there is no such process, ErrNotLeader when the number is that of another thread than the main one,
// ErrPermission or ErrUnsupported when the kernel or a sandbox refuses the call. No permission over the process is needed.
func Open(pid int) (*Process, error) {
	// Beyond 32 bits the kernel would look at the lower half and open another process.
	if pid <= 0 || pid > math.MaxInt32 {
		return nil, fmt.Errorf("open process %d: not a process id", pid)
	}
	fd, err := sys.PidfdOpen(pid)
	if err != nil {
		return nil, explainOpen(pid, err)
	}
	return &Process{pid: pid, fd: fd}, nil
}

// explainOpen sorts out the two errnos that Open has beyond the usual ones.
func explainOpen(pid int, err error) error {
	switch {
	case errors.Is(err, unix.ENOENT): // Linux 6.15: certainly a thread
		return fmt.Errorf("open process %d: %w (%w)", pid, ErrNotLeader, err)
	case errors.Is(err, unix.EINVAL):
		// Before 6.15 it is the same for a thread and for a number that lives on, after its process, as that of a
		// process group or session.
		if status, procErr := procfs.Status(pid); procErr == nil && status.TGID != pid {
			return fmt.Errorf("open process %d: %w (%w)", pid, ErrNotLeader, err)
		}
		return fmt.Errorf("open process %d: %w (%w)", pid, ErrExited, err)
	default:
		return explain("open", pid, err)
	}
}

// FromFD takes over a pidfd that came from elsewhere (SCM_PIDFD, SO_PEERPIDFD, fanotify, clone3) and makes it
// close-on-exec. On error the descriptor stays with the caller, as it was.
//
// ErrNotLeader for a descriptor made with PIDFD_THREAD (Linux 6.9): it tells the end of a thread, not of its process.
// Something else than a pidfd is an error that wraps EBADF. A process already reaped is none: it has PID -1.
func FromFD(fd int) (*Process, error) {
	pid, err := inspect(fd)
	if err != nil {
		return nil, fmt.Errorf("take over descriptor %d: %w", fd, err)
	}
	if err := sys.SetCloseOnExec(fd); err != nil {
		return nil, fmt.Errorf("take over descriptor %d: %w", fd, err)
	}
	return &Process{pid: pid, fd: fd}, nil
}

// inspect makes sure that fd is the pidfd of a process and returns its number.
func inspect(fd int) (int, error) {
	flags, err := sys.StatusFlags(fd)
	if err != nil {
		return 0, err
	}
	// waitid takes real pidfds only. pidfd_send_signal would do with a directory of procfs.
	switch _, _, err := sys.PidfdPeek(fd); {
	case errors.Is(err, unix.EBADF):
		return 0, fmt.Errorf("not a pidfd: %w", err)
	case err != nil && !errors.Is(err, unix.ECHILD):
		return 0, err
	case flags&unix.PIDFD_THREAD != 0:
		return 0, ErrNotLeader
	}
	return currentPID(fd)
}

// FromProcess duplicates the handle that package os has on a child, so that both can be used and closed on their own.
// os goes on to wait for the child and to reap it.
//
// ErrExited after p.Wait or p.Release, ErrUnsupported where os has no handle.
func FromProcess(p *os.Process) (*Process, error) {
	fd := -1
	var dupErr error
	err := p.WithHandle(func(handle uintptr) { fd, dupErr = sys.Duplicate(int(handle)) })
	switch {
	case errors.Is(err, os.ErrNoHandle):
		return nil, fmt.Errorf("open process %d: %w (%w)", p.Pid, ErrUnsupported, err)
	case errors.Is(err, os.ErrProcessDone):
		return nil, fmt.Errorf("open process %d: %w (%w)", p.Pid, ErrExited, err)
	case err != nil || dupErr != nil:
		return nil, explain("open", p.Pid, errors.Join(err, dupErr))
	}
	return &Process{pid: p.Pid, fd: fd}, nil
}

// Fd returns the pidfd, for poll and its like. It stays the Process's own, is valid until Close, and the highest uintptr
// afterwards. Leave O_NONBLOCK off: the open file description may be shared with package os, whose Wait would fail.
func (p *Process) Fd() uintptr {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return uintptr(p.fd)
}

// Signal sends a signal: pidfd_send_signal(2), Linux 5.1. Signal 0 only asks whether one could be sent. A zombie takes
// every signal, without effect.
//
// ErrExited once the process was reaped, ErrPermission, and os.ErrClosed.
func (p *Process) Signal(sig unix.Signal) error {
	err := p.use(func(fd int) error { return sys.PidfdSignal(fd, sig) })
	if err != nil {
		return explain(fmt.Sprintf("send %s to", signalName(sig)), p.pid, err)
	}
	return nil
}

// Exited tells whether the process has come to its end, all threads of it; it may still be a zombie. The only error to
// expect is os.ErrClosed.
func (p *Process) Exited() (bool, error) {
	var exited bool
	err := p.use(func(fd int) (err error) {
		exited, err = sys.Readable(fd)
		return err
	})
	if err != nil {
		return false, explain("poll", p.pid, err)
	}
	return exited, nil
}

// Close gives the descriptor back and ends every Wait. It does nothing to the process. Closing again is no error.
func (p *Process) Close() error {
	// First, because who waits holds mu.
	p.endWaits()
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd < 0 {
		return nil
	}
	err := sys.Close(p.fd)
	p.fd = -1
	return err
}

// use calls f with the descriptor, which stays open meanwhile.
func (p *Process) use(f func(fd int) error) error {
	p.mu.RLock()
	defer p.mu.RUnlock()
	if p.fd < 0 {
		return os.ErrClosed
	}
	return f(p.fd)
}

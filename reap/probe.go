package reap

import (
	"errors"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// Probe asks the kernel whether any socket is bound to the File's inode, in whatever namespace and under whatever
// name. No server notices: nothing is queued, nothing is accepted, a datagram socket's atime may change. It never blocks.
//
// StateDead is for good: bind(2) makes a new inode each time, and one that was never seen alive, which may be in the
// middle of its bind(2), is probed again after that has come to its end (see Remove).
//
// StateUnknown comes with a Reason where there is one in the list: permission (write permission on the file is
// needed), no-procfs, or that a dead answer cannot be believed: because of the place, or of a hard link through which a
// bind(2) may be under way. It is also the answer when the name is gone or another inode has it.
func (f *File) Probe() (State, Reason) {
	state, reason, _ := f.probe()
	return state, reason
}

func (f *File) probe() (State, Reason, error) {
	p, err := f.pinned()
	if err != nil {
		return StateUnknown, refusal("pin", err).Reason, err
	}
	defer p.unpin()
	pr, err := newProber()
	if err != nil {
		return StateUnknown, ReasonNone, err
	}
	defer pr.close()
	r, dead := p.condemn(pr, f.alive.Load())
	switch {
	case dead:
		return StateDead, ReasonNone, nil
	case r.Outcome == OutcomeAlive:
		f.alive.Store(true)
		return StateAlive, ReasonNone, nil
	}
	return StateUnknown, r.Reason, r.Err
}

// errReplaced: another inode has the name.
var errReplaced = errors.New("another inode has this name")

// pinned pins the File's own inode by its own name.
func (f *File) pinned() (pin, error) {
	p, err := pinName(f.dir, f.name())
	if err != nil {
		return pin{}, err
	}
	same, err := f.is(p)
	if err == nil && !same {
		err = errReplaced
	}
	if err != nil {
		p.unpin()
		return pin{}, err
	}
	return p, nil
}

// is tells whether p is of the File's inode.
func (f *File) is(p pin) (bool, error) {
	if p.stat.Dev != f.id.dev || p.stat.Ino != f.id.ino || !p.stat.IsSocket() {
		return false, nil
	}
	if !f.id.Stable() {
		return f.pin >= 0, nil // our own pin keeps the number from being given out again
	}
	handle, err := handleOf(p.fd)
	return err == nil && handle == f.id.handle, err
}

// prober asks about one inode after the other. Not for concurrent use.
type prober struct{ sock int }

// spare is a probe's socket that waits for its next use, -1 without. It is kept as long as a directory is open, so that nothing
// is left open when all Files are closed. Guarded by dirs.
var spare = -1

func newProber() (prober, error) {
	dirs.Lock()
	sock := spare
	spare = -1
	dirs.Unlock()
	if sock >= 0 {
		return prober{sock}, nil
	}

	sock, err := sys.ProbeSocket()
	return prober{sock}, err
}

func (pr prober) close() {
	dirs.Lock()
	defer dirs.Unlock()
	if spare < 0 && len(dirs.open) > 0 {
		spare = pr.sock
		return
	}
	_ = sys.Close(pr.sock)
}

// closeSpare is called when no directory is open any more. The caller holds dirs.
func closeSpare() {
	if spare >= 0 {
		_ = sys.Close(spare)
		spare = -1
	}
}

var (
	errNoProcfs = errors.New("/proc is not mounted or is not procfs")

	// procfs is set once /proc was seen to be procfs: a directory of links by another filesystem would lie.
	procfs atomic.Bool
)

// probe connects a datagram socket to the pinned inode. The errno is the answer:
//
//   - EPROTOTYPE: a stream or seqpacket socket is bound to it, listening or not;
//   - success, EPERM: a datagram socket is, the latter one that is connected elsewhere, unless the file is immutable;
//   - ECONNREFUSED: no socket is. The kernel says so of a regular file too, so the type comes first;
//   - anything else: unknown. ENOENT here means that /proc is missing.
func (pr prober) probe(p pin) (State, error) {
	if !p.stat.IsSocket() {
		return StateUnknown, ErrNotSocket
	}
	if !procfs.Load() {
		ok, err := sys.OnProcfs()
		if err != nil {
			return StateUnknown, err
		}
		if !ok {
			return StateUnknown, errNoProcfs
		}
		procfs.Store(true)
	}
	err := sys.ConnectFD(pr.sock, p.fd)
	switch {
	case err == nil:
		// Or the probe's socket would keep a reference to the server's. Should it fail, Close does the same.
		_ = sys.Disconnect(pr.sock)
		return StateAlive, nil
	case errors.Is(err, unix.EPROTOTYPE):
		return StateAlive, nil
	case errors.Is(err, unix.EPERM):
		if file, err := sys.FileAttributes(p.fd); err != nil || file.Fixed {
			// Nobody may write to an immutable file, so the kernel says EPERM before it looks for a socket.
			return StateUnknown, unix.EPERM
		}
		return StateAlive, nil
	case errors.Is(err, unix.ECONNREFUSED):
		return StateDead, nil
	case errors.Is(err, unix.ENOENT):
		return StateUnknown, errNoProcfs
	default:
		return StateUnknown, err
	}
}

// probeReason gives the Reason for an error of probe.
func probeReason(err error) Reason {
	switch {
	case errors.Is(err, errNoProcfs):
		return ReasonNoProcfs
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return ReasonPermission
	default:
		return ReasonNone
	}
}

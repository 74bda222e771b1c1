package pidfd

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// Identity says which process it is, for as long as this boot lasts, also after a restart of the program that keeps it.
//
// It is comparable: what [Process.Identity] returns for one process is the same every time. From Linux 6.9 it goes by
// Inode, and StartTime is 0; before, by PID and StartTime, which takes a process that got the number within the same
// clock tick for the same one. A parsed Identity has no BootID and so does not equal one that has: to see whether it
// means a process that is there, Open it.
type Identity struct {
	PID       int    // in our pid namespace
	Inode     uint64 // of pidfs, never used twice in one boot: Linux 6.9, else 0
	StartTime uint64 // clock ticks since boot, proc_pid_stat(5); 0 where there is an Inode
	BootID    string // random/boot_id of proc_sys_kernel(5)
}

// Identity returns the identity of the process. Before Linux 6.9 it must be asked for while the process is not reaped,
// and stays known from then on.
//
// ErrExited when the process was reaped before its number or its start time could be learnt.
func (p *Process) Identity() (Identity, error) {
	id := Identity{PID: p.pid}
	err := p.use(func(fd int) (err error) {
		switch {
		case p.pid < 0:
			return ErrExited
		case p.pid == 0:
			return errOutside
		}
		if id.BootID, err = procfs.BootID(); err != nil {
			return err
		}
		if id.Inode, err = inode(fd); err != nil || id.Inode != 0 {
			return err
		}
		id.StartTime, err = p.started(fd)
		return err
	})
	if err != nil {
		return Identity{}, explain("identify", p.pid, err)
	}
	return id, nil
}

// inode returns the inode number of a pidfd on pidfs, and 0 before Linux 6.9, where all pidfds are one anonymous inode.
func inode(fd int) (uint64, error) {
	fsType, err := sys.FilesystemType(fd)
	if err != nil || fsType != unix.PID_FS_MAGIC {
		return 0, err
	}
	st, err := sys.Fstat(fd)
	return st.Ino, err
}

// started returns the start time of the process behind fd, which it keeps.
func (p *Process) started(fd int) (uint64, error) {
	if t := p.startTime.Load(); t != 0 {
		return t, nil
	}
	stat, err := procfs.Stat(p.pid)
	if err := p.checkRead(fd, err); err != nil {
		return 0, err
	}
	p.startTime.Store(stat.StartTime)
	return stat.StartTime, nil
}

// Open opens the process again, also in another run of the program. What is not set in i is not compared: an Identity
// that is a PID alone is no more than [Open] of it.
//
// ErrExited when that process is gone: its pid is free or another's, or this is another boot. ErrUnsupported when there
// is an Inode to compare and this kernel has none. Else the errors of [Open].
func (i Identity) Open() (*Process, error) {
	if i.BootID != "" {
		boot, err := procfs.BootID()
		if err != nil {
			return nil, fmt.Errorf("open process %s: %w", i, err)
		}
		if boot != i.BootID {
			return nil, fmt.Errorf("open process %s: %w before this boot", i, ErrExited)
		}
	}
	p, err := Open(i.PID)
	if errors.Is(err, ErrNotLeader) && (i.Inode != 0 || i.StartTime != 0) {
		// A thread of some process has the number now, so the process that had it has not.
		return nil, fmt.Errorf("open process %s: %w: its pid is that of a thread now", i, ErrExited)
	}
	if err != nil {
		return nil, err
	}
	if err := i.compare(p); err != nil {
		return nil, errors.Join(fmt.Errorf("open process %s: %w", i, err), p.Close())
	}
	return p, nil
}

// compare fails unless p is the process that i is the identity of.
func (i Identity) compare(p *Process) error {
	return p.use(func(fd int) error {
		if i.Inode != 0 {
			switch ino, err := inode(fd); {
			case err != nil:
				return err
			case ino == 0:
				return fmt.Errorf("%w: no inode to compare, Linux 6.9 has", ErrUnsupported)
			case ino != i.Inode:
				return fmt.Errorf("%w: its pid is another's now, with inode %d", ErrExited, ino)
			}
		}
		if i.StartTime != 0 {
			switch start, err := p.started(fd); {
			case err != nil:
				return err
			case start != i.StartTime:
				return fmt.Errorf("%w: its pid is another's now, started at tick %d", ErrExited, start)
			}
		}
		return nil
	})
}

// String returns "PID:INODE", or "PID:tSTARTTIME" where there is no inode, or "PID" when that is all that is known. The
// form PID:INODE is that of getino(1) and kill(1) of util-linux.
func (i Identity) String() string {
	switch {
	case i.Inode != 0:
		return fmt.Sprintf("%d:%d", i.PID, i.Inode)
	case i.StartTime != 0:
		return fmt.Sprintf("%d:t%d", i.PID, i.StartTime)
	default:
		return strconv.Itoa(i.PID)
	}
}

// ParseIdentity reads what String writes. The result has no BootID.
func ParseIdentity(s string) (Identity, error) {
	pid, rest, more := strings.Cut(s, ":")
	n, err := strconv.ParseUint(pid, 10, 31)
	ok := err == nil && n > 0
	i := Identity{PID: int(n)}
	if more {
		// 0 would compare nothing where the caller has something to compare.
		known := &i.Inode
		if ticks, isTime := strings.CutPrefix(rest, "t"); isTime {
			known, rest = &i.StartTime, ticks
		}
		*known, err = strconv.ParseUint(rest, 10, 64)
		ok = ok && err == nil && *known > 0
	}
	if !ok {
		return Identity{}, fmt.Errorf("process %q: not of the form PID, PID:INODE or PID:tSTARTTIME", s)
	}
	return i, nil
}

package reap

import (
	"context"
	"fmt"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/pidfd"
)

// Holder is a process that has a socket open. It is a snapshot, and the PID a number: open it and ask Holds.
type Holder struct {
	PID  int
	Comm string // up to 15 bytes of any value
	UID  uint32 // the effective one
}

// Holders finds the processes that have the socket open that is bound to this file. See HoldersOf.
func (f *File) Holders(ctx context.Context) ([]Holder, error) {
	all, err := HoldersOf(ctx, []*File{f})
	if err != nil {
		return nil, err
	}
	return all[0], nil
}

// HoldersOf finds, for each of the files, the processes that have the socket open that is bound to it, in ascending order of
// their pids. It reads /proc once, however many files there are.
//
// No holder does not mean that nobody holds the socket: it can be on its way in a message or kept by io_uring, and the
// descriptors of a process can be read only with PTRACE_MODE_READ over it, see ptrace(2). Processes that may not be read are
// passed over. Where a socket belongs to another network namespace, its holders are found with PTRACE_MODE_ATTACH
// and CAP_NET_ADMIN over them, among the processes that are not in our own one.
//
// An accepted socket has the sock-file of its listener and does not keep it alive, so who has only accepted ones is
// no holder, as long as the kernel's table shows which socket is the bound one.
//
// What it returns is a snapshot: a holder may have passed the socket on while others were read, and pids are numbers. Who wants
// to wait for holders opens them, asks Holds, and asks HoldersOf again until nobody new is there. The error is that of
// ctx, or says that the kernel's socket table or /proc could not be read.
func HoldersOf(ctx context.Context, files []*File) ([][]Holder, error) {
	found := make([][]Holder, len(files))
	if len(files) == 0 {
		return found, ctx.Err()
	}
	s, err := newHolderSearch(files)
	if err != nil {
		return nil, fmt.Errorf("find holders: %w", err)
	}
	for pid, err := range proc.FS("").PIDs() {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return nil, fmt.Errorf("find holders: %w", err)
		}
		_ = s.look(pid) // may not be read, or has gone
	}
	asked := map[int]*Holder{}
	for i := range files {
		for _, pid := range s.holders(i) {
			h, ok := asked[pid]
			if !ok {
				h = newHolder(pid)
				asked[pid] = h
			}
			if h != nil {
				found[i] = append(found[i], *h)
			}
		}
	}
	return found, nil
}

// Holds tells whether the process has the socket open that is bound to the file, by the rules of HoldersOf.
//
// pidfd.ErrExited; fs.ErrPermission when its descriptors may not be read.
func Holds(p *pidfd.Process, f *File) (bool, error) {
	pid, err := runningPID(p)
	if err != nil {
		return false, err
	}
	s, err := newHolderSearch([]*File{f})
	if err != nil {
		return false, fmt.Errorf("sockets of process %d: %w", pid, err)
	}
	err = s.look(pid)
	if err := checkRead(p, pid, err); err != nil {
		return false, err
	}
	return len(s.holders(0)) > 0, nil
}

// newHolder is nil when the process is gone by now.
func newHolder(pid int) *Holder {
	comm, err := proc.FS("").Comm(pid)
	if err != nil {
		return nil
	}
	status, err := proc.FS("").Status(pid)
	if err != nil {
		return nil
	}
	return &Holder{PID: pid, Comm: comm, UID: status.UIDs.Effective}
}

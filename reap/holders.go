package reap

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sockdiag"
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

// holderSearch looks at one process after the other for the sockets of some files.
type holderSearch struct {
	files []searched

	// By socket inode, the indices of the files it has. Several of one inode are the names of a hard link.
	bound, connected map[uint32][]int

	// Files of which the table shows no bound socket: by identity, for the processes of other network namespaces.
	elsewhere map[ID][]int
	namespace string // our network namespace; "" when everybody is to be looked at
}

// searched is what was found of one file.
type searched struct {
	inTable   bool // the table shows the bound socket
	bound     []int
	connected []int // pids that have sockets which are accepted, or bound ones that called connect(2)
}

func newHolderSearch(files []*File) (*holderSearch, error) {
	s := &holderSearch{
		files: make([]searched, len(files)),
		bound: map[uint32][]int{}, connected: map[uint32][]int{}, elsewhere: map[ID][]int{},
	}
	wanted := entriesOf(files)
	// A dump can miss sockets without saying so, hardly the same ones twice.
	for range 2 {
		err := s.readTable(wanted)
		if errors.Is(err, errors.ErrUnsupported) {
			break
		}
		if err != nil {
			return nil, err
		}
		if s.namespace, err = os.Readlink("/proc/thread-self/ns/net"); err != nil {
			return nil, err
		}
		if !slices.ContainsFunc(s.files, func(f searched) bool { return !f.inTable }) {
			return s, nil
		}
	}
	for i, f := range files {
		if !s.files[i].inTable {
			s.elsewhere[f.id] = append(s.elsewhere[f.id], i)
		}
	}
	return s, nil
}

// readTable finds the sockets that have the wanted files.
func (s *holderSearch) readTable(wanted entries) error {
	conn, err := sockdiag.Dial()
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }()
	for socket, err := range conn.Dump() {
		if errors.Is(err, sockdiag.ErrInterrupted) {
			break
		}
		if err != nil {
			return err
		}
		if socket.Inode == 0 {
			continue // waits to be accepted
		}
		wanted.find(socket, func(i int) {
			if isBound(socket) {
				s.files[i].inTable = true
				s.bound[socket.Inode] = append(s.bound[socket.Inode], i)
			} else {
				s.connected[socket.Inode] = append(s.connected[socket.Inode], i)
			}
		})
	}
	return nil
}

// look finds out which of the sockets the process has open.
func (s *holderSearch) look(pid int) error {
	if len(s.bound)+len(s.connected) > 0 {
		for d, err := range descriptors(pid) {
			if err != nil {
				return err
			}
			for _, i := range s.bound[d.inode] {
				s.files[i].bound = append(s.files[i].bound, pid)
			}
			for _, i := range s.connected[d.inode] {
				s.files[i].connected = append(s.files[i].connected, pid)
			}
		}
	}
	if len(s.elsewhere) > 0 {
		return s.lookElsewhere(pid)
	}
	return nil
}

// lookElsewhere asks each AF_UNIX socket of a process in another network namespace for its sock-file: our table does not
// list it.
func (s *holderSearch) lookElsewhere(pid int) error {
	namespace, err := os.Readlink(procPath(pid, "ns/net"))
	if err != nil || namespace == s.namespace {
		return err
	}
	sockets, err := unixSockets(pid)
	if err != nil || len(sockets) == 0 {
		return err
	}
	p, err := pidfd.Open(pid)
	if err != nil {
		return err
	}
	defer p.Close()
	for _, d := range sockets {
		b, err := borrow(p, d.fd)
		if err != nil {
			continue
		}
		for _, i := range s.elsewhere[b.id] {
			if b.connected {
				s.files[i].connected = append(s.files[i].connected, pid)
			} else {
				s.files[i].bound = append(s.files[i].bound, pid)
			}
		}
		b.unpin()
	}
	return nil
}

// holders gives the pids of a file's holders, each one once.
func (s *holderSearch) holders(i int) []int {
	f := s.files[i]
	pids := f.bound
	if !f.inTable && len(pids) == 0 {
		pids = f.connected
	}
	slices.Sort(pids)
	return slices.Compact(pids)
}

package reap

import (
	"errors"
	"os"
	"slices"

	"github.com/sockwatch/sockwatch/internal/sockdiag"
	"github.com/sockwatch/sockwatch/pidfd"
)

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

// tableReadings is how often the kernel's socket table is read for a socket that it does not show: see sockdiag.Conn.Dump.
const tableReadings = 3

func newHolderSearch(files []*File) (*holderSearch, error) {
	s := &holderSearch{
		files: make([]searched, len(files)),
		bound: map[uint32][]int{}, connected: map[uint32][]int{}, elsewhere: map[ID][]int{},
	}
	wanted := entriesOf(files)
	// A dump can miss sockets without saying so, hardly the same ones again and again.
	for range tableReadings {
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

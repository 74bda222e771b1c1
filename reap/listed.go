package reap

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/sockwatch/sockwatch/internal/sockdiag"
)

// dumpFrom is the number of sockets from which on one dump of the kernel's table is less work than looking up each: that
// goes through half of the table.
const dumpFrom = 8

// askTable looks up, in the kernel's table of our network namespace, sockets that may not be asked themselves, for the given reason.
func (s *snapshot) askTable(sockets []descriptor, refusal error) {
	conn, err := s.table()
	var listed map[uint32]sockdiag.Socket
	if err == nil {
		listed, err = lookUp(conn, sockets)
	}
	if err != nil {
		s.errs = append(s.errs, fmt.Errorf("sockets of process %d: %w", s.pid, err))
		return
	}
	// By the file. Of several sockets with one, the bound one tells most.
	type file struct{ ino, dev uint32 }
	files := map[file]sockdiag.Socket{}
	var unlisted []descriptor
	for _, d := range sockets {
		socket, ok := listed[d.inode]
		key := file{socket.VFSInode, socket.VFSDev}
		switch known, again := files[key]; {
		case !ok:
			unlisted = append(unlisted, d)
		case socket.VFSInode != 0 && (!again || !isBound(known)):
			files[key] = socket
		}
	}
	for _, socket := range files {
		find := func() (*File, error) { return s.findListed(socket) }
		if isBound(socket) {
			s.add(find())
		} else {
			s.connected = append(s.connected, connected{entry: entry{socket.VFSInode, device{dev: socket.Dev()}}, find: find})
		}
	}
	if len(unlisted) > 0 {
		s.nameUnlisted(unlisted, refusal)
	}
}

// lookUp gives the sockets that are listed, by inode.
func lookUp(conn *sockdiag.Conn, sockets []descriptor) (map[uint32]sockdiag.Socket, error) {
	listed := make(map[uint32]sockdiag.Socket, len(sockets))
	if len(sockets) >= dumpFrom {
		wanted := make(map[uint32]bool, len(sockets))
		for _, d := range sockets {
			wanted[d.inode] = true
		}
		for socket, err := range conn.Dump() {
			if errors.Is(err, sockdiag.ErrInterrupted) {
				break
			}
			if err != nil {
				return nil, err
			}
			if wanted[socket.Inode] {
				listed[socket.Inode] = socket
			}
		}
	}
	// A dump can miss some.
	for _, d := range sockets {
		if _, ok := listed[d.inode]; ok {
			continue
		}
		socket, err := conn.Get(d.inode)
		switch {
		case err == nil:
			listed[d.inode] = socket
		case !errors.Is(err, sockdiag.ErrNotFound):
			return nil, err
		}
	}
	return listed, nil
}

func (s *snapshot) findListed(socket sockdiag.Socket) (*File, error) {
	f, err := s.names.ofSocket(socket)
	if err != nil {
		if _, err := s.conn.Get(socket.Inode); errors.Is(err, sockdiag.ErrNotFound) {
			return nil, nil //nolint:nilnil // closed meanwhile: no file, and nothing went wrong
		}
	}
	return f, err
}

// nameUnlisted makes an error of each socket that the kernel's table does not list, because it belongs to another network
// namespace. The names of those bound there can be read, which does not do to find the file: it may be another socket's
// by now.
func (s *snapshot) nameUnlisted(unlisted []descriptor, refusal error) {
	bound, err := boundNames(s.names.pid)
	for _, d := range unlisted {
		name, known := bound[d.inode]
		switch {
		case !d.isOpen(): // closed meanwhile
		case !known && err == nil: // not bound
		case !known:
			s.errs = append(s.errs, fmt.Errorf("socket %d of process %d: its network namespace cannot be read: %w", d.inode, s.pid, err))
		case !strings.HasPrefix(name, "@"): // abstract
			s.errs = append(s.errs, fmt.Errorf("%w: a socket that process %d bound to %q is of another network namespace: %w",
				fs.ErrPermission, s.pid, name, refusal))
		}
	}
}

// boundNames gives the names of the sockets in the network namespace of a thread, by inode: proc_pid_net(5).
func boundNames(tid int) (map[uint32]string, error) {
	file, err := os.Open(procPath(tid, "net/unix"))
	if err != nil {
		return nil, err
	}
	defer file.Close()
	bound := map[uint32]string{}
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		// Num RefCount Protocol Flags Type St Inode Path. The kernel escapes nothing: a name may hold spaces and newlines.
		fields := strings.SplitN(strings.TrimLeft(lines.Text(), " "), " ", 7)
		if len(fields) < 7 {
			continue
		}
		ino, name, ok := strings.Cut(strings.TrimLeft(fields[6], " "), " ")
		if n, err := strconv.ParseUint(ino, 10, 32); ok && err == nil {
			bound[uint32(n)] = name
		}
	}
	return bound, lines.Err()
}

package reap

import (
	"errors"
	"io/fs"
	"iter"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sys"
)

// descriptor is one by which a process has a socket open.
type descriptor struct {
	table int    // a thread that has this table of descriptors: the main one, unless that has ended
	fd    int    // the number in the table
	inode uint32 // of the socket
}

// procPath is the path of a file that /proc has for a process.
func procPath(pid int, name string) string { return "/proc/" + strconv.Itoa(pid) + "/" + name }

// path is that of the link in /proc.
func (d descriptor) path() string { return procPath(d.table, "fd/"+strconv.Itoa(d.fd)) }

// isOpen tells whether the descriptor is still that of the socket.
func (d descriptor) isOpen() bool {
	link, err := sys.Readlinkat(unix.AT_FDCWD, d.path())
	return err == nil && link == "socket:["+strconv.FormatUint(uint64(d.inode), 10)+"]"
}

// isUnix tells whether the socket is of AF_UNIX. It asks for the name of the protocol, which needs no copy of the
// descriptor: nothing is ever done to other sockets.
func (d descriptor) isUnix() bool {
	protocol, err := sys.SocketProtocol(d.path())
	return err == nil && strings.HasPrefix(protocol, "UNIX")
}

// descriptors yields those of a process that are sockets, of any family. An error ends it: see proc.FS.Sockets.
func descriptors(pid int) iter.Seq2[descriptor, error] {
	return func(yield func(descriptor, error) bool) {
		none := true
		for s, err := range proc.FS("").Sockets(pid) {
			if errors.Is(err, fs.ErrPermission) && isZombie(pid) {
				break
			}
			none = false
			if !yield(descriptor{pid, s.FD, s.Inode}, err) {
				return
			}
		}
		// The main thread can end before the others do. Then it is a zombie without descriptors, and they have them.
		if none && isZombie(pid) {
			threadDescriptors(pid, yield)
		}
	}
}

func isZombie(pid int) bool {
	stat, err := proc.FS("").Stat(pid)
	return err == nil && stat.State == 'Z'
}

// threadDescriptors goes by the first thread that has any: they share one table.
func threadDescriptors(pid int, yield func(descriptor, error) bool) {
	threads := proc.FS(procPath(pid, "task"))
	for tid, err := range threads.PIDs() {
		if err != nil {
			return // the process has ended, too
		}
		none := true
		for s, err := range threads.Sockets(tid) {
			if tid == pid || errors.Is(err, fs.ErrNotExist) {
				break
			}
			none = false
			if !yield(descriptor{tid, s.FD, s.Inode}, err) {
				return
			}
		}
		if !none {
			return
		}
	}
}

// unixSockets lists the AF_UNIX sockets that a process has open, each one once.
func unixSockets(pid int) ([]descriptor, error) {
	var sockets []descriptor
	seen := map[uint32]bool{}
	for d, err := range descriptors(pid) {
		if err != nil {
			return nil, err
		}
		if !seen[d.inode] && d.isUnix() {
			seen[d.inode] = true
			sockets = append(sockets, d)
		}
	}
	return sockets, nil
}

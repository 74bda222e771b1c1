package proc

import (
	"errors"
	"io/fs"
	"iter"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// Socket is one descriptor of a process that is a socket, of whatever family.
type Socket struct {
	FD    int
	Inode uint32 // as in sockdiag.Socket
}

// Sockets yields the descriptors of a process that are sockets, by the links in /proc/PID/fd (proc_pid_fd(5)); a socket
// that is open twice is yielded twice. Descriptors that are opened or closed meanwhile may be missing. An error ends it.
//
// A process that dies meanwhile mostly ends it early and without an error, since a zombie has no descriptors; only when
// it was reaped too is there fs.ErrNotExist.
//
// It needs PTRACE_MODE_READ of ptrace(2). Without privilege another user's process gives fs.ErrPermission, and so do a
// zombie and a process that is not dumpable.
func (p FS) Sockets(pid int) iter.Seq2[Socket, error] {
	return func(yield func(Socket, error) bool) {
		path := p.pidPath(pid, "fd")
		dir, err := os.Open(path)
		if err != nil {
			yield(Socket{}, checkGone(err))
			return
		}
		defer dir.Close()
		dirfd := int(dir.Fd())
		var failed error
		err = sys.ReadDir(dirfd, func(e sys.Dirent) bool {
			link, err := sys.Readlinkat(dirfd, string(e.Name))
			switch {
			case errors.Is(err, unix.ENOENT):
				return true // closed meanwhile; of a reaped process the next getdents(2) says so
			case err != nil:
				failed = &fs.PathError{Op: "readlink", Path: path + "/" + string(e.Name), Err: err}
				return false
			}
			inode, ok := parseSocketLink(link)
			if !ok {
				return true
			}
			fd, err := strconv.Atoi(string(e.Name))
			return err != nil || yield(Socket{FD: fd, Inode: inode}, nil)
		})
		if err != nil {
			failed = &fs.PathError{Op: "readdir", Path: path, Err: err}
		}
		if failed != nil {
			yield(Socket{}, checkGone(failed))
		}
	}
}

// parseSocketLink reads "socket:[N]". No other link looks like that: that of a file begins with a slash.
func parseSocketLink(link string) (inode uint32, ok bool) {
	n, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return 0, false
	}
	n, ok = strings.CutSuffix(n, "]")
	if !ok {
		return 0, false
	}
	i, err := strconv.ParseUint(n, 10, 32)
	if err != nil {
		return 0, false
	}
	return uint32(i), true
}

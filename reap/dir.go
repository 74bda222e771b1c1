package reap

import (
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// dir is a directory in which sock-files are: one descriptor, shared by all that work in it.
type dir struct {
	id   sys.DirID
	fd   int // O_PATH
	refs int // guarded by dirs

	seen atomic.Pointer[view] // what the probe can see here; nil until asked
}

// dirs holds the open directories of this process. An open descriptor keeps the inode, so its number cannot come to
// mean another directory while it is a key here. The mount is a part of the key: it can be read-only while another
// mount of the same directory is not.
var dirs = struct {
	sync.Mutex
	open map[sys.DirID]*dir
}{open: map[sys.DirID]*dir{}}

// openDir opens the directory with the given path, following symlinks.
func openDir(path string) (*dir, error) {
	fd, err := sys.OpenDir(unix.AT_FDCWD, path)
	if err != nil {
		return nil, err
	}
	return shareDir(fd)
}

// shareDir gives the dir of a descriptor, which it takes over.
func shareDir(fd int) (*dir, error) {
	id, err := sys.StatDir(fd)
	if err != nil {
		_ = sys.Close(fd)
		return nil, err
	}
	dirs.Lock()
	defer dirs.Unlock()
	if d := dirs.open[id]; d != nil {
		d.refs++
		_ = sys.Close(fd)
		return d, nil
	}
	d := &dir{id: id, fd: fd, refs: 1}
	dirs.open[id] = d
	return d, nil
}

// release gives up one use of the directory; the last one closes it.
func (d *dir) release() {
	dirs.Lock()
	defer dirs.Unlock()
	if d.refs--; d.refs == 0 {
		delete(dirs.open, d.id)
		_ = sys.Close(d.fd)
	}
	if len(dirs.open) == 0 {
		closeSpare()
	}
}

// share counts one use more of an open directory.
func (d *dir) share() *dir {
	dirs.Lock()
	defer dirs.Unlock()
	d.refs++
	return d
}

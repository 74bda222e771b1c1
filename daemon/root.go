package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// root is a root directory, below which sock-files are opened. An open takes as long as the filesystem likes, and the number of a descriptor
// that is closed is soon that of another directory, of which nothing was said: so the descriptor stays for as long as it is in use.
type root struct {
	fd int

	mu    sync.Mutex
	users int
	ended bool
}

// errOtherWay is what becomes of paths below a root directory that has ended.
var errOtherWay = errors.New("it was below a root directory that went with its process")

// openRoot opens a root directory.
func openRoot(path string) (*root, error) {
	fd, err := sys.OpenDir(unix.AT_FDCWD, path)
	if err != nil {
		return nil, fmt.Errorf("open root directory %s: %w", path, err)
	}
	return &root{fd: fd}, nil
}

// use gives the descriptor, which stays open until done; errOtherWay when the root has ended.
func (r *root) use() (fd int, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ended {
		return -1, errOtherWay
	}
	r.users++
	return r.fd, nil
}

func (r *root) done() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.users--
	r.closeUnused()
}

// end has the root used by nobody any more who has not begun yet. It waits for none of them; a second call does nothing.
func (r *root) end() {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.ended {
		r.ended = true
		r.closeUnused()
	}
}

// closeUnused closes what has ended with its last user. The caller holds r.mu.
func (r *root) closeUnused() {
	if r.ended && r.users == 0 {
		_ = sys.Close(r.fd)
	}
}

// open opens a sock-file below the root directory: see reap.OpenAs.
func (r *root) open(as func(f func()) error, path string) (*reap.File, error) {
	fd, err := r.use()
	if err != nil {
		return nil, err
	}
	defer r.done()
	return reap.OpenAs(as, fd, path)
}

// recall finds a sock-file below the root directory: see reap.RecallAs.
func (r *root) recall(as func(f func()) error, path string, id reap.ID) (*reap.File, error) {
	fd, err := r.use()
	if err != nil {
		return nil, err
	}
	defer r.done()
	return reap.RecallAs(as, fd, path, id)
}

// rootOf opens a process's root directory, or gives ours where it is the same, in the same mounts.
func (d *Daemon) rootOf(p *pidfd.Process) (r *root, own bool, err error) {
	same, err := proc.FS("").SameRoot(p.PID())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, false, pidfd.ErrExited
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		same = true // it hides itself from its own user, as ssh-agent does; who cannot do otherwise shares our root directory
	case err != nil:
		return nil, false, err
	}
	if same {
		return d.root, false, nil
	}
	if r, err = openRoot("/proc/" + strconv.Itoa(p.PID()) + "/root"); err != nil {
		return nil, false, err
	}
	if exited, err := p.Exited(); err != nil || exited { // the number may have been another process's
		r.end()
		return nil, false, pidfd.ErrExited
	}
	return r, true, nil
}

package bindspace

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// Dir is a watched directory: a path, and what is there at the moment.
type Dir struct {
	w    *Watcher
	path string
	refs int

	self   *node  // nil while it is missing
	parent *node  // the nearest directory above it that is there
	next   string // the element in parent that leads to it

	fd     int // of a directory that fanotify has marked, else -1
	handle string

	rescan bool // among the Watcher's rescans
}

// node is a directory that inotify watches: for its own sake, or to see that one below it comes or goes.
type node struct {
	wd      int32
	dirs    []*Dir
	parents []*Dir // those that wait for, or may lose, their next element in here
}

// Path is the path that the Dir was watched by.
func (d *Dir) Path() string { return d.path }

// File is the path of a name in the directory.
func (d *Dir) File(name string) string { return strings.TrimSuffix(d.path, "/") + "/" + name }

// Retain counts one use more.
func (d *Dir) Retain() {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	d.refs++
}

// Release gives up one use of the directory. After the last one there is no Event of it any more, save those that Read has
// read already.
func (d *Dir) Release() {
	d.w.mu.Lock()
	defer d.w.mu.Unlock()
	if d.refs--; d.refs == 0 {
		d.disarm()
		if d.w.dirs[d.path] == d {
			delete(d.w.dirs, d.path)
		}
	}
}

// What inotify is asked for. A directory can be node for several Dirs: InotifyAdd unites what they ask for.
const (
	maskRemoved = unix.IN_DELETE
	maskMade    = unix.IN_CREATE | unix.IN_MOVED_TO
	maskParent  = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_MOVED_FROM
)

// arm watches the directory if it is there, and above it where it can come and go: the kernel tells of a removed directory
// itself only when nobody has it open any more. Above is first, so that a directory replaced meanwhile is noticed.
func (d *Dir) arm() error {
	errAbove := d.watchAbove()
	if errAbove != nil && !errors.Is(errAbove, fs.ErrPermission) {
		return errAbove
	}
	d.mark()
	mask := uint32(maskRemoved)
	if d.fd < 0 {
		mask |= maskMade
	}
	self, err := d.w.node(d.path, mask)
	if missing(err) {
		d.closeMark() // of a directory that went meanwhile
		return errAbove
	}
	if err != nil {
		return err
	}
	self.dirs = append(self.dirs, d)
	d.self = self
	return nil
}

// watchAbove watches the nearest directory above d that is there.
func (d *Dir) watchAbove() error {
	path := strings.TrimRight(d.path, "/")
	for below := ""; ; {
		i := strings.LastIndexByte(path, '/')
		if i < 0 {
			return nil // the root directory does not go
		}
		above, next := path[:i], path[i+1:]
		n, err := d.w.node(above+"/", maskParent)
		switch {
		case missing(err):
			below, path = path, strings.TrimRight(above, "/")
			continue
		case err != nil:
			return err
		}
		n.parents = append(n.parents, d)
		d.parent, d.next = n, next
		if below == "" || !isDir(path) {
			return nil
		}
		d.disarm() // it was made before the watch was: look again, from below
		below, path = "", strings.TrimRight(d.path, "/")
	}
}

// missing tells of a path that leads to no directory.
func missing(err error) bool { return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) }

func isDir(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.IsDir()
}

// disarm watches for d no more.
func (d *Dir) disarm() {
	d.closeMark()
	for _, n := range []*node{d.self, d.parent} {
		if n == nil {
			continue
		}
		n.dirs, n.parents = without(n.dirs, d), without(n.parents, d)
		if len(n.dirs)+len(n.parents) == 0 && d.w.nodes[n.wd] == n {
			delete(d.w.nodes, n.wd)
			_ = sys.InotifyRemove(d.w.inotify, n.wd) // EINVAL: the directory is gone
		}
	}
	d.self, d.parent = nil, nil
}

// rearm looks anew at what d is, and asks for a Rescan.
func (d *Dir) rearm() {
	d.disarm()
	// An error here is the limit on watches, or of memory: the directory is not seen until something above it changes.
	_ = d.arm()
	d.askRescan()
}

func (d *Dir) askRescan() {
	if !d.rescan {
		d.rescan = true
		d.w.rescans = append(d.w.rescans, d)
	}
}

// node watches a directory by inotify.
func (w *Watcher) node(path string, mask uint32) (*node, error) {
	wd, err := sys.InotifyAdd(w.inotify, path, mask)
	if err != nil {
		return nil, err
	}
	n := w.nodes[wd]
	if n == nil {
		n = &node{wd: wd}
		w.nodes[wd] = n
	}
	return n, nil
}

func without(dirs []*Dir, d *Dir) []*Dir {
	kept := dirs[:0:0]
	for _, other := range dirs {
		if other != d {
			kept = append(kept, other)
		}
	}
	return kept
}

// Package bindspace sees names appear in directories, sock-files above all: by inotify(7), and where the process may by
// fanotify(7), which tells who made them.
//
// It knows no claims and opens no sock-file: it yields Events, and what to make of them is decided in package watch. A
// directory may be missing, be removed and be made again: it is watched as soon as it is there, and then there is a
// Rescan to answer. The same is asked for when the kernel's queue has overflowed.
//
// What it is not for: trees (a bindspace is one directory), and filesystems whose names others change: NFS and the like
// tell only what this machine did.
//
// Hazards. New opens one or two descriptors, to be polled by the caller; Read never blocks and starts no goroutine. A Watcher is
// for one goroutine at a time. An Event's Process is the receiver's to Close. A directory that is reached by way of an ancestor
// that is renamed is not noticed to be another one.
//
// inotify: Linux 2.6.13. fanotify as used here: Linux 5.17 and CAP_SYS_ADMIN.
package bindspace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/pidfd"
)

// Op says what happened.
type Op int

// What happens in a directory.
const (
	Appeared Op = iota + 1 // a name was made in it, or moved into it
	Vanished               // a name was removed from it; not: moved away, within it or out of it
	Rescan                 // events were lost, or it is another directory now: all of it is to be looked at
)

// Event tells what happened in a directory.
type Event struct {
	Dir  *Dir
	Op   Op
	Name string // of Appeared and Vanished

	// Of Appeared, where fanotify tells it: who made the name. Process is the receiver's to Close; nil with Gone set is a
	// process that was reaped before the event was read.
	Process *pidfd.Process
	Gone    bool
}

// Close gives up what the Event holds.
func (e Event) Close() {
	if e.Process != nil {
		_ = e.Process.Close()
	}
}

// Options says how a Watcher works. The zero value uses what the kernel allows.
type Options struct {
	InotifyOnly bool // leave fanotify, also where it is allowed
}

// Watcher watches directories.
type Watcher struct {
	inotify  int
	fanotify int // -1 without

	dirs    map[key]*Dir
	nodes   map[int32]*node   // what inotify watches, by watch descriptor
	marks   map[string][]*Dir // what fanotify has marked, by handle
	rescans []*Dir            // armed since the last Read

	buf       []byte
	inotified []sys.InotifyEvent
	fanotifed []sys.FanotifyEvent
}

type key struct {
	path  string
	space bool
}

// node is a directory that inotify watches: for its own sake, or to see that one below it comes or goes.
type node struct {
	wd      int32
	dirs    []*Dir
	parents []*Dir // those that wait for, or may lose, their next element in here
}

// Dir is a watched directory.
type Dir struct {
	w    *Watcher
	key  key
	refs int

	self   *node  // nil while it is missing
	parent *node  // the nearest directory above it that is there; for bindspaces, and while it is missing
	next   string // the element in parent that leads to it

	fd     int // of a directory that fanotify has marked, else -1
	handle string
}

// New starts watching nothing.
func New(o Options) (*Watcher, error) {
	w := &Watcher{
		fanotify: -1,
		dirs:     map[key]*Dir{}, nodes: map[int32]*node{}, marks: map[string][]*Dir{},
		buf: make([]byte, 64<<10),
	}
	var err error
	if w.inotify, err = sys.InotifyInit(); err != nil {
		return nil, err
	}
	if !o.InotifyOnly {
		if fd, err := sys.FanotifyInit(); err == nil { // else not allowed, or not there
			w.fanotify = fd
		}
	}
	return w, nil
}

// Fds are the descriptors to poll: when one is readable, Read has something to say.
func (w *Watcher) Fds() []int {
	if w.fanotify < 0 {
		return []int{w.inotify}
	}
	return []int{w.inotify, w.fanotify}
}

// Fanotify tells whether binders are told by pidfd, in directories on filesystems that can.
func (w *Watcher) Fanotify() bool { return w.fanotify >= 0 }

// Close ends all watching.
func (w *Watcher) Close() error {
	for _, d := range w.dirs {
		d.closeMark()
	}
	if w.fanotify >= 0 {
		_ = sys.Close(w.fanotify)
	}
	return sys.Close(w.inotify)
}

// WatchParent watches the directory of a sock-file to come. It need not be there. Watching a path again counts: each Watch
// wants its Release.
func (w *Watcher) WatchParent(path string) (*Dir, error) { return w.watch(key{path: path}) }

// WatchSpace watches a bindspace, which is made if it is missing (mode 0700). Here binders are told where they can be, and a
// directory that is removed and made again is watched anew.
func (w *Watcher) WatchSpace(path string) (*Dir, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return nil, err
	}
	return w.watch(key{path: path, space: true})
}

func (w *Watcher) watch(k key) (*Dir, error) {
	if d := w.dirs[k]; d != nil {
		d.refs++
		return d, nil
	}
	d := &Dir{w: w, key: k, refs: 1, fd: -1}
	if err := d.arm(); err != nil {
		d.disarm()
		return nil, fmt.Errorf("watch directory %s: %w", k.path, err)
	}
	w.dirs[k] = d
	return d, nil
}

// Path is the path that the Dir was watched by.
func (d *Dir) Path() string { return d.key.path }

// File is the path of a name in the directory.
func (d *Dir) File(name string) string { return strings.TrimSuffix(d.key.path, "/") + "/" + name }

// Retain counts one use more.
func (d *Dir) Retain() { d.refs++ }

// Release gives up one use of the directory.
func (d *Dir) Release() {
	if d.refs--; d.refs == 0 {
		d.disarm()
		delete(d.w.dirs, d.key)
	}
}

// What inotify is asked for.
const (
	maskSelf   = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE
	maskParent = unix.IN_CREATE | unix.IN_MOVED_TO | unix.IN_DELETE | unix.IN_MOVED_FROM
)

// arm watches the directory if it is there, and above it where it can come and go.
func (d *Dir) arm() error {
	for {
		self, err := d.w.node(d.key.path, maskSelf)
		if err == nil {
			self.dirs = append(self.dirs, d)
			d.self = self
			if d.key.space {
				d.mark()
			}
		} else if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
		if d.self != nil && !d.key.space {
			return nil
		}
		// The kernel tells of a removed directory only when nobody has it open any more; so look from above.
		if err := d.watchAbove(); err != nil {
			return err
		}
		if _, err := os.Lstat(d.key.path); (err == nil) == (d.self != nil) {
			return nil
		}
		d.disarm() // it came or went meanwhile
	}
}

// watchAbove watches the nearest directory above d that is there.
func (d *Dir) watchAbove() error {
	path := strings.TrimRight(d.key.path, "/")
	for {
		i := strings.LastIndexByte(path, '/')
		if i < 0 || path == "" {
			return nil // the root directory does not go
		}
		above, next := path[:i], path[i+1:]
		n, err := d.w.node(above+"/", maskParent)
		if err == nil {
			n.parents = append(n.parents, d)
			d.parent, d.next = n, next
			return nil
		}
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return err
		}
		path = above
	}
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

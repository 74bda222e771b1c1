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
// Hazards. New opens one or two descriptors, to be polled by the caller; where fanotify is used each directory costs
// one more, which keeps its filesystem from being unmounted. Read never blocks, and no goroutine is started. Read is for
// one goroutine, all else for any. An Event's Process is the receiver's to Close. A directory that is reached by way of a
// symbolic link, or below an ancestor, that is replaced is not noticed to be another one; nor is one that was moved away
// from a directory that may not be read.
//
// inotify: Linux 2.6.13. fanotify as used here: Linux 5.17 and CAP_SYS_ADMIN.
package bindspace

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// Options says how a Watcher works. The zero value uses what the kernel allows.
type Options struct {
	InotifyOnly bool // leave fanotify, also where it is allowed
}

// Watcher watches directories. All its methods but Read may be called from any goroutine, and from within what Read
// yields to.
type Watcher struct {
	inotify  int
	fanotify int // -1 without

	// mu is never held while events are read from the kernel or yielded.
	mu      sync.Mutex
	dirs    map[string]*Dir   // by path
	nodes   map[int32]*node   // what inotify watches, by watch descriptor
	marks   map[string][]*Dir // what fanotify has marked, by handle
	rescans []*Dir            // noted, and not yet yielded
	reading bool              // Read is at work, and has the descriptors
	busy    bool              // Read is at work on something
	closed  bool

	reader reader // Read's own
}

// New starts watching nothing.
func New(o Options) (*Watcher, error) {
	w := &Watcher{
		fanotify: -1,
		dirs:     map[string]*Dir{}, nodes: map[int32]*node{}, marks: map[string][]*Dir{},
		reader: reader{buf: make([]byte, bufferSize)},
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

// Queued tells whether there is something that was not yet yielded: events in the kernel's queues, or a Rescan. It is
// true also from when Read begins to take something out of there until it has returned, so that false means that
// whatever happened before has been yielded and answered. It costs one or two system calls, however much is queued.
//
// os.ErrClosed after Close.
func (w *Watcher) Queued() (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return false, os.ErrClosed
	}
	if w.busy || len(w.rescans) > 0 {
		return true, nil
	}
	// Not FIONREAD, which walks the queue.
	queued, err := sys.Readable(w.inotify)
	if err == nil && !queued && w.fanotify >= 0 {
		queued, err = sys.Readable(w.fanotify)
	}
	return queued, err
}

// Close ends all watching. A Read that is at work at that moment yields no more than what it has in hand, and the
// descriptors go when it returns. A Dir may still be released afterwards.
func (w *Watcher) Close() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return os.ErrClosed
	}
	w.closed = true
	for _, d := range w.dirs {
		d.disarm()
	}
	clear(w.dirs)
	w.rescans = nil
	if w.reading {
		return nil
	}
	return w.closeFds()
}

func (w *Watcher) closeFds() error {
	if w.fanotify >= 0 {
		_ = sys.Close(w.fanotify) // the kernel discards what is queued, and makes pidfds only for what is read
	}
	return sys.Close(w.inotify)
}

// WatchParent watches the directory of a sock-file to come. It need not be there. Watching a path again, by WatchParent or
// WatchSpace, gives the same Dir and counts: each Watch wants its Release. os.ErrClosed after Close.
func (w *Watcher) WatchParent(path string) (*Dir, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return nil, os.ErrClosed
	}
	if d := w.dirs[path]; d != nil {
		d.refs++
		return d, nil
	}
	d := &Dir{w: w, path: path, refs: 1, fd: -1}
	if err := d.arm(); err != nil {
		d.disarm()
		return nil, fmt.Errorf("watch directory %s: %w", path, err)
	}
	w.dirs[path] = d
	return d, nil
}

// WatchSpace watches a bindspace: as WatchParent, but the directory is made if it is missing (mode 0700).
func (w *Watcher) WatchSpace(path string) (*Dir, error) {
	if err := mkdirAll(path); err != nil {
		return nil, err
	}
	return w.WatchParent(path)
}

// mkdirAll is os.MkdirAll, which fails with EEXIST where a directory is there when it makes it and gone when it looks what
// was there: somebody removes and makes it all the time. That is no reason not to have it.
func mkdirAll(path string) error {
	for {
		err := os.MkdirAll(path, 0o700)
		failed, ok := errors.AsType[*fs.PathError](err)
		if !ok || !errors.Is(err, fs.ErrExist) {
			return err
		}
		info, gone := os.Lstat(failed.Path)
		if gone == nil && !info.IsDir() || gone != nil && !errors.Is(gone, fs.ErrNotExist) {
			return err
		}
	}
}

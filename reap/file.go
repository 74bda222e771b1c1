package reap

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// File is one sock-file: its directory, its name there and its identity. It is the inode that was there when it was
// opened, whatever has the name later. Safe for concurrent use; Close only when nothing else uses it.
type File struct {
	dir   *dir
	path  string // as given; the name is its last element
	id    ID
	uid   uint32               // who made it, unless chown(2) changed that
	pin   int32                // held where the identity needs it, else -1
	alive atomic.Bool          // a socket was seen bound to this inode, through this view
	as    func(f func()) error // whose rights it was opened with, and is removed with; nil: the caller's own
	close sync.Once
}

// Open opens the sock-file with the given path. Symlinks on the way are followed, in the last element not. The path
// may be longer than the 108 bytes of sun_path and may hold any byte but NUL.
//
// Errors: fs.ErrNotExist, fs.ErrPermission, ErrNotSocket, and what the kernel says else.
func Open(path string) (*File, error) {
	parent, base, err := split(path)
	if err != nil {
		return nil, err
	}
	d, err := openDir(parent)
	if err != nil {
		return nil, &fs.PathError{Op: "open directory of", Path: path, Err: err}
	}
	return openIn(d, base, path)
}

// OpenIn is Open for a path as a process with the given root directory sees it, /proc/PID/root say: neither symlinks
// nor ".." leave root, and path is taken relative to it. The File's Path is path prefixed by root. openat2(2), Linux 5.6.
func OpenIn(root, path string) (*File, error) {
	parent, base, err := split(path)
	if err != nil {
		return nil, err
	}
	r, err := openDir(root)
	if err != nil {
		return nil, &fs.PathError{Op: "open root directory", Path: root, Err: err}
	}
	defer r.release()
	fd, err := sys.OpenDirIn(r.fd, parent)
	if err != nil {
		return nil, &fs.PathError{Op: "open directory of", Path: path, Err: err}
	}
	d, err := shareDir(fd)
	if err != nil {
		return nil, &fs.PathError{Op: "open directory of", Path: path, Err: err}
	}
	// Joined as they stand: to clean the path would resolve its ".." without the symlinks, and could leave root.
	return openIn(d, base, strings.TrimRight(root, "/")+"/"+strings.TrimLeft(path, "/"))
}

// split divides a path into directory and last element, which must name an entry of it.
func split(path string) (parent, base string, err error) {
	i := strings.LastIndexByte(path, '/')
	parent, base = path[:i+1], path[i+1:]
	if parent == "" {
		parent = "."
	}
	switch {
	case path == "":
		return "", "", &fs.PathError{Op: "open", Path: path, Err: unix.ENOENT}
	case base == "" || base == "." || base == "..":
		return "", "", &fs.PathError{Op: "open", Path: path, Err: fmt.Errorf("%w: it names a directory", ErrNotSocket)}
	case strings.IndexByte(path, 0) >= 0:
		return "", "", &fs.PathError{Op: "open", Path: path, Err: errors.New("a path cannot hold a NUL byte")}
	}
	return parent, base, nil
}

// openIn takes over one use of d, also when it fails.
func openIn(d *dir, base, path string) (*File, error) {
	f, err := identifyIn(d, base, path)
	if err != nil {
		d.release()
		return nil, &fs.PathError{Op: "open", Path: path, Err: err}
	}
	return f, nil
}

func identifyIn(d *dir, base, path string) (*File, error) {
	p, err := pinName(d, base)
	if err != nil {
		return nil, err
	}
	if !p.stat.IsSocket() {
		p.unpin()
		return nil, ErrNotSocket
	}
	id, err := identify(p.fd, p.stat)
	if err != nil {
		p.unpin()
		return nil, err
	}
	f := &File{dir: d, path: path, id: id, uid: p.stat.UID, pin: -1}
	if id.Stable() {
		p.unpin()
	} else {
		f.pin = int32(p.fd)
	}
	return f, nil
}

// Path is the path the File was opened by.
func (f *File) Path() string { return f.path }

// ID is the identity of the inode.
func (f *File) ID() ID { return f.id }

// UID is the user that the sock-file belonged to when it was opened: who made it, unless chown(2) changed that.
func (f *File) UID() uint32 { return f.uid }

// SeenAlive tells whether a socket was seen bound to this inode. It is what a claim that is to survive the program has to keep: an inode
// that was alive and is dead stays dead, also where a file that was never seen alive is not judged.
func (f *File) SeenAlive() bool { return f.alive.Load() }

// RememberAlive says that SeenAlive was true of this inode before, in an earlier run of the program and through the same view.
func (f *File) RememberAlive() { f.alive.Store(true) }

// RememberUID says what UID was before, in an earlier run of the program, for a File of RecallAs. It is for who has just made the File.
func (f *File) RememberUID(uid uint32) { f.uid = uid }

// Born is when the sock-file was made, as finely as the filesystem keeps it: statx(2). errors.ErrUnsupported where it does not;
// an error, too, when another file has the name.
func (f *File) Born() (time.Time, error) {
	p, err := f.pinned()
	if err != nil {
		return time.Time{}, err
	}
	defer p.unpin()
	return sys.Born(p.fd)
}

// name is the entry's name in its directory.
func (f *File) name() string { return f.path[strings.LastIndexByte(f.path, '/')+1:] }

// Close gives up the descriptors. The sock-file itself is not touched. It returns nil; a second call does nothing.
func (f *File) Close() error {
	f.close.Do(func() {
		if f.pin >= 0 {
			_ = sys.Close(int(f.pin))
		}
		f.dir.release()
	})
	return nil
}

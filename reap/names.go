package reap

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sockdiag"
	"github.com/sockwatch/sockwatch/internal/sys"
)

// names finds the sock-files of one process's sockets by what the kernel calls them: its names are those of the process, seen from
// its root and working directories, or the ones that bind(2) was given.
type names struct {
	pid  int      // or a thread of it: see descriptor
	dirs []string // where to look for what is not where its name says, as seen by us

	root, cwd string // of the process, as the kernel shows them to us
}

func newNames(pid int, dirs []string) *names {
	n := &names{pid: pid, dirs: dirs}
	// Without the first nothing leads into the process's root; without the second, no relative name anywhere.
	n.root, _ = sys.Readlinkat(unix.AT_FDCWD, procPath(pid, "root"))
	n.cwd, _ = sys.Readlinkat(unix.AT_FDCWD, procPath(pid, "cwd"))
	return n
}

// lead is a path to follow, from our root directory or, where it has one, from another.
type lead struct{ root, path string }

func (l lead) open() (*File, error) {
	if l.root == "" {
		return Open(l.path)
	}
	return OpenIn(l.root, l.path)
}

// openParent opens the directory it leads to, and gives the path to put before the names in it.
func (l lead) openParent() (d *dir, prefix string, err error) {
	parent, _, err := split(l.path)
	if err != nil {
		return nil, "", err
	}
	if l.root == "" {
		d, err = openDir(parent)
		return d, strings.TrimSuffix(parent, "/") + "/", err
	}
	root, err := openDir(l.root)
	if err != nil {
		return nil, "", err
	}
	defer root.release()
	fd, err := sys.OpenDirIn(root.fd, parent)
	if err != nil {
		return nil, "", err
	}
	d, err = shareDir(fd)
	return d, filepath.Join(l.root, parent) + "/", err
}

// inRoot leads, inside the process's root directory, to what the kernel shows to us as path.
func (n *names) inRoot(path string) (lead, bool) {
	root := procPath(n.pid, "root")
	if n.root == "/" {
		return lead{root, path}, true
	}
	inside, ok := strings.CutPrefix(path, n.root+"/")
	return lead{root, "/" + inside}, ok && n.root != ""
}

// ofPin finds the file that a pin stands for. It is nil when that has no name any more.
func (n *names) ofPin(pin int, id ID) (*File, error) {
	path, err := pathOf(pin)
	if err != nil {
		return nil, err
	}
	leads := []lead{{path: path}}
	if l, ok := n.inRoot(path); ok {
		leads = append(leads, l)
	}
	same := func(f *File) bool { return f.id == id }
	f, cause := n.look(leads, same)
	if f != nil {
		return f, nil
	}
	away := fromMounts(path, id)
	if f, _ := n.look(away, same); f != nil {
		return f, nil
	}
	leads = append(leads, away...)
	// What is unlinked has " (deleted)" at its end. When the inode has another link, that is what we are looking for.
	if st, err := sys.Fstat(pin); err != nil || st.Nlink == 0 {
		return nil, err
	}
	if f := n.scan(leads, uint32(id.ino), same); f != nil {
		return f, nil
	}
	return nil, fmt.Errorf("%w: %q does not lead to it from our root directory, nor from that of process %d", cause, path, n.pid)
}

// fromMounts leads to what the kernel calls path where that begins at a mount that is in no tree any more, as are those of a mount namespace
// that is gone with its last process: that was mostly a copy of one of ours.
func fromMounts(path string, id ID) []lead {
	var leads []lead
	for m, err := range proc.FS("").Mounts(0) {
		if err == nil && m.Point != "/" && unix.Mkdev(m.Major, m.Minor) == id.dev {
			leads = append(leads, lead{path: m.Point + path})
		}
	}
	return leads
}

// ofSocket finds the file that the kernel's socket table tells of. It tells only 32 bits of the inode number, so the file must not
// be dead, either.
func (n *names) ofSocket(s sockdiag.Socket) (*File, error) {
	var leads []lead
	if strings.HasPrefix(s.Name, "/") {
		leads = append(leads, lead{procPath(n.pid, "root"), s.Name})
	} else {
		if l, ok := n.inRoot(n.cwd); ok {
			l.path += "/" + s.Name
			leads = append(leads, l)
		}
		for _, dir := range n.dirs {
			leads = append(leads, lead{path: dir + "/" + s.Name})
		}
	}
	same := func(f *File) bool {
		e := entryOf(f.dir.fd, f.id)
		if !e.of(s) {
			return false
		}
		state, _ := f.Probe()
		return state != StateDead
	}
	f, cause := n.look(leads, same)
	if f == nil {
		f = n.scan(leads, s.VFSInode, same)
	}
	if f == nil {
		return nil, fmt.Errorf("%w: %q is not where process %d bound it, nor under another name there", cause, s.Name, n.pid)
	}
	return fromOurRoot(f), nil
}

// look opens the first of the leads that ends at the right file. If none does, cause is why: fs.ErrNotExist, unless
// one could not be followed to its end.
func (n *names) look(leads []lead, same func(*File) bool) (f *File, cause error) {
	cause = fs.ErrNotExist
	for _, l := range leads {
		f, err := l.open()
		if errors.Is(err, fs.ErrPermission) {
			cause = fs.ErrPermission
		}
		if err != nil {
			continue
		}
		if same(f) {
			return f, nil
		}
		_ = f.Close()
	}
	return nil, cause
}

// scan looks for an entry with that inode number in the directories of the leads, and in the additional ones.
func (n *names) scan(leads []lead, ino uint32, same func(*File) bool) *File {
	for _, dir := range n.dirs {
		leads = append(leads, lead{path: dir + "/" + absentName()})
	}
	for _, l := range leads {
		d, prefix, err := l.openParent()
		if err != nil {
			continue
		}
		f := d.scan(prefix, ino, same)
		d.release()
		if f != nil {
			return f
		}
	}
	return nil
}

func (d *dir) scan(prefix string, ino uint32, same func(*File) bool) (found *File) {
	merged := isOverlay(d.fd) // the number in the listing can be another than the one in stat(2)
	_ = d.list(func(e sys.Dirent) bool {
		if (uint32(e.Ino) != ino && !merged) || (e.Type != unix.DT_SOCK && e.Type != unix.DT_UNKNOWN) {
			return true
		}
		name := string(e.Name)
		f, err := openIn(d.share(), name, prefix+name)
		if err != nil {
			return true
		}
		if same(f) {
			found = f
			return false
		}
		_ = f.Close()
		return true
	})
	return found
}

// fromOurRoot opens the file by an absolute path of ours, where one leads to it.
func fromOurRoot(f *File) *File {
	at, err := pathOf(f.dir.fd)
	if err != nil {
		return f
	}
	ours, err := Open(strings.TrimSuffix(at, "/") + "/" + f.name())
	switch {
	case err != nil:
		return f
	case ours.id != f.id:
		_ = ours.Close()
		return f
	}
	_ = f.Close()
	return ours
}

// pathOf is what the kernel calls the file behind a descriptor. It is absolute and free of symlinks, but may be a path in
// a mount namespace that is not ours, or followed by " (deleted)".
func pathOf(fd int) (string, error) {
	return sys.Readlinkat(unix.AT_FDCWD, "/proc/thread-self/fd/"+strconv.Itoa(fd))
}

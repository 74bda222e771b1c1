package reap

import (
	"errors"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// place is a directory that a sweep or a listing goes through.
type place struct {
	*dir
	path    string // as it is told
	rel     string // as it is matched: relative to the directory given, "" or with a slash at its end
	network bool   // the directory given is on a network filesystem
}

// entry gives the path of an entry.
func (p place) entry(name string) string { return strings.TrimSuffix(p.path, "/") + "/" + name }

// subdirectories calls enter for the directories in this one. It follows no symlink, and leaves out what is mounted here of
// filesystems where nobody can bind or a sweep removes nothing. What goes wrong, fail is told. Where one of them returns
// false it ends, with false.
func (p place) subdirectories(enter func(place) bool, fail func(op, path string, err error) bool) bool {
	going := true
	err := p.list(func(e sys.Dirent) bool {
		if e.Type == unix.DT_DIR || e.Type == unix.DT_UNKNOWN {
			going = p.subdirectory(string(e.Name), enter, fail)
		}
		return going
	})
	if err != nil {
		return going && fail("read directory", p.path, err)
	}
	return going
}

// subdirectory is subdirectories for an entry that is, or may be, a directory.
func (p place) subdirectory(name string, enter func(place) bool, fail func(op, path string, err error) bool) bool {
	fd, err := sys.OpenSubdir(p.fd, name)
	if errors.Is(err, unix.ENOTDIR) {
		return true
	}
	path := p.entry(name)
	if err != nil {
		return fail("open directory", path, err)
	}
	kind, err := sys.FilesystemType(fd)
	if err != nil || isKernelFS(kind) || (isNetworkFS(kind) && !p.network) {
		_ = sys.Close(fd)
		return err == nil || fail("open directory", path, err)
	}
	d, err := shareDir(fd)
	if err != nil {
		return fail("open directory", path, err)
	}
	defer d.release()
	return enter(place{dir: d, path: path, rel: p.rel + name + "/", network: p.network})
}

// onKernelFS tells whether the directory is of procfs or sysfs, where nobody can bind.
func onKernelFS(fd int) bool {
	kind, err := sys.FilesystemType(fd)
	return err == nil && isKernelFS(kind)
}

func isKernelFS(kind int64) bool { return kind == unix.PROC_SUPER_MAGIC || kind == unix.SYSFS_MAGIC }

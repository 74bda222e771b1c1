package reap

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// otherNames lists the names in the File's directory, its own apart, that may be entries of its inode: those with its
// inode number. ssh's ControlMaster, for one, binds a temporary name, links the final one and unlinks the first.
func (f *File) otherNames() ([]string, error) {
	var names []string
	merged := isOverlay(f.dir.fd) // there the number in the listing can be another than the one in stat(2)
	err := f.dir.list(func(e sys.Dirent) bool {
		if (e.Ino == f.id.ino || merged) && (e.Type == unix.DT_SOCK || e.Type == unix.DT_UNKNOWN) && string(e.Name) != f.name() {
			names = append(names, string(e.Name))
		}
		return true
	})
	if errors.Is(err, unix.ENOENT) { // the directory itself is gone
		err = nil
	}
	return names, err
}

// list calls yield for each entry of the directory until it returns false. The names are valid during the call only.
func (d *dir) list(yield func(sys.Dirent) bool) error {
	fd, err := sys.OpenList(d.fd)
	if err != nil {
		return err
	}
	defer func() { _ = sys.Close(fd) }()
	return sys.ReadDir(fd, yield)
}

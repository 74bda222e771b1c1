package reap

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// OpenAs is Open with the rights of another user: as runs what resolves the path, as in RemoveOptions, and nil is the caller
// himself. That user must be allowed to search every directory on the way and the sock-file's own: else fs.ErrPermission, also when as
// itself fails. Reading or writing is not asked for. From then on the File holds the directory, whatever the path leads to later, and is
// removed with that user's rights unless RemoveOptions.As says otherwise.
//
// The path is absolute, and taken from the directory root, a descriptor that stays the caller's: neither symlinks nor ".." leave
// it. Magic links such as /proc/PID/cwd are refused with ELOOP, for they lead past the permissions. The File's Path is path as
// given, whatever root is. openat2(2), Linux 5.6.
//
// Whether the file is that user's, UID tells: the right to remove it is the directory's to give, not the file's.
func OpenAs(as func(f func()) error, root int, path string) (*File, error) {
	fail := func(err error) (*File, error) {
		return nil, &fs.PathError{Op: "open directory of", Path: path, Err: err}
	}
	parent, base, err := split(path)
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(path, "/") {
		return fail(fmt.Errorf("%w: not an absolute path", fs.ErrInvalid))
	}
	given := as != nil
	if !given {
		as = directly
	}
	fd := -1
	if denied := runAs(as, func() { fd, err = openSearchable(root, parent, base) }); denied != nil {
		return fail(denied)
	}
	if err != nil {
		return fail(err)
	}
	d, err := shareDir(fd)
	if err != nil {
		return fail(err)
	}
	f, err := openIn(d, base, path)
	if err == nil && given {
		f.as = as
	}
	return f, err
}

// RecallAs is OpenAs for a file of which the identity was kept, and that need not have its name any more: Remove finds it under another one
// in the same directory. The directory must be there, and the ID be stable. UID is not known, and 0: see File.RememberUID.
func RecallAs(as func(f func()) error, root int, path string, id ID) (*File, error) {
	parent, _, err := split(path)
	if err == nil && (!id.Stable() || !strings.HasPrefix(path, "/")) {
		err = &fs.PathError{Op: "recall", Path: path, Err: fs.ErrInvalid}
	}
	if err != nil {
		return nil, err
	}
	fd := -1
	resolve := func() { fd, err = sys.OpenDirIn(root, parent) }
	if as == nil {
		resolve()
	} else if denied := runAs(as, resolve); denied != nil {
		err = denied
	}
	if err != nil {
		return nil, &fs.PathError{Op: "open directory of", Path: path, Err: err}
	}
	d, err := shareDir(fd)
	if err != nil {
		return nil, &fs.PathError{Op: "open directory of", Path: path, Err: err}
	}
	return &File{dir: d, path: path, id: id, pin: -1, as: as}, nil
}

func directly(f func()) error {
	f()
	return nil
}

// openSearchable opens a directory below root in which the calling thread may look for name. Who opens a directory with O_PATH
// needs no right on it; without this look, what it holds would be told to users to whom it is closed.
func openSearchable(root int, path, name string) (int, error) {
	fd, err := sys.OpenDirIn(root, path)
	if err != nil {
		return -1, err
	}
	if _, err := sys.Lstatat(fd, name); err != nil {
		_ = sys.Close(fd)
		return -1, err
	}
	return fd, nil
}

package reap

import (
	"errors"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// Place says what can be done about the sock-files of a directory.
type Place struct {
	// Handles: an identity lasts, see ID.Stable. Else a File holds a descriptor of its inode, and after a restart of the
	// caller nobody knows whether a file is the same.
	Handles bool
	// Blind says why a dead answer of the probe is not believed here: ReasonNetworkFS, ReasonOverlayLayer, or ReasonNone.
	Blind Reason
	// Obstacle is what keeps this process from removing anything: a directory that it may not write to, that is immutable or
	// on a read-only filesystem. That the file of another user in a sticky directory stays is not told.
	Obstacle error
	// NoReplace: the filesystem renames without replacing, RENAME_NOREPLACE of rename(2). Without, a removal needs hard
	// links; without these, too, it is refused. It is tried with a file of a private name, so it is not known
	// (false) where there is an Obstacle or TryErr.
	NoReplace bool
	// TryErr is what went wrong with the trial, such as a disk that is full.
	TryErr error
}

// Examine looks at a directory, which need not hold any sock-file. Where it may, it makes a file of a private name there,
// renames it and removes it: the kernel does not tell otherwise whether RENAME_NOREPLACE works.
func Examine(directory string) (Place, error) {
	d, err := openDir(directory)
	if err != nil {
		return Place{}, &fs.PathError{Op: "open directory", Path: directory, Err: err}
	}
	defer d.release()
	st, err := sys.Fstat(d.fd)
	if err != nil {
		return Place{}, &fs.PathError{Op: "examine", Path: directory, Err: err}
	}
	id, err := identify(d.fd, st)
	if err != nil {
		return Place{}, &fs.PathError{Op: "examine", Path: directory, Err: err}
	}
	p := Place{Handles: id.Stable(), Blind: d.view().blind(false), Obstacle: d.obstacle()}
	if p.Obstacle == nil {
		p.NoReplace, p.TryErr = d.tryNoReplace(strings.TrimSuffix(directory, "/") + "/")
	}
	return p, nil
}

// tryNoReplace needs a file that is there: of one that is not the kernel says ENOENT, and has not asked the filesystem yet.
func (d *dir) tryNoReplace(prefix string) (works bool, err error) {
	name, to := absentName(), absentName()
	file, err := os.OpenFile(prefix+name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return false, err
	}
	_ = file.Close()
	err = sys.RenameNoReplace(d.fd, name, to)
	if err == nil {
		name = to
	}
	if errors.Is(err, unix.EINVAL) {
		err = nil
	}
	return name == to, errors.Join(err, sys.Unlink(d.fd, name))
}

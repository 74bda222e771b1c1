package reap

import (
	"errors"
	"io/fs"
	"iter"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// List gives the sock-files in a directory, live and dead, one after the other in the directory's order; what a
// removal has under a private name is left out. Each File is the caller's to Close. A file that cannot be opened is
// given as its error, and the next one follows; one that is gone meanwhile is passed over.
func List(directory string) iter.Seq2[*File, error] { return list(directory, false) }

// Walk is List for a directory and, after its own files, those below, with the limits of SweepOptions.Recursive. One that
// cannot be read is given as its error, a *fs.PathError, and the next one follows.
func Walk(directory string) iter.Seq2[*File, error] { return list(directory, true) }

func list(directory string, recursive bool) iter.Seq2[*File, error] {
	return func(yield func(*File, error) bool) {
		d, err := openDir(directory)
		if err != nil {
			yield(nil, &fs.PathError{Op: "open directory", Path: directory, Err: err})
			return
		}
		defer d.release()
		l := lister{yield: yield, recursive: recursive}
		l.directory(place{dir: d, path: directory, network: onNetworkFS(d.fd)})
	}
}

// lister is a List or Walk that is under way. Its methods return false when it is to end.
type lister struct {
	yield     func(*File, error) bool
	recursive bool
}

func (l lister) directory(p place) bool {
	going := true
	err := p.list(func(e sys.Dirent) bool {
		if (e.Type != unix.DT_SOCK && e.Type != unix.DT_UNKNOWN) || IsPrivate(string(e.Name)) {
			return true
		}
		f, err := openIn(p.share(), string(e.Name), p.entry(string(e.Name)))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotSocket) {
			return true
		}
		going = l.yield(f, err)
		return going
	})
	if err != nil {
		return going && l.fail("read directory", p.path, err)
	}
	return going && (!l.recursive || p.subdirectories(l.directory, l.fail))
}

// fail tells what went wrong with a directory. One that is gone has no files.
func (l lister) fail(op, path string, err error) bool {
	return errors.Is(err, fs.ErrNotExist) || l.yield(nil, &fs.PathError{Op: op, Path: path, Err: err})
}

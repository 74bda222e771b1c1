package reap

import (
	"errors"
	"io/fs"
	"iter"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// List gives the sock-files in a directory, live and dead, one after the other in the directory's order; what a
// removal has under a private name is left out. Each File is the caller's to Close. A file that cannot be opened is
// given as its error, and the next one follows; one that is gone meanwhile is passed over.
func List(directory string) iter.Seq2[*File, error] {
	return func(yield func(*File, error) bool) {
		d, err := openDir(directory)
		if err != nil {
			yield(nil, &fs.PathError{Op: "open directory", Path: directory, Err: err})
			return
		}
		defer d.release()
		prefix := strings.TrimSuffix(directory, "/") + "/"
		err = d.list(func(e sys.Dirent) bool {
			if (e.Type != unix.DT_SOCK && e.Type != unix.DT_UNKNOWN) || IsPrivate(string(e.Name)) {
				return true
			}
			f, err := openIn(d.share(), string(e.Name), prefix+string(e.Name))
			if errors.Is(err, fs.ErrNotExist) || errors.Is(err, ErrNotSocket) {
				return true
			}
			return yield(f, err)
		})
		if err != nil {
			yield(nil, &fs.PathError{Op: "read directory", Path: directory, Err: err})
		}
	}
}

// Package proc reads what sockwatch needs of procfs: proc(5).
//
// It is not a handle on a process, and not for deciding whether one is alive: that is package pidfd.
//
// Hazards: a pid is a number that the kernel gives out again, also between two reads of one function. To read of one
// process for certain, hold a pidfd of it before the first read and check that it has not exited after the last. What
// is told of a process that changes meanwhile may be of no single moment. A procfs mounted with hidepid hides other
// users' processes: they look as if they did not exist.
//
// Errors of every function: errors.Is(err, fs.ErrNotExist) when there is no such process, also when it went while it
// was read (ESRCH), and fs.ErrPermission when the kernel refused. They name the file.
package proc

import (
	"errors"
	"io/fs"
	"iter"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// FS is the directory that procfs is mounted on. The empty one is /proc.
type FS string

// PIDs yields the process ids, in ascending order on procfs. It yields every process that was there from beginning to
// end; one that is started meanwhile may be missing. An error ends it.
func (p FS) PIDs() iter.Seq2[int, error] {
	return numbers(p.path())
}

func (p FS) path() string {
	if p == "" {
		return "/proc"
	}
	return string(p)
}

func (p FS) pidPath(pid int, file string) string {
	return p.path() + "/" + strconv.Itoa(pid) + "/" + file
}

func (p FS) read(pid int, file string) ([]byte, error) {
	b, err := sys.ReadFile(p.pidPath(pid, file))
	return b, checkGone(err)
}

// numbers yields the entries of a directory that are numbers.
func numbers(path string) iter.Seq2[int, error] {
	return func(yield func(int, error) bool) {
		dir, err := os.Open(path)
		if err != nil {
			yield(0, checkGone(err))
			return
		}
		defer dir.Close()
		err = sys.ReadDir(int(dir.Fd()), func(e sys.Dirent) bool {
			n, err := strconv.Atoi(string(e.Name))
			return err != nil || yield(n, nil)
		})
		if err != nil {
			yield(0, checkGone(&fs.PathError{Op: "readdir", Path: path, Err: err}))
		}
	}
}

// goneError is ESRCH: what reading an open file of procfs says once the process is reaped.
type goneError struct{ error }

func (e goneError) Is(target error) bool { return target == fs.ErrNotExist }
func (e goneError) Unwrap() error        { return e.error }

func checkGone(err error) error {
	if errors.Is(err, unix.ESRCH) {
		return goneError{err}
	}
	return err
}

// parseError says in which file the kernel did not write what proc(5) says.
func parseError(path string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: "parse", Path: path, Err: err}
}

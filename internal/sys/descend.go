package sys

import (
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OpenSubdir opens an entry of a directory as a place to work in, as OpenDir does, but follows no symlink: ENOTDIR for
// one, as for everything else that is no directory.
func OpenSubdir(dirfd int, name string) (int, error) {
	return callInt("openat", func() (int, error) {
		return unix.Openat(dirfd, name, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
}

// xattrListMax is XATTR_LIST_MAX of limits.h.
const xattrListMax = 64 << 10

// ListXattr gives the names of the extended attributes of what fd stands for, through procfs, so that an O_PATH descriptor
// will do: listxattr(2). Names that begin with "trusted." are told to CAP_SYS_ADMIN only.
func ListXattr(fd int) ([]string, error) {
	path := "/proc/thread-self/fd/" + strconv.Itoa(fd)
	buf := make([]byte, 1<<10)
	n, err := listxattr(path, buf)
	if errors.Is(err, unix.ERANGE) {
		buf = make([]byte, xattrListMax)
		n, err = listxattr(path, buf)
	}
	if err != nil || n == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00"), nil
}

func listxattr(path string, buf []byte) (int, error) {
	return callInt("listxattr", func() (int, error) { return unix.Listxattr(path, buf) })
}

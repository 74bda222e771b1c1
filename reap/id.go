package reap

import (
	"encoding/hex"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// ID is the identity of a sock-file: device, inode number and file handle. It is comparable. Inode numbers are given
// out again at once and birth times are too coarse; the handle holds the inode's generation, costs no descriptor and
// can be stored: name_to_handle_at(2).
//
// An ID without a handle (the filesystem has none) is unique only for as long as the File it came from is open.
type ID struct {
	dev    uint64
	ino    uint64
	handle string
}

// Inode is the inode number, as in stat(2).
func (id ID) Inode() uint64 { return id.ino }

// Dev is the device number, as in stat(2).
func (id ID) Dev() uint64 { return id.dev }

// Stable tells whether the ID stays unique after the File is closed and after a restart of the caller.
func (id ID) Stable() bool { return id.handle != "" }

// String gives the ID as "DEV:INODE:HANDLE", device and inode in decimal, the handle in hexadecimal or "-".
func (id ID) String() string {
	handle := "-"
	if id.handle != "" {
		handle = hex.EncodeToString([]byte(id.handle))
	}
	return strconv.FormatUint(id.dev, 10) + ":" + strconv.FormatUint(id.ino, 10) + ":" + handle
}

// MarshalText is String.
func (id ID) MarshalText() ([]byte, error) { return []byte(id.String()), nil }

// UnmarshalText reads what MarshalText wrote.
func (id *ID) UnmarshalText(text []byte) error {
	fail := func(err error) error { return fmt.Errorf("sock-file identity %q: %w", text, err) }
	parts := strings.Split(string(text), ":")
	if len(parts) != 3 {
		return fail(errors.New("want DEV:INODE:HANDLE"))
	}
	dev, err := strconv.ParseUint(parts[0], 10, 64)
	if err != nil {
		return fail(err)
	}
	ino, err := strconv.ParseUint(parts[1], 10, 64)
	if err != nil {
		return fail(err)
	}
	var handle []byte
	if parts[2] != "-" {
		if handle, err = hex.DecodeString(parts[2]); err != nil {
			return fail(err)
		}
		if len(handle) == 0 {
			return fail(errors.New("empty handle"))
		}
	}
	*id = ID{dev: dev, ino: ino, handle: string(handle)}
	return nil
}

// identify makes the ID of what a pin stands for.
func identify(pin int, st sys.Stat) (ID, error) {
	id := ID{dev: st.Dev, ino: st.Ino}
	handle, err := handleOf(pin)
	switch {
	case err == nil:
		id.handle = handle
		handlesAllowed.Store(true)
	case slices.ContainsFunc(noHandles, func(errno unix.Errno) bool { return errors.Is(err, errno) }):
	case !handlesAllowed.Load() && slices.ContainsFunc(forbidden, func(errno unix.Errno) bool { return errors.Is(err, errno) }):
	default:
		return ID{}, err
	}
	return id, nil
}

// handleOf gives the file handle of what a pin stands for.
func handleOf(pin int) (string, error) {
	handle, err := sys.FileHandle(pin, 0)
	if !errors.Is(err, unix.EOPNOTSUPP) {
		return handle, err
	}
	kind, unknown := sys.FilesystemType(pin)
	switch {
	case unknown != nil:
		return "", unknown
	case kind != unix.OVERLAYFS_SUPER_MAGIC:
		return "", err
	}
	// Overlay without nfs_export encodes the real inode's handle for AT_HANDLE_FID only. Elsewhere that flag can
	// give a made-up handle with a generation that never changes (since Linux 6.7): not an identity.
	return sys.FileHandle(pin, sys.HandleFID)
}

// noHandles are the ways of saying that there are no handles here, and a pin has to do.
var noHandles = []unix.Errno{
	unix.EOPNOTSUPP, // the filesystem has none
	unix.EINVAL,     // AT_HANDLE_FID before Linux 6.5
}

// forbidden is what the seccomp filters of containers and sandboxes say. They say it always: once there was a handle, the file must not become
// another one for want of it.
var (
	forbidden      = []unix.Errno{unix.EPERM, unix.EACCES, unix.ENOSYS}
	handlesAllowed atomic.Bool
)

// isOverlay tells whether entries of the directory need to be looked at one by one. It is so where that cannot be found out, too.
func isOverlay(fd int) bool {
	kind, err := sys.FilesystemType(fd)
	return err != nil || kind == unix.OVERLAYFS_SUPER_MAGIC
}

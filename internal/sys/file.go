package sys

import (
	"encoding/binary"
	"errors"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Stat is what the project needs to know of an inode.
type Stat struct {
	Dev   uint64
	Ino   uint64
	Mode  uint32 // with the type bits
	Nlink uint64
	UID   uint32
	GID   uint32
	Mtime unix.Timespec
	Ctime unix.Timespec
}

// IsSocket tells whether the inode is a sock-file.
func (s Stat) IsSocket() bool { return s.Mode&unix.S_IFMT == unix.S_IFSOCK }

// SameInode tells whether two Stats, of which at least one is of an open descriptor, are of one inode.
func (s Stat) SameInode(o Stat) bool { return s.Dev == o.Dev && s.Ino == o.Ino }

func toStat(st *unix.Stat_t) Stat {
	return Stat{
		Dev: uint64(st.Dev), Ino: st.Ino, Mode: st.Mode, Nlink: uint64(st.Nlink), UID: st.Uid, GID: st.Gid, //nolint:unconvert // types differ by architecture
		Mtime: st.Mtim, Ctime: st.Ctim,
	}
}

// Fstat is fstat(2).
func Fstat(fd int) (Stat, error) {
	var st unix.Stat_t
	err := call("fstat", func() error { return unix.Fstat(fd, &st) })
	return toStat(&st), err
}

// Lstatat is fstatat(2) that follows no symlink.
func Lstatat(dirfd int, name string) (Stat, error) {
	var st unix.Stat_t
	err := call("fstatat", func() error { return unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	return toStat(&st), err
}

// OpenPin opens name itself, whatever it is, without opening what is behind it: O_PATH|O_NOFOLLOW. No server notices.
func OpenPin(dirfd int, name string) (int, error) {
	return callInt("openat", func() (int, error) {
		return unix.Openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
}

// OpenDir opens a directory as a place to work in (O_PATH: no read permission is needed), following symlinks.
func OpenDir(dirfd int, path string) (int, error) {
	return callInt("openat", func() (int, error) {
		return unix.Openat(dirfd, path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
}

// OpenDirIn opens a directory below root as a process with that root directory would: symlinks and ".." stay inside,
// magic links are refused. openat2(2), Linux 5.6.
func OpenDirIn(rootfd int, path string) (int, error) {
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	var fd int
	var err error
	for range scopedTries {
		fd, err = callInt("openat2", func() (int, error) { return unix.Openat2(rootfd, path, &how) })
		if !errors.Is(err, unix.EAGAIN) {
			break
		}
	}
	return fd, err
}

// scopedTries bounds how often a lookup below a root is begun again. The kernel gives one up with EAGAIN when anything on
// the machine was renamed or mounted while it went up a "..", because it can no longer tell that it stayed inside. Somebody
// who renames all the time must not hold us here for ever.
const scopedTries = 128

// OpenList opens the directory that dirfd stands for once more, for reading its entries.
func OpenList(dirfd int) (int, error) {
	return callInt("openat", func() (int, error) {
		return unix.Openat(dirfd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
}

// Close closes a descriptor. Linux has closed it also when it says EINTR, so that is not an error.
func Close(fd int) error {
	if err := unix.Close(fd); err != nil && !errors.Is(err, unix.EINTR) {
		return wrap("close", err)
	}
	return nil
}

// DirID tells which directory a descriptor stands for, and through which mount.
type DirID struct {
	Major, Minor uint32
	Ino          uint64
	Mount        uint64 // mount id, statx(2) STATX_MNT_ID, Linux 5.8
}

// StatDir identifies the directory behind a descriptor.
func StatDir(fd int) (DirID, error) {
	var st unix.Statx_t
	err := call("statx", func() error {
		return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_INO|unix.STATX_MNT_ID, &st)
	})
	return DirID{Major: st.Dev_major, Minor: st.Dev_minor, Ino: st.Ino, Mount: st.Mnt_id}, err
}

// Attributes are the parts of statx(2) that decide whether a name can be removed at all.
type Attributes struct {
	MountRoot bool // something is mounted here, Linux 5.8
	Fixed     bool // immutable or append-only
}

// FileAttributes reads the Attributes of what a descriptor stands for.
func FileAttributes(fd int) (Attributes, error) {
	var st unix.Statx_t
	err := call("statx", func() error { return unix.Statx(fd, "", unix.AT_EMPTY_PATH, 0, &st) })
	return Attributes{
		MountRoot: st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0,
		Fixed:     st.Attributes&(unix.STATX_ATTR_IMMUTABLE|unix.STATX_ATTR_APPEND) != 0,
	}, err
}

// Writable asks whether entries of the directory may be made and removed, with the effective ids and capabilities:
// faccessat2(2), Linux 5.8.
func Writable(dirfd int) error {
	return call("faccessat2", func() error {
		return unix.Faccessat(dirfd, ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS)
	})
}

// FSUID is the user that the kernel takes the calling thread for where files are concerned: setfsuid(2), with an id that it
// refuses.
func FSUID() (uint32, error) {
	uid, err := setfsuid(-1)
	return uint32(uid), err
}

func setfsuid(uid int) (before int, err error) {
	return callInt("setfsuid", func() (int, error) { return unix.SetfsuidRetUid(uid) })
}

// HasCapability tells whether the calling thread has a capability in its effective set: capget(2), capabilities(7).
func HasCapability(capability int) (bool, error) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	err := call("capget", func() error { return unix.Capget(&header, &sets[0]) })
	return sets[capability/32].Effective&(1<<(capability%32)) != 0, err
}

// ReadOnly tells whether the mount that fd was opened through, or its filesystem, is read-only: fstatfs(2).
func ReadOnly(fd int) (bool, error) {
	const readOnly = 1 // ST_RDONLY of statvfs.h
	var st unix.Statfs_t
	err := call("fstatfs", func() error { return unix.Fstatfs(fd, &st) })
	return st.Flags&readOnly != 0, err
}

// FilesystemType is the f_type of fstatfs(2), one of the magic numbers of statfs(2).
func FilesystemType(fd int) (int64, error) {
	var st unix.Statfs_t
	err := call("fstatfs", func() error { return unix.Fstatfs(fd, &st) })
	return int64(st.Type), err //nolint:unconvert // the type differs by architecture
}

// RenameNoReplace is renameat2(2) with RENAME_NOREPLACE inside one directory.
func RenameNoReplace(dirfd int, from, to string) error {
	return call("renameat2", func() error {
		return unix.Renameat2(dirfd, from, dirfd, to, unix.RENAME_NOREPLACE)
	})
}

// Rename is renameat(2) inside one directory. It replaces what has the name to.
func Rename(dirfd int, from, to string) error {
	return call("renameat", func() error { return unix.Renameat(dirfd, from, dirfd, to) })
}

// Link is linkat(2) inside one directory, following no symlink.
func Link(dirfd int, from, to string) error {
	return call("linkat", func() error { return unix.Linkat(dirfd, from, dirfd, to, 0) })
}

// Unlink is unlinkat(2). A name that is there is removed whatever it is, directories apart.
func Unlink(dirfd int, name string) error {
	return call("unlinkat", func() error { return unix.Unlinkat(dirfd, name, 0) })
}

// Readlinkat is readlinkat(2) for links shorter than PATH_MAX.
func Readlinkat(dirfd int, name string) (string, error) {
	buf := make([]byte, unix.PathMax)
	n, err := callInt("readlinkat", func() (int, error) { return unix.Readlinkat(dirfd, name, buf) })
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// HandleFID is AT_HANDLE_FID of fcntl.h: a handle that identifies and cannot be opened. Linux 6.5.
const HandleFID = 0x200

// maxHandle is MAX_HANDLE_SZ of fs.h.
const maxHandle = 128

// FileHandle returns the handle of what fd stands for as bytes, its type in front: inode number and generation, so
// that it differs when the kernel gives an inode number out again. name_to_handle_at(2); no privilege is needed.
// EOPNOTSUPP where the filesystem has none; flags may be HandleFID.
func FileHandle(fd, flags int) (string, error) {
	var buf struct {
		size uint32
		kind int32
		data [maxHandle]byte
	}
	buf.size = maxHandle
	var mount int32
	var empty [1]byte
	err := call("name_to_handle_at", func() error {
		_, _, errno := unix.Syscall6(unix.SYS_NAME_TO_HANDLE_AT, uintptr(fd), uintptr(unsafe.Pointer(&empty[0])),
			uintptr(unsafe.Pointer(&buf)), uintptr(unsafe.Pointer(&mount)), uintptr(unix.AT_EMPTY_PATH|flags), 0)
		return orNil(errno)
	})
	if err != nil {
		return "", err
	}
	handle := make([]byte, 4, 4+buf.size)
	binary.LittleEndian.PutUint32(handle, uint32(buf.kind))
	return string(append(handle, buf.data[:buf.size]...)), nil
}

// Born is the time that an inode was made: statx(2) STATX_BTIME. errors.ErrUnsupported where the filesystem has none.
func Born(fd int) (time.Time, error) {
	var st unix.Statx_t
	err := call("statx", func() error { return unix.Statx(fd, "", unix.AT_EMPTY_PATH, unix.STATX_BTIME, &st) })
	if err != nil {
		return time.Time{}, err
	}
	if st.Mask&unix.STATX_BTIME == 0 {
		return time.Time{}, errors.ErrUnsupported
	}
	return time.Unix(st.Btime.Sec, int64(st.Btime.Nsec)), nil
}

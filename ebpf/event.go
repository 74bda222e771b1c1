package ebpf

import (
	"fmt"
	"time"

	"github.com/sockwatch/sockwatch/pidfd"
)

// Event is what happened to one socket. It is plain data and holds no descriptor.
//
// Of KindClosed only Kind, Time, Socket, Dev, Inode and Owner are set, as they were in the socket's KindBound.
type Event struct {
	Kind Kind
	Via  Via       // how bind was called
	Time time.Time // of the bind's end, from the kernel's clock: see CLOCK_BOOTTIME in clock_gettime(2)

	// Owner is the process that called bind, as pidfd.Process.Identity gives it, with the pid in the initial pid namespace.
	// StartTime is set here also where there is an Inode: see Identity.
	Owner     pidfd.Identity
	StartTime uint64 // of Owner, clock ticks since boot
	TID       int    // the thread, in the initial pid namespace
	NSPID     int    // Owner's pid in its own pid namespace
	UID, EUID uint32 // of the thread, in the initial user namespace
	Comm      string // of the process: its first thread's, at most 15 bytes
	CgroupID  uint64 // inode of the cgroup's directory in cgroup2; see cgroup.id in name_to_handle_at(2)

	MountNS, PIDNS uint32 // of the process: inode numbers, as in /proc/PID/ns, namespaces(7)
	NetNS          uint32 // of the socket

	Socket uint64 // the socket's own inode number, as in "socket:[N]"
	// Dev and Inode are the sock-file's. Dev is in the encoding of st_dev and unix.Mkdev, and the superblock's: the st_dev of
	// the same file is another one on btrfs, and on an overlayfs whose layers are on several filesystems.
	Dev, Inode uint64

	// Path leads to the sock-file, as the kernel knows it: from the process's root directory, without symbolic links, "." and "..",
	// and with mount points crossed. It begins with "/" unless Truncated or Outside.
	Path string
	// Truncated tells that Path is only the end of the path: it has more than 128 elements and mount points, or 4096 bytes.
	Truncated bool
	// Outside tells that Path does not lead through the process's root directory, as with a working directory outside of a
	// chroot: it is the path from the root of the mount namespace, without its first "/".
	Outside bool
	// FullPath is Path from the root of the process's mount namespace, where the process's root directory is another one: chroot(2).
	// Else it is Path. It is "" where the way up to there is too long; and it leads nowhere where that ended in a mount that umount(2)
	// has taken away.
	FullPath string
	// RawPath is the name that was given to bind(2), of up to 108 bytes, perhaps relative.
	RawPath string
	// Result is what bind returned. Only 0 is reported.
	Result int
}

// Kind says what happened.
type Kind uint8

// The kinds of events.
const (
	// KindBound is a successful bind to a pathname.
	KindBound Kind = iota + 1
	// KindClosed is the death of a socket that was KindBound since Open: HooksFexit only. It comes just before the kernel takes
	// the socket out of its table: a probe at once may still find it alive.
	KindClosed
)

func (k Kind) String() string {
	switch k {
	case KindBound:
		return "bound"
	case KindClosed:
		return "closed"
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// Via says how bind was called.
type Via uint8

// The ways to call bind.
const (
	ViaNative  Via = iota + 1 // bind(2) of the kernel's own ABI
	ViaCompat                 // bind(2) or socketcall(2) of the 32-bit ABI
	ViaIOUring                // IORING_OP_BIND, io_uring_enter(2), Linux 6.11
)

func (v Via) String() string {
	switch v {
	case ViaNative:
		return "native"
	case ViaCompat:
		return "compat"
	case ViaIOUring:
		return "io_uring"
	}
	return fmt.Sprintf("via(%d)", uint8(v))
}

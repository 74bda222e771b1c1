package reap

import (
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sockdiag"
	"github.com/sockwatch/sockwatch/internal/sys"
)

// isBound tells whether a socket with a sock-file is certainly the one that was bound to it. An accepted socket has the
// file of its listener and, like a bound one that called connect(2), is connected; no datagram socket is accepted.
func isBound(s sockdiag.Socket) bool {
	return s.Inode != 0 && (s.Type == unix.SOCK_DGRAM || s.State != sockdiag.StateEstablished)
}

// device is the device of a filesystem as the kernel's socket table gives it.
type device struct {
	dev uint64
	any bool // not known: every device will do
}

// deviceOf gives the device for the descriptor of a file whose st_dev is dev. The table has that of the superblock, which
// on btrfs and overlayfs need not be st_dev, but is in mountinfo.
func deviceOf(fd int, dev uint64) device {
	kind, err := sys.FilesystemType(fd)
	if err != nil || (kind != unix.BTRFS_SUPER_MAGIC && kind != unix.OVERLAYFS_SUPER_MAGIC) {
		return device{dev: dev}
	}
	if id, err := sys.StatDir(fd); err == nil {
		for m, err := range proc.FS("").Mounts(0) {
			if err == nil && m.ID == id.Mount {
				return device{dev: unix.Mkdev(m.Major, m.Minor)}
			}
		}
	}
	return device{any: true}
}

// entry is a sock-file as the kernel's socket table gives it. The inode number is cut to 32 bits.
type entry struct {
	ino uint32
	device
}

// entryOf gives the entry of the identity that a descriptor stands for, or of one in the directory that it stands for.
func entryOf(fd int, id ID) entry { return entry{uint32(id.ino), deviceOf(fd, id.dev)} }

// of tells whether the socket has this sock-file.
func (e entry) of(s sockdiag.Socket) bool {
	return s.VFSInode == e.ino && s.VFSInode != 0 && (e.any || s.Dev() == e.dev)
}

// entries finds files by what the socket table says of a socket: by the inode number.
type entries map[uint32][]indexed

type indexed struct {
	entry
	index int
}

func entriesOf(files []*File) entries {
	es := entries{}
	type place struct {
		dir *dir
		dev uint64
	}
	devices := map[place]device{} // to read mountinfo once and not for each file
	for i, f := range files {
		at := place{f.dir, f.id.dev}
		d, ok := devices[at]
		if !ok {
			d = deviceOf(f.dir.fd, f.id.dev)
			devices[at] = d
		}
		es.add(entry{uint32(f.id.ino), d}, i)
	}
	return es
}

func (es entries) add(e entry, index int) { es[e.ino] = append(es[e.ino], indexed{e, index}) }

// find calls yield with the index of each file that the socket has.
func (es entries) find(s sockdiag.Socket, yield func(index int)) {
	for _, e := range es[s.VFSInode] {
		if e.of(s) {
			yield(e.index)
		}
	}
}

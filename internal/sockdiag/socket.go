package sockdiag

import "golang.org/x/sys/unix"

// Values of Socket.State. AF_UNIX borrows those of TCP (include/net/tcp_states.h).
const (
	StateEstablished uint8 = 1
	StateClose       uint8 = 7
	StateListen      uint8 = 10
)

// Socket is what the kernel tells about one AF_UNIX socket.
type Socket struct {
	// Inode is the socket's own inode number, as in "socket:[N]".
	Inode uint32
	// Type is unix.SOCK_STREAM, unix.SOCK_DGRAM or unix.SOCK_SEQPACKET.
	Type int
	// State is StateListen, StateEstablished or StateClose; StateClose is that of a socket neither listening nor
	// connected, bound or not.
	State uint8
	// Cookie is unique among the sockets of this boot, which Inode is not.
	Cookie [2]uint32
	// Name is the address given to bind(2): a path, relative to a directory that the kernel does not tell, of up to 108
	// bytes of any value; an abstract name, which begins with a NUL byte; or "" for none. An accepted socket has the
	// name of its listener. A rename of the sock-file does not change it.
	Name string
	// VFSInode and VFSDev are the sock-file's, or 0, 0 for a socket that is not bound to one. An accepted socket has
	// those of its listener. The kernel cuts the inode number to 32 bits: compare with uint32(st_ino). VFSDev is in the
	// kernel's own encoding, major<<20|minor: see Dev.
	VFSInode, VFSDev uint32
	// UID is of the user that made the socket, seen from the user namespace of the Conn. Without HasUID the kernel did
	// not tell it (before Linux 5.3).
	UID    uint32
	HasUID bool
	// Peer is the inode number of the socket at the other end. It is 0 where there is none, and for a client that was
	// not accepted yet.
	Peer uint32
}

// Dev returns VFSDev in the encoding of st_dev and unix.Mkdev. It is the device of the superblock, as in mountinfo. The
// st_dev of the same file is another one on btrfs, and on an overlayfs whose layers are on several filesystems.
func (s Socket) Dev() uint64 {
	return unix.Mkdev(s.VFSDev>>20, s.VFSDev&(1<<20-1))
}

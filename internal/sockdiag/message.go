package sockdiag

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// From linux/unix_diag.h and linux/netlink.h; x/sys does not have them.
const (
	sizeofRequest = 24 // struct unix_diag_req
	sizeofReply   = 16 // struct unix_diag_msg
	sizeofVFS     = 8  // struct unix_diag_vfs

	showName = 1 << 0
	showVFS  = 1 << 1
	showPeer = 1 << 2
	showUID  = 1 << 6

	attrName = 0
	attrVFS  = 1
	attrPeer = 2
	attrUID  = 7

	attrTypeMask = 0x3fff // without NLA_F_NESTED and NLA_F_NET_BYTEORDER

	maxErrno = 4095
)

var errMalformed = errors.New("malformed netlink message")

// appendRequest appends the netlink message that asks for the socket with this inode number or, with NLM_F_DUMP in
// flags, for all of them.
func appendRequest(b []byte, flags uint16, seq, inode uint32) []byte {
	ne := binary.NativeEndian
	b = ne.AppendUint32(b, unix.SizeofNlMsghdr+sizeofRequest)
	b = ne.AppendUint16(b, unix.SOCK_DIAG_BY_FAMILY)
	b = ne.AppendUint16(b, unix.NLM_F_REQUEST|flags)
	b = ne.AppendUint32(b, seq)
	b = ne.AppendUint32(b, 0) // port id: the kernel fills it in

	b = append(b, unix.AF_UNIX, 0, 0, 0) // family, protocol, padding
	b = ne.AppendUint32(b, ^uint32(0))   // every state
	b = ne.AppendUint32(b, inode)
	b = ne.AppendUint32(b, showName|showVFS|showPeer|showUID)
	// INET_DIAG_NOCOOKIE, twice: whatever cookie the socket has.
	b = ne.AppendUint32(b, ^uint32(0))
	return ne.AppendUint32(b, ^uint32(0))
}

// message is one netlink message: struct nlmsghdr and what follows it.
type message struct {
	kind, flags uint16
	seq         uint32
	data        []byte // shares memory with what it was cut from
}

// cutMessage cuts the first message off b, which is not empty.
func cutMessage(b []byte) (m message, rest []byte, err error) {
	if len(b) < unix.SizeofNlMsghdr {
		return message{}, nil, fmt.Errorf("%w: header of %d bytes", errMalformed, len(b))
	}
	ne := binary.NativeEndian
	n := ne.Uint32(b)
	if n < unix.SizeofNlMsghdr || uint64(n) > uint64(len(b)) {
		return message{}, nil, fmt.Errorf("%w: length %d in %d bytes", errMalformed, n, len(b))
	}
	m = message{
		kind:  ne.Uint16(b[4:]),
		flags: ne.Uint16(b[6:]),
		seq:   ne.Uint32(b[8:]),
		data:  b[unix.SizeofNlMsghdr:n],
	}
	return m, b[aligned(int(n), len(b)):], nil
}

// parseErrno reads the number at the start of NLMSG_ERROR and NLMSG_DONE: 0 or a negated errno.
func parseErrno(data []byte) error {
	if len(data) < 4 {
		return fmt.Errorf("%w: error number of %d bytes", errMalformed, len(data))
	}
	n := int32(binary.NativeEndian.Uint32(data))
	switch {
	case n == 0:
		return nil
	case n < 0 && n >= -maxErrno:
		return unix.Errno(-n)
	}
	return fmt.Errorf("%w: error number %d", errMalformed, n)
}

// parseSocket reads struct unix_diag_msg and the attributes behind it.
func parseSocket(data []byte) (Socket, error) {
	if len(data) < sizeofReply {
		return Socket{}, fmt.Errorf("%w: socket of %d bytes", errMalformed, len(data))
	}
	if data[0] != unix.AF_UNIX {
		return Socket{}, fmt.Errorf("%w: socket of family %d", errMalformed, data[0])
	}
	ne := binary.NativeEndian
	s := Socket{
		Type:   int(data[1]),
		State:  data[2],
		Inode:  ne.Uint32(data[4:]),
		Cookie: [2]uint32{ne.Uint32(data[8:]), ne.Uint32(data[12:])},
	}
	for b := data[sizeofReply:]; len(b) > 0; {
		if len(b) < unix.SizeofNlAttr {
			return Socket{}, fmt.Errorf("%w: attribute of %d bytes", errMalformed, len(b))
		}
		n := int(ne.Uint16(b))
		if n < unix.SizeofNlAttr || n > len(b) {
			return Socket{}, fmt.Errorf("%w: attribute of %d bytes in %d", errMalformed, n, len(b))
		}
		if err := s.setAttr(ne.Uint16(b[2:])&attrTypeMask, b[unix.SizeofNlAttr:n]); err != nil {
			return Socket{}, err
		}
		b = b[aligned(n, len(b)):]
	}
	return s, nil
}

func (s *Socket) setAttr(kind uint16, v []byte) error {
	ne := binary.NativeEndian
	need := 0
	switch kind {
	case attrVFS:
		need = sizeofVFS
	case attrPeer, attrUID:
		need = 4
	}
	if len(v) < need {
		return fmt.Errorf("%w: attribute %d of %d bytes", errMalformed, kind, len(v))
	}
	switch kind {
	case attrName:
		// A path comes with the NUL that the kernel appends, an abstract name without: there every byte counts.
		if i := bytes.IndexByte(v, 0); i > 0 {
			v = v[:i]
		}
		s.Name = string(v)
	case attrVFS:
		s.VFSInode, s.VFSDev = ne.Uint32(v), ne.Uint32(v[4:])
	case attrPeer:
		s.Peer = ne.Uint32(v)
	case attrUID:
		s.UID, s.HasUID = ne.Uint32(v), true
	}
	return nil
}

// aligned rounds n up to the four bytes of NLMSG_ALIGN and NLA_ALIGN. The last message or attribute may lack its
// padding, so the result stays within limit.
func aligned(n, limit int) int {
	return min((n+3)&^3, limit)
}

package sockdiag

import (
	"encoding/binary"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func TestCutMessage(t *testing.T) {
	first := appendMessage(nil, unix.NLMSG_DONE, unix.NLM_F_MULTI, 7, []byte("abc"))
	both := appendMessage(first, unix.NLMSG_ERROR, 0, 8, nil)

	m, rest, err := cutMessage(both)
	if err != nil {
		t.Fatal(err)
	}
	if m.kind != unix.NLMSG_DONE || m.flags != unix.NLM_F_MULTI || m.seq != 7 || string(m.data) != "abc" {
		t.Errorf("first message: %+v", m)
	}
	m, rest, err = cutMessage(rest)
	if err != nil {
		t.Fatal(err)
	}
	if m.kind != unix.NLMSG_ERROR || m.seq != 8 || len(m.data) != 0 || len(rest) != 0 {
		t.Errorf("second message: %+v, rest %q", m, rest)
	}

	// The last message need not be padded.
	m, rest, err = cutMessage(first[:unix.SizeofNlMsghdr+3])
	if err != nil || string(m.data) != "abc" || len(rest) != 0 {
		t.Errorf("message without padding: %+v, rest %q, %v", m, rest, err)
	}
}

func TestCutMessageMalformed(t *testing.T) {
	whole := appendMessage(nil, unix.NLMSG_DONE, 0, 1, make([]byte, 4))
	withLength := func(n uint32) []byte {
		b := append([]byte(nil), whole...)
		binary.NativeEndian.PutUint32(b, n)
		return b
	}
	for name, b := range map[string][]byte{
		"one byte":          whole[:1],
		"half a header":     whole[:unix.SizeofNlMsghdr-1],
		"cut off":           whole[:len(whole)-1],
		"length 0":          withLength(0),
		"less than header":  withLength(unix.SizeofNlMsghdr - 1),
		"more than there":   withLength(uint32(len(whole)) + 1),
		"largest of length": withLength(1<<32 - 1),
	} {
		if _, _, err := cutMessage(b); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v, want errMalformed", name, err)
		}
	}
}

func TestParseErrno(t *testing.T) {
	errno := func(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }
	for _, tt := range []struct {
		data []byte
		want error
	}{
		{errno(0), nil},
		{errno(-int32(unix.ENOENT)), unix.ENOENT},
		{append(errno(-int32(unix.EBUSY)), "what was asked"...), unix.EBUSY},
		{errno(1), errMalformed},
		{errno(-4096), errMalformed},
		{errno(-1 << 31), errMalformed},
		{nil, errMalformed},
		{[]byte{0, 0, 0}, errMalformed},
	} {
		if err := parseErrno(tt.data); !errors.Is(err, tt.want) {
			t.Errorf("parseErrno(%v) = %v, want %v", tt.data, err, tt.want)
		}
	}
}

func TestParseSocket(t *testing.T) {
	for name, want := range map[string]Socket{
		"bare":     {Inode: 12, Type: unix.SOCK_DGRAM, State: StateClose},
		"path":     {Inode: 1<<32 - 1, Type: unix.SOCK_STREAM, State: StateListen, Name: "/run/x", VFSInode: 3, VFSDev: 8<<20 | 1},
		"longest":  {Name: strings.Repeat("n", 108)},
		"bytes":    {Name: "\xff\n\x80 /"},
		"abstract": {Name: "\x00a\x00b\x00"},
		"autobind": {Name: "\x0000012"},
		"uid":      {UID: 1<<32 - 1, HasUID: true, Cookie: [2]uint32{1, 2}},
		"root":     {HasUID: true},
		"peer":     {Type: unix.SOCK_SEQPACKET, State: StateEstablished, Peer: 99},
	} {
		got, err := parseSocket(encodeSocket(want))
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestParseSocketSkipsUnknownAttributes(t *testing.T) {
	b := encodeSocket(Socket{Inode: 1, Name: "/a"})
	b = appendAttr(b, 4, make([]byte, 8)) // UNIX_DIAG_RQLEN
	b = appendAttr(b, 6, []byte{1})       // UNIX_DIAG_SHUTDOWN
	b = appendAttr(b, 300, []byte("from a later kernel"))
	b = appendAttr(b, attrPeer|1<<14, []byte{5, 0, 0, 0}) // NLA_F_NET_BYTEORDER says nothing about the type
	got, err := parseSocket(b)
	if err != nil {
		t.Fatal(err)
	}
	want := Socket{Inode: 1, Name: "/a", Peer: binary.NativeEndian.Uint32([]byte{5, 0, 0, 0})}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestParseSocketMalformed(t *testing.T) {
	bare := encodeSocket(Socket{Inode: 1})
	inet := encodeSocket(Socket{Inode: 1})
	inet[0] = unix.AF_INET
	for name, b := range map[string][]byte{
		"nothing":           nil,
		"too short":         bare[:sizeofReply-1],
		"another family":    inet,
		"half an attribute": append(bare[:sizeofReply:sizeofReply], 1, 0, 0),
		"attribute 0 long":  append(bare[:sizeofReply:sizeofReply], 0, 0, 0, 0),
		"attribute too long": append(bare[:sizeofReply:sizeofReply],
			binary.NativeEndian.AppendUint16(nil, 9)[0], binary.NativeEndian.AppendUint16(nil, 9)[1], 0, 0, 'x'),
		"short vfs":  appendAttr(bare, attrVFS, make([]byte, 7)),
		"short peer": appendAttr(bare, attrPeer, make([]byte, 3)),
		"short uid":  appendAttr(bare, attrUID, nil),
	} {
		if _, err := parseSocket(b); !errors.Is(err, errMalformed) {
			t.Errorf("%s: %v, want errMalformed", name, err)
		}
	}
}

func TestDev(t *testing.T) {
	for _, tt := range []struct{ major, minor uint32 }{{0, 0}, {0, 27}, {8, 1}, {259, 3}, {0, 1<<20 - 1}, {4095, 256}} {
		s := Socket{VFSDev: tt.major<<20 | tt.minor}
		if got := s.Dev(); got != unix.Mkdev(tt.major, tt.minor) || unix.Major(got) != tt.major || unix.Minor(got) != tt.minor {
			t.Errorf("%d:%d: Dev() = %#x", tt.major, tt.minor, got)
		}
	}
}

// TestDumpPart drives the reading side of a dump with what a kernel may say.
func TestDumpPart(t *testing.T) {
	const seq = 5
	socket := func(b []byte, flags uint16, seq, inode uint32) []byte {
		return appendMessage(b, unix.SOCK_DIAG_BY_FAMILY, flags, seq, encodeSocket(Socket{Inode: inode}))
	}
	done := func(b []byte, flags uint16, n int32) []byte {
		return appendMessage(b, unix.NLMSG_DONE, flags, seq, binary.NativeEndian.AppendUint32(nil, uint32(n)))
	}
	for _, tt := range []struct {
		name              string
		data              []byte
		inodes            []uint32
		err               error
		done, interrupted bool
	}{
		{name: "nothing"},
		{name: "part", data: socket(socket(nil, 0, seq, 1), 0, seq, 2), inodes: []uint32{1, 2}},
		{name: "last", data: done(socket(nil, 0, seq, 1), 0, 0), inodes: []uint32{1}, done: true},
		{name: "behind the end", data: socket(done(nil, 0, 0), 0, seq, 1), done: true},
		{name: "of an earlier request", data: socket(socket(nil, 0, seq-1, 1), 0, seq, 2), inodes: []uint32{2}},
		{name: "interrupted", data: done(socket(nil, unix.NLM_F_DUMP_INTR, seq, 1), 0, 0), inodes: []uint32{1}, done: true, interrupted: true},
		{name: "interrupted at the end", data: done(nil, unix.NLM_F_DUMP_INTR, 0), done: true, interrupted: true},
		{name: "failed half way", data: done(socket(nil, 0, seq, 1), 0, -int32(unix.ENOMEM)), inodes: []uint32{1}, err: unix.ENOMEM},
		{name: "malformed socket", data: appendMessage(nil, unix.SOCK_DIAG_BY_FAMILY, 0, seq, nil), err: errMalformed},
		{name: "malformed message", data: []byte{1}, err: errMalformed},
		{name: "no-op", data: socket(appendMessage(nil, unix.NLMSG_NOOP, 0, seq, nil), 0, seq, 1), inodes: []uint32{1}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := dump{seq: seq}
			var inodes []uint32
			var got error
			ok := d.part(tt.data, func(s Socket, err error) bool {
				if got = err; err == nil {
					inodes = append(inodes, s.Inode)
				}
				return true
			})
			if diff := cmp.Diff(tt.inodes, inodes); diff != "" {
				t.Errorf("sockets (-want +got):\n%s", diff)
			}
			if !errors.Is(got, tt.err) || ok != (tt.err == nil) {
				t.Errorf("error %v, going on %v; want %v", got, ok, tt.err)
			}
			if d.done != tt.done || d.interrupted != tt.interrupted {
				t.Errorf("done %v, interrupted %v; want %v, %v", d.done, d.interrupted, tt.done, tt.interrupted)
			}
		})
	}
}

// FuzzDump feeds a datagram to the reading side of a dump: whatever it holds, it must end and not panic.
func FuzzDump(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(appendMessage(nil, unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_MULTI, 1, encodeSocket(Socket{
		Inode: 1, Type: 1, State: StateListen, Name: "/run/a.sock", VFSInode: 2, VFSDev: 3, HasUID: true, Peer: 4,
	})))
	f.Add(appendMessage(nil, unix.NLMSG_DONE, unix.NLM_F_MULTI|unix.NLM_F_DUMP_INTR, 1, make([]byte, 4)))
	f.Add(appendMessage(nil, unix.NLMSG_ERROR, 0, 1, []byte{0xfe, 0xff, 0xff, 0xff}))
	f.Fuzz(func(t *testing.T, data []byte) {
		d := dump{seq: 1}
		sockets, failures := 0, 0
		ok := d.part(data, func(_ Socket, err error) bool {
			if err != nil {
				failures++
			} else {
				sockets++
			}
			return true
		})
		if ok != (failures == 0) || failures > 1 {
			t.Errorf("going on %v after %d errors", ok, failures)
		}
		if sockets > len(data)/(unix.SizeofNlMsghdr+sizeofReply) {
			t.Errorf("%d sockets in %d bytes", sockets, len(data))
		}
	})
}

// FuzzParseSocket checks that what is parsed encodes and parses to the same.
func FuzzParseSocket(f *testing.F) {
	f.Add([]byte(nil))
	f.Add(encodeSocket(Socket{Inode: 1, Type: 5, State: 7, Name: "\x00abstract\x00", UID: 3, HasUID: true}))
	f.Add(encodeSocket(Socket{Cookie: [2]uint32{1, 2}, Name: strings.Repeat("n", 108), VFSInode: 1, VFSDev: 27, Peer: 5}))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseSocket(data)
		if err != nil {
			if !errors.Is(err, errMalformed) || s != (Socket{}) {
				t.Errorf("%+v, %v", s, err)
			}
			return
		}
		again, err := parseSocket(encodeSocket(s))
		if err != nil || again != s {
			t.Errorf("%+v became %+v, %v", s, again, err)
		}
	})
}

// encodeSocket is the inverse of parseSocket: it writes what the kernel would.
func encodeSocket(s Socket) []byte {
	ne := binary.NativeEndian
	b := []byte{unix.AF_UNIX, byte(s.Type), s.State, 0}
	for _, n := range []uint32{s.Inode, s.Cookie[0], s.Cookie[1]} {
		b = ne.AppendUint32(b, n)
	}
	if s.Name != "" {
		name := []byte(s.Name)
		if name[0] != 0 {
			name = append(name, 0)
		}
		b = appendAttr(b, attrName, name)
	}
	if s.VFSInode != 0 || s.VFSDev != 0 {
		b = appendAttr(b, attrVFS, ne.AppendUint32(ne.AppendUint32(nil, s.VFSInode), s.VFSDev))
	}
	if s.Peer != 0 {
		b = appendAttr(b, attrPeer, ne.AppendUint32(nil, s.Peer))
	}
	if s.HasUID {
		b = appendAttr(b, attrUID, ne.AppendUint32(nil, s.UID))
	}
	return b
}

func appendAttr(b []byte, kind uint16, v []byte) []byte {
	b = binary.NativeEndian.AppendUint16(b[:len(b):len(b)], uint16(unix.SizeofNlAttr+len(v)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	return pad(append(b, v...))
}

func appendMessage(b []byte, kind, flags uint16, seq uint32, data []byte) []byte {
	b = binary.NativeEndian.AppendUint32(b[:len(b):len(b)], uint32(unix.SizeofNlMsghdr+len(data)))
	b = binary.NativeEndian.AppendUint16(b, kind)
	b = binary.NativeEndian.AppendUint16(b, flags)
	b = binary.NativeEndian.AppendUint32(b, seq)
	b = binary.NativeEndian.AppendUint32(b, 0)
	return pad(append(b, data...))
}

func pad(b []byte) []byte {
	for len(b)%4 != 0 {
		b = append(b, 0)
	}
	return b
}

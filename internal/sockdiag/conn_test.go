package sockdiag

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestSockets makes sockets of every kind and compares what the kernel tells of them with what was made.
func TestSockets(t *testing.T) {
	dir := testutil.TempDir(t)
	t.Chdir(dir)
	longest := strings.Repeat("n", 108)
	in := func(name string) string { return filepath.Join(dir, name) }

	// make returns the socket; file is the sock-file that it is bound to, if any.
	for _, tt := range []struct {
		name string
		make func(*testing.T) int
		want Socket
		file string
		peer bool
	}{
		{
			name: "listener",
			make: func(t *testing.T) int { return listening(t, unix.SOCK_STREAM, in("listener")) },
			want: Socket{Type: unix.SOCK_STREAM, State: StateListen, Name: in("listener")},
			file: in("listener"),
		},
		{
			name: "accepted",
			make: func(t *testing.T) int { return accepted(t, unix.SOCK_STREAM, in("accepted")) },
			want: Socket{Type: unix.SOCK_STREAM, State: StateEstablished, Name: in("accepted")},
			file: in("accepted"), peer: true,
		},
		{
			name: "bound, not listening",
			make: func(t *testing.T) int { return bound(t, unix.SOCK_STREAM, in("bound")) },
			want: Socket{Type: unix.SOCK_STREAM, State: StateClose, Name: in("bound")},
			file: in("bound"),
		},
		{
			name: "datagram",
			make: func(t *testing.T) int { return bound(t, unix.SOCK_DGRAM, in("dgram")) },
			want: Socket{Type: unix.SOCK_DGRAM, State: StateClose, Name: in("dgram")},
			file: in("dgram"),
		},
		{
			name: "seqpacket listener",
			make: func(t *testing.T) int { return listening(t, unix.SOCK_SEQPACKET, in("seqpacket")) },
			want: Socket{Type: unix.SOCK_SEQPACKET, State: StateListen, Name: in("seqpacket")},
			file: in("seqpacket"),
		},
		{
			name: "accepted seqpacket",
			make: func(t *testing.T) int { return accepted(t, unix.SOCK_SEQPACKET, in("seqpacket2")) },
			want: Socket{Type: unix.SOCK_SEQPACKET, State: StateEstablished, Name: in("seqpacket2")},
			file: in("seqpacket2"), peer: true,
		},
		{
			name: "relative",
			make: func(t *testing.T) int { return bound(t, unix.SOCK_STREAM, "./../"+filepath.Base(dir)+"/rel") },
			want: Socket{Type: unix.SOCK_STREAM, State: StateClose, Name: "./../" + filepath.Base(dir) + "/rel"},
			file: in("rel"),
		},
		{
			name: "108 bytes without NUL",
			make: func(t *testing.T) int { return bound(t, unix.SOCK_STREAM, longest) },
			want: Socket{Type: unix.SOCK_STREAM, State: StateClose, Name: longest},
			file: in(longest),
		},
		{
			name: "not UTF-8",
			make: func(t *testing.T) int { return listening(t, unix.SOCK_STREAM, "a\xff\x80\n\x01 b") },
			want: Socket{Type: unix.SOCK_STREAM, State: StateListen, Name: "a\xff\x80\n\x01 b"},
			file: in("a\xff\x80\n\x01 b"),
		},
		{
			name: "renamed",
			make: func(t *testing.T) int {
				fd := listening(t, unix.SOCK_STREAM, in("before"))
				must(t, os.Rename(in("before"), in("after")))
				return fd
			},
			want: Socket{Type: unix.SOCK_STREAM, State: StateListen, Name: in("before")},
			file: in("after"),
		},
		{
			name: "hard-linked, first name gone",
			make: func(t *testing.T) int {
				fd := listening(t, unix.SOCK_STREAM, in("first"))
				must(t, os.Link(in("first"), in("second")))
				must(t, os.Remove(in("first")))
				return fd
			},
			want: Socket{Type: unix.SOCK_STREAM, State: StateListen, Name: in("first")},
			file: in("second"),
		},
		{
			name: "abstract",
			make: func(t *testing.T) int { return listening(t, unix.SOCK_STREAM, "\x00"+dir+"\x00\x00") },
			want: Socket{Type: unix.SOCK_STREAM, State: StateListen, Name: "\x00" + dir + "\x00\x00"},
		},
		{
			name: "unbound",
			make: func(t *testing.T) int { return socket(t, unix.SOCK_STREAM) },
			want: Socket{Type: unix.SOCK_STREAM, State: StateClose},
		},
		{
			name: "socketpair",
			make: func(t *testing.T) int { return pair(t, unix.SOCK_STREAM)[0] },
			want: Socket{Type: unix.SOCK_STREAM, State: StateEstablished},
			peer: true,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			want := tt.want
			want.Inode = inode(t, tt.make(t))
			want.UID, want.HasUID = uint32(os.Geteuid()), true
			if tt.file != "" {
				var st unix.Stat_t
				must(t, unix.Lstat(tt.file, &st))
				want.VFSInode = uint32(st.Ino)
				m := mountOf(t, tt.file)
				want.VFSDev = m.Major<<20 | m.Minor
			}

			c := dial(t)
			got, err := c.Get(want.Inode)
			if err != nil {
				t.Fatal(err)
			}
			if got.Cookie == [2]uint32{} {
				t.Error("no cookie")
			}
			if (got.Peer != 0) != tt.peer {
				t.Errorf("peer %d", got.Peer)
			}
			want.Cookie, want.Peer = got.Cookie, got.Peer
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("Get (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(want, find(t, c, want.Inode)); diff != "" {
				t.Errorf("Dump (-want +got):\n%s", diff)
			}
		})
	}
}

// TestPeer checks that the two ends of a pair name each other, and that the pair's cookies differ.
func TestPeer(t *testing.T) {
	fds := pair(t, unix.SOCK_DGRAM)
	c := dial(t)
	a, err := c.Get(inode(t, fds[0]))
	must(t, err)
	b, err := c.Get(inode(t, fds[1]))
	must(t, err)
	if a.Peer != b.Inode || b.Peer != a.Inode || a.Cookie == b.Cookie {
		t.Errorf("%+v and %+v", a, b)
	}
}

// TestNotAccepted checks that the server's end of a connection is not listed before it is accepted: it has no inode
// yet.
func TestNotAccepted(t *testing.T) {
	path := filepath.Join(testutil.TempDir(t), "s")
	listener := listening(t, unix.SOCK_STREAM, path)
	client := socket(t, unix.SOCK_STREAM)
	must(t, unix.Connect(client, &unix.SockaddrUnix{Name: path}))

	c := dial(t)
	named := map[uint32]bool{}
	untilSeen(t, func() bool {
		for s, err := range c.Dump() {
			must(t, err)
			if s.Name == path {
				named[s.Inode] = true
			}
		}
		return named[inode(t, listener)]
	})
	if len(named) != 1 {
		t.Errorf("the sockets of that name are %v, want %d alone", named, inode(t, listener))
	}
	if s, err := c.Get(inode(t, client)); err != nil || s.State != StateEstablished || s.Peer != 0 {
		t.Errorf("client: %+v, %v; want an established one without peer", s, err)
	}
}

// TestInFlight checks that a socket is listed while its only descriptor is queued in another socket.
func TestInFlight(t *testing.T) {
	path := filepath.Join(testutil.TempDir(t), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	queued := inode(t, fd)
	queue := pair(t, unix.SOCK_DGRAM)
	must(t, unix.Sendmsg(queue[0], []byte("x"), unix.UnixRights(fd), nil, 0))
	must(t, unix.Close(fd))

	if s := find(t, dial(t), queued); s.Name != path {
		t.Errorf("%+v", s)
	}
}

func TestGetNotFound(t *testing.T) {
	c := dial(t)
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	gone := inode(t, fd)
	must(t, unix.Close(fd))
	inet, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_ROUTE)
	must(t, err)
	t.Cleanup(func() { unix.Close(inet) })

	for name, n := range map[string]uint32{"zero": 0, "closed": gone, "another family": inode(t, inet)} {
		if s, err := c.Get(n); !errors.Is(err, ErrNotFound) {
			t.Errorf("%s: %+v, %v; want ErrNotFound", name, s, err)
		}
	}
	// The connection is as good as before.
	here := inode(t, socket(t, unix.SOCK_DGRAM))
	if s, err := c.Get(here); err != nil || s.Inode != here {
		t.Errorf("Get after ErrNotFound: %+v, %v", s, err)
	}
}

// TestDumpLeftEarly leaves dumps of several parts at their first socket.
func TestDumpLeftEarly(t *testing.T) {
	inodes := make(map[uint32]bool)
	for range 1500 {
		fds := pair(t, unix.SOCK_STREAM)
		inodes[inode(t, fds[0])] = true
		inodes[inode(t, fds[1])] = true
	}
	one := inode(t, socket(t, unix.SOCK_DGRAM))
	c := dial(t)
	for range 10 {
		for s, err := range c.Dump() {
			if err != nil {
				t.Fatal(err)
			}
			_ = s
			break
		}
		if s, err := c.Get(one); err != nil || s.Inode != one {
			t.Fatalf("Get after a dump left early: %+v, %v", s, err)
		}
	}
	func() {
		defer func() { _ = recover() }()
		for _, err := range c.Dump() {
			must(t, err)
			panic("in the loop body")
		}
	}()
	untilSeen(t, func() bool {
		for s, err := range c.Dump() {
			must(t, err)
			delete(inodes, s.Inode)
		}
		return len(inodes) == 0
	})
}

// untilSeen reads the table until all is seen that was there all the time. One dump can miss some of it, or tell it twice, while other
// processes make and close sockets: see Conn.Dump.
func untilSeen(t *testing.T, seen func() bool) {
	t.Helper()
	for range 100 {
		if seen() {
			return
		}
	}
	t.Error("there are sockets that no dump tells of")
}

func TestBusy(t *testing.T) {
	c := dial(t)
	one := inode(t, socket(t, unix.SOCK_DGRAM))
	rounds := 0
	for _, err := range c.Dump() {
		must(t, err)
		rounds++
		if rounds > 1 {
			continue
		}
		if _, err := c.Get(one); !errors.Is(err, errBusy) {
			t.Errorf("Get during a dump: %v", err)
		}
		for _, err := range c.Dump() {
			if !errors.Is(err, errBusy) {
				t.Errorf("Dump during a dump: %v", err)
			}
		}
	}
	if _, err := c.Get(one); err != nil {
		t.Errorf("Get after the dump: %v", err)
	}
}

func TestClosed(t *testing.T) {
	c, err := Dial()
	must(t, err)
	must(t, c.Close())
	if err := c.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("second Close: %v", err)
	}
	if _, err := c.Get(1); !errors.Is(err, unix.EBADF) {
		t.Errorf("Get after Close: %v", err)
	}
	n := 0
	for _, err := range c.Dump() {
		n++
		if !errors.Is(err, unix.EBADF) {
			t.Errorf("Dump after Close: %v", err)
		}
	}
	if n != 1 {
		t.Errorf("Dump after Close yielded %d times", n)
	}
}

// TestDumpMemory checks that a dump does not hold the table.
func TestDumpMemory(t *testing.T) {
	for range 2000 {
		pair(t, unix.SOCK_STREAM)
	}
	c := dial(t)
	named := 0 // at most, in a dump: whatever else runs on the machine
	allocs := testing.AllocsPerRun(3, func() {
		n := 0
		for s, err := range c.Dump() {
			if err != nil {
				t.Error(err)
			}
			if s.Name != "" {
				n++
			}
		}
		named = max(named, n)
	})
	// Unnamed sockets take no memory of their own; names and the datagrams' sender addresses do.
	if allocs > float64(named)+1000 {
		t.Errorf("%v allocations for a dump of 4,000 unnamed sockets and %d with names", allocs, named)
	}
}

// BenchmarkDump and BenchmarkGet show how both grow with the table.
func BenchmarkDump(b *testing.B) {
	for _, n := range []int{10, 1000, 8000} {
		b.Run(sockets(n), func(b *testing.B) {
			manyBound(b, n)
			c := dial(b)
			b.ReportAllocs()
			for b.Loop() {
				for _, err := range c.Dump() {
					if err != nil {
						b.Fatal(err)
					}
				}
			}
		})
	}
}

func BenchmarkGet(b *testing.B) {
	for _, n := range []int{10, 1000, 8000} {
		b.Run(sockets(n), func(b *testing.B) {
			inodes := manyBound(b, n)
			c := dial(b)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if _, err := c.Get(inodes[i%n]); err != nil {
					b.Fatal(err)
				}
				i += 7
			}
		})
	}
}

func BenchmarkDial(b *testing.B) {
	for b.Loop() {
		c, err := Dial()
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Close(); err != nil {
			b.Fatal(err)
		}
	}
}

func sockets(n int) string { return "sockets=" + strconv.Itoa(n) }

func manyBound(b *testing.B, n int) []uint32 {
	b.Helper()
	dir := testutil.TempDir(b)
	inodes := make([]uint32, n)
	for i := range n {
		inodes[i] = inode(b, bound(b, unix.SOCK_DGRAM, filepath.Join(dir, "worker-"+strconv.Itoa(i)+".sock")))
	}
	return inodes
}

func dial(t testing.TB) *Conn {
	t.Helper()
	c, err := Dial()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// find returns the socket from a dump in which it is once.
func find(t *testing.T, c *Conn, inode uint32) (found Socket) {
	t.Helper()
	untilSeen(t, func() bool {
		times := 0
		for s, err := range c.Dump() {
			must(t, err)
			if s.Inode == inode {
				found = s
				times++
			}
		}
		return times == 1
	})
	return found
}

func socket(t testing.TB, kind int) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

// bound binds to a path as it stands: x/sys refuses one of 108 bytes, and takes '@' for NUL.
func bound(t testing.TB, kind int, name string) int {
	t.Helper()
	fd := socket(t, kind)
	sa := unix.RawSockaddrUnix{Family: unix.AF_UNIX}
	copy(unsafe.Slice((*byte)(unsafe.Pointer(&sa.Path)), len(sa.Path)), name)
	size := unsafe.Offsetof(sa.Path) + uintptr(len(name))
	_, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa)), size)
	if errno != 0 {
		t.Fatalf("bind %q: %v", name, errno)
	}
	return fd
}

func listening(t testing.TB, kind int, name string) int {
	t.Helper()
	fd := bound(t, kind, name)
	must(t, unix.Listen(fd, 5))
	return fd
}

func accepted(t testing.TB, kind int, path string) int {
	t.Helper()
	l := listening(t, kind, path)
	must(t, unix.Connect(socket(t, kind), &unix.SockaddrUnix{Name: path}))
	fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
	must(t, err)
	t.Cleanup(func() { unix.Close(fd) })
	return fd
}

func pair(t testing.TB, kind int) [2]int {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	t.Cleanup(func() { unix.Close(fds[0]); unix.Close(fds[1]) })
	return fds
}

// mountOf returns the mount that path is on. Its device is that of the superblock, whatever st_dev says.
func mountOf(t *testing.T, path string) proc.Mount {
	t.Helper()
	var st unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, path, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_MNT_ID, &st))
	for m, err := range proc.FS("").Mounts(0) {
		must(t, err)
		if m.ID == st.Mnt_id {
			return m
		}
	}
	t.Fatalf("no mount has the id of %s: %d", path, st.Mnt_id)
	return proc.Mount{}
}

func inode(t testing.TB, fd int) uint32 {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Fstat(fd, &st))
	return uint32(st.Ino)
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

package ebpf

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func contains(sockets []Socket, raw string) bool {
	return slices.ContainsFunc(sockets, func(s Socket) bool { return s.RawPath == raw })
}

// scan is Scan where not even root may see everybody: a container without CAP_SYS_PTRACE.
func scan(t *testing.T) []Socket {
	t.Helper()
	sockets, err := Scan()
	if err != nil && !errors.Is(err, fs.ErrPermission) {
		t.Fatal(err)
	}
	return sockets
}

func TestScan(t *testing.T) {
	testutil.Require(t, testutil.Root)
	dir := testutil.TempDir(t)
	own := startBinder(t, 0)
	foreign := startBinder(t, unix.CLONE_NEWNET)
	for name, p := range map[string]process{"own": own, "foreign": foreign} {
		p.do("chdir", dir)
		socket := p.bind(name)
		p.do("connect", name)
		dgram := filepath.Join(dir, name+"-dgram")
		p.do("bind", strconv.Itoa(unix.SOCK_DGRAM), dgram)
		p.do("bind", strconv.Itoa(unix.SOCK_STREAM), "\x00"+dgram) // abstract
		_, ino := p.stat(name)

		sockets := scan(t)
		i := slices.IndexFunc(sockets, func(s Socket) bool { return uint64(s.Inode) == socket })
		if i < 0 {
			t.Fatalf("%s: socket %d is not there", name, socket)
		}
		want := Socket{
			Inode: uint32(socket), Type: unix.SOCK_STREAM, Listening: true, NetNS: uint64(namespaceOf(t, p.PID(), "net")),
			RawPath: name, Dev: sockets[i].Dev, FileInode: uint32(ino),
		}
		if sockets[i] != want {
			t.Errorf("got %+v, want %+v", sockets[i], want)
		}
		if !contains(sockets, dgram) {
			t.Errorf("%s: the datagram socket is not there", name)
		}
		if contains(sockets, "\x00"+dgram) {
			t.Errorf("%s: the abstract socket is there", name)
		}
	}
	own.end()
	foreign.end()
	sockets := scan(t)
	if contains(sockets, "own") || contains(sockets, "foreign") {
		t.Error("sockets of processes that are gone are there")
	}
}

// TestScanAccepted is about what an accepted socket repeats of its listener.
func TestScanAccepted(t *testing.T) {
	path := filepath.Join(testutil.TempDir(t), "s")
	listener, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(listener)
	if err := unix.Bind(listener, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	if err := unix.Listen(listener, 1); err != nil {
		t.Fatal(err)
	}
	client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(client)
	if err := unix.Connect(client, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	server, _, err := unix.Accept4(listener, unix.SOCK_CLOEXEC)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(server)
	sockets := scan(t)
	var found []Socket
	for _, s := range sockets {
		if s.RawPath == path {
			found = append(found, s)
		}
	}
	if len(found) != 1 || uint64(found[0].Inode) != inode(listener) {
		t.Errorf("got %+v, want the listener alone", found)
	}
}

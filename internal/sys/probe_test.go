package sys

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestConnectFD is the kernel's side of reap's probe: which errno it has for what.
func TestConnectFD(t *testing.T) {
	dir := testutil.TempDir(t)
	bind := func(name string, kind int) int {
		t.Helper()
		fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
		must(t, err)
		t.Cleanup(func() { unix.Close(fd) })
		must(t, unix.Bind(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, name)}))
		return fd
	}
	bind("stream", unix.SOCK_STREAM)
	bind("seqpacket", unix.SOCK_SEQPACKET)
	bind("dgram", unix.SOCK_DGRAM)
	must(t, unix.Connect(bind("connected", unix.SOCK_DGRAM), &unix.SockaddrUnix{Name: filepath.Join(dir, "dgram")}))
	must(t, unix.Mknod(filepath.Join(dir, "dead"), unix.S_IFSOCK|0o600, 0))
	must(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	must(t, os.Mkdir(filepath.Join(dir, "directory"), 0o700))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(t, os.Symlink("stream", filepath.Join(dir, "symlink")))

	sock, err := ProbeSocket()
	must(t, err)
	closeAtEnd(t, sock)
	for name, want := range map[string]error{
		"stream":    unix.EPROTOTYPE,
		"seqpacket": unix.EPROTOTYPE,
		"dgram":     nil,
		"connected": unix.EPERM,
		"dead":      unix.ECONNREFUSED,
		"file":      unix.ECONNREFUSED, // as a dead one
		"directory": unix.ECONNREFUSED,
		"fifo":      unix.ECONNREFUSED,
		"symlink":   unix.ECONNREFUSED, // the link itself, which leads to a live one
	} {
		pin, err := OpenPin(unix.AT_FDCWD, filepath.Join(dir, name))
		must(t, err)
		for range 2 {
			if err := ConnectFD(sock, pin); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
			must(t, Disconnect(sock))
			if _, err := unix.Getpeername(sock); !errors.Is(err, unix.ENOTCONN) {
				t.Errorf("%s: still connected: %v", name, err)
			}
		}
		must(t, Close(pin))
	}
	if err := ConnectFD(sock, 1<<20); !errors.Is(err, unix.ENOENT) {
		t.Errorf("no such descriptor: %v, want %v", err, unix.ENOENT)
	}
}

func TestOnProcfs(t *testing.T) {
	if ok, err := OnProcfs(); !ok || err != nil {
		t.Errorf("%v, %v", ok, err)
	}
}

func TestDisconnectErrors(t *testing.T) {
	var syscallErr *os.SyscallError
	if err := Disconnect(-1); !errors.Is(err, unix.EBADF) || !errors.As(err, &syscallErr) {
		t.Error(err)
	}
}

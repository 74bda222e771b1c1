package notify

import (
	"net"
	"os"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestListen(t *testing.T) {
	for _, network := range []string{"unix", "unixpacket"} {
		t.Run(network, func(t *testing.T) {
			dir := testutil.TempDir(t)
			conn := watcher(t, dir+"/notify")
			t.Chdir(dir)
			l, err := Listen(t.Context(), network, "s")
			if err != nil {
				t.Fatal(err)
			}
			expect(t, conn, "BIND="+dir+"/s\n")
			if _, ok := l.(interface{ File() (*os.File, error) }); !ok {
				t.Error("the methods of *net.UnixListener are hidden")
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
			if err := l.Close(); err == nil {
				t.Error("closed twice, and no error")
			}
			expect(t, conn, "UNBIND="+dir+"/s\n")
		})
	}
}

// The path to be closed is the one that was bound, wherever the process has gone meanwhile.
func TestListenThenChdir(t *testing.T) {
	dir := testutil.TempDir(t)
	conn := watcher(t, dir+"/notify")
	t.Chdir(dir)
	l, err := Listen(t.Context(), "unix", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir("/")
	_ = l.Close()
	expect(t, conn, "BIND="+dir+"/s\n", "UNBIND="+dir+"/s\n")
}

func TestListenPacket(t *testing.T) {
	dir := testutil.TempDir(t)
	conn := watcher(t, dir+"/notify")
	c, err := ListenPacket(t.Context(), "unixgram", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir + "/s"); err != nil {
		t.Errorf("the file does not stay: %v", err)
	}
	expect(t, conn, "BIND="+dir+"/s\n")
}

// What makes no sock-file, or fails, is not reported.
func TestListenWithoutFile(t *testing.T) {
	dir := testutil.TempDir(t)
	conn := watcher(t, dir+"/notify")
	for network, address := range map[string]string{"unix": "@" + dir, "tcp": "127.0.0.1:0"} {
		l, err := Listen(t.Context(), network, address)
		if err != nil {
			t.Fatal(err)
		}
		_ = l.Close()
	}
	for network, address := range map[string]string{"unixgram": "@" + dir, "udp": "127.0.0.1:0"} {
		c, err := ListenPacket(t.Context(), network, address)
		if err != nil {
			t.Fatal(err)
		}
		_ = c.Close()
	}
	if l, err := Listen(t.Context(), "unix", dir+"/none/s"); err == nil || l != nil {
		t.Errorf("%v, %v", l, err)
	}
	if c, err := ListenPacket(t.Context(), "unixgram", dir+"/none/s"); err == nil || c != nil {
		t.Errorf("%v, %v", c, err)
	}
	expect(t, conn)
}

// A report that fails is no error of Listen, and without a watcher the listener has the same methods.
func TestListenUnreported(t *testing.T) {
	dir := testutil.TempDir(t)
	for _, address := range []string{"", dir + "/none"} {
		t.Setenv(Variable, address)
		l, err := Listen(t.Context(), "unix", dir+"/s")
		if err != nil {
			t.Fatal(err)
		}
		if _, ok := l.(*net.UnixListener); ok {
			t.Errorf("%q: the type depends on the environment", address)
		}
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	}
}

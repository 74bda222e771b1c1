package notify

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// watcher is the socket of a watcher, which Variable names.
func watcher(t *testing.T, address string) *net.UnixConn {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	t.Setenv(Variable, address)
	return conn
}

// expect takes messages, which are there already: what was sent to a datagram socket is in its queue.
func expect(t *testing.T, conn *net.UnixConn, want ...string) {
	t.Helper()
	b := make([]byte, MaxMessage+1)
	for _, w := range want {
		n, err := receive(conn, b)
		if err != nil {
			t.Fatalf("instead of %q: %v", w, err)
		}
		if got := string(b[:n]); got != w {
			t.Errorf("got %q, want %q", got, w)
		}
	}
	if n, err := receive(conn, b); !errors.Is(err, syscall.EAGAIN) {
		t.Errorf("one more: %q, %v", b[:n], err)
	}
}

// receive does not wait.
func receive(conn *net.UnixConn, b []byte) (n int, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return 0, err
	}
	var recvErr error
	err = raw.Read(func(fd uintptr) bool {
		n, _, recvErr = syscall.Recvfrom(int(fd), b, syscall.MSG_DONTWAIT)
		return true
	})
	return max(n, 0), errors.Join(err, recvErr)
}

func TestBoundAndClosed(t *testing.T) {
	dir := testutil.TempDir(t)
	for name, address := range map[string]string{"path": dir + "/notify", "abstract": "@" + dir + "/notify"} {
		t.Run(name, func(t *testing.T) {
			conn := watcher(t, address)
			for _, err := range []error{Bound("/run/a=b ü\xff"), Closed("/run/../x"), Send("NAME=n\nPID=1")} {
				if err != nil {
					t.Error(err)
				}
			}
			expect(t, conn, "BIND=/run/a=b ü\xff\n", "UNBIND=/run/../x\n", "NAME=n\nPID=1")
		})
	}
}

func TestRelativePath(t *testing.T) {
	dir := testutil.TempDir(t)
	conn := watcher(t, dir+"/notify")
	t.Chdir(dir)
	if err := Bound("sub/../s"); err != nil {
		t.Error(err)
	}
	expect(t, conn, "BIND="+dir+"/sub/../s\n")
	t.Chdir("/")
	if err := Bound("s"); err != nil {
		t.Error(err)
	}
	expect(t, conn, "BIND=/s\n")
}

func TestPathThatCannotBeSent(t *testing.T) {
	conn := watcher(t, testutil.TempDir(t)+"/notify")
	for path, want := range map[string]error{"/a\nPID=1": errNewline, "/a\x00": errNewline, "a\n": errNewline, "": errEmpty} {
		if err := Bound(path); !errors.Is(err, want) {
			t.Errorf("%q: %v", path, err)
		}
	}
	expect(t, conn)
}

func TestNobodyWatches(t *testing.T) {
	t.Setenv(Variable, "")
	if Enabled() {
		t.Error("enabled")
	}
	for _, err := range []error{Bound("/a\n"), Closed(""), Send(strings.Repeat("x", MaxMessage+1))} {
		if err != nil {
			t.Error(err)
		}
	}
}

func TestWatcherIsGone(t *testing.T) {
	dir := testutil.TempDir(t)
	for address, want := range map[string]error{
		dir + "/none": fs.ErrNotExist,
		"@" + dir:     syscall.ECONNREFUSED,
		dir + "/dead": syscall.ECONNREFUSED,
	} {
		if strings.HasSuffix(address, "dead") {
			watcher(t, address).Close()
		}
		t.Setenv(Variable, address)
		err := Bound("/x")
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "report to "+address+": ") {
			t.Errorf("%s: %v", address, err)
		}
	}
}

func TestNotADatagramSocket(t *testing.T) {
	path := testutil.TempDir(t) + "/stream"
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	t.Setenv(Variable, path)
	if err := Bound("/x"); !errors.Is(err, syscall.EPROTOTYPE) {
		t.Error(err)
	}
}

func TestLongMessage(t *testing.T) {
	conn := watcher(t, testutil.TempDir(t)+"/notify")
	most := strings.Repeat("X", MaxMessage)
	if err := Send(most); err != nil {
		t.Error(err)
	}
	if err := Send(most + "X"); !errors.Is(err, ErrTooLong) {
		t.Error(err)
	}
	expect(t, conn, most)
}

// The queue of a watcher that does not read is full after some messages; the one more is given up.
func TestQueueStaysFull(t *testing.T) {
	conn := watcher(t, testutil.TempDir(t)+"/notify")
	sent := 0
	var err error
	for err == nil {
		if err = Bound("/x"); err == nil {
			sent++
		}
	}
	if !errors.Is(err, ErrQueueFull) || !strings.Contains(err.Error(), os.Getenv(Variable)+": the receive queue stayed full for 100ms") {
		t.Error(err)
	}
	want := make([]string, sent)
	for i := range want {
		want[i] = "BIND=/x\n"
	}
	expect(t, conn, want...)
	if err := Bound("/x"); err != nil {
		t.Errorf("the queue is empty again: %v", err)
	}
}

// A queue that is full for a moment only is waited for.
func TestQueueIsDrained(t *testing.T) {
	conn := watcher(t, testutil.TempDir(t)+"/notify")
	if err := conn.SetReadBuffer(1 << 20); err != nil {
		t.Fatal(err)
	}
	const reports = 200
	done := make(chan error)
	go func() {
		b := make([]byte, 100)
		for range reports {
			if _, err := conn.Read(b); err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}()
	sent := 0
	for sent < reports {
		err := Bound("/x")
		switch {
		case err == nil:
			sent++
		case !errors.Is(err, ErrQueueFull): // where this machine is that slow, it is no fault of Bound
			t.Fatal(err)
		}
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

package notifyd

import (
	"encoding/binary"
	"errors"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

func listen(t *testing.T) (*Receiver, string) {
	t.Helper()
	r := listenWith(t, Options{})
	return r, r.Path()
}

func listenWith(t *testing.T, o Options) *Receiver {
	t.Helper()
	r, err := Listen(testutil.TempDir(t)+"/notify", o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = r.Close() })
	return r
}

func dial(t *testing.T, path string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func next(t *testing.T, r *Receiver) Report {
	t.Helper()
	report, err := r.Next()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(report.Close)
	return report
}

func TestReport(t *testing.T) {
	r, path := listen(t)
	if _, err := dial(t, path).Write([]byte("BIND=/x\n")); err != nil {
		t.Fatal(err)
	}
	got := next(t, r)
	if got.Err != nil || len(got.Changes) != 1 || got.Changes[0].Path != "/x" {
		t.Errorf("%+v", got)
	}
	s := got.Sender
	if s.PID != os.Getpid() || s.UID != uint32(os.Getuid()) || s.GID != uint32(os.Getgid()) || s.Process == nil || s.Process.PID() != s.PID || s.Time.IsZero() {
		t.Errorf("%+v", s)
	}
}

func init() {
	helpers["last words"] = func() {
		if err := send(connect(os.Args[1]), "BIND=/dead", 0); err != nil {
			panic(err)
		}
		_ = unix.Kill(os.Getpid(), unix.SIGKILL)
	}
}

// sendLastWords sends a report from a process that is dead and reaped on return.
func sendLastWords(t *testing.T, path string) (pid int) {
	t.Helper()
	cmd := testutil.Command(t, "last words", path)
	var exit *exec.ExitError
	if err := cmd.Run(); !errors.As(err, &exit) || exit.ExitCode() != -1 {
		t.Fatalf("it did not die: %v", err)
	}
	return cmd.Process.Pid
}

// wantDead makes sure that a sender is known by its pid and has no Process that could be another's. Linux 6.18 gives a
// descriptor of the dead, older ones a negative number or, before 6.5, nothing: all are right.
func wantDead(t *testing.T, s Sender, pid int) {
	t.Helper()
	if s.PID != pid {
		t.Errorf("%+v, want pid %d", s, pid)
	}
	if s.Process != nil {
		if exited, err := s.Process.Exited(); err != nil || !exited {
			t.Errorf("exited: %v %v", exited, err)
		}
	}
}

// A sender is dead and reaped by the time its report is taken.
func TestDeadSender(t *testing.T) {
	r, path := listen(t)
	pid := sendLastWords(t, path)
	got := next(t, r)
	if got.Err != nil || len(got.Changes) != 1 {
		t.Fatalf("%+v", got)
	}
	wantDead(t, got.Sender, pid)
}

// A sender is dead and reaped by the time its report is read from the kernel, which a Receiver does at once.
func TestReapedSender(t *testing.T) {
	path := testutil.TempDir(t) + "/notify"
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := errors.Join(unix.Bind(fd, &unix.SockaddrUnix{Name: path}), sys.AskForSender(fd)); err != nil {
		t.Fatal(err)
	}
	pid := sendLastWords(t, path)
	control := make([]byte, sys.SenderSpace)
	_, n, _, err := sys.ReceiveMessage(fd, make([]byte, 100), control)
	if err != nil {
		t.Fatal(err)
	}
	s, err := identify(control[:n])
	if err != nil {
		t.Fatal(err)
	}
	wantDead(t, s, pid)
	if s.Process != nil {
		s.Process.Close()
	}
}

func control(typ int32, data []byte) []byte {
	b := make([]byte, unix.CmsgSpace(len(data)))
	binary.NativeEndian.PutUint64(b, uint64(unix.CmsgLen(len(data))))
	binary.NativeEndian.PutUint32(b[8:], unix.SOL_SOCKET)
	binary.NativeEndian.PutUint32(b[12:], uint32(typ))
	copy(b[unix.CmsgLen(0):], data)
	return b
}

func word(n int32) []byte { return binary.NativeEndian.AppendUint32(nil, uint32(n)) }

func credentials(pid int32) []byte {
	return control(unix.SCM_CREDENTIALS, append(append(word(pid), word(1000)...), word(1000)...))
}

const scmPidfd = 4

// Linux 6.12 gives -EINVAL for the pidfd of a sender that was reaped. Its pid is never opened then: here it is our own.
func TestNegativePidfdIsADeadSender(t *testing.T) {
	for _, n := range []int32{-22, -3, -1} {
		s, err := identify(append(credentials(int32(os.Getpid())), control(scmPidfd, word(n))...))
		if err != nil || s.Process != nil || s.PID != os.Getpid() || s.UID != 1000 {
			t.Errorf("%d: %+v, %v", n, s, err)
		}
	}
}

// When we have no descriptor left, that is not taken for the death of the sender.
func TestNoDescriptorLeft(t *testing.T) {
	r, path := listen(t)
	conn := dial(t, path)
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &old); err != nil {
		t.Fatal(err)
	}
	free, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	unix.Close(free)
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: uint64(free), Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	_, err = conn.Write([]byte("NAME=x"))
	got, nextErr := r.Next()
	if err := errors.Join(err, nextErr, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)); err != nil {
		t.Fatal(err)
	}
	got.Close()
	if !errors.Is(got.Err, unix.EMFILE) || got.Sender.PID != os.Getpid() || got.Sender.Process != nil {
		t.Errorf("%+v", got)
	}
}

func TestIdentifyRefuses(t *testing.T) {
	if _, err := identify(nil); !errors.Is(err, errNoSender) {
		t.Errorf("nothing said: %v", err)
	}
	if _, err := identify(credentials(0)); !errors.Is(err, errOutside) {
		t.Errorf("pid 0: %v", err)
	}
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	fd, err := sys.Duplicate(int(null.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	if s, err := identify(append(credentials(1), control(scmPidfd, word(int32(fd)))...)); err == nil {
		t.Errorf("a pidfd that is none: %+v", s)
	}
}

// Before Linux 6.5 there is only the pid. A process that started after the message was sent is not the sender.
func TestSenderByPID(t *testing.T) {
	cmd := exec.Command("sleep", "600")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = cmd.Process.Kill(); _ = cmd.Wait() }()
	sent := func(seconds int64) []byte {
		var now unix.Timespec
		if err := unix.ClockGettime(unix.CLOCK_REALTIME, &now); err != nil {
			t.Fatal(err)
		}
		b := binary.NativeEndian.AppendUint64(nil, uint64(now.Sec+seconds))
		return control(unix.SCM_TIMESTAMPNS, append(b, make([]byte, 8)...))
	}
	pid := int32(cmd.Process.Pid)
	if _, err := identify(append(credentials(pid), sent(-60)...)); !errors.Is(err, errNotSender) {
		t.Errorf("a message from before its start: %v", err)
	}
	s, err := identify(append(credentials(pid), sent(1)...))
	if err != nil || s.Process == nil {
		t.Fatalf("its own: %+v %v", s, err)
	}
	s.Process.Close()
}

// What somebody passes along is closed: TestMain counts descriptors.
func TestPassedDescriptorsAreClosed(t *testing.T) {
	r, path := listen(t)
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(sock)
	for n := 1; n <= 200; n += 40 {
		fds := make([]int, n)
		for i := range fds {
			fds[i] = sock
		}
		if err := unix.Sendmsg(sock, []byte("BIND=/x"), unix.UnixRights(fds...), &unix.SockaddrUnix{Name: path}, 0); err != nil {
			t.Fatal(err)
		}
		if got := next(t, r); got.Err != nil && !errors.Is(got.Err, errNoSender) {
			t.Errorf("%d descriptors: %v", n, got.Err)
		}
	}
}

func TestMalformed(t *testing.T) {
	r, path := listen(t)
	conn := dial(t, path)
	if err := conn.SetWriteBuffer(1 << 20); err != nil {
		t.Fatal(err)
	}
	for _, in := range []string{"", "garbage", "BIND=relative", strings.Repeat("BIND=/a\n", maxMessage)[:maxMessage+100]} {
		if _, err := conn.Write([]byte(in)); err != nil {
			t.Fatal(err)
		}
		if got := next(t, r); got.Err == nil || got.Sender.PID != os.Getpid() {
			t.Errorf("%.20q: %+v", in, got)
		}
	}
}

// A flood is dropped beyond the bound, and what is left is served in order.
func TestFlood(t *testing.T) {
	r, path := listen(t)
	conn := dial(t, path)
	const flood = 20_000
	for i := range flood {
		if _, err := conn.Write([]byte("BIND=/" + strconv.Itoa(i))); err != nil {
			t.Fatal(err)
		}
	}
	taken, last := 0, -1
	for last != flood-1 {
		report, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		report.Close()
		n, err := strconv.Atoi(strings.TrimPrefix(report.Changes[0].Path, "/"))
		if err != nil || n <= last {
			t.Fatalf("%d after %d: %v", n, last, err)
		}
		taken, last = taken+1, n
		if taken == queueLength { // all that could wait: more has come meanwhile, or was dropped
			if _, err := conn.Write([]byte("BIND=/" + strconv.Itoa(flood-1))); err != nil {
				t.Fatal(err)
			}
			break
		}
	}
	if got := r.Dropped(); got+uint64(taken) > flood+1 || got == 0 {
		t.Errorf("%d taken, %d dropped of %d", taken, got, flood)
	}
}

func TestClose(t *testing.T) {
	r, path := listen(t)
	if _, err := dial(t, path).Write([]byte("BIND=/never taken")); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	go func() {
		for {
			report, err := r.Next()
			if err != nil {
				done <- err
				return
			}
			report.Close()
		}
	}()
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, net.ErrClosed) {
		t.Error(err)
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is still there: %v", path, err)
	}
}

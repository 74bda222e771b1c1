package notifyd

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// flood sends numbered reports to the socket that is its first argument, as fast as it can: as many as the second says,
// or for ever when that is 0. It says "sending" after the first and "sent" after the last.
func init() {
	helpers["flood"] = func() {
		n, err := strconv.Atoi(os.Args[2])
		if err != nil {
			panic(err)
		}
		fd := connect(os.Args[1])
		for i := 0; n == 0 || i < n; i++ {
			if err := send(fd, "BIND=/"+strconv.Itoa(i), 0); err != nil {
				panic(err)
			}
			if i == 0 {
				fmt.Println("sending")
			}
		}
		fmt.Println("sent")
	}
}

// connect makes a socket that blocks, as that of a C program does.
func connect(path string) int {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: path})
	}
	if err != nil {
		panic(err)
	}
	return fd
}

func send(fd int, message string, flags int) error {
	for {
		if err := unix.Send(fd, []byte(message), flags); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// fill sends until nothing more can be sent: to a Receiver with Wait of which nobody takes anything.
func fill(t *testing.T, r *Receiver) {
	t.Helper()
	var fd int
	for i := range queueLength + 1 + socketHolds() { // in the queue, in drain's hand, in the socket
		if i%64 == 0 { // one sender alone may be stopped by its send buffer
			fd = connect(r.Path())
			defer unix.Close(fd)
		}
		if err := send(fd, "NAME=fill", 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := send(fd, "NAME=fill", unix.MSG_DONTWAIT); !errors.Is(err, unix.EAGAIN) {
		t.Fatalf("one more than there is room for: %v", err)
	}
}

func number(t *testing.T, report Report) int {
	t.Helper()
	if report.Err != nil || len(report.Changes) != 1 {
		t.Fatalf("%+v", report)
	}
	n, err := strconv.Atoi(report.Changes[0].Path[1:])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The sender is held back and loses nothing.
func TestWait(t *testing.T) {
	r := listenWith(t, Options{Wait: true})
	fill(t, r)
	child := testutil.Start(t, testutil.Command(t, "flood", r.Path(), "5000"))
	step := make(chan struct{})
	go func() {
		defer close(step)
		for range queueLength + 1 + socketHolds() + 5000 {
			step <- struct{}{}
		}
	}()
	last := -1
	for range step {
		report, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		report.Close()
		if report.Name == "fill" {
			continue
		}
		if n := number(t, report); n != last+1 {
			t.Fatalf("%d after %d", n, last)
		}
		last++
	}
	child.Expect("sending")
	child.Expect("sent")
	if last != 4999 || r.Dropped() != 0 || r.Behind() != true {
		t.Errorf("the last is %d, %d are dropped, behind with the last one: %v", last, r.Dropped(), r.Behind())
	}
}

// Close ends a drain that waits for room, and who waits for it.
func TestCloseWhileWaiting(t *testing.T) {
	r := listenWith(t, Options{Wait: true})
	fill(t, r)
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.CatchUp()
	}()
	if !r.Behind() {
		t.Error("not behind")
	}
	if err := r.Close(); err != nil {
		t.Error(err)
	}
	<-done
	if r.Behind() {
		t.Error("behind after the end")
	}
	r.CatchUp()
	if err := r.Close(); err != nil {
		t.Errorf("a second time: %v", err)
	}
}

// Nobody takes anything: what waits stays bounded, in memory and in descriptors.
func TestManyMessages(t *testing.T) {
	r, path := listen(t)
	const many = 200_000
	before := heap()
	child := testutil.Start(t, testutil.Command(t, "flood", path, strconv.Itoa(many)))
	child.Expect("sending")
	child.Expect("sent")
	for r.readable() { // nobody takes: CatchUp would wait for ever
		runtime.Gosched()
	}
	if got := r.Dropped(); got < many-queueLength-1 || got > many-queueLength {
		t.Errorf("%d dropped of %d", got, many)
	}
	if grown := heap() - before; grown > 4<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	fds, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	if len(fds) > queueLength+50 {
		t.Errorf("%d descriptors", len(fds))
	}
}

func heap() int64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// A user who floods the socket loses reports; another loses none.
func TestFloodStopsNoOther(t *testing.T) {
	testutil.Require(t, testutil.Root)
	r, path := listen(t)
	child := testutil.Start(t, testutil.Command(t, "flood", path, "0"))
	child.Expect("sending")
	conn := dial(t, path)
	const other = 65534
	go func() {
		// Without unlocking: the thread, which is another user's now, ends with the goroutine.
		runtime.LockOSThread()
		if _, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, other, other, other); errno != 0 {
			t.Error(errno)
			return
		}
		for i := range queueLength / 2 {
			if _, err := conn.Write([]byte("BIND=/" + strconv.Itoa(i))); err != nil {
				t.Error(err)
			}
		}
	}()
	for want := 0; want < queueLength/2; {
		report, err := r.Next()
		if err != nil {
			t.Fatal(err)
		}
		report.Close()
		if report.Sender.UID != other {
			continue
		}
		if n := number(t, report); n != want {
			t.Fatalf("%d instead of %d", n, want)
		}
		want++
	}
}

package pidfd

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) {
	testutil.Main(m, testutil.Helpers{
		"idle":      helperIdle,
		"euid":      helperEUID,
		"parent":    helperParent,
		"maingone":  helperMainGone,
		"pidreuse":  helperPIDReuse,
		"namespace": helperNamespace,
	})
}

// idle starts a child that does nothing until its input ends.
func idle(t testing.TB) *testutil.Child {
	t.Helper()
	child := testutil.Start(t, testutil.Command(t, "idle"))
	child.Expect("ready")
	return child
}

// helperIdle takes its argument as its name.
func helperIdle() {
	if len(os.Args) > 1 {
		if err := os.WriteFile("/proc/self/comm", []byte(os.Args[1]), 0); err != nil {
			panic(err)
		}
	}
	fmt.Println("ready")
	untilEOF()
}

// helperEUID is idle as another effective user.
func helperEUID() {
	uid, err := strconv.Atoi(os.Args[1])
	if err != nil {
		panic(err)
	}
	if err := syscall.Setreuid(-1, uid); err != nil {
		panic(err)
	}
	fmt.Println("ready")
	untilEOF()
}

func untilEOF() {
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
	}
}

// stranger is a process that is not our child: that of a child of ours, which reaps it when told.
type stranger struct {
	parent *testutil.Child
	pid    int
}

func startStranger(t testing.TB, args ...string) stranger {
	t.Helper()
	parent := testutil.Start(t, testutil.Command(t, "parent", args...))
	pid, err := strconv.Atoi(parent.Line())
	if err != nil {
		t.Fatal(err)
	}
	return stranger{parent, pid}
}

func (s stranger) reap() {
	s.parent.Say("reap")
	s.parent.Expect("reaped")
}

func helperParent() {
	cmd := exec.Command(os.Args[1], os.Args[2:]...)
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	fmt.Println(cmd.Process.Pid)
	for in := bufio.NewScanner(os.Stdin); in.Scan(); {
		_ = cmd.Wait()
		fmt.Println("reaped")
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
}

// helperMainGone ends its main thread, goes on without it, and ends with status 3.
func helperMainGone() {
	gone := make(chan struct{})
	go onMainThread(func() {
		close(gone)
		_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
	})
	<-gone
	// The thread may be about to end still.
	for !isZombie(os.Getpid()) {
		runtime.Gosched()
	}
	fmt.Println("gone")
	untilEOF()
	os.Exit(3)
}

// onMainThread runs f on the thread whose id is the pid. Goroutines that got other threads keep them.
func onMainThread(f func()) {
	runtime.LockOSThread()
	if unix.Gettid() == os.Getpid() {
		f()
		return
	}
	go onMainThread(f)
	select {}
}

func isZombie(pid int) bool {
	stat, err := procfs.Stat(pid)
	return err == nil && stat.State == 'Z'
}

// open opens pid and closes it with the test.
func open(t testing.TB, pid int) *Process {
	t.Helper()
	p, err := Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	closeAtEnd(t, p)
	return p
}

func closeAtEnd(t testing.TB, p *Process) {
	t.Helper()
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
}

// waitExit waits for the end of a process that is about to end.
func waitExit(t testing.TB, p *Process) {
	t.Helper()
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func kill(t testing.TB, p *Process) {
	t.Helper()
	if err := p.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitExit(t, p)
}

func wantErr(t testing.TB, got, want error) {
	t.Helper()
	if !errors.Is(got, want) {
		t.Errorf("got error %v, want %v", got, want)
	}
}

var background = context.Background()

//go:build linux && (amd64 || arm64)

package sigorigin

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) {
	testutil.Main(closing{m}, testutil.Helpers{"blocked": blocked, "busy": busy})
}

// closing closes what the package keeps open.
type closing struct{ m *testing.M }

func (c closing) Run() int {
	defer func() { waker.Close() }()
	return c.m.Run()
}

func catch(t *testing.T, signals ...unix.Signal) *Catcher {
	t.Helper()
	c, err := Catch(signals...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Release)
	return c
}

func wantNext(t *testing.T, c *Catcher, want ...Caught) {
	t.Helper()
	got, ok := c.Next()
	if diff := cmp.Diff(want, got); diff != "" || !ok {
		t.Errorf("%v\n%s", ok, diff)
	}
}

// sendFromOutside has another process send us signals, one after the other.
func sendFromOutside(t *testing.T, names ...string) {
	t.Helper()
	script := ""
	for _, name := range names {
		script += "kill -" + name + " " + strconv.Itoa(os.Getpid()) + "; "
	}
	if out, err := exec.Command("/bin/sh", "-c", script).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

func TestSentByProcesses(t *testing.T) {
	c := catch(t, unix.SIGUSR1, unix.SIGUSR2, unix.SIGTERM, 40, 64)
	sendFromOutside(t, "USR1")
	wantNext(t, c, Caught{Signal: unix.SIGUSR1, Sent: 1})
	sendFromOutside(t, "64", "TERM", "40", "40", "40")
	sum := map[unix.Signal]int{}
	for sum[64]+sum[unix.SIGTERM]+sum[40] < 5 { // a signal that was sent may be on its way still
		caught, _ := c.Next()
		for _, c := range caught {
			sum[c.Signal] += c.Sent
		}
	}
	if diff := cmp.Diff(map[unix.Signal]int{unix.SIGTERM: 1, 40: 3, 64: 1}, sum); diff != "" {
		t.Error(diff)
	}
}

// TestOwnGoOn: what we send to ourselves is the Go runtime's, while others' is ours.
func TestOwnGoOn(t *testing.T) {
	got := make(chan os.Signal, 8)
	signal.Notify(got, unix.SIGUSR1)
	defer signal.Stop(got)
	c := catch(t, unix.SIGUSR1)
	if err := unix.Kill(os.Getpid(), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	<-got
	sendFromOutside(t, "USR1")
	wantNext(t, c, Caught{Signal: unix.SIGUSR1, Sent: 1})
	if len(got) != 0 {
		t.Error("os/signal got it, too")
	}
}

func TestSentByTheKernel(t *testing.T) {
	c := catch(t, unix.SIGALRM)
	// setitimer(2) is the kernel sending a signal, with SI_KERNEL.
	if _, err := unix.Setitimer(unix.ITIMER_REAL, unix.Itimerval{Value: unix.Timeval{Usec: 1000}}); err != nil {
		t.Fatal(err)
	}
	wantNext(t, c, Caught{Signal: unix.SIGALRM, Kernel: true})
}

// TestFaultsGoOn: what the kernel sends for a fault is a panic still, what others send under that name is caught.
// blocked says how many SIGUSR1 have come.
func blocked() {
	c, err := Catch(unix.SIGUSR1)
	if err != nil {
		panic(err)
	}
	fmt.Println("ready")
	caught, _ := c.Next()
	fmt.Println(len(caught), caught[0].Signal == unix.SIGUSR1, caught[0].Sent)
}

// TestBlockedIsCaught: who uses signalfd(2) may start us with signals blocked, which execve(2) keeps.
func TestBlockedIsCaught(t *testing.T) {
	set := unix.Sigset_t{Val: [16]uint64{1 << (unix.SIGUSR1 - 1)}}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.PthreadSigmask(unix.SIG_BLOCK, &set, nil); err != nil {
		t.Fatal(err)
	}
	child := testutil.Start(t, testutil.Command(t, "blocked"))
	if err := unix.PthreadSigmask(unix.SIG_UNBLOCK, &set, nil); err != nil {
		t.Fatal(err)
	}
	child.Expect("ready")
	if err := child.Cmd.Process.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	child.Expect("1 true 1")
}

// busy collects garbage beside a loop that only a signal interrupts.
func busy() {
	if _, err := Catch(unix.SIGURG); err != nil {
		panic(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_SIGPENDING, &unix.Rlimit{}); err != nil {
		panic(err)
	}
	started := make(chan struct{})
	go func() {
		close(started)
		for { //nolint:staticcheck // as busy as can be
		}
	}()
	<-started
	runtime.GC()
	fmt.Println("done")
}

// TestSchedulerIsHeard: at the limit of what is pending the kernel does not tell who sent a signal, and the scheduler's looks like another's.
func TestSchedulerIsHeard(t *testing.T) {
	child := testutil.Start(t, testutil.Command(t, "busy"))
	child.Expect("done")
}

func TestFaultsGoOn(t *testing.T) {
	c := catch(t, unix.SIGSEGV)
	func() {
		defer func() {
			if err, ok := recover().(runtime.Error); !ok || !strings.Contains(err.Error(), "nil pointer") {
				t.Errorf("recovered %v", err)
			}
		}()
		var p *int
		*p = 1 //nolint:govet // that is the point
	}()
	sendFromOutside(t, "SEGV")
	wantNext(t, c, Caught{Signal: unix.SIGSEGV, Sent: 1})
}

func TestRelease(t *testing.T) {
	got := make(chan os.Signal, 8)
	signal.Notify(got, unix.SIGUSR1)
	defer signal.Stop(got)
	for range 3 { // another catches what one has released
		c := catch(t, unix.SIGUSR1)
		sendFromOutside(t, "USR1")
		wantNext(t, c, Caught{Signal: unix.SIGUSR1, Sent: 1})
		c.Stop()
		if caught, ok := c.Next(); ok {
			t.Errorf("after the end: %v", caught)
		}
		c.Release()
		sendFromOutside(t, "USR1")
		<-got
	}
}

func TestIgnoredStaysIgnored(t *testing.T) {
	signal.Ignore(unix.SIGHUP)
	defer signal.Reset(unix.SIGHUP)
	c := catch(t, unix.SIGHUP, unix.SIGUSR1)
	sendFromOutside(t, "HUP", "USR1")
	wantNext(t, c, Caught{Signal: unix.SIGUSR1, Sent: 1})
}

func TestCatchRefuses(t *testing.T) {
	c, err := Catch(unix.SIGUSR1, 65)
	if !errors.Is(err, unix.EINVAL) || c != nil {
		t.Errorf("%v, %v", c, err)
	}
}

// TestManyAtOnce: none of those that queue is lost, whichever threads they come to and whatever these are doing.
func TestManyAtOnce(t *testing.T) {
	const senders, each = 4, 200
	c := catch(t, 41, 42)
	var wg sync.WaitGroup
	for i := range senders {
		wg.Go(func() {
			sendFromOutside(t, strings.Split(strings.Repeat(strconv.Itoa(41+i%2)+" ", each-1)+strconv.Itoa(41+i%2), " ")...)
		})
	}
	sum := 0
	for sum < senders*each {
		caught, _ := c.Next()
		for _, c := range caught {
			sum += c.Sent
		}
	}
	wg.Wait()
	if sum != senders*each {
		t.Errorf("%d", sum)
	}
}

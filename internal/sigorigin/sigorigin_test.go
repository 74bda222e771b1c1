//go:build linux && (amd64 || arm64)

package sigorigin

import (
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

func TestMain(m *testing.M) { testutil.Main(m) }

func TestSignalOfAnotherProcessIsCounted(t *testing.T) {
	c := make(chan os.Signal, 8)
	signal.Notify(c, unix.SIGUSR1)
	defer signal.Stop(c)
	if err := Track(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}

	// Our own first: it comes through and is not counted.
	if err := unix.Kill(os.Getpid(), unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	<-c
	if n := TakeSent(unix.SIGUSR1); n != 0 {
		t.Errorf("a signal to ourselves counts as %d", n)
	}
	if out, err := exec.Command("/bin/sh", "-c", "kill -USR1 "+strconv.Itoa(os.Getpid())).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	<-c
	if n := TakeSent(unix.SIGUSR1); n != 1 {
		t.Errorf("a signal from another process counts as %d", n)
	}
	if n := TakeSent(unix.SIGUSR1); n != 0 {
		t.Errorf("it is counted %d times more", n)
	}
}

func TestSignalOfTheKernelIsNotCounted(t *testing.T) {
	c := make(chan os.Signal, 8)
	signal.Notify(c, unix.SIGALRM)
	defer signal.Stop(c)
	if err := Track(unix.SIGALRM); err != nil {
		t.Fatal(err)
	}
	// setitimer(2) is the kernel sending a signal, with SI_KERNEL.
	if _, err := unix.Setitimer(unix.ITIMER_REAL, unix.Itimerval{Value: unix.Timeval{Usec: 1000}}); err != nil {
		t.Fatal(err)
	}
	<-c
	if n := TakeSent(unix.SIGALRM); n != 0 {
		t.Errorf("a timer's signal counts as %d", n)
	}
}

func TestTrackRefusesWhatCannotBeCaught(t *testing.T) {
	if err := Track(unix.SIGKILL); err == nil {
		t.Error("tracks SIGKILL")
	}
}

package main

import (
	"errors"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestSignalsArePassedOn: every one, unchanged and in order.
func TestSignalsArePassedOn(t *testing.T) {
	run := testutil.Start(t, exec.Command("sockwatch", "run", "--", "puppet", "report", "say", "ready", "await", "ALRM", "exit", "5"))
	run.Expect("ready")
	send := func(sig unix.Signal) {
		t.Helper()
		if err := run.Cmd.Process.Signal(sig); err != nil {
			t.Fatal(err)
		}
	}
	for sig := unix.Signal(1); sig <= 64; sig++ {
		switch {
		case !catchable(sig), sig == unix.SIGALRM:
			continue
		case sig == unix.SIGTSTP, sig == unix.SIGURG: // the puppet does not report them
			continue
		case sig == unix.SIGPROF, sig >= 32 && sig <= 34: // package os/signal has no part in them
			continue
		}
		send(sig)
		run.Expect(nameOf(sig))
	}
	send(unix.SIGALRM)
	run.Expect("ALRM")
	var exit *exec.ExitError
	if err := run.Cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 5 {
		t.Error(err)
	}
}

// TestRealtimeSignalsAreNotLost: unlike others they are queued, and none is too many.
func TestRealtimeSignalsAreNotLost(t *testing.T) {
	run := testutil.Start(t, exec.Command("sockwatch", "run", "--", "puppet", "count", "40", "50", "exit", "0"))
	run.Expect("counting")
	for range 50 {
		if err := run.Cmd.Process.Signal(unix.Signal(40)); err != nil {
			t.Fatal(err)
		}
	}
	if err := run.Cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestStopOfCMDAlone: without a terminal nobody waits for both, and whoever stopped CMD continues it.
func TestStopOfCMDAlone(t *testing.T) {
	run := testutil.Start(t, exec.Command("sockwatch", "run", "--", "sh", "-c", "echo $$; exec puppet report say ready await CONT exit 0"))
	cmd, err := strconv.Atoi(run.Line())
	if err != nil {
		t.Fatal(err)
	}
	run.Expect("ready")
	if err := unix.Kill(cmd, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	// A stop takes its time, and nobody but the parent is told.
	for state(t, cmd) != 'T' {
		runtime.Gosched()
	}
	if err := run.Cmd.Process.Signal(unix.SIGCONT); err != nil {
		t.Fatal(err)
	}
	run.Expect("CONT")
	if err := run.Cmd.Wait(); err != nil { // run has not stopped
		t.Error(err)
	}
}

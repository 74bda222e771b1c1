package main

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// terminal is a pseudo-terminal: what is written to the master was typed.
type terminal struct {
	t             *testing.T
	master, slave *os.File
}

func newTerminal(t *testing.T) terminal {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	n, err := unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { slave.Close() })
	return terminal{t, master, slave}
}

const (
	ctrlC         = "\x03"
	ctrlZ         = "\x1a"
	ctrlBackslash = "\x1c"
)

func (term terminal) press(key string) {
	term.t.Helper()
	if _, err := term.master.WriteString(key); err != nil {
		term.t.Fatal(err)
	}
}

// start starts a program as the leader of a session with this terminal. Its standard output is a pipe.
func (term terminal) start(args ...string) *testutil.Child {
	term.t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.ExtraFiles = []*os.File{term.slave}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Ctty: 3}
	cmd.Stderr = os.Stderr
	return testutil.Start(term.t, cmd)
}

// shell is a program, in PATH of the tests, that does for one command what a shell with job control does: it starts it as
// a process group in the foreground of the terminal, takes the terminal back when it has stopped, and continues it for a line
// on standard input. It says what happens.
func shell() {
	if err := runJob(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "shell:", err)
		os.Exit(99)
	}
}

func runJob(args []string) error {
	signal.Ignore(unix.SIGTTOU) // of taking the terminal back
	tty := 3
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Foreground: true, Ctty: tty}
	if err := cmd.Start(); err != nil {
		return err
	}
	job := cmd.Process.Pid
	fmt.Println("job", job)
	lines := bufio.NewReader(os.Stdin)
	for {
		var status unix.WaitStatus
		if _, err := unix.Wait4(job, &status, unix.WUNTRACED, nil); err != nil {
			if errors.Is(err, unix.EINTR) {
				continue
			}
			return err
		}
		if !status.Stopped() {
			fmt.Println("ended", status.ExitStatus())
			return nil
		}
		if err := unix.IoctlSetPointerInt(tty, unix.TIOCSPGRP, unix.Getpgrp()); err != nil {
			return err
		}
		fmt.Println("stopped")
		if _, err := lines.ReadString('\n'); err != nil {
			return err
		}
		if err := unix.IoctlSetPointerInt(tty, unix.TIOCSPGRP, job); err != nil {
			return err
		}
		if err := unix.Kill(-job, unix.SIGCONT); err != nil {
			return err
		}
	}
}

// job is a CMD under sockwatch run, in the foreground of a terminal.
type job struct {
	*testutil.Child
	t        *testing.T
	term     terminal
	run, cmd int // pids
}

// startJob starts a puppet that has said "ready".
func startJob(t *testing.T, steps string) *job {
	t.Helper()
	j := &job{t: t, term: newTerminal(t)}
	j.Child = j.term.start("shell", "sockwatch", "run", "--", "sh", "-c", `echo $$; exec puppet `+steps)
	j.run = j.pid("job ")
	j.cmd = j.pid("")
	t.Cleanup(func() { // the shell's end would leave them
		_ = unix.Kill(j.cmd, unix.SIGKILL)
		_ = unix.Kill(j.run, unix.SIGCONT)
		_ = j.Cmd.Wait()
	})
	j.Expect("ready")
	return j
}

func (j *job) pid(prefix string) int {
	j.t.Helper()
	line, ok := strings.CutPrefix(j.Line(), prefix)
	pid, err := strconv.Atoi(line)
	if !ok || err != nil {
		j.t.Fatalf("no pid in %q", line)
	}
	return pid
}

func (j *job) signal(pid int, sig unix.Signal) {
	j.t.Helper()
	if err := unix.Kill(pid, sig); err != nil {
		j.t.Fatal(err)
	}
}

// expectOnce expects the puppet to report a signal, and not twice: what run passes on comes in order, so a second one would
// come before the SIGUSR1 that follows it.
func (j *job) expectOnce(name string) {
	j.t.Helper()
	j.Expect(name)
	j.signal(j.run, unix.SIGUSR1)
	j.Expect("USR1")
}

func state(t *testing.T, pid int) byte {
	t.Helper()
	stat, err := proc.FS("").Stat(pid)
	if err != nil {
		t.Fatal(err)
	}
	return stat.State
}

func TestTerminalSignalsReachCMDOnce(t *testing.T) {
	j := startJob(t, "report say ready pause")
	// Again and again, as two of a kind can become one when the first is not handled yet.
	for range 10 {
		j.term.press(ctrlC)
		j.expectOnce("INT")
	}
	j.term.press(ctrlBackslash)
	j.expectOnce("QUIT")
	size := &unix.Winsize{Row: 7, Col: 70}
	if err := unix.IoctlSetWinsize(int(j.term.slave.Fd()), unix.TIOCSWINSZ, size); err != nil {
		t.Fatal(err)
	}
	j.expectOnce("WINCH")
}

func TestSignalsOfProcessesArePassedOnInTheForeground(t *testing.T) {
	j := startJob(t, "report say ready pause")
	for range 10 {
		j.signal(j.run, unix.SIGINT)
		j.expectOnce("INT")
	}
	j.signal(j.run, unix.SIGQUIT)
	j.expectOnce("QUIT")
	j.signal(j.run, unix.SIGWINCH)
	j.expectOnce("WINCH")
	j.signal(j.run, unix.SIGHUP)
	j.expectOnce("HUP")
}

func TestCtrlZ(t *testing.T) {
	j := startJob(t, "report say ready pause")
	for range 3 {
		j.term.press(ctrlZ)
		j.expectStopped()
		j.Say("fg")
		j.Expect("CONT")
		j.term.press(ctrlC)
		j.expectBesidesCONT("INT")
		// The shell's SIGCONT reached CMD and run, and run passes it on: before the next Ctrl-Z, which it would undo. Of signals that come
		// together Go hands out the lower numbers first, so one with a higher number comes after it.
		for range 3 {
			j.signal(j.run, unix.SIGWINCH)
			j.expectBesidesCONT("WINCH")
		}
	}
}

func (j *job) expectStopped() {
	j.t.Helper()
	j.expectBesidesCONT("stopped")
	if s := state(j.t, j.cmd); s != 'T' {
		j.t.Errorf("CMD is in state %c", s)
	}
	if s := state(j.t, j.run); s != 'T' {
		j.t.Errorf("run is in state %c", s)
	}
}

// expectBesidesCONT passes over SIGCONT: the shell has sent it to CMD, and to run, which has passed it on.
func (j *job) expectBesidesCONT(want string) {
	j.t.Helper()
	line := j.Line()
	for line == "CONT" {
		line = j.Line()
	}
	if line != want {
		j.t.Fatalf("got %q, want %q", line, want)
	}
}

func TestCtrlZIsIgnoredIfCMDIgnoresIt(t *testing.T) {
	j := startJob(t, "ignore TSTP report say ready pause")
	j.term.press(ctrlZ)
	j.term.press(ctrlC)
	j.expectOnce("INT") // run has not stopped
}

// TestCMDStopsByItself is what an editor does when Ctrl-Z is typed.
func TestCMDStopsByItself(t *testing.T) {
	j := startJob(t, "report say ready await USR2 kill STOP pause")
	j.signal(j.run, unix.SIGUSR2)
	j.Expect("USR2")
	j.expectStopped()
	j.Say("fg")
	j.Expect("CONT")
}

// TestStopWithoutShell: nobody would continue run.
func TestStopWithoutShell(t *testing.T) {
	term := newTerminal(t)
	run := term.start("sockwatch", "run", "--", "puppet", "report", "say", "ready", "await", "INT", "await", "USR1", "exit", "0")
	run.Expect("ready")
	term.press(ctrlZ) // CMD is not stopped either: its process group is orphaned
	term.press(ctrlC)
	run.Expect("INT")
	if err := run.Cmd.Process.Signal(unix.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	run.Expect("USR1")
	if err := run.Cmd.Wait(); err != nil {
		t.Error(err)
	}
}

// TestHangup: the kernel tells the leader of the session alone that its terminal is gone.
func TestHangup(t *testing.T) {
	term := newTerminal(t)
	run := term.start("sockwatch", "run", "--", "puppet", "report", "say", "ready", "await", "HUP", "exit", "6")
	run.Expect("ready")
	if err := term.master.Close(); err != nil {
		t.Fatal(err)
	}
	// With the SIGHUP comes a SIGCONT, which another thread may be quicker with.
	(&job{Child: run, t: t}).expectBesidesCONT("HUP")
	var exit *exec.ExitError
	if err := run.Cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 6 {
		t.Error(err)
	}
}

package main

import (
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
)

// TestOrphansAreAdopted, and reaped while CMD goes on.
func TestOrphansAreAdopted(t *testing.T) {
	run := testutil.Start(t, exec.Command("sockwatch", "run", "--", "sh", "-c",
		"sh -c 'puppet pause >/dev/null & echo $!'; exec puppet say ready echo"))
	orphan := openChild(t, run.Line())
	run.Expect("ready") // so the orphan's parent has ended
	if info, err := orphan.Info(); info.PPID != run.PID() || err != nil {
		t.Errorf("the orphan: %+v, %v; want parent %d", info, err, run.PID())
	}
	if err := orphan.Signal(unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	waitReaped(t, orphan)
	run.Hangup()
	if err := run.Cmd.Wait(); err != nil { // CMD's status, not that of the orphan
		t.Error(err)
	}
}

// TestOrphansAreReapedTogether: SIGCHLD tells of many at once.
func TestOrphansAreReapedTogether(t *testing.T) {
	// They end when their input does.
	cmd := exec.Command("sockwatch", "run", "--", "sh", "-c",
		"sh -c 'i=0; while [ $i -lt 200 ]; do { read x; exit 7; } <&3 & i=$((i+1)); done' 3<&0 </dev/null; "+
			"exec puppet report say ready await TERM exit 3")
	cmd.Stderr = os.Stderr
	run := testutil.Start(t, cmd)
	run.Expect("ready")
	if n := len(childrenOf(t, run.PID())); n != 201 {
		t.Errorf("run has %d children, want CMD and 200 orphans", n)
	}
	run.Hangup()
	for len(childrenOf(t, run.PID())) > 1 {
		runtime.Gosched()
	}
	if err := run.Cmd.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	run.Expect("TERM")
	wantExit(t, run, 3)
}

// TestInitPassesOnFromOutside: who sends a signal to the init of a pid namespace from outside of it has no pid there.
func TestInitPassesOnFromOutside(t *testing.T) {
	testutil.Require(t, testutil.UserNS, testutil.Program("unshare"))
	unshare := testutil.Start(t, exec.Command("unshare",
		"--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc",
		"sockwatch", "run", "--", "puppet", "report", "say", "ready", "await", "TERM", "exit", "5"))
	unshare.Expect("ready")
	run := childrenOf(t, unshare.PID())
	if len(run) != 1 {
		t.Fatalf("unshare has children %v", run)
	}
	if err := unix.Kill(run[0], unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	unshare.Expect("TERM")
	wantExit(t, unshare, 5)
}

// TestTerminalAfterCMD: what is left of the tree is the job, and gets what the terminal sends once, as CMD did.
func TestTerminalAfterCMD(t *testing.T) {
	j := &job{t: t, term: newTerminal(t)}
	j.Child = j.term.start("shell", "sockwatch", "run", "--wait-tree", "--", "sh", "-c",
		"(while kill -0 $$ 2>/dev/null; do :; done; exec puppet report say ready await USR2 exit 0) & echo $!; exit 3")
	j.run = j.pid("job ")
	j.cmd = j.pid("")
	orphan := openChild(t, strconv.Itoa(j.cmd))
	t.Cleanup(func() {
		_ = orphan.Signal(unix.SIGKILL) // the shell's end would leave them
		_ = unix.Kill(j.run, unix.SIGCONT)
		_ = j.Cmd.Wait()
	})
	j.Expect("ready")
	j.term.press(ctrlC)
	j.expectOnce("INT")
	j.term.press(ctrlZ)
	j.Expect("stopped")
	for state(t, j.cmd) != 'T' { // it has its signal, and nobody waits for it to stop
		runtime.Gosched()
	}
	j.Say("fg")
	j.Expect("CONT")
	j.term.press(ctrlC)
	j.expectBesidesCONT("INT")
	j.signal(j.run, unix.SIGUSR2)
	j.expectBesidesCONT("USR2")
	j.expectBesidesCONT("ended 3")
}

func childrenOf(t *testing.T, pid int) []int {
	t.Helper()
	children, err := proc.FS("").Children(pid)
	if err != nil {
		t.Fatal(err)
	}
	return children
}

// openChild opens a process whose number somebody has printed; it is killed at the end of the test.
func openChild(t *testing.T, number string) *pidfd.Process {
	t.Helper()
	pid, err := strconv.Atoi(number)
	if err != nil {
		t.Fatal(err)
	}
	p, err := pidfd.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = p.Signal(unix.SIGKILL)
		_ = p.Close()
	})
	return p
}

// waitReaped waits until a process has ended and is no zombie any more, of which nobody but its parent is told.
func waitReaped(t *testing.T, p *pidfd.Process) {
	t.Helper()
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	for p.PID() > 0 {
		runtime.Gosched()
	}
}

func wantExit(t *testing.T, child *testutil.Child, want int) {
	t.Helper()
	var exit *exec.ExitError
	if err := child.Cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != want {
		t.Errorf("%v, want exit status %d", err, want)
	}
}

package pidfd

import (
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

// inNamespace runs a helper as the first process of a pid namespace, where it is root. What the helper complains of are
// errors of the test.
func inNamespace(t *testing.T, helper string, files ...*os.File) {
	t.Helper()
	testutil.Require(t, testutil.UserNS)
	cmd := testutil.Command(t, helper)
	cmd.ExtraFiles = files
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNS,
		UidMappings: []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}},
		GidMappings: []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}},
	}
	child := testutil.Start(t, cmd)
	for line := child.Line(); line != "done"; line = child.Line() {
		t.Error(line)
	}
}

func complain(format string, args ...any) { fmt.Printf(format+"\n", args...) }

func complainUnless(got, want error) {
	if !errors.Is(got, want) {
		complain("got error %q, want %q", got, want)
	}
}

// mountProc makes /proc that of the pid namespace.
func mountProc() {
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		panic(os.NewSyscallError("mount", err))
	}
}

// TestPIDReuse gives the number of a dead process to another process, and to a thread.
func TestPIDReuse(t *testing.T) { inNamespace(t, "pidreuse") }

func helperPIDReuse() {
	mountProc()
	defer fmt.Println("done")

	first := startSleep()
	p, err := FromProcess(first.Process)
	if err != nil {
		panic(err)
	}
	defer p.Close()
	id, err := p.Identity()
	if err != nil {
		panic(err)
	}
	if again, err := id.Open(); err != nil {
		complain("the process itself: %v", err)
	} else {
		again.Close()
	}
	endSleep(first)

	second := startSleepWith(id)
	if other, err := Open(id.PID); err != nil {
		complain("the other process: %v", err)
	} else {
		otherID, err := other.Identity()
		if err != nil || otherID == id || otherID.PID != id.PID {
			complain("the other process has identity %v, %v; the first had %v", otherID, err, id)
		}
		other.Close()
	}
	complainReused(p, id)
	endSleep(second)

	startThreadWith(id.PID)
	complainReused(p, id)
	_, err = Open(id.PID)
	complainUnless(err, ErrNotLeader)
}

// complainReused checks a process whose number is another's now.
func complainReused(p *Process, id Identity) {
	_, err := id.Open()
	complainUnless(err, ErrExited)
	parsed, err := ParseIdentity(id.String())
	if err != nil {
		complain("%v", err)
	}
	_, err = parsed.Open()
	complainUnless(err, ErrExited)
	complainUnless(p.Signal(unix.SIGKILL), ErrExited)
	_, err = p.Info()
	complainUnless(err, ErrExited)
	if pid := p.PID(); pid != -1 {
		complain("PID %d", pid)
	}
}

func startSleep() *exec.Cmd {
	cmd := exec.Command("sleep", "1000")
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	return cmd
}

func endSleep(cmd *exec.Cmd) {
	if err := cmd.Process.Kill(); err != nil {
		panic(err)
	}
	_ = cmd.Wait()
}

// startSleepWith starts a process with the number of one that is gone. Where identities go by start time, it is one that
// differs in that.
func startSleepWith(id Identity) *exec.Cmd {
	for {
		nextPID(id.PID)
		cmd := startSleep()
		stat, err := procfs.Stat(cmd.Process.Pid)
		if err != nil {
			panic(err)
		}
		if cmd.Process.Pid == id.PID && stat.StartTime != id.StartTime {
			return cmd
		}
		endSleep(cmd)
	}
}

// startThreadWith makes a thread of this process that has the id.
func startThreadWith(tid int) {
	for {
		nextPID(tid)
		go func() {
			runtime.LockOSThread()
			select {}
		}()
		runtime.Gosched()
		if _, err := os.Stat("/proc/self/task/" + strconv.Itoa(tid)); err == nil {
			return
		}
	}
}

// nextPID has the kernel give out pid next, unless something of ours is faster.
func nextPID(pid int) {
	if err := os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0); err != nil {
		panic(err)
	}
}

// TestOutside has a process look at one that is outside of its pid namespace.
func TestOutside(t *testing.T) {
	p := open(t, idle(t).PID())
	fd, err := unix.FcntlInt(p.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	f := os.NewFile(uintptr(fd), "pidfd")
	defer f.Close()
	inNamespace(t, "namespace", f)
}

func helperNamespace() {
	mountProc()
	defer fmt.Println("done")
	p, err := FromFD(3)
	if err != nil {
		complain("%v", err)
		return
	}
	defer p.Close()
	if pid := p.PID(); pid != 0 {
		complain("PID %d", pid)
	}
	_, err = p.Identity()
	complainUnless(err, errOutside)
	_, err = p.Info()
	complainUnless(err, errOutside)
	if exited, err := p.Exited(); exited || err != nil {
		complain("exited %v, %v", exited, err)
	}
	if e := p.Exit(); e.Reason != ReasonRunning {
		complain("exit %v", e)
	}
}

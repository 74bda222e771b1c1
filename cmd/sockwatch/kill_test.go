package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
)

// sockwatch runs the program and gives its exit status and what it printed.
func sockwatch(t *testing.T, cmd *exec.Cmd) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

func matches(t *testing.T, what, text, pattern string) {
	t.Helper()
	if !regexp.MustCompile(pattern).MatchString(text) {
		t.Errorf("%s is %q, want a match for %s", what, text, pattern)
	}
}

func TestKillIsDenied(t *testing.T) {
	testutil.Require(t, testutil.Root)
	path := filepath.Join(testutil.TempDir(t), "a.sock")
	server := testutil.Start(t, exec.Command("puppet", "listen", path, "say", "ready", "pause"))
	server.Expect("ready")

	// Not by its path, which only root can reach.
	cmd := &exec.Cmd{
		Path:        "/proc/self/exe",
		Args:        []string{"sockwatch", "kill", strconv.Itoa(server.PID())},
		SysProcAttr: &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}},
	}
	status, stdout, stderr := sockwatch(t, cmd)
	if status != statusFailed {
		t.Errorf("exit status %d", status)
	}
	matches(t, "standard output", stdout, `^process \d+ \(puppet\): still there\n$`)
	matches(t, "standard error", stderr, `^sockwatch: process \d+ \(puppet\) may not be killed by this user: .*operation not permitted.*\n$`)
	if _, err := os.Lstat(path); err != nil {
		t.Error(err)
	}
}

// TestKillOfTheDead: a process that nobody has waited for is there, and dead.
func TestKillOfTheDead(t *testing.T) {
	path := filepath.Join(testutil.TempDir(t), "a.sock")
	server := testutil.Start(t, exec.Command("puppet", "listen", path))
	p, err := pidfd.FromProcess(server.Cmd.Process)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	if err := p.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	id, err := p.Identity()
	if err != nil {
		t.Fatal(err)
	}
	status, stdout, stderr := sockwatch(t, exec.Command("sockwatch", "kill", "--bind", path, id.String()))
	if status != 0 || stderr != "" {
		t.Errorf("exit status %d, %s", status, stderr)
	}
	matches(t, "standard output", stdout, `^process \d+ \(puppet\): ended\nremoved   \S+/a.sock\n$`)
}

// TestInterruptEndsPatience: Ctrl-C while kill waits is SIGKILL at once, and nothing is left undone.
func TestInterruptEndsPatience(t *testing.T) {
	path := filepath.Join(testutil.TempDir(t), "a.sock")
	server := testutil.Start(t, exec.Command("puppet", "listen", path, "report", "say", "ready", "pause"))
	server.Expect("ready")
	kill := testutil.Start(t, exec.Command("sockwatch", "kill", "--kill-after", "1h", strconv.Itoa(server.PID())))
	server.Expect("TERM")
	if err := kill.Cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := server.Cmd.Wait(); err == nil || server.Cmd.ProcessState.Sys().(syscall.WaitStatus).Signal() != unix.SIGKILL {
		t.Error(err)
	}
	matches(t, "the first line", kill.Line(), `^process \d+ \(puppet\): ended`)
	matches(t, "the second line", kill.Line(), `^removed   \S+/a.sock$`)
	if err := kill.Cmd.Wait(); err != nil {
		t.Error(err)
	}
}

package testutil

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childEnv names the helper that a test binary runs instead of its tests.
const childEnv = "SOCKWATCH_TEST_CHILD"

// patience is how long a child may take to say its next line, or to end once it
// was killed. It bounds a test that hangs; no test comes near it.
const patience = 3 * time.Minute

// Helpers of every test binary, for the checks of features.
const (
	exitHelper    = "exit" // does nothing
	overlayHelper = "mount-overlay"
)

var ownHelpers = Helpers{
	exitHelper:    func() {},
	overlayHelper: mountOverlay,
}

func runHelper(name string, helpers []Helpers) {
	// What the helper starts is not a helper unless Command says so.
	os.Unsetenv(childEnv)
	for _, h := range append(helpers, ownHelpers) {
		if f, ok := h[name]; ok {
			f()
			os.Exit(0)
		}
	}
	fmt.Fprintf(os.Stderr, "testutil: this test binary has no helper %q\n", name)
	os.Exit(2)
}

// Command returns the command that runs the named helper of this test binary in a
// process of its own, with args in os.Args[1:]. Standard error is that of the
// test. Add to its Env, do not replace it. If the child is still there at the
// end of the test it is killed and reaped.
func Command(t testing.TB, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd, err := self(name, args...)
	if err != nil {
		t.Fatal(err)
	}
	cmd.Stderr = os.Stderr
	killAtEnd(t, cmd)
	return cmd
}

func self(helper string, args ...string) (*exec.Cmd, error) {
	exe, err := os.Executable()
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(exe, args...)
	cmd.Env = append(os.Environ(), childEnv+"="+helper)
	return cmd, nil
}

// killAtEnd ends cmd with the test, if it was started. It goes by the handle in
// cmd, so it cannot hit another process, and does nothing when cmd was waited for.
func killAtEnd(t testing.TB, cmd *exec.Cmd) {
	// Not for ever when a grandchild keeps a pipe of cmd open.
	cmd.WaitDelay = patience
	t.Cleanup(func() {
		if cmd.Process == nil {
			return
		}
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
}

// Child is a running process that is spoken with line by line.
type Child struct {
	Cmd *exec.Cmd

	t      testing.TB
	stdin  io.WriteCloser
	stdout *os.File
	lines  *bufio.Reader
}

// Start starts cmd, from [Command] or from exec.Command, with pipes at its
// standard input and output. If it is still there at the end of the test it is
// killed and reaped.
//
//	child := testutil.Start(t, testutil.Command(t, "server", path))
//	child.Expect("ready")
func Start(t testing.TB, cmd *exec.Cmd) *Child {
	t.Helper()
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	// Not cmd.StdoutPipe: Wait would close it under a reader, and what the child
	// said last would be lost.
	stdout, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stdout.Close() })
	cmd.Stdout = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		stdin.Close()
		t.Fatal(err)
	}
	killAtEnd(t, cmd)
	return &Child{cmd, t, stdin, stdout, bufio.NewReader(stdout)}
}

// PID returns the process id.
func (c *Child) PID() int { return c.Cmd.Process.Pid }

// Line returns the next line that the child says, without its newline. It is an
// error of the test when there is none.
func (c *Child) Line() string {
	c.t.Helper()
	if err := c.stdout.SetReadDeadline(time.Now().Add(patience)); err != nil {
		c.t.Fatal(err)
	}
	line, err := c.lines.ReadString('\n')
	if err != nil {
		var status unix.WaitStatus
		if pid, _ := unix.Wait4(c.PID(), &status, unix.WNOHANG, nil); pid > 0 {
			err = fmt.Errorf("%w; it has ended: wait status %#x", err, int(status))
		}
		c.t.Fatalf("waiting for a line from %s (pid %d): got %q, %v", c.Cmd.Path, c.PID(), line, err)
	}
	return strings.TrimSuffix(line, "\n")
}

// Expect waits for the child's next line, which must be want.
func (c *Child) Expect(want string) {
	c.t.Helper()
	if got := c.Line(); got != want {
		c.t.Fatalf("%s (pid %d) said %q, want %q", c.Cmd.Path, c.PID(), got, want)
	}
}

// Say writes a line to the child.
func (c *Child) Say(line string) {
	c.t.Helper()
	if _, err := io.WriteString(c.stdin, line+"\n"); err != nil {
		c.t.Fatalf("writing to %s (pid %d): %v", c.Cmd.Path, c.PID(), err)
	}
}

// Hangup closes the child's standard input, which most helpers take as the word
// to end.
func (c *Child) Hangup() {
	c.t.Helper()
	if err := c.stdin.Close(); err != nil {
		c.t.Fatal(err)
	}
}

// Kill ends the child with SIGKILL and reaps it.
func (c *Child) Kill() {
	c.t.Helper()
	if err := c.Cmd.Process.Kill(); err != nil {
		c.t.Fatal(err)
	}
	_ = c.Cmd.Wait() // tells of the signal
}

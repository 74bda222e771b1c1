//go:build failpoints

package faults

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// patience bounds what must come to its end by itself. Nothing comes near it.
const patience = 3 * time.Minute

// builtIn is the directory of the program.
var builtIn string

var buildOnce = sync.OnceValues(func() (string, error) {
	path := filepath.Join(builtIn, "sockwatch")
	said, err := exec.Command("go", "build", "-tags", "failpoints", "-o", path, "../../cmd/sockwatch").CombinedOutput()
	if err != nil {
		err = fmt.Errorf("go build: %w: %s", err, said)
	}
	return path, err
})

// build gives the path of the program with its failpoints.
func build(t testing.TB) string {
	t.Helper()
	testutil.Require(t, testutil.Program("go"))
	path, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// command is the program with faults: what SOCKWATCH_FAILPOINTS is to be, "" for none. It finds no daemon but one that it is told of.
func command(t testing.TB, faults string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(build(t), args...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "HOME=" + builtIn, "XDG_DATA_HOME=" + filepath.Join(builtIn, "data"), "TMPDIR=" + builtIn,
		"XDG_RUNTIME_DIR=" + builtIn, "SOCKWATCH_RUNTIME_DIR=" + filepath.Join(builtIn, "none"),
		"SOCKWATCH_FAILPOINTS=" + faults,
	}
	return cmd
}

// ended is how a run of the program came to its end, and what it said.
type ended struct {
	cmd    *exec.Cmd
	faults []string // the points at which something happened: "17 unlinkat: EIO"
	killed bool     // at a point
	status int      // unless killed
	stdout string
	stderr string // without what was told of the points
}

func (e ended) String() string {
	how := fmt.Sprintf("exit status %d", e.status)
	if e.killed {
		how = "killed"
	}
	return fmt.Sprintf("sockwatch %q, with %q: %s\n%s%s", e.cmd.Args[1:], e.faults, how, e.stdout, e.stderr)
}

// about leaves what was said of one directory, in place of many.
func (e ended) about(dir string) ended {
	said := ""
	for line := range strings.Lines(e.stdout + e.stderr) {
		if strings.Contains(line, dir+"/") {
			said += line
		}
	}
	e.cmd, e.stdout, e.stderr = exec.Command(e.cmd.Path, e.cmd.Args[1], "...", dir, "..."), said, ""
	return e
}

// fired tells whether there was a fault.
func (e ended) fired() bool { return len(e.faults) > 0 }

// sockwatch runs the program to its end.
func sockwatch(t testing.TB, faults string, args ...string) ended {
	t.Helper()
	return finish(t, command(t, faults, args...))
}

// finish runs what command gave. It is an error of the test when the program crashes: when it panics, or is killed but not at a point.
func finish(t testing.TB, cmd *exec.Cmd) ended {
	t.Helper()
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &stdout, &stderr, patience
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return await(t, cmd, &stdout, &stderr)
}

// await is finish for what was started with these for its output.
func await(t testing.TB, cmd *exec.Cmd, stdout, stderr *bytes.Buffer) ended {
	t.Helper()
	// It says where it stands, then.
	stuck := time.AfterFunc(patience, func() { _ = cmd.Process.Signal(unix.SIGQUIT) })
	defer stuck.Stop()
	err := cmd.Wait()
	e := ended{cmd: cmd, stdout: stdout.String()}
	for line := range strings.Lines(stderr.String()) {
		if fault, ok := strings.CutPrefix(line, "failpoint: "); ok {
			e.faults = append(e.faults, strings.TrimSuffix(fault, "\n"))
		} else {
			e.stderr += line
		}
	}
	status := cmd.ProcessState.Sys().(interface {
		Signaled() bool
		ExitStatus() int
	})
	e.killed, e.status = status.Signaled(), status.ExitStatus()
	expected := e.fired() && strings.HasSuffix(e.faults[len(e.faults)-1], ": kill")
	var exit *exec.ExitError
	switch {
	case err != nil && !errors.As(err, &exit):
		t.Fatalf("%v: %s", err, e)
	case e.killed != expected, strings.Contains(e.stderr, "goroutine "):
		t.Fatalf("it crashed: %s", e)
	}
	return e
}

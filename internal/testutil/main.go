// Package testutil is what the tests of every package share: the check that a
// test binary leaves nothing behind, the one way in which a test may skip, and
// children made of the test binary itself.
//
// It is imported by tests only and is not a place for code that a single
// package needs.
//
// Two environment variables steer it. SOCKWATCH_TEST_REQUIRE, a comma separated
// list of feature names, turns the skips of [Require] into failures.
// SOCKWATCH_TEST_CHILD makes a test binary run one of its helpers instead of its
// tests; only [Command] sets it.
package testutil

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"

	"go.uber.org/goleak"
	"golang.org/x/sys/unix"
)

// The first thread of a process never ends in Go, and it is what /proc/PID and a pidfd tell about. Tests have goroutines change
// the credentials or the namespaces of their threads, and trust that the thread ends with the goroutine: so in a test binary that thread
// stays with the main goroutine, which runs no test. Helpers are programs, and have their threads as any program has.
func init() {
	if _, helper := os.LookupEnv(childEnv); !helper && testing.Testing() {
		runtime.LockOSThread()
	}
}

// TestingM is the part of *testing.M that is needed here.
type TestingM interface {
	Run() int
}

// Helpers are functions that a test binary can be started to run as a process of
// its own, by name: see [Command]. The arguments of the process are in
// os.Args[1:], its exit status is 0 when the function returns.
type Helpers map[string]func()

// Main is the body of every package's TestMain:
//
//	func TestMain(m *testing.M) { testutil.Main(m) }
//
// It runs the tests, fails when they leave a goroutine, a descriptor or a child
// process behind, and exits. In a process started by [Command] it runs the named
// helper instead.
func Main(m TestingM, helpers ...Helpers) {
	os.Exit(Checked(m, helpers...).Run())
}

// Checked is [Main] for a TestMain that hands m on to somebody else, such as
// testscript.Main: the Run of the result runs the tests and looks for leaks. In a
// process started by [Command] it does not return.
func Checked(m TestingM, helpers ...Helpers) TestingM {
	if name, ok := os.LookupEnv(childEnv); ok {
		runHelper(name, helpers)
	}
	return checked{m}
}

type checked struct{ m TestingM }

func (c checked) Run() int {
	if err := checkRequired(); err != nil {
		fmt.Fprintln(os.Stderr, "testutil:", err)
		return 2
	}
	before, err := takeBaseline()
	if err != nil {
		fmt.Fprintln(os.Stderr, "testutil:", err)
		return 2
	}
	code := c.m.Run()
	// A failed test may well have stopped halfway: its leaks would only hide the
	// failure. The fuzzing engine keeps workers and pipes of its own.
	if code != 0 || fuzzing() {
		return code
	}
	if leaks := before.leaks(); len(leaks) > 0 {
		for _, leak := range leaks {
			fmt.Fprintln(os.Stderr, "testutil: left behind:", leak)
		}
		return 1
	}
	return 0
}

func fuzzing() bool {
	f := flag.Lookup("test.fuzz")
	return f != nil && f.Value.String() != ""
}

// baseline is what the process had before its tests ran.
type baseline struct {
	goroutines goleak.Option
	fds        map[int]string
	children   bool
}

func takeBaseline() (baseline, error) {
	// The netpoller makes its epoll and event descriptors with the first pollable
	// file and keeps them for ever: have it do so now.
	r, w, err := os.Pipe()
	if err != nil {
		return baseline{}, err
	}
	if err := errors.Join(r.Close(), w.Close()); err != nil {
		return baseline{}, err
	}
	fds, err := openDescriptors()
	if err != nil {
		return baseline{}, err
	}
	return baseline{goleak.IgnoreCurrent(), fds, hasChildren()}, nil
}

// leaks describes what differs from the baseline. The goroutines come first:
// goleak waits for those that are just ending, and with them go descriptors.
func (b baseline) leaks() []string {
	var leaks []string
	if err := goleak.Find(b.goroutines); err != nil {
		leaks = append(leaks, err.Error())
	}
	if !b.children && hasChildren() {
		leaks = append(leaks, "child processes: "+describeChildren())
	}
	now, err := openDescriptors()
	if err != nil {
		return append(leaks, err.Error())
	}
	for fd, target := range now {
		if b.fds[fd] != target {
			leaks = append(leaks, fmt.Sprintf("descriptor %d -> %s", fd, target))
		}
	}
	for fd, target := range b.fds {
		// Somebody closed a number that was no longer his.
		if _, ok := now[fd]; !ok {
			leaks = append(leaks, fmt.Sprintf("closed descriptor %d -> %s, which is not the tests' own", fd, target))
		}
	}
	slices.Sort(leaks)
	return leaks
}

// openDescriptors lists /proc/self/fd with what each link says, proc_pid_fd(5).
func openDescriptors() (map[int]string, error) {
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	fds := make(map[int]string, len(names))
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			return nil, err
		}
		if fd == int(dir.Fd()) {
			continue
		}
		target, err := os.Readlink(filepath.Join("/proc/self/fd", name))
		if err != nil {
			return nil, err
		}
		fds[fd] = target
	}
	return fds, nil
}

// hasChildren reports whether this process has a child, zombies included. It
// reaps none and does not wait: waitid(2) with WNOWAIT and WNOHANG.
func hasChildren() bool {
	return unix.Waitid(unix.P_ALL, 0, nil, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil) == nil
}

// describeChildren names the children, as far as the kernel lists them
// (CONFIG_PROC_CHILDREN).
func describeChildren() string {
	var children []string
	lists, _ := filepath.Glob("/proc/self/task/*/children")
	for _, list := range lists {
		pids, _ := os.ReadFile(list)
		for pid := range strings.FieldsSeq(string(pids)) {
			comm, _ := os.ReadFile(filepath.Join("/proc", pid, "comm"))
			children = append(children, fmt.Sprintf("%s (%s)", pid, strings.TrimSpace(string(comm))))
		}
	}
	return strings.Join(children, ", ")
}

package socktest

import (
	"bufio"
	"fmt"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
)

var helpers = testutil.Helpers{
	"puppet": func() { puppet() },
	"main":   func() { VerifyTestMain(runner(puppet)) },
	"warns":  func() { VerifyTestMain(runner(puppet), Warn(), Reap()) },
}

type runner func() int

func (r runner) Run() int { return r() }

// puppet does what it is told on standard input, and answers each line: "bind PATH", "close", "exit". What it returns at the end
// of the input is the status after a last "status".
func puppet() (status int) {
	var bound []*net.UnixListener
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		verb, arg, _ := strings.Cut(lines.Text(), " ")
		switch verb {
		case "bind":
			l, err := bind(arg)
			if err != nil {
				fmt.Println(err)
				continue
			}
			bound = append(bound, l)
		case "close":
			for _, l := range bound {
				l.Close()
			}
		case "exit":
			os.Exit(3)
		case "status":
			status = 4
		}
		fmt.Println("done")
	}
	return status
}

// bind makes a sock-file that stays when its socket is closed.
func bind(path string) (*net.UnixListener, error) {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path})
	if err == nil {
		l.SetUnlinkOnClose(false)
	}
	return l, err
}

// closed closes a listener for good: between fork(2) and execve(2), a child that another test starts has a copy.
func closed(l *net.UnixListener) {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	_ = l.Close()
}

// leave has this process leave a dead sock-file behind.
func leave(t *testing.T, path string) {
	t.Helper()
	l, err := bind(path)
	if err != nil {
		t.Fatal(err)
	}
	closed(l)
}

// child is a puppet that descends from the tests.
func child(t *testing.T) *testutil.Child { return testutil.Start(t, testutil.Command(t, "puppet")) }

// stranger is one that does not: its parent has ended.
func stranger(t *testing.T) *testutil.Child {
	t.Helper()
	cmd := testutil.Command(t, "puppet")
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Fatal(err)
	}
	cmd.Args = append([]string{"sh", "-c", `exec 3<&0; "$@" <&3 3<&- &`, "sh", cmd.Path}, cmd.Args[1:]...)
	cmd.Path = sh
	c := testutil.Start(t, cmd)
	shell, err := pidfd.FromProcess(cmd.Process)
	if err != nil {
		t.Fatal(err)
	}
	defer shell.Close()
	if err := shell.Wait(t.Context()); err != nil { // without cmd.Wait, which closes the pipes
		t.Fatal(err)
	}
	return c
}

func tell(c *testutil.Child, lines ...string) {
	for _, line := range lines {
		c.Say(line)
		c.Expect("done")
	}
}

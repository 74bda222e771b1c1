package tracing

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// puppet is a process that does what its standard input says, one command with its arguments per line, quoted and separated by tabs, and answers
// each with a line. It keeps its sockets open.
func puppet() {
	self, err := os.Executable()
	check(err)
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var args []string
		for quoted := range strings.SplitSeq(lines.Text(), "\t") {
			arg, err := strconv.Unquote(quoted)
			check(err)
			args = append(args, arg)
		}
		said := "ok"
		switch args[0] {
		case "bind":
			check(bind(args[1]))
		case "flood": // as many sockets as that, each with a name of its own
			n, err := strconv.Atoi(args[2])
			check(err)
			for i := range n {
				check(bind(args[1] + strconv.Itoa(i)))
			}
		case "close": // all sockets; their files stay
			for _, s := range sockets {
				check(unix.Close(s))
			}
			sockets = nil
		case "rename":
			check(os.Rename(args[1], args[2]))
		case "chdir":
			check(os.Chdir(args[1]))
		case "chroot":
			check(unix.Chroot(args[1]))
			check(os.Chdir("/"))
		case "stray": // as chroot, but the working directory stays outside
			check(unix.Chroot(args[1]))
		case "tmpfs":
			check(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
			check(unix.Mount("tmpfs", args[1], "tmpfs", 0, ""))
		case "thread": // of its own everything, with another root directory, which binds and stays
			done := make(chan error)
			go func() {
				runtime.LockOSThread()
				err := unix.Unshare(unix.CLONE_FS | unix.CLONE_FILES)
				if err == nil {
					err = unix.Chroot(args[1])
				}
				if err == nil {
					err = bind(args[2])
				}
				done <- err
				select {}
			}()
			check(<-done)
		case "brief": // as a child, which is gone when this is answered
			cmd := exec.Command(self, args[1])
			cmd.Env = append(os.Environ(), "SOCKWATCH_TEST_CHILD=brief")
			cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
			check(cmd.Run())
			said = strconv.Itoa(cmd.Process.Pid)
		case "inherit": // a child that has the first socket until nobody can write to descriptor 3
			cmd := exec.Command("cat")
			cmd.Stdin, cmd.Stderr = os.NewFile(3, "pipe"), os.Stderr
			cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(sockets[0]), "socket")}
			check(cmd.Start())
			said = strconv.Itoa(cmd.Process.Pid)
		default:
			said = "no such command: " + args[0]
		}
		fmt.Println(said)
	}
}

// brief is a process that binds and ends at once.
func brief() { check(bind(os.Args[1])) }

var sockets []int

// bind binds to all the bytes of a name: there is room for 108, and none for a NUL then.
func bind(name string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	sockets = append(sockets, fd)
	sa := unix.RawSockaddrUnix{Family: unix.AF_UNIX}
	for i := range len(name) {
		sa.Path[i] = int8(name[i])
	}
	size := unsafe.Offsetof(sa.Path) + uintptr(len(name))
	if _, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa)), size); errno != 0 {
		return os.NewSyscallError("bind", errno)
	}
	return nil
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "puppet:", err)
		os.Exit(1)
	}
}

// process is a running puppet.
type process struct {
	*testutil.Child
	t *testing.T
}

func start(t *testing.T, cloneflags uintptr, extra ...*os.File) process {
	t.Helper()
	cmd := testutil.Command(t, "puppet")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: cloneflags}
	cmd.ExtraFiles = extra
	return process{testutil.Start(t, cmd), t}
}

// ask has the puppet do it, and gives its answer.
func (p process) ask(command ...string) string {
	p.t.Helper()
	var quoted []string
	for _, arg := range command {
		quoted = append(quoted, strconv.Quote(arg))
	}
	p.Say(strings.Join(quoted, "\t"))
	return p.Line()
}

// do has the puppet do it.
func (p process) do(command ...string) {
	p.t.Helper()
	if got := p.ask(command...); got != "ok" {
		p.t.Fatalf("%q: %s", command, got)
	}
}

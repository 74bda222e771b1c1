package ebpf

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
)

// binder is a process that does what its standard input says, one command with its quoted arguments per line, and answers
// each: bind with the inode number of the socket or an errno, all others with "ok". It keeps its sockets open.
func binder() {
	sockets := map[string]int{}
	for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
		var words []string
		for rest := lines.Text(); rest != ""; {
			quoted, err := strconv.QuotedPrefix(rest)
			check(err)
			word, err := strconv.Unquote(quoted)
			check(err)
			words = append(words, word)
			rest = strings.TrimPrefix(rest[len(quoted):], " ")
		}
		arg := func(i int) string { return words[i] }
		switch arg(0) {
		case "chdir":
			check(unix.Chdir(arg(1)))
		case "chroot":
			check(unix.Chroot(arg(1)))
		case "tmpfs":
			check(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
			check(unix.Mount("tmpfs", arg(1), "tmpfs", 0, ""))
		case "stat":
			var st unix.Stat_t
			check(unix.Lstat(arg(1), &st))
			fmt.Println(st.Dev, st.Ino)
			continue
		case "bind":
			kind, err := strconv.Atoi(arg(1))
			check(err)
			fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
			check(err)
			sockets[arg(2)] = fd
			if errno := rawBind(fd, arg(2)); errno != 0 {
				fmt.Println(unix.ErrnoName(errno))
				continue
			}
			fmt.Println(inode(fd))
			continue
		case "close":
			check(unix.Close(sockets[arg(1)]))
		case "unlink":
			check(unix.Unlink(arg(1)))
		case "connect":
			// A connection to a listener, accepted and closed again: both ends.
			check(unix.Listen(sockets[arg(1)], 1))
			client, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			check(err)
			check(unix.Connect(client, &unix.SockaddrUnix{Name: arg(1)}))
			server, _, err := unix.Accept(sockets[arg(1)])
			check(err)
			check(unix.Close(server))
			check(unix.Close(client))
		}
		fmt.Println("ok")
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "child:", err)
		os.Exit(1)
	}
}

func inode(fd int) uint64 {
	var st unix.Stat_t
	check(unix.Fstat(fd, &st))
	return st.Ino
}

// rawBind binds to all the bytes of name: no NUL is added. An empty one asks for an autobind.
func rawBind(fd int, name string) unix.Errno {
	sa := unix.RawSockaddrUnix{Family: unix.AF_UNIX}
	for i := range len(name) {
		sa.Path[i] = int8(name[i])
	}
	size := unsafe.Offsetof(sa.Path) + uintptr(len(name))
	_, _, errno := unix.Syscall(unix.SYS_BIND, uintptr(fd), uintptr(unsafe.Pointer(&sa)), size)
	return errno
}

// process is a running binder.
type process struct {
	*testutil.Child
	t *testing.T
}

func startBinder(t *testing.T, cloneflags uintptr) process {
	t.Helper()
	cmd := testutil.Command(t, "binder")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: cloneflags}
	return process{testutil.Start(t, cmd), t}
}

// do has the binder do it and returns its answer.
func (p process) do(command string, args ...string) string {
	p.t.Helper()
	line := strconv.Quote(command)
	for _, arg := range args {
		line += " " + strconv.Quote(arg)
	}
	p.Say(line)
	return p.Line()
}

// bind has the binder make a stream socket and bind it, which must succeed, and returns the socket's inode number.
func (p process) bind(name string) uint64 {
	p.t.Helper()
	answer := p.do("bind", strconv.Itoa(unix.SOCK_STREAM), name)
	ino, err := strconv.ParseUint(answer, 10, 64)
	if err != nil {
		p.t.Fatalf("bind to %q: %s", name, answer)
	}
	return ino
}

// stat returns what the binder sees of a file.
func (p process) stat(path string) (dev, ino uint64) {
	p.t.Helper()
	if _, err := fmt.Sscan(p.do("stat", path), &dev, &ino); err != nil {
		p.t.Fatal(err)
	}
	return dev, ino
}

// end lets the binder end and reaps it.
func (p process) end() {
	p.t.Helper()
	p.Hangup()
	if err := p.Cmd.Wait(); err != nil {
		p.t.Fatal(err)
	}
}

// flood binds to and unlinks a name as often as it is told, as fast as it can, and leaves the last sock-file bound until
// standard input ends. It says how far it is every 500 times.
func flood() {
	path := os.Args[1]
	n, err := strconv.Atoi(os.Args[2])
	check(err)
	for i := range n {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		check(err)
		if errno := rawBind(fd, path); errno != 0 {
			check(errno)
		}
		if i == n-1 {
			break
		}
		check(unix.Close(fd))
		check(unix.Unlink(path))
		if i%500 == 499 {
			fmt.Println(i + 1)
		}
	}
	fmt.Println("done")
	_, err = io.Copy(io.Discard, os.Stdin)
	check(err)
}

// output runs a command to its end and returns what it said, also when it failed.
func output(cmd *exec.Cmd) (string, error) {
	b, err := cmd.Output()
	if _, failed := errors.AsType[*exec.ExitError](err); failed {
		err = fmt.Errorf("%w: %s", err, b)
	}
	return string(b), err
}

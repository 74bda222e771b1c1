package reap

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
)

func init() { helpers["puppet"] = puppet }

// puppetProcess is a process that does as told. Its last socket is the one that orders are about.
type puppetProcess struct {
	t     testing.TB
	child *testutil.Child
}

// startPuppet starts a puppet with the user of the calling thread. Change what is to be different about it before.
func startPuppet(t testing.TB, change ...func(*exec.Cmd)) *puppetProcess {
	t.Helper()
	cmd := testutil.Command(t, "puppet")
	cmd.Path = "/proc/self/exe" // the directory of the test binary may be closed to other users
	for _, c := range change {
		c(cmd)
	}
	child := testutil.Start(t, cmd)
	child.Expect("ready")
	return &puppetProcess{t, child}
}

// try gives an order and returns what came of it.
func (p *puppetProcess) try(order string, args ...string) (answer string, err error) {
	p.t.Helper()
	for _, a := range args {
		order += " " + strconv.QuoteToASCII(a)
	}
	p.child.Say(order)
	answer = p.child.Line()
	if failure, failed := strings.CutPrefix(answer, "error: "); failed {
		return "", errors.New(failure)
	}
	return answer, nil
}

// do gives an order that must not fail.
func (p *puppetProcess) do(order string, args ...string) string {
	p.t.Helper()
	answer, err := p.try(order, args...)
	if err != nil {
		p.t.Fatalf("%s %q: %v", order, args, err)
	}
	return answer
}

func (p *puppetProcess) pid() int { return p.child.PID() }

// open opens the puppet until the end of the test.
func (p *puppetProcess) open() *pidfd.Process {
	p.t.Helper()
	return openProcess(p.t, p.pid())
}

// held takes a snapshot that must find everything, and gives the paths, sorted. All must have been seen alive.
func (p *puppetProcess) held(dirs ...string) []string {
	p.t.Helper()
	files, err := Held(p.open(), dirs...)
	if err != nil {
		p.t.Errorf("Held: %v", err)
	}
	return pathsOf(p.t, files)
}

// pathsOf closes the files.
func pathsOf(t testing.TB, files []*File) []string {
	t.Helper()
	paths := []string{}
	for _, f := range files {
		if !f.alive.Load() {
			t.Errorf("%q is not marked as seen alive", f.Path())
		}
		paths = append(paths, f.Path())
		f.Close()
	}
	slices.Sort(paths)
	return paths
}

func openProcess(t testing.TB, pid int) *pidfd.Process {
	t.Helper()
	p, err := pidfd.Open(pid)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func wantPaths(t testing.TB, got []string, want ...string) {
	t.Helper()
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// byEachRoute runs a test twice: as root, for whom sockets can be asked themselves, and without any privilege, when only the
// kernel's table can be.
func byEachRoute(t *testing.T, f func(t *testing.T)) {
	t.Run("asked", func(t *testing.T) {
		testutil.Require(t, testutil.Root)
		f(t)
	})
	unprivileged(t, "listed", f)
}

// unprivileged runs a subtest as a user without privileges.
func unprivileged(t *testing.T, name string, f func(t *testing.T)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Run(name, f)
		return
	}
	onThread(t, name, func(t *testing.T, _ string) {
		become(t, nobody)
		// Or the kernel keeps /proc/PID of this process, and of the threads that it starts processes from, for root.
		if err := unix.Prctl(unix.PR_SET_DUMPABLE, 1, 0, 0, 0); err != nil {
			t.Fatal(err)
		}
		f(t)
	})
}

// puppet is the process.
func puppet() {
	// Orders that change the thread are for all that follow.
	runtime.LockOSThread()
	p := &puppetState{}
	fmt.Println("ready")
	orders := bufio.NewScanner(os.Stdin)
	for orders.Scan() {
		answer, err := p.obey(orders.Text())
		if err != nil {
			answer = "error: " + err.Error()
		}
		fmt.Println(answer)
	}
}

type puppetState struct {
	sockets []int
	child   *exec.Cmd
}

func (p *puppetState) obey(line string) (string, error) {
	order, rest, _ := strings.Cut(line, " ")
	var args []string
	for rest != "" {
		quoted, err := strconv.QuotedPrefix(rest)
		if err != nil {
			return "", err
		}
		arg, err := strconv.Unquote(quoted)
		if err != nil {
			return "", err
		}
		args = append(args, arg)
		rest = strings.TrimPrefix(rest[len(quoted):], " ")
	}
	f, ok := puppetOrders[order]
	if !ok {
		return "", errors.New("no such order: " + order)
	}
	if answer, err := f(p, args); answer != "" || err != nil {
		return answer, err
	}
	return "ok", nil
}

var socketTypes = map[string]int{"stream": unix.SOCK_STREAM, "dgram": unix.SOCK_DGRAM, "seqpacket": unix.SOCK_SEQPACKET}

var puppetOrders = map[string]func(*puppetState, []string) (string, error){
	"bind": func(p *puppetState, args []string) (string, error) { return "", p.bind(args[0], args[1]) },
	// many N PREFIX binds and listens on N paths.
	"many": func(p *puppetState, args []string) (string, error) {
		n, err := strconv.Atoi(args[0])
		for i := 0; i < n && err == nil; i++ {
			if err = p.bind("stream", args[1]+strconv.Itoa(i)); err == nil {
				err = unix.Listen(p.last(), 1)
			}
		}
		return "", err
	},
	"listen":    func(p *puppetState, _ []string) (string, error) { return "", unix.Listen(p.last(), 16) },
	"connect":   (*puppetState).connect,
	"reconnect": func(p *puppetState, args []string) (string, error) { return "", connectTo(p.last(), args[0]) },
	"accept": func(p *puppetState, _ []string) (string, error) {
		fd, _, err := unix.Accept4(p.last(), unix.SOCK_CLOEXEC)
		if err == nil {
			p.sockets = slices.Insert(p.sockets, 0, fd) // the listener stays the last one
		}
		return "", err
	},
	"close": func(p *puppetState, _ []string) (string, error) {
		fd := p.last()
		p.sockets = p.sockets[:len(p.sockets)-1]
		return "", unix.Close(fd)
	},
	"other": func(*puppetState, []string) (string, error) { // sockets that are nobody's concern
		for _, s := range [][2]int{
			{unix.AF_UNIX, unix.SOCK_DGRAM},
			{unix.AF_INET, unix.SOCK_STREAM},
			{unix.AF_INET, unix.SOCK_DGRAM},
			{unix.AF_NETLINK, unix.SOCK_RAW},
		} {
			if _, err := unix.Socket(s[0], s[1]|unix.SOCK_CLOEXEC, 0); err != nil {
				return "", err
			}
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: fmt.Sprintf("@/%d", os.Getpid())}); err != nil {
			return "", err
		}
		_, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		return "", err
	},
	"duplicate": func(p *puppetState, _ []string) (string, error) {
		_, err := unix.FcntlInt(uintptr(p.last()), unix.F_DUPFD_CLOEXEC, 0)
		return "", err
	},
	"chdir":  func(_ *puppetState, args []string) (string, error) { return "", unix.Chdir(args[0]) },
	"chroot": func(_ *puppetState, args []string) (string, error) { return "", unix.Chroot(args[0]) },
	"mkdir":  func(_ *puppetState, args []string) (string, error) { return "", os.MkdirAll(args[0], 0o777) },
	"rename": func(_ *puppetState, args []string) (string, error) { return "", os.Rename(args[0], args[1]) },
	"tmpfs": func(_ *puppetState, args []string) (string, error) {
		return "", errors.Join(
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", args[0], "tmpfs", 0, "mode=777"),
		)
	},
	"nondumpable": func(*puppetState, []string) (string, error) {
		return "", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	},
	// fork starts a puppet that has the last socket as its descriptor 3, and says its pid.
	"fork": func(p *puppetState, _ []string) (string, error) {
		p.child = exec.Command("/proc/self/exe")
		p.child.Env = append(os.Environ(), "SOCKWATCH_TEST_CHILD=puppet")
		p.child.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}
		if len(p.sockets) > 0 {
			dup, err := unix.FcntlInt(uintptr(p.last()), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return "", err
			}
			file := os.NewFile(uintptr(dup), "")
			defer file.Close()
			p.child.ExtraFiles = []*os.File{file}
		}
		var err error
		// A pipe that nobody writes to keeps it waiting for orders.
		if _, err = p.child.StdinPipe(); err != nil {
			return "", err
		}
		out, err := p.child.StdoutPipe()
		if err != nil {
			return "", err
		}
		if err := p.child.Start(); err != nil {
			return "", err
		}
		_, err = bufio.NewReader(out).ReadString('\n')
		return strconv.Itoa(p.child.Process.Pid), err
	},
	"killchild": func(p *puppetState, _ []string) (string, error) {
		if err := p.child.Process.Kill(); err != nil {
			return "", err
		}
		_, err := p.child.Process.Wait()
		return "", err
	},
	// send PATH passes the last socket to the datagram socket at PATH, sendaccepted the one that was accepted last.
	"send":         func(p *puppetState, args []string) (string, error) { return "", pass(p.last(), args[0]) },
	"sendaccepted": func(p *puppetState, args []string) (string, error) { return "", pass(p.sockets[0], args[0]) },
	// receive takes a socket from the last one and makes it the last one.
	"receive": func(p *puppetState, _ []string) (string, error) {
		var data [1]byte
		control := make([]byte, unix.CmsgSpace(4))
		_, n, _, _, err := unix.Recvmsg(p.last(), data[:], control, unix.MSG_CMSG_CLOEXEC)
		if err != nil {
			return "", err
		}
		messages, err := unix.ParseSocketControlMessage(control[:n])
		if err != nil || len(messages) != 1 {
			return "", fmt.Errorf("%d control messages: %w", len(messages), err)
		}
		fds, err := unix.ParseUnixRights(&messages[0])
		p.sockets = append(p.sockets, fds...)
		return "", err
	},
	// end ends the main thread, which is this one, while others go on.
	"end": func(*puppetState, []string) (string, error) {
		go func() {
			fmt.Println("ok")
			select {}
		}()
		// Not RawSyscall: with one processor the runtime would take it for busy, and nothing else would run.
		_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
		return "", errors.New("alive")
	},
}

func (p *puppetState) last() int { return p.sockets[len(p.sockets)-1] }

// bind makes a socket the last one.
func (p *puppetState) bind(kind, path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, socketTypes[kind]|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	p.sockets = append(p.sockets, fd)
	return bindAnyPath(fd, path)
}

// connect PATH makes the first socket, so that the last one stays that.
func (p *puppetState) connect(args []string) (string, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	p.sockets = slices.Insert(p.sockets, 0, fd)
	return "", connectTo(fd, args[0])
}

func connectTo(fd int, path string) error { return unix.Connect(fd, &unix.SockaddrUnix{Name: path}) }

func pass(fd int, path string) error {
	mail, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mail)
	return unix.Sendmsg(mail, []byte{1}, unix.UnixRights(fd), &unix.SockaddrUnix{Name: path}, 0)
}

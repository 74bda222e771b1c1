package watch

import (
	"bufio"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
)

func init() { helpers["puppet"] = puppet }

// puppetProcess is a process that does as told. Its last socket is the one that orders are about.
type puppetProcess struct {
	t     testing.TB
	child *testutil.Child
}

func startPuppet(t testing.TB, change ...func(*exec.Cmd)) *puppetProcess {
	t.Helper()
	cmd := testutil.Command(t, "puppet")
	// What the puppet forks waits at this pipe and ends with the test, whatever becomes of both.
	leash, end, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer leash.Close()
	t.Cleanup(func() { end.Close() })
	cmd.ExtraFiles = []*os.File{leash}
	for _, c := range change {
		c(cmd)
	}
	child := testutil.Start(t, cmd)
	child.Expect("ready")
	return &puppetProcess{t, child}
}

// do gives an order, which must not fail, and returns the answer.
func (p *puppetProcess) do(order string, args ...string) string {
	p.t.Helper()
	order = quoteOrder(order, args)
	p.child.Say(order)
	answer := p.child.Line()
	if failure, failed := strings.CutPrefix(answer, "error: "); failed {
		p.t.Fatalf("%s: %s", order, failure)
	}
	return answer
}

func quoteOrder(order string, args []string) string {
	for _, a := range args {
		order += " " + strconv.Quote(a)
	}
	return order
}

// spawn has the puppet start another one: see descendant.
func (p *puppetProcess) spawn(how ...string) *descendant {
	p.t.Helper()
	return newDescendant(p.t, p.do, how)
}

// descendant is a puppet that another one has started. It has a connection of its own to the test, so it does as told whoever of its
// ancestors is dead. It ends with the test.
type descendant struct {
	t       testing.TB
	conn    net.Conn
	lines   *bufio.Reader
	process *pidfd.Process
	number  int // its pid, also when it is reaped
}

// newDescendant has a puppet start another one. how: "user" (another user's; for root), "session" (of its own), "namespaces" (a user
// and a mount namespace of its own, and root in it).
func newDescendant(t testing.TB, do func(string, ...string) string, how []string) *descendant {
	t.Helper()
	address := "@sockwatch-test-" + rand.Text()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: address, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	env := testutil.Command(t, "puppet").Env
	d := &descendant{t: t, process: adopt(t, do("spawn", append([]string{address, env[len(env)-1]}, how...)...))}
	if err := l.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	d.number = d.process.PID()
	if d.conn, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.conn.Close() })
	d.lines = bufio.NewReader(d.conn)
	if ready := d.line(); ready != "ready" {
		t.Fatalf("it said %q", ready)
	}
	return d
}

func (d *descendant) line() string {
	d.t.Helper()
	if err := d.conn.SetReadDeadline(time.Now().Add(patience)); err != nil {
		d.t.Fatal(err)
	}
	line, err := d.lines.ReadString('\n')
	if err != nil {
		d.t.Fatalf("process %d: got %q, %v", d.pid(), line, err)
	}
	return strings.TrimSuffix(line, "\n")
}

// try gives an order and returns the answer.
func (d *descendant) try(order string, args ...string) (string, error) {
	d.t.Helper()
	order = quoteOrder(order, args)
	if _, err := io.WriteString(d.conn, order+"\n"); err != nil {
		d.t.Fatal(err)
	}
	answer := d.line()
	if failure, failed := strings.CutPrefix(answer, "error: "); failed {
		return "", fmt.Errorf("%.200s: %s", order, failure)
	}
	return answer, nil
}

// do gives an order, which must not fail, and returns the answer.
func (d *descendant) do(order string, args ...string) string {
	d.t.Helper()
	answer, err := d.try(order, args...)
	if err != nil {
		d.t.Fatal(err)
	}
	return answer
}

func (d *descendant) pid() int { return d.number }

func (d *descendant) spawn(how ...string) *descendant {
	d.t.Helper()
	return newDescendant(d.t, d.do, how)
}

// reap has the process's parent take its wait status.
func (d *descendant) reap(parent interface {
	do(order string, args ...string) string
},
) {
	d.t.Helper()
	parent.do("reap", strconv.Itoa(d.pid()))
}

func (p *puppetProcess) pid() int { return p.child.PID() }

// fork has the puppet fork a process that has all its sockets and does nothing. It ends with the test.
func (p *puppetProcess) fork() *pidfd.Process {
	p.t.Helper()
	return adopt(p.t, p.do("fork"))
}

// adopt opens a process of which a puppet told the pid, and ends it with the test.
func adopt(t testing.TB, answer string) *pidfd.Process {
	t.Helper()
	pid, err := strconv.Atoi(answer)
	if err != nil {
		t.Fatal(err)
	}
	child := open(t, pid)
	t.Cleanup(func() {
		_ = child.Signal(unix.SIGKILL)
		child.Close()
	})
	return child
}

// hatch has the puppet fork n processes that are stopped. When one is told to go, it binds its own path of those given by a prefix and its
// number, and then comes to the end that is given: "kill" (SIGKILL, by itself), "exit", "close" (of the socket; it goes on),
// "stay", or "rebind" (told to go once more, it unlinks its path, binds it anew and is killed). They end with the test.
func (p *puppetProcess) hatch(n int, prefix, end string) []*pidfd.Process {
	p.t.Helper()
	var hatched []*pidfd.Process
	for pid := range strings.FieldsSeq(p.do("hatch", strconv.Itoa(n), prefix, end)) {
		hatched = append(hatched, adopt(p.t, pid))
	}
	return hatched
}

// goOn has processes that were hatched go on.
func goOn(t testing.TB, children ...*pidfd.Process) {
	t.Helper()
	for _, c := range children {
		if err := c.Signal(unix.SIGCONT); err != nil {
			t.Fatal(err)
		}
	}
}

// puppet is the process.
func puppet() {
	runtime.LockOSThread() // for the orders that change a thread
	p := &puppetState{notify: -1, leash: os.NewFile(3, "leash")}
	var in io.Reader = os.Stdin
	var out io.Writer = os.Stdout
	if len(os.Args) > 1 { // a descendant
		conn, err := net.Dial("unix", os.Args[1])
		if err != nil {
			panic(err)
		}
		in, out = conn, conn
	}
	fmt.Fprintln(out, "ready")
	orders := bufio.NewScanner(in)
	orders.Buffer(nil, 1<<20)
	for orders.Scan() {
		answer, err := p.obey(orders.Text())
		switch {
		case err != nil:
			answer = "error: " + err.Error()
		case answer == "":
			answer = "ok"
		}
		fmt.Fprintln(out, answer)
	}
}

type puppetState struct {
	sockets []int
	notify  int      // connected to a watcher's socket
	leash   *os.File // for the puppets that it starts
	flooded chan error
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
	return f(p, args)
}

var socketTypes = map[string]int{"stream": unix.SOCK_STREAM, "dgram": unix.SOCK_DGRAM, "seqpacket": unix.SOCK_SEQPACKET}

var puppetOrders = map[string]func(*puppetState, []string) (string, error){
	// bind PATH [TYPE] makes a socket the last one.
	"bind": func(p *puppetState, args []string) (string, error) {
		kind := "stream"
		if len(args) > 1 {
			kind = args[1]
		}
		return "", p.bind(args[0], socketTypes[kind])
	},
	// rebind PATH is what a server does that begins anew: unlink and bind. The old socket stays open.
	"rebind": func(p *puppetState, args []string) (string, error) {
		if err := os.Remove(args[0]); err != nil {
			return "", err
		}
		return "", p.bind(args[0], unix.SOCK_STREAM)
	},
	// many N PREFIX binds N paths.
	"many": func(p *puppetState, args []string) (string, error) {
		n, err := strconv.Atoi(args[0])
		for i := 0; i < n && err == nil; i++ {
			err = p.bind(args[1]+strconv.Itoa(i), unix.SOCK_STREAM)
		}
		return "", err
	},
	"close": func(p *puppetState, _ []string) (string, error) {
		fd := p.last()
		p.sockets = p.sockets[:len(p.sockets)-1]
		return "", unix.Close(fd)
	},
	"remove": func(_ *puppetState, args []string) (string, error) { return "", os.Remove(args[0]) },
	"rename": func(_ *puppetState, args []string) (string, error) { return "", os.Rename(args[0], args[1]) },
	"link":   func(_ *puppetState, args []string) (string, error) { return "", os.Link(args[0], args[1]) },
	"exit": func(_ *puppetState, args []string) (string, error) {
		status, err := strconv.Atoi(args[0])
		if err == nil {
			os.Exit(status)
		}
		return "", err
	},
	"nondumpable": func(*puppetState, []string) (string, error) {
		return "", unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	},
	"fork": func(*puppetState, []string) (string, error) {
		return forkRaw([]rawStep{stay()})
	},
	// chain N forks a process that forks one and ends, and so on; the Nth one stays. The sockets go from one to the next.
	"chain": func(_ *puppetState, args []string) (string, error) {
		n, err := strconv.Atoi(args[0])
		if err != nil {
			return "", err
		}
		return forkRaw([]rawStep{{trap: rawChain, a1: uintptr(n)}, stay()})
	},
	"hatch": (*puppetState).hatch,
	// stopped waits until a child has stopped.
	"stopped": func(_ *puppetState, args []string) (string, error) {
		pid, err := strconv.Atoi(args[0])
		if err != nil {
			return "", err
		}
		return "", waitStopped(pid)
	},
	// reapall waits for the end of all children.
	"reapall": func(*puppetState, []string) (string, error) {
		for {
			if _, err := unix.Wait4(-1, nil, 0, nil); err != nil {
				return "", nil
			}
		}
	},
	// reap takes the wait status of a child that has ended.
	"reap": func(_ *puppetState, args []string) (string, error) {
		pid, err := strconv.Atoi(args[0])
		if err != nil {
			return "", err
		}
		_, err = unix.Wait4(pid, nil, 0, nil)
		return "", err
	},
	// spawn ADDRESS ENV HOW... starts a puppet that takes its orders from the abstract socket ADDRESS: see newDescendant.
	"spawn": func(p *puppetState, args []string) (string, error) {
		cmd := exec.Command("/proc/self/exe", args[0]) // another user may not be able to reach its path
		cmd.Env = append(os.Environ(), args[1])
		cmd.ExtraFiles, cmd.Stderr = []*os.File{p.leash}, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{}
		for _, how := range args[2:] {
			switch how {
			case "user":
				cmd.SysProcAttr.Credential = &syscall.Credential{Uid: otherUser, Gid: otherUser}
			case "session":
				cmd.SysProcAttr.Setsid = true
			case "namespaces":
				cmd.SysProcAttr.Cloneflags = unix.CLONE_NEWUSER | unix.CLONE_NEWNS
				cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
				cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
			}
		}
		if err := cmd.Start(); err != nil {
			return "", err
		}
		return strconv.Itoa(cmd.Process.Pid), nil
	},
	"subreaper": func(*puppetState, []string) (string, error) { return "", sys.BecomeSubreaper() },
	"chroot":    func(_ *puppetState, args []string) (string, error) { return "", unix.Chroot(args[0]) },
	"tmpfs": func(_ *puppetState, args []string) (string, error) {
		return "", unix.Mount("t", args[0], "tmpfs", 0, "")
	},
	// notify ADDRESS connects with a watcher's socket: before the puppet changes its root directory, say.
	"notify": func(p *puppetState, args []string) (string, error) {
		if p.notify >= 0 {
			unix.Close(p.notify)
		}
		var err error
		if p.notify, err = unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0); err != nil {
			return "", err
		}
		return "", unix.Connect(p.notify, &unix.SockaddrUnix{Name: args[0]})
	},
	// report MESSAGE [N] sends MESSAGE, or what it gives when it is repeated N times, to the watcher.
	"report": func(p *puppetState, args []string) (string, error) {
		times := 1
		if len(args) > 1 {
			var err error
			if times, err = strconv.Atoi(args[1]); err != nil {
				return "", err
			}
		}
		return "", p.report(strings.Repeat(args[0], times), nil)
	},
	// reportmost sends as long a message as the kernel takes, and tells its length.
	"reportmost": func(p *puppetState, _ []string) (string, error) {
		most, err := unix.GetsockoptInt(p.notify, unix.SOL_SOCKET, unix.SO_SNDBUF)
		if err != nil {
			return "", err
		}
		for ; most > 0; most -= 8 {
			if err = p.report("BIND=/"+strings.Repeat("a", most), nil); !errors.Is(err, unix.EMSGSIZE) {
				break
			}
		}
		return strconv.Itoa(most), err
	},
	// reportwith MESSAGE N attaches N descriptors.
	"reportwith": func(p *puppetState, args []string) (string, error) {
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return "", err
		}
		return "", p.report(args[0], unix.UnixRights(slices.Repeat([]int{1}, n)...))
	},
	// reportas MESSAGE PID UID claims to be another process.
	"reportas": func(p *puppetState, args []string) (string, error) {
		pid, err := strconv.Atoi(args[1])
		if err != nil {
			return "", err
		}
		uid, err := strconv.Atoi(args[2])
		if err != nil {
			return "", err
		}
		return "", p.report(args[0], unix.UnixCredentials(&unix.Ucred{Pid: int32(pid), Uid: uint32(uid), Gid: uint32(os.Getegid())}))
	},
	// flood MESSAGE N... sends without an end, each message with a number that follows it. It answers after the first N of them,
	// flooded after the next, and at last when sending has failed.
	"flood": func(p *puppetState, args []string) (string, error) {
		p.flooded = make(chan error, len(args))
		go func() {
			for i := 0; ; i++ {
				if slices.Contains(args[1:], strconv.Itoa(i)) {
					p.flooded <- nil
				}
				if err := p.report(args[0]+strconv.Itoa(i), nil); err != nil {
					p.flooded <- err
					return
				}
			}
		}()
		return "", <-p.flooded
	},
	"flooded": func(p *puppetState, _ []string) (string, error) { return "", <-p.flooded },
	// send PATH passes the last socket to the datagram socket at PATH.
	"send": func(p *puppetState, args []string) (string, error) { return "", pass(p.last(), args[0]) },
	// receive takes a socket from the last one and makes it the last one.
	"receive": func(p *puppetState, _ []string) (string, error) {
		fd, err := receive(p.last())
		p.sockets = append(p.sockets, fd)
		return "", err
	},
}

// otherUser is nobody, in tests that run as root.
const otherUser = 65534

// report sends a message to the watcher.
func (p *puppetState) report(message string, control []byte) error {
	for {
		_, err := unix.SendmsgN(p.notify, []byte(message), control, nil, 0)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

func (p *puppetState) last() int { return p.sockets[len(p.sockets)-1] }

func (p *puppetState) bind(path string, kind int) error {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	p.sockets = append(p.sockets, fd)
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	if kind == unix.SOCK_DGRAM {
		return nil
	}
	return unix.Listen(fd, 16)
}

// hatch N PREFIX HOW [PID]: see puppetProcess.hatch. With PID a single one has this number, "taken" when another process has it.
func (p *puppetState) hatch(args []string) (string, error) {
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return "", err
	}
	var pids []string
	for i := range n {
		addr := &unix.RawSockaddrUnix{Family: unix.AF_UNIX}
		for j, b := range []byte(args[1] + strconv.Itoa(i)) {
			addr.Path[j] = int8(b)
		}
		stop := rawStep{trap: rawSignal, a2: uintptr(unix.SIGSTOP)}
		die := rawStep{trap: rawSignal, a2: uintptr(unix.SIGKILL)}
		bind := []rawStep{
			{trap: unix.SYS_SOCKET, a1: unix.AF_UNIX, a2: unix.SOCK_STREAM, keep: true},
			{trap: unix.SYS_BIND, a1: rawKept, a2: uintptr(unsafe.Pointer(addr)), a3: unsafe.Sizeof(*addr)},
		}
		// With the puppet they end, too, whatever becomes of the test.
		orphan := rawStep{trap: unix.SYS_PRCTL, a1: unix.PR_SET_PDEATHSIG, a2: uintptr(unix.SIGKILL)}
		steps := append([]rawStep{orphan, stop}, bind...)
		switch args[2] {
		case "kill":
			steps = append(steps, die)
		case "rebind":
			at := unix.AT_FDCWD
			unlink := rawStep{trap: unix.SYS_UNLINKAT, a1: uintptr(at), a2: uintptr(unsafe.Pointer(&addr.Path[0]))}
			steps = append(steps, stop, unlink)
			steps = append(append(steps, bind...), die)
		case "exit":
			steps = append(steps, rawStep{trap: unix.SYS_EXIT_GROUP})
		case "close":
			steps = append(steps, rawStep{trap: unix.SYS_CLOSE, a1: rawKept}, stay())
		default:
			steps = append(steps, stay())
		}
		wanted := 0
		if len(args) > 3 {
			if wanted, err = strconv.Atoi(args[3]); err != nil {
				return "", err
			}
		}
		pid, err := forkRawAs(wanted, steps)
		runtime.KeepAlive(addr)
		switch {
		case wanted != 0 && errors.Is(err, unix.EEXIST):
			return "taken", nil
		case err != nil:
			return "", err
		}
		pids = append(pids, pid)
		number, err := strconv.Atoi(pid)
		if err != nil {
			return "", err
		}
		if err := waitStopped(number); err != nil {
			return "", err
		}
	}
	return strings.Join(pids, " "), nil
}

func waitStopped(pid int) error {
	var status unix.WaitStatus
	_, err := unix.Wait4(pid, &status, unix.WUNTRACED, nil)
	if err == nil && !status.Stopped() {
		err = fmt.Errorf("process %d: wait status %#x", pid, status)
	}
	return err
}

// rawStep is a system call of a process that was forked and not executed: of Go's runtime nothing works there.
type rawStep struct {
	trap, a1, a2, a3 uintptr
	keep             bool // the result, for rawKept
}

const (
	rawKept    = ^uintptr(0) - 4095 // as an argument: what was kept
	rawSignal  = ^uintptr(0)        // in place of a trap: kill(getpid(), a2)
	rawChain   = ^uintptr(0) - 1    // in place of a trap: fork and end, a1 times
	rawForking = uint64(unix.SIGCHLD)
)

// leashByte is where a process reads to that ends then.
var leashByte [1]byte

// stay is to wait for the end of the test.
func stay() rawStep {
	return rawStep{trap: unix.SYS_READ, a1: 3, a2: uintptr(unsafe.Pointer(&leashByte)), a3: 1}
}

// forkRaw forks a process that takes steps and then exits, and gives its pid.
func forkRaw(steps []rawStep) (string, error) { return forkRawAs(0, steps) }

// forkRawAs is forkRaw of a process with a given pid, unless that is 0: Linux 5.5, for root. EEXIST when it is another's.
func forkRawAs(wanted int, steps []rawStep) (string, error) {
	id := int32(wanted)
	args := cloneArgs{exitSignal: rawForking}
	if wanted != 0 {
		args.setTID, args.setTIDSize = &id, 1
	}
	pid, errno := takeSteps(&args, steps)
	if errno != 0 {
		return "", os.NewSyscallError("clone3", errno)
	}
	return strconv.Itoa(int(pid)), nil
}

// cloneArgs is struct clone_args of clone(2).
type cloneArgs struct {
	flags, pidfd, childTID, parentTID uint64
	exitSignal                        uint64
	stack, stackSize, tls             uint64
	setTID                            *int32
	setTIDSize                        uint64
}

//go:norace
func takeSteps(args *cloneArgs, steps []rawStep) (pid uintptr, errno syscall.Errno) {
	pid, _, errno = syscall.RawSyscall(unix.SYS_CLONE3, uintptr(unsafe.Pointer(args)), unsafe.Sizeof(*args), 0)
	if pid != 0 || errno != 0 {
		return pid, errno
	}
	kept := uintptr(0)
	for i := range steps {
		s := &steps[i]
		switch s.trap {
		case rawSignal:
			self, _, _ := syscall.RawSyscall(unix.SYS_GETPID, 0, 0, 0)
			_, _, _ = syscall.RawSyscall(unix.SYS_KILL, self, s.a2, 0)
			continue
		case rawChain:
			for range s.a1 {
				if pid, _, _ := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(rawForking), 0, 0, 0, 0, 0); pid != 0 {
					_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
				}
			}
			continue
		}
		a1 := s.a1
		if a1 == rawKept {
			a1 = kept
		}
		r, _, errno := syscall.RawSyscall6(s.trap, a1, s.a2, s.a3, 0, 0, 0)
		if errno != 0 {
			break
		}
		if s.keep {
			kept = r
		}
	}
	_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 99, 0, 0)
	return 0, 0
}

// pass sends a descriptor to the datagram socket at path.
func pass(fd int, path string) error {
	mail, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(mail)
	return unix.Sendmsg(mail, []byte{0}, unix.UnixRights(fd), &unix.SockaddrUnix{Name: path}, 0)
}

// receive takes a descriptor that was sent.
func receive(from int) (int, error) {
	var data [1]byte
	control := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(from, data[:], control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return -1, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:n])
	if err != nil || len(messages) != 1 {
		return -1, fmt.Errorf("%d control messages: %w", len(messages), err)
	}
	fds, err := unix.ParseUnixRights(&messages[0])
	if err != nil {
		return -1, err
	}
	return fds[0], nil
}

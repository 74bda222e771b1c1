package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/notify"
	"github.com/sockwatch/sockwatch/pidfd"
)

// Users of puppets. They need no entry in the user database.
const (
	hostile = 1234
	victim  = 1235
)

// puppetOf is a process that binds and calls as it is told.
type puppetOf struct {
	t     testing.TB
	child *testutil.Child
}

func startPuppet(t testing.TB, change ...func(*exec.Cmd)) *puppetOf {
	t.Helper()
	cmd := testutil.Command(t, "puppet")
	for _, c := range change {
		c(cmd)
	}
	child := testutil.Start(t, cmd)
	child.Expect("ready")
	return &puppetOf{t, child}
}

// as has a puppet be of a user, from its start on; for root.
func as(uid uint32) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.Path = "/proc/self/exe" // that user may not be able to reach its path
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	}
}

// try gives an order. What fails by one of the client's errors is that error.
func (p *puppetOf) try(order string, args ...string) (string, error) {
	p.t.Helper()
	b, err := json.Marshal(append([]string{order}, args...))
	must(p.t, err)
	p.child.Say(string(b))
	var a answer
	must(p.t, json.Unmarshal([]byte(p.child.Line()), &a))
	if a.Failed == "" {
		return a.Said, nil
	}
	for _, sentinel := range sentinels {
		if a.Sentinel == sentinel.Error() {
			return "", fmt.Errorf("%w (%s)", sentinel, a.Failed)
		}
	}
	return "", errors.New(a.Failed)
}

// do gives an order, which must not fail.
func (p *puppetOf) do(order string, args ...string) string {
	p.t.Helper()
	said, err := p.try(order, args...)
	if err != nil {
		p.t.Fatalf("%s %.100q: %v", order, args, err)
	}
	return said
}

// watch has the puppet register a process.
func (p *puppetOf) watch(process string, paths ...string) (client.Watched, error) {
	p.t.Helper()
	var w client.Watched
	said, err := p.try("watch", append([]string{process}, paths...)...)
	if err == nil {
		must(p.t, json.Unmarshal([]byte(said), &w))
	}
	return w, err
}

func (p *puppetOf) pid() string { return fmt.Sprint(p.child.PID()) }

// identity is the puppet as PID:INODE.
func (p *puppetOf) identity() pidfd.Identity {
	p.t.Helper()
	h, err := pidfd.Open(p.child.PID())
	must(p.t, err)
	defer h.Close()
	id, err := h.Identity()
	must(p.t, err)
	return id
}

func (p *puppetOf) kill() {
	p.t.Helper()
	p.child.Kill()
}

// answers fails the test unless it is the puppet that serves a path: the kernel's word on who listens there.
func (p *puppetOf) answers(path string) {
	p.t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		p.t.Errorf("process %s does not answer any more: %v", p.pid(), err)
		return
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	must(p.t, err)
	must(p.t, raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil || int(cred.Pid) != p.child.PID() {
			p.t.Errorf("%s is served by %+v, %v, and not by %s", path, cred, err, p.pid())
		}
	}))
}

type answer struct{ Said, Failed, Sentinel string }

var sentinels = []error{
	client.ErrNoSuchProcess, client.ErrNoSuchOwner, client.ErrNoSuchClaim, client.ErrNotPermitted, client.ErrInvalid,
	client.ErrLimit, client.ErrFailed, client.ErrRefused, client.ErrDisconnected,
}

// puppet is the process.
func puppet() {
	p := &puppetState{sockets: map[string]int{}}
	out := json.NewEncoder(os.Stdout)
	fmt.Println("ready")
	orders := bufio.NewScanner(os.Stdin)
	orders.Buffer(nil, 1<<20)
	for orders.Scan() {
		var words []string
		var a answer
		err := json.Unmarshal(orders.Bytes(), &words)
		if err == nil {
			a.Said, err = p.obey(words[0], words[1:])
		}
		if err != nil {
			a.Failed = err.Error()
			for _, sentinel := range sentinels {
				if errors.Is(err, sentinel) {
					a.Sentinel = sentinel.Error()
				}
			}
		}
		if out.Encode(a) != nil {
			return
		}
	}
}

type puppetState struct {
	sockets map[string]int // by path
	client  *client.Client
	swaps   chan struct{} // closed to end them
	swapped chan error
}

func (p *puppetState) obey(order string, args []string) (string, error) {
	ctx := context.Background()
	switch order {
	case "bind":
		return "", p.bind(args[0])
	case "rebind": // as a server does that finds a file of the one before
		if err := os.Remove(args[0]); err != nil && !errors.Is(err, os.ErrNotExist) {
			return "", err
		}
		return "", p.bind(args[0])
	case "close": // the file stays, and is dead
		return "", unix.Close(p.sockets[args[0]])
	case "chroot":
		return "", errors.Join(unix.Chroot(args[0]), os.Chdir("/"))
	case "comm":
		return "", os.WriteFile("/proc/self/comm", []byte(args[0]), 0)
	case "mkdir":
		return "", os.Mkdir(args[0], 0o755)
	case "symlink":
		return "", os.Symlink(args[0], args[1])
	case "dial":
		var err error
		p.client, err = client.Dial(ctx, args[0])
		return "", err
	case "watch":
		w, err := p.client.Watch(ctx, client.WatchRequest{Process: args[0], Paths: args[1:]})
		b, _ := json.Marshal(w)
		return string(b), err
	case "unwatch":
		return "", p.client.Unwatch(ctx, args[0])
	case "claim":
		return "", p.client.Claim(ctx, args[0], args[1])
	case "release":
		released, err := p.client.Release(ctx, args[0], args[1])
		return fmt.Sprint(released), err
	case "list":
		owners, err := p.client.List(ctx)
		b, _ := json.Marshal(owners)
		return string(b), err
	case "history":
		events, err := p.client.History(ctx, "")
		b, _ := json.Marshal(events)
		return string(b), err
	case "bound": // reported to a notify socket
		if err := os.Setenv(notify.Variable, args[0]); err != nil {
			return "", err
		}
		for { // the socket's own queue is shared: who finds it full says so, and has been told to try again
			if err := notify.Bound(args[1]); !errors.Is(err, notify.ErrQueueFull) {
				return "", err
			}
		}
	case "swap": // has two names exchanged, over and over
		p.swaps, p.swapped = make(chan struct{}), make(chan error, 1)
		go p.swap(args[0], args[1])
		return "", nil
	case "swapped":
		close(p.swaps)
		return "", <-p.swapped
	}
	return "", errors.New("no such order: " + order)
}

// bind binds by a name in the working directory, for paths that are longer than an address.
func (p *puppetState) bind(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if strings.HasPrefix(path, "/") && len(path) > 100 {
		if err := os.Chdir(filepath.Dir(path)); err != nil {
			return err
		}
		path = filepath.Base(path)
	}
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		return fmt.Errorf("bind %s: %w", path, err)
	}
	p.sockets[path] = fd
	return unix.Listen(fd, 64)
}

func (p *puppetState) swap(a, b string) {
	for {
		select {
		case <-p.swaps:
			p.swapped <- nil
			return
		default:
		}
		if err := unix.Renameat2(unix.AT_FDCWD, a, unix.AT_FDCWD, b, unix.RENAME_EXCHANGE); err != nil {
			p.swapped <- err
			return
		}
	}
}

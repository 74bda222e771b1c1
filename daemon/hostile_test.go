package daemon

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// What a hostile user may try, and the test of it. Each is refused by a name that the peer and the log are told, removes nothing of anybody
// else's, and leaves the others served.
//
//	another user's sock-file, root's          TestTrustOfFiles, TestTrustAfterClaim, TestReportOfOthers
//	/run/dbus/system_bus_socket               TestHostileSystemSocket
//	symlinked directories                     TestTrustOfFiles, TestBindspaceSymlink, TestHostileBindspace
//	swapped directories                       TestTrustOfSwappedDirectories, TestHostileSwap
//	hard links                                TestHostileLinks
//	fake S_IFSOCK from mknod                  TestHostileMknod, TestHostileMount
//	pids of other users                       TestOtherUser, TestTrustOfProcesses, TestHostileReportOfOthers
//	a passed pidfd of pid 1                   TestHostilePidfd, and TestDescriptors of internal/varlink
//	a connection handed over from root        TestHostileHandedOver, and TestHandedDown of internal/varlink
//	forged credentials                        TestHostileForged, and TestForged of internal/varlink
//	pid reuse between request and open        TestHostilePidReuse, TestWatchOfTheDead
//	user and pid namespaces                   TestHostileNamespace, TestHostileMount, TestHostileUnknownUser, TestDaemonInNamespaces
//	oversized, endless and nested requests    TestHostileRequests, and TestRefused of internal/varlink
//	slow requests                             TestHostileSlow, and TestSlow of internal/varlink with the end of the patience
//	10,000 connections of several processes   TestHostileConnections, and TestConnections of internal/varlink
//	a flood on the notify socket              TestHostileFlood, and TestFloodStopsNoOther of internal/notifyd
//	descriptor exhaustion                     TestHostileDescriptors, TestHostileOwners, and TestStarved of internal/varlink

// other is a third user, who has no part in it.
const other = 1236

// attackerName is a helper process, as "puppet" is, that can do more.
const attackerName = "attacker"

func init() {
	// Here and not in TestMain: it is for these files alone.
	if os.Getenv("SOCKWATCH_TEST_CHILD") == attackerName {
		attack()
		os.Exit(0)
	}
}

// startAttacker starts a puppet that also obeys the orders of attacker.
func startAttacker(t testing.TB, change ...func(*exec.Cmd)) *puppetOf {
	t.Helper()
	cmd := testutil.Command(t, attackerName)
	for _, c := range change {
		c(cmd)
	}
	child := testutil.Start(t, cmd)
	child.Expect("ready")
	return &puppetOf{t, child}
}

// inNamespaces has an attacker be root of a user namespace, who is the hostile user outside of it, with mounts of its own, and more if told.
func inNamespaces(more uintptr) func(*exec.Cmd) {
	return func(cmd *exec.Cmd) {
		cmd.Path = "/proc/self/exe"
		cmd.SysProcAttr = &syscall.SysProcAttr{
			Cloneflags:  unix.CLONE_NEWUSER | unix.CLONE_NEWNS | more,
			UidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: hostile, Size: 1}},
			GidMappings: []syscall.SysProcIDMap{{ContainerID: 0, HostID: hostile, Size: 1}},
			Credential:  &syscall.Credential{NoSetGroups: true},
		}
	}
}

// attack is the process.
func attack() {
	a := &attacker{}
	a.sockets = map[string]int{}
	out := json.NewEncoder(os.Stdout)
	fmt.Println("ready")
	orders := bufio.NewScanner(os.Stdin)
	orders.Buffer(nil, 1<<20)
	for orders.Scan() {
		var words []string
		var said answer
		err := json.Unmarshal(orders.Bytes(), &words)
		if err == nil {
			said.Said, err = a.obey(words[0], words[1:])
		}
		if err != nil {
			said.Failed = err.Error()
			for _, sentinel := range sentinels {
				if errors.Is(err, sentinel) {
					said.Sentinel = sentinel.Error()
				}
			}
		}
		if out.Encode(said) != nil {
			return
		}
	}
}

type attacker struct {
	puppetState
	held   []*net.UnixConn
	rounds atomic.Int64
	stop   chan struct{}
	ended  chan error
}

func (a *attacker) obey(order string, args []string) (string, error) {
	switch order {
	case "mknod":
		return "", unix.Mknod(args[0], unix.S_IFSOCK|0o600, 0)
	case "link":
		return "", unix.Link(args[0], args[1])
	case "tmpfs":
		return "", unix.Mount("none", args[0], "tmpfs", 0, "mode=0777")
	case "exchange": // two names, until "exchanged", which tells how often
		a.rounds.Store(0)
		a.stop, a.ended = make(chan struct{}), make(chan error, 1)
		go a.exchange(args[0], args[1])
		return "", nil
	case "rounds":
		return strconv.FormatInt(a.rounds.Load(), 10), nil
	case "exchanged":
		close(a.stop)
		err := <-a.ended
		return strconv.FormatInt(a.rounds.Load(), 10), err
	case "watchspace":
		_, err := a.client.Watch(context.Background(), client.WatchRequest{Process: args[0], Bindspaces: args[1:]})
		return "", err
	case "say": // a message on a new connection, with what comes with it: "pidfd PID", or "as PID UID GID"
		return a.say(args[0], args[1], args[2:])
	case "use": // a message on the connection that is our fourth descriptor
		f := os.NewFile(3, "connection")
		conn, err := net.FileConn(f)
		if err != nil {
			return "", err
		}
		defer conn.Close()
		return exchangeMessages(conn.(*net.UnixConn), args[0], nil)
	case "hold": // so many connections
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return "", err
		}
		return a.hold(args[0], n)
	case "begin": // a call on each of so many connections, and go no further
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return "", err
		}
		return "", a.begin(args[0], n)
	case "endless": // a call without an end
		return endless(args[0])
	case "report": // a datagram, with what comes with it
		return "", report(args[0], args[1], args[2:])
	case "flood": // the notify socket, until "flooded"
		a.stop, a.ended = make(chan struct{}), make(chan error, 1)
		conn, err := net.Dial("unixgram", args[0])
		if err != nil {
			return "", err
		}
		go a.flood(conn.(*net.UnixConn), args[1])
		return "", nil
	case "flooded":
		close(a.stop)
		return "", <-a.ended
	}
	return a.puppetState.obey(order, args)
}

func (a *attacker) exchange(x, y string) {
	for {
		select {
		case <-a.stop:
			a.ended <- nil
			return
		default:
		}
		if err := unix.Renameat2(unix.AT_FDCWD, x, unix.AT_FDCWD, y, unix.RENAME_EXCHANGE); err != nil {
			a.ended <- err
			return
		}
		a.rounds.Add(1)
	}
}

// controlOf is what is sent with a message.
func controlOf(args []string) ([]byte, error) {
	if len(args) == 0 {
		return nil, nil
	}
	numbers := make([]int, len(args)-1)
	for i := range numbers {
		n, err := strconv.Atoi(args[i+1])
		if err != nil {
			return nil, err
		}
		numbers[i] = n
	}
	if args[0] == "as" {
		return unix.UnixCredentials(&unix.Ucred{Pid: int32(numbers[0]), Uid: uint32(numbers[1]), Gid: uint32(numbers[2])}), nil
	}
	fd, err := unix.PidfdOpen(numbers[0], 0)
	return unix.UnixRights(fd), err
}

func (a *attacker) say(path, message string, with []string) (string, error) {
	control, err := controlOf(with)
	if err != nil {
		return "", err
	}
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path})
	if err != nil {
		return "", err
	}
	defer conn.Close()
	return exchangeMessages(conn, message, control)
}

// exchangeMessages sends a call and gives what is replied, without its NUL.
func exchangeMessages(conn *net.UnixConn, message string, control []byte) (string, error) {
	if _, _, err := conn.WriteMsgUnix([]byte(message+"\x00"), control, nil); err != nil && !errors.Is(err, unix.EPIPE) {
		return "", err
	}
	reply, err := bufio.NewReader(conn).ReadString(0)
	if err != nil {
		return "", fmt.Errorf("%q: %w", reply, err)
	}
	return strings.TrimSuffix(reply, "\x00"), nil
}

// hold makes connections and keeps those that are served. It tells how many were answered by what: "" is an answer that is no error.
func (a *attacker) hold(path string, n int) (string, error) {
	said := map[string]int{}
	for range n {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path})
		if err != nil {
			return "", err
		}
		answer, err := exchangeMessages(conn, `{"method":"org.varlink.service.GetInfo"}`, nil)
		if err != nil {
			return "", err
		}
		var reply struct{ Error string }
		if err := json.Unmarshal([]byte(answer), &reply); err != nil {
			return "", err
		}
		said[reply.Error]++
		if reply.Error == "" {
			a.held = append(a.held, conn)
		} else {
			_ = conn.Close()
		}
	}
	b, err := json.Marshal(said)
	return string(b), err
}

func (a *attacker) begin(path string, n int) error {
	for range n {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path})
		if err == nil {
			a.held = append(a.held, conn)
			_, err = io.WriteString(conn, `{"method":`)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// endless writes until the daemon does not read any more, and gives what it has replied.
func endless(path string) (string, error) {
	conn, err := net.Dial("unix", path)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	piece := strings.Repeat(" ", 4<<10)
	for {
		if _, err := io.WriteString(conn, piece); err != nil {
			break
		}
	}
	reply, err := bufio.NewReader(conn).ReadString(0)
	if reply != "" {
		return reply, nil
	}
	return "", err
}

func report(path, message string, with []string) error {
	control, err := controlOf(with)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendmsg(fd, []byte(message), control, &unix.SockaddrUnix{Name: path}, 0)
}

func (a *attacker) flood(conn *net.UnixConn, message string) {
	defer conn.Close()
	for {
		select {
		case <-a.stop:
			a.ended <- nil
			return
		default:
		}
		if _, err := io.WriteString(conn, message); err != nil {
			a.ended <- err
			return
		}
	}
}

// callOf is a call of the daemon's interface as it goes over the wire.
func callOf(t testing.TB, method string, parameters any) string {
	t.Helper()
	b, err := json.Marshal(map[string]any{"method": client.Interface + "." + method, "parameters": parameters})
	must(t, err)
	return string(b)
}

// wantRefused fails the test unless a reply is that error, and the log says so of that user.
func (p *place) wantRefused(reply, name string, uid int) {
	p.t.Helper()
	var r struct{ Error string }
	must(p.t, json.Unmarshal([]byte(reply), &r))
	if r.Error != client.Interface+"."+name {
		p.t.Errorf("the reply is %s, want %s", reply, name)
	}
	if len(lines(p.logged(), "refused", name, fmt.Sprintf(`"uid":%d`, uid))) == 0 {
		p.t.Errorf("the log does not have %s of user %d", name, uid)
	}
}

// served fails the test unless the daemon serves another user and root: what they register goes with its process.
func (p *place) served() {
	p.t.Helper()
	for _, uid := range []uint32{other, 0} {
		path := filepath.Join(p.base, "open", fmt.Sprintf("served%d", uid))
		o := startPuppet(p.t, as(uid))
		o.do("dial", p.control())
		o.do("bind", path)
		if _, err := o.watch(o.pid()); err != nil {
			p.t.Errorf("user %d is not served: %v", uid, err)
		}
		o.kill()
		p.dial().gone(path)
	}
}

// descriptors is how many the daemon has open.
func (p *place) descriptors() int {
	p.t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.child.PID()))
	must(p.t, err)
	return len(entries)
}

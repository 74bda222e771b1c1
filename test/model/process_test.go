package model

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/notify"
	"github.com/sockwatch/sockwatch/pidfd"
)

// process is one that the model knows.
type process struct {
	name    string
	pid     int
	handle  *pidfd.Process
	id      pidfd.Identity
	cmd     *exec.Cmd // nil: not our child
	orders  *os.File  // nil: it takes none
	answers *bufio.Reader
	mail    int           // our end of its mail
	pins    map[*file]int // the sock-files of the sockets that it has, and its descriptors of them
	queued  []*file       // what is in its mail
	dead    bool
	watched bool
	apart   bool // it has a mount namespace of its own
}

func (p *process) String() string { return p.name }

// obeys tells whether it takes orders.
func (p *process) obeys() bool { return !p.dead && p.orders != nil }

// holds tells whether it keeps the socket of a file alive.
func (p *process) holds(f *file) bool {
	_, has := p.pins[f]
	return !p.dead && (has || slices.Contains(p.queued, f))
}

// ends are the ends of what connects us with a puppet.
type ends struct {
	orders *os.File
	mail   int
	theirs [2]*os.File // those of them both
}

func connect() (e ends, err error) {
	orders, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return e, err
	}
	mail, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return e, err
	}
	if err := unix.SetNonblock(orders[0], true); err != nil { // for deadlines
		return e, err
	}
	e.orders, e.mail = os.NewFile(uintptr(orders[0]), "orders"), mail[0]
	e.theirs = [2]*os.File{os.NewFile(uintptr(orders[1]), "orders"), os.NewFile(uintptr(mail[1]), "mail")}
	return e, nil
}

// process adds one to the world, which is to be described by what is said after its name.
func (m *machine) process(e ends, parent *process) *process {
	p := &process{name: fmt.Sprintf("server %d", len(m.processes)), orders: e.orders, mail: e.mail, pins: map[*file]int{}}
	if parent != nil {
		p.apart = parent.apart
	}
	if e.orders == nil {
		p.name = fmt.Sprintf("child %d of %s", len(m.processes), parent)
		p.mail = -1
	} else {
		p.answers = bufio.NewReader(e.orders)
	}
	m.processes = append(m.processes, p)
	return p
}

// launch starts a puppet of our own.
func (m *machine) launch(namespaces uintptr) {
	e, err := connect()
	m.must(err)
	p := m.process(e, nil)
	cmd := exec.Command(m.puppet.Path)
	cmd.Args[0] = "/proc/self/exe"
	cmd.Env = append(slices.Clone(m.puppet.Env), notify.Variable+"="+m.service.notify())
	cmd.Dir, cmd.Stderr = m.base, os.Stderr
	cmd.ExtraFiles = []*os.File{e.theirs[0], e.theirs[1], m.leash}
	if namespaces != 0 {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: namespaces}
		if namespaces&unix.CLONE_NEWUSER != 0 {
			cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Geteuid(), Size: 1}}
			cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getegid(), Size: 1}}
		}
	}
	err = cmd.Start()
	e.theirs[0].Close()
	e.theirs[1].Close()
	m.must(err)
	p.cmd, p.apart = cmd, namespaces != 0
	m.born(p, cmd.Process.Pid)
	m.expectReady(p)
}

// born notes the pid of a process that is there.
func (m *machine) born(p *process, pid int) {
	p.pid = pid
	var err error
	p.handle, err = pidfd.Open(pid)
	m.must(err)
	p.id, err = p.handle.Identity()
	m.must(err)
}

// spawn has a puppet start another one, which inherits sockets.
func (m *machine) spawn(parent *process, files []*file) *process {
	m.receiveAll(parent)
	e, err := connect()
	m.must(err)
	p := m.process(e, parent)
	err = unix.Sendmsg(parent.mail, []byte("spawn"), unix.UnixRights(int(e.theirs[0].Fd()), int(e.theirs[1].Fd())), nil, 0)
	e.theirs[0].Close()
	e.theirs[1].Close()
	m.must(err)
	pid, err := strconv.Atoi(m.do(parent, "spawn "+numbers(files)))
	m.must(err)
	m.born(p, pid)
	m.expectReady(p)
	for i, f := range files {
		p.pins[f] = firstFD + 2*i + 1
		f.acquired(p)
	}
	return p
}

func numbers(files []*file) string {
	var words []string
	for _, f := range files {
		words = append(words, strconv.Itoa(f.number))
	}
	return strings.Join(words, " ")
}

// fork has a puppet fork a process that has all its sockets, and nothing else.
func (m *machine) fork(parent *process) *process {
	p := m.process(ends{}, parent)
	pid, err := strconv.Atoi(m.do(parent, "fork"))
	m.must(err)
	m.born(p, pid)
	for f, pin := range parent.pins {
		p.pins[f] = pin
		f.acquired(p)
	}
	return p
}

// line is the next thing that a puppet says.
func (m *machine) line(p *process) string {
	m.must(p.orders.SetReadDeadline(time.Now().Add(patience)))
	line, err := p.answers.ReadString('\n')
	if err != nil {
		m.Fatalf("%s says no more: %q, %v", p, line, err)
	}
	return strings.TrimSuffix(line, "\n")
}

func (m *machine) expectReady(p *process) {
	if line := m.line(p); line != "ready" {
		m.Fatalf("%s says %q", p, line)
	}
}

// try gives an order.
func (m *machine) try(p *process, order string) (answer string, err error) {
	if _, err := io.WriteString(p.orders, order+"\n"); err != nil {
		m.Fatalf("%s: %s: %v", p, order, err)
	}
	line := m.line(p)
	if answer, ok := strings.CutPrefix(line, "ok"); ok {
		return strings.TrimSpace(answer), nil
	}
	var number int
	if _, err := fmt.Sscanf(line, "errno %d", &number); err != nil {
		m.Fatalf("%s: %s: it says %q", p, order, line)
	}
	if number == 0 {
		return "", errors.New(line)
	}
	return "", unix.Errno(number)
}

// do gives an order that must not fail.
func (m *machine) do(p *process, order string) string {
	answer, err := m.try(p, order)
	if err != nil {
		m.Fatalf("%s: %s: %v", p, order, err)
	}
	return answer
}

// descriptors reads the descriptors of a socket and its sock-file.
func (m *machine) descriptors(answer string) (pin int) {
	var fd int
	if _, err := fmt.Sscan(answer, &fd, &pin); err != nil {
		m.Fatalf("descriptors %q: %v", answer, err)
	}
	return pin
}

// receiveAll has a puppet take out what is in its mail.
func (m *machine) receiveAll(p *process) {
	for _, f := range p.queued {
		p.pins[f] = m.descriptors(m.do(p, "receive"))
	}
	p.queued = nil
}

// ended notes the end of a process, and waits for it.
func (m *machine) ended(p *process) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	m.must(p.handle.Wait(ctx))
	if p.cmd != nil {
		_ = p.cmd.Wait() // tells of the signal
	}
	m.lastWords(p)
	p.dead = true
}

// end is the end of all of them, whatever state they are in.
func (m *machine) endProcesses() {
	for _, p := range m.processes {
		if p.handle != nil {
			_ = p.handle.Signal(unix.SIGKILL)
		}
	}
	for _, p := range m.processes {
		if p.handle != nil {
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			_ = p.handle.Wait(ctx)
			cancel()
			_ = p.handle.Close()
		}
		if p.cmd != nil && !p.dead {
			_ = p.cmd.Wait()
		}
		if p.orders != nil {
			p.orders.Close()
			unix.Close(p.mail)
		}
	}
}

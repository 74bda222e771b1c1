package model

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/notify"
)

// Descriptors that every puppet has.
const (
	orderFD = 3 + iota // a stream socket: orders come, answers go
	mailFD             // a socket to which descriptors are sent
	leashFD            // a pipe that ends with the test: so does whoever waits at it
	firstFD            // the sockets that it begins with
)

// state is what a puppet has. It takes one order after the other.
type state struct {
	sockets map[string]held // by the number that the model gives them
}

// held is a socket with its sock-file, which stays the same inode under whatever name.
type held struct{ fd, pin int }

// puppet is a process that does as told. Its arguments are the sockets that it begins with, each as NUMBER:FD:PIN.
func puppet() {
	p := &state{sockets: map[string]held{}}
	for _, arg := range os.Args[1:] {
		var number string
		var h held
		parts := strings.Split(arg, ":")
		number = parts[0]
		h.fd, _ = strconv.Atoi(parts[1])
		h.pin, _ = strconv.Atoi(parts[2])
		p.sockets[number] = h
		unix.CloseOnExec(h.fd)
		unix.CloseOnExec(h.pin)
	}
	for fd := orderFD; fd < firstFD; fd++ {
		unix.CloseOnExec(fd)
	}
	in := bufio.NewScanner(os.NewFile(orderFD, "orders"))
	said := "ready"
	for {
		if _, err := unix.Write(orderFD, []byte(said+"\n")); err != nil || !in.Scan() {
			return
		}
		order := strings.Fields(in.Text())
		answer, err := orders[order[0]](p, order[1:])
		var errno unix.Errno
		switch {
		case err == nil:
			said = strings.TrimSpace("ok " + answer)
		case errors.As(err, &errno):
			said = fmt.Sprintf("errno %d %v", int(errno), err)
		default:
			said = fmt.Sprintf("errno 0 %v", err)
		}
	}
}

var kinds = []string{"stream", "dgram", "seqpacket"}

var socketTypes = map[string]int{"stream": unix.SOCK_STREAM, "dgram": unix.SOCK_DGRAM, "seqpacket": unix.SOCK_SEQPACKET}

var orders = map[string]func(*state, []string) (string, error){
	// bind NUMBER TYPE PATH [clear] tells the descriptors; clear removes first what is there.
	"bind": func(p *state, args []string) (string, error) {
		if len(args) > 3 {
			if err := unix.Unlink(args[2]); err != nil && !errors.Is(err, unix.ENOENT) {
				return "", fmt.Errorf("clear: %w", err)
			}
		}
		fd, err := unix.Socket(unix.AF_UNIX, socketTypes[args[1]]|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return "", err
		}
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: args[2]}); err != nil {
			unix.Close(fd)
			return "", err
		}
		pin, err := pinOf(args[2])
		if err != nil {
			return "", err
		}
		return p.hold(args[0], fd, pin), nil
	},
	"listen": func(p *state, args []string) (string, error) { return "", unix.Listen(p.sockets[args[0]].fd, 4) },
	"close": func(p *state, args []string) (string, error) {
		h := p.sockets[args[0]]
		delete(p.sockets, args[0])
		return "", errors.Join(unix.Close(h.fd), unix.Close(h.pin))
	},
	// fork makes a process that has all the sockets and takes no orders. It ends with the test.
	"fork": func(*state, []string) (string, error) {
		pid, errno := forkHolder()
		if errno != 0 {
			return "", errno
		}
		return strconv.Itoa(pid), nil
	},
	// spawn NUMBER... starts a puppet that begins with these sockets. The descriptors for its orders are in the mail.
	"spawn": func(p *state, args []string) (string, error) {
		_, fds, err := receive(2)
		if err != nil {
			return "", err
		}
		cmd := exec.Command("/proc/self/exe")
		cmd.Env, cmd.Stderr = environment(), os.Stderr
		files := append(fds, leashFD)
		for _, number := range args {
			cmd.Args = append(cmd.Args, fmt.Sprintf("%s:%d:%d", number, 3+len(files), 4+len(files)))
			files = append(files, p.sockets[number].fd, p.sockets[number].pin)
		}
		for _, fd := range files {
			copied, err := unix.FcntlInt(uintptr(fd), unix.F_DUPFD_CLOEXEC, 0)
			if err != nil {
				return "", err
			}
			f := os.NewFile(uintptr(copied), "inherited")
			defer f.Close()
			cmd.ExtraFiles = append(cmd.ExtraFiles, f)
		}
		unix.Close(fds[0])
		unix.Close(fds[1])
		if err := cmd.Start(); err != nil {
			return "", err
		}
		return strconv.Itoa(cmd.Process.Pid), nil
	},
	// exec NUMBER... executes the same program. It has these sockets; the others close.
	"exec": func(p *state, args []string) (string, error) {
		argv := []string{os.Args[0]}
		keep := []int{orderFD, mailFD, leashFD}
		for _, number := range args {
			h := p.sockets[number]
			argv = append(argv, fmt.Sprintf("%s:%d:%d", number, h.fd, h.pin))
			keep = append(keep, h.fd, h.pin)
		}
		for _, fd := range keep {
			if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, 0); err != nil {
				return "", err
			}
		}
		return "", unix.Exec("/proc/self/exe", argv, environment())
	},
	// send NUMBER passes a socket on. Where to is in the mail.
	"send": func(p *state, args []string) (string, error) {
		_, fds, err := receive(1)
		if err != nil {
			return "", err
		}
		defer unix.Close(fds[0])
		h := p.sockets[args[0]]
		return "", unix.Sendmsg(fds[0], []byte(args[0]), unix.UnixRights(h.fd, h.pin), nil, 0)
	},
	// receive takes a socket out of the mail and tells the descriptors.
	"receive": func(p *state, _ []string) (string, error) {
		number, fds, err := receive(2)
		if err != nil {
			return "", err
		}
		return p.hold(number, fds[0], fds[1]), nil
	},
	"report": func(_ *state, args []string) (string, error) { return "", notify.Bound(args[0]) },
	"exit": func(_ *state, args []string) (string, error) {
		status, err := strconv.Atoi(args[0])
		if err == nil {
			os.Exit(status)
		}
		return "", err
	},
}

// hold keeps a socket. One that it has already it needs no second time.
func (p *state) hold(number string, fd, pin int) string {
	if h, ok := p.sockets[number]; ok {
		unix.Close(fd)
		unix.Close(pin)
		return fmt.Sprint(h.fd, h.pin)
	}
	p.sockets[number] = held{fd, pin}
	return fmt.Sprint(fd, pin)
}

// environment is that of a puppet which a puppet starts.
func environment() []string { return append(os.Environ(), "SOCKWATCH_TEST_CHILD=puppet") }

// pinOf opens the sock-file that was just bound. While a file that had the name before is being removed, it may be away for a moment: what is
// found to have come in between is given its name back.
func pinOf(path string) (int, error) {
	for deadline := time.Now().Add(patience); ; {
		pin, err := unix.Open(path, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if !errors.Is(err, unix.ENOENT) || time.Now().After(deadline) {
			return pin, err
		}
	}
}

// receive takes n descriptors out of the mail, and what was written to them.
func receive(n int) (text string, fds []int, err error) {
	var data [16]byte
	control := make([]byte, unix.CmsgSpace(4*n))
	length, controlLength, _, _, err := unix.Recvmsg(mailFD, data[:], control, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return "", nil, err
	}
	messages, err := unix.ParseSocketControlMessage(control[:controlLength])
	if err == nil && len(messages) == 1 {
		fds, err = unix.ParseUnixRights(&messages[0])
	}
	if err == nil && len(fds) != n {
		err = fmt.Errorf("%d descriptors in the mail, and %d are wanted", len(fds), n)
	}
	return string(data[:length]), fds, err
}

// leashByte is where a process reads to that ends then.
var leashByte [1]byte

// forkHolder forks. Of Go's runtime nothing works in the child.
//
//go:norace
func forkHolder() (pid int, errno syscall.Errno) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	r, _, errno := syscall.RawSyscall6(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0, 0, 0, 0)
	if r != 0 || errno != 0 {
		return int(r), errno
	}
	// What is in the parent's mail is the parent's alone.
	_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, orderFD, 0, 0)
	_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, mailFD, 0, 0)
	for {
		if _, _, errno := syscall.RawSyscall(unix.SYS_READ, leashFD, uintptr(unsafe.Pointer(&leashByte)), 1); errno != unix.EINTR {
			_, _, _ = syscall.RawSyscall(unix.SYS_EXIT_GROUP, 0, 0, 0)
		}
	}
}

package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sigorigin"
)

// puppet is a program that does what its arguments say, one after the other, and exits with 0 after the last. It is in PATH
// of the scripts and stands for any server:
//
//	listen PATH      bind a stream socket and listen
//	bind PATH        bind a stream socket, and do not listen
//	dgram PATH       bind a datagram socket
//	seqpacket PATH   bind a sequenced packet socket and listen
//	close            close the sockets; their files stay
//	rename OLD NEW   rename a file, link OLD NEW links it, unlink PATH unlinks it
//	say TEXT         print a line
//	tell FIFO        write the own pid into a FIFO: waits until it is read
//	hear FIFO        wait until somebody has opened a FIFO for writing, and closed it
//	fork STEPS       start a puppet that has the sockets, too, and does STEPS, one argument; do not wait for it
//	ignore SIGNAL    such as TERM
//	report           print the name of each signal that comes from now on, and go on
//	await SIGNAL     wait until the next of these was printed
//	count NUMBER N   wait until the signal of that number was sent N times
//	undumpable       be nobody's to look at, prctl(2)
//	echo             print what comes on standard input, to its end
//	kill SIGNAL      send oneself a signal
//	parent SIGNAL    send one's parent a signal
//	exit STATUS      exit
//	pause            do nothing until a signal ends it
func puppet() {
	if err := newPuppet().perform(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "puppet:", err)
		os.Exit(99)
	}
}

type puppeteer struct {
	sockets  []*os.File
	steps    map[string]step
	reported map[unix.Signal]chan struct{}
}

type step struct {
	args int
	do   func(args []string) error
}

func newPuppet() *puppeteer {
	p := &puppeteer{reported: map[unix.Signal]chan struct{}{}}
	socket := func(kind int, listen bool) step {
		return step{1, func(args []string) error { return p.bind(args[0], kind, listen) }}
	}
	p.steps = map[string]step{
		"listen":     socket(unix.SOCK_STREAM, true),
		"bind":       socket(unix.SOCK_STREAM, false),
		"dgram":      socket(unix.SOCK_DGRAM, false),
		"seqpacket":  socket(unix.SOCK_SEQPACKET, true),
		"close":      {0, func([]string) error { return p.close() }},
		"rename":     {2, func(args []string) error { return os.Rename(args[0], args[1]) }},
		"link":       {2, func(args []string) error { return os.Link(args[0], args[1]) }},
		"unlink":     {1, func(args []string) error { return os.Remove(args[0]) }},
		"say":        {1, func(args []string) error { _, err := fmt.Println(args[0]); return err }},
		"tell":       {1, func(args []string) error { return os.WriteFile(args[0], fmt.Appendln(nil, os.Getpid()), 0) }},
		"hear":       {1, func(args []string) error { _, err := os.ReadFile(args[0]); return err }},
		"fork":       {1, func(args []string) error { return p.fork(strings.Fields(args[0])) }},
		"ignore":     {1, func(args []string) error { signal.Ignore(signalNamed(args[0])); return nil }},
		"report":     {0, func([]string) error { p.report(); return nil }},
		"await":      {1, func(args []string) error { <-p.reported[signalNamed(args[0])]; return nil }},
		"count":      {2, count},
		"undumpable": {0, func([]string) error { return unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0) }},
		"echo":       {0, func([]string) error { _, err := io.Copy(os.Stdout, os.Stdin); return err }},
		"kill":       {1, func(args []string) error { return killSelf(signalNamed(args[0])) }},
		"parent":     {1, func(args []string) error { return unix.Kill(os.Getppid(), signalNamed(args[0])) }},
		"exit": {1, func(args []string) error {
			status, err := strconv.Atoi(args[0])
			if err == nil {
				os.Exit(status)
			}
			return err
		}},
		"pause": {0, func([]string) error { return pause() }},
	}
	return p
}

func (p *puppeteer) perform(script []string) error {
	// Those of the puppet that forked this one.
	for range len(os.Getenv(inheritedSockets)) {
		p.sockets = append(p.sockets, os.NewFile(uintptr(3+len(p.sockets)), "socket"))
	}
	os.Unsetenv(inheritedSockets)
	for len(script) > 0 {
		name := script[0]
		s, ok := p.steps[name]
		if !ok || len(script) <= s.args {
			return fmt.Errorf("no such step, or too few arguments: %q", script)
		}
		if err := s.do(script[1 : 1+s.args]); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		script = script[1+s.args:]
	}
	return nil
}

func (p *puppeteer) bind(path string, kind int, listen bool) error {
	fd, err := unix.Socket(unix.AF_UNIX, kind|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	p.sockets = append(p.sockets, os.NewFile(uintptr(fd), path))
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil || !listen {
		return err
	}
	return unix.Listen(fd, 8)
}

func (p *puppeteer) close() error {
	var err error
	for _, s := range p.sockets {
		err = errors.Join(err, s.Close())
	}
	p.sockets = nil
	return err
}

// inheritedSockets has one character for each socket that is inherited.
const inheritedSockets = "PUPPET_SOCKETS"

func (p *puppeteer) fork(script []string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.Command(self, script...)
	// Not our standard output: a script waits until nobody has that open.
	cmd.ExtraFiles = p.sockets
	cmd.Env = append(os.Environ(), inheritedSockets+"="+strings.Repeat("x", len(p.sockets)))
	return cmd.Start()
}

func signalNamed(name string) unix.Signal { return unix.SignalNum("SIG" + name) }

// report prints the signals that come, but for those that Go itself sends and those of its own children.
func (p *puppeteer) report() {
	got := make(chan os.Signal, 64)
	for sig := unix.Signal(1); sig <= 64; sig++ {
		if !slices.Contains([]unix.Signal{unix.SIGURG, unix.SIGCHLD, unix.SIGTSTP, unix.SIGPIPE}, sig) {
			p.reported[sig] = make(chan struct{}, 64)
			signal.Notify(got, sig)
		}
	}
	go func() {
		for sig := range got {
			fmt.Println(nameOf(sig.(unix.Signal)))
			p.reported[sig.(unix.Signal)] <- struct{}{}
		}
	}()
}

// count does not go by the signals that package os/signal gives, which makes one of several.
func count(args []string) error {
	number, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	n, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	catcher, err := sigorigin.Catch(unix.Signal(number))
	if err != nil {
		return err
	}
	fmt.Println("counting")
	for n > 0 {
		caught, _ := catcher.Next()
		for _, c := range caught {
			n -= c.Sent
		}
	}
	return nil
}

func nameOf(sig unix.Signal) string {
	if name := unix.SignalName(sig); name != "" {
		return strings.TrimPrefix(name, "SIG")
	}
	return strconv.Itoa(int(sig))
}

// killSelf does not return when the signal ends us; when it only stops us it does, before or after.
func killSelf(sig unix.Signal) error {
	if err := unix.Kill(os.Getpid(), sig); err != nil || sig == unix.SIGSTOP {
		return err
	}
	return pause()
}

// pause waits for ever, and takes no part in Go's search for deadlocks.
func pause() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer w.Close()
	_, err = bufio.NewReader(r).ReadByte()
	return err
}

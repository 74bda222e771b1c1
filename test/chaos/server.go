package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/notify"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// roleEnv has a process be one of those that the campaign consists of.
const roleEnv = "SOCKWATCH_CHAOS_ROLE"

// play is what such a process does. It does not return.
func play(role string) {
	var err error
	switch s := (&server{path: os.Args[1], how: how(os.Args[2]), run: os.Args[3]}); role {
	case "server":
		err = s.serve()
	case "heir":
		err = s.inherit()
	default:
		err = fmt.Errorf("no role %q", role)
	}
	if err != nil {
		fmt.Println("error:", err)
	}
	os.Exit(1)
}

// how is the way in which a server becomes known to the daemon.
type how string

const (
	watched  how = "watched"  // Watch after bind(2): by what it holds
	named    how = "named"    // Watch before bind(2), with the path
	both     how = "both"     // and once more after it
	claimed  how = "claimed"  // Watch before bind(2), Claim after it
	reported how = "reported" // by a report to the notify socket
	found    how = "found"    // in a bindspace, by doing nothing
)

// known tells whether the daemon knows the sock-file itself, and not only its path, when the server says that it is up. What appears under a
// path while the daemon is dead, and is alive when its owner is not, is not known to have been the owner's, and so is not handed on to heirs.
func (h how) known() bool { return h != named }

const (
	// patience bounds what must come to its end by itself. Nothing comes near it.
	patience = 90 * time.Second
	// watchful is how often a server looks after its sock-file.
	watchful = 250 * time.Millisecond
	// again is when a report is sent again that has had no effect.
	again = 100 * time.Millisecond
)

// The orders, of one byte each, and what a server does.
const (
	die    = 'd' // check, then SIGKILL to itself
	endure = 'e' // SIGKILL without the check: another server may have the path by now
	fork   = 'f' // start an heir, check, die
	rebind = 'r' // bind the path anew, in the same process
	tidy   = 'c' // check, remove the sock-file, exit
)

// server binds its path, registers, and obeys. It says in a line each what it has done.
type server struct {
	path string
	how  how
	run  string // the daemon's runtime directory

	id   string // at the daemon
	sock int
	pin  int  // descriptor of the sock-file's inode
	heir bool // another server may have the path by now
}

func (s *server) serve() error {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	if err := s.bringUp(ctx); err != nil {
		return err
	}
	fmt.Println("up")
	return s.obey()
}

// inherit is the life of an heir: it has the listener, and nothing else.
func (s *server) inherit() (err error) {
	s.sock, s.heir = 3, true
	if s.pin, err = ownFile(s.sock, s.path); err != nil {
		return err
	}
	fmt.Println("heir", os.Getpid())
	return s.obey()
}

func (s *server) obey() error {
	for {
		order, err := s.next()
		if err != nil {
			return err
		}
		switch order {
		case die, endure:
			if order == die {
				if err := s.check(); err != nil {
					return err
				}
			}
			fmt.Println("ok")
			return unix.Kill(os.Getpid(), unix.SIGKILL)
		case fork:
			if err := s.fork(); err != nil {
				return err
			}
			if err := s.check(); err != nil {
				return err
			}
			return unix.Kill(os.Getpid(), unix.SIGKILL)
		case rebind:
			unix.Close(s.pin)
			if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
			unix.Close(s.sock)
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			err := s.bringUp(ctx)
			cancel()
			if err != nil {
				return err
			}
			fmt.Println("up")
		case tidy:
			if err := s.check(); err != nil {
				return err
			}
			if err := os.Remove(s.path); err != nil {
				return err
			}
			fmt.Println("ok")
			os.Exit(0)
		default:
			return fmt.Errorf("order %q", order)
		}
	}
}

// next waits for the next order, and meanwhile looks after the sock-file.
func (s *server) next() (byte, error) {
	for {
		fds := []unix.PollFd{{Fd: 0, Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(watchful/time.Millisecond))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return 0, os.NewSyscallError("poll", err)
		}
		if n == 0 {
			if !s.heir {
				if err := s.linked(); err != nil {
					return 0, err
				}
			}
			continue
		}
		var b [1]byte
		_, err = os.Stdin.Read(b[:])
		return b[0], err // EOF: the campaign has ended before us
	}
}

// fork starts an heir. It has our standard input and output.
func (s *server) fork() error {
	cmd := exec.Command("/proc/self/exe", s.path, string(s.how), s.run)
	cmd.Env = append(os.Environ(), roleEnv+"=heir")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.ExtraFiles = []*os.File{os.NewFile(uintptr(s.sock), "listener")}
	return cmd.Start()
}

// bringUp binds and registers.
func (s *server) bringUp(ctx context.Context) (err error) {
	switch s.how {
	case named, both:
		err = s.watch(ctx, s.path)
	case claimed:
		err = s.watch(ctx)
	case watched, reported, found:
	}
	if err != nil {
		return err
	}
	if err := s.bind(); err != nil {
		return err
	}
	switch s.how {
	case watched, both:
		return s.watch(ctx)
	case claimed:
		return s.call(ctx, func(c *client.Client) error { return c.Claim(ctx, s.id, s.path) })
	case reported:
		return s.report()
	case named, found:
	}
	return nil
}

// bind binds the path and listens. What is in the way is an earlier server's of this path, which is cleared away as servers do.
func (s *server) bind() (err error) {
	if s.sock, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err != nil {
		return os.NewSyscallError("socket", err)
	}
	for {
		err = unix.Bind(s.sock, &unix.SockaddrUnix{Name: s.path})
		if !errors.Is(err, unix.EADDRINUSE) {
			break
		}
		if err := os.Remove(s.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if err != nil {
		return os.NewSyscallError("bind", err)
	}
	if s.pin, err = ownFile(s.sock, s.path); err != nil {
		return err
	}
	return os.NewSyscallError("listen", unix.Listen(s.sock, 16))
}

// ownFile pins the sock-file of a socket. Where the kernel does not tell us the file, it is the one with the socket's name.
func ownFile(sock int, path string) (pin int, err error) {
	pin, err = sys.SockFile(sock)
	if !errors.Is(err, unix.EPERM) {
		return pin, err
	}
	err = until(func() (bool, error) {
		pin, err = sys.OpenPin(unix.AT_FDCWD, path)
		if errors.Is(err, unix.ENOENT) { // under a private name, for a moment
			return false, nil
		}
		return true, err
	})
	return pin, err
}

// watch registers this process.
func (s *server) watch(ctx context.Context, paths ...string) error {
	return s.call(ctx, func(c *client.Client) error {
		w, err := c.Watch(ctx, client.WatchRequest{Process: strconv.Itoa(os.Getpid()), Paths: paths})
		s.id = w.ID
		return err
	})
}

// call calls the daemon, until one lives for long enough to answer.
func (s *server) call(ctx context.Context, f func(c *client.Client) error) error {
	return until(func() (bool, error) {
		c, err := client.Dial(ctx, filepath.Join(s.run, client.ControlName))
		if err == nil {
			err = f(c)
			c.Close()
		}
		for _, passing := range []error{client.ErrNoDaemon, client.ErrDisconnected, client.ErrLimit} { // of connections at once
			if errors.Is(err, passing) {
				return false, nil
			}
		}
		return err == nil, err
	})
}

// report reports the sock-file, and again, until the daemon has it in its records. A report that is in its queue dies with it.
func (s *server) report() error {
	os.Setenv(notify.Variable, filepath.Join(s.run, "notify"))
	p, err := pidfd.Open(os.Getpid())
	if err != nil {
		return err
	}
	defer p.Close()
	id, err := p.Identity()
	if err != nil {
		return err
	}
	record := filepath.Join(s.run, "owners", strings.ReplaceAll(id.String(), ":", "-")+"@found.json")
	var sent time.Time
	return until(func() (bool, error) {
		b, err := os.ReadFile(record)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		f, err := reap.Open(s.path)
		if errors.Is(err, fs.ErrNotExist) {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		own := fmt.Sprintf(`"file":%q`, f.ID())
		f.Close()
		if strings.Contains(string(b), own) {
			return true, nil
		}
		if time.Since(sent) < again {
			return false, nil
		}
		sent = time.Now()
		err = notify.Bound(s.path)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, notify.ErrQueueFull) {
			err = nil
		}
		return false, err
	})
}

var errRemoved = errors.New("LOST: the sock-file was removed while its socket was open")

// linked tells whether the sock-file is still there, by whatever name.
func (s *server) linked() error {
	st, err := sys.Fstat(s.pin)
	if err == nil && st.Nlink == 0 {
		err = errRemoved
	}
	return err
}

// check tells whether the sock-file is still there and has its name, or gets it back: a daemon that was killed may have left it under a
// private one.
func (s *server) check() error {
	err := until(func() (bool, error) {
		own, err := sys.Fstat(s.pin)
		if err == nil && own.Nlink == 0 {
			err = errRemoved
		}
		if err != nil {
			return false, err
		}
		named, err := sys.Lstatat(unix.AT_FDCWD, s.path)
		if errors.Is(err, unix.ENOENT) {
			return false, nil
		}
		return err == nil && named.SameInode(own), err
	})
	if errors.Is(err, errInVain) {
		return errors.New("LOST: the sock-file has not got its name back")
	}
	return err
}

var errInVain = errors.New("waited in vain")

// until asks again until it is so, less and less often.
func until(so func() (bool, error)) error {
	wait := time.Millisecond
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); pause(wait) {
		if done, err := so(); done || err != nil {
			return err
		}
		wait = min(wait*2, 64*time.Millisecond)
	}
	return errInVain
}

// pause lets others work. Nothing here tells us when it is time.
func pause(d time.Duration) { <-time.After(d) }

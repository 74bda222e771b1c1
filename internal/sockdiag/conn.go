// Package sockdiag asks the kernel for the AF_UNIX sockets of a network namespace, with the sock-file that each is
// bound to: sock_diag(7), Linux 3.3.
//
// It is not for deciding whether a sock-file is alive: sockets of other network namespaces are not listed, and Dump may
// miss some of its own (see there). That a socket is not listed proves nothing.
//
// Hazards: a socket may be gone by the time it is told, and inode numbers of sockets come round again after 2^32 of
// them. An accepted socket repeats the name and the sock-file of its listener. A Conn is one descriptor and 32 KiB of
// memory, starts no goroutine, and is for one goroutine at a time. The namespace is that of the thread that called
// Dial.
package sockdiag

import (
	"errors"
	"fmt"
	"iter"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/failpoint"
)

var (
	// ErrNotFound is returned by Get when the network namespace has no AF_UNIX socket of that inode number.
	ErrNotFound = errors.New("no such socket in this network namespace")
	// ErrInterrupted is the last thing a Dump yields when the kernel says that its table changed meanwhile in a way
	// that makes the dump inconsistent (NLM_F_DUMP_INTR). What was yielded before is true; some may be missing or told
	// twice.
	ErrInterrupted = errors.New("the socket table changed during the dump")

	errBusy = errors.New("a dump of this Conn is under way")
)

// sizeofBuffer is that of the largest part of a dump that the kernel makes, however large the reader's buffer is
// (netlink_recvmsg in net/netlink/af_netlink.c).
const sizeofBuffer = 32 << 10

// Conn is a connection to the kernel's socket table.
type Conn struct {
	fd      int
	seq     uint32
	dumping bool
	buf     []byte
}

// Dial opens a connection. It needs no privilege. The error is errors.ErrUnsupported where the kernel has no
// NETLINK_SOCK_DIAG or was built without CONFIG_UNIX_DIAG.
func Dial() (*Conn, error) {
	fd := -1
	err := call("socket", func() (err error) {
		fd, err = unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_SOCK_DIAG)
		return err
	})
	if errors.Is(err, unix.EPROTONOSUPPORT) || errors.Is(err, unix.EAFNOSUPPORT) {
		return nil, fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	if err != nil {
		return nil, err
	}
	c := &Conn{fd: fd, buf: make([]byte, sizeofBuffer)}

	// A kernel that knows AF_UNIX here refuses inode 0 with EINVAL. One that does not says ENOENT to everything, which
	// Get could not tell from "no such socket".
	switch _, err := c.exact(0); {
	case errors.Is(err, unix.EINVAL):
		return c, nil
	case errors.Is(err, unix.ENOENT):
		err = fmt.Errorf("%w: sock_diag of AF_UNIX: %w", errors.ErrUnsupported, err)
		return nil, errors.Join(err, c.Close())
	case err == nil:
		err = errMalformed
		fallthrough
	default:
		return nil, errors.Join(fmt.Errorf("sock_diag of AF_UNIX: %w", err), c.Close())
	}
}

// Close closes the descriptor.
func (c *Conn) Close() error {
	if c.fd < 0 {
		return os.ErrClosed
	}
	err := unix.Close(c.fd)
	c.fd = -1
	return os.NewSyscallError("close", err)
}

// Get returns the socket with this inode number, or ErrNotFound. The kernel walks its table until it finds it: from
// some dozens of sockets on, one Dump is faster.
func (c *Conn) Get(inode uint32) (Socket, error) {
	if c.dumping {
		return Socket{}, errBusy
	}
	if inode == 0 {
		return Socket{}, fmt.Errorf("socket:[%d]: %w", inode, ErrNotFound)
	}
	s, err := c.exact(inode)
	if errors.Is(err, unix.ENOENT) {
		// Of the table, one part is locked at a time. bind(2) moves a socket, once in its life and maybe to a part that was
		// walked through already: unix_lookup_by_ino in net/unix/diag.c.
		s, err = c.exact(inode)
	}
	if errors.Is(err, unix.ENOENT) {
		err = ErrNotFound
	}
	if err != nil {
		return Socket{}, fmt.Errorf("socket:[%d]: %w", inode, err)
	}
	return s, nil
}

func (c *Conn) exact(inode uint32) (Socket, error) {
	if err := c.request(0, inode); err != nil {
		return Socket{}, err
	}
	for {
		b, err := c.receive(0)
		if err != nil {
			return Socket{}, err
		}
		for len(b) > 0 {
			m, rest, err := cutMessage(b)
			if err != nil {
				return Socket{}, err
			}
			b = rest
			if m.seq != c.seq {
				continue // an answer to a request that was given up
			}
			switch m.kind {
			case unix.SOCK_DIAG_BY_FAMILY:
				return parseSocket(m.data)
			case unix.NLMSG_ERROR:
				if err := parseErrno(m.data); err != nil {
					return Socket{}, err
				}
			}
		}
	}
}

// Dump yields the AF_UNIX sockets of the network namespace, also those whose only descriptor is in flight to another
// process, but not the server's end of a connection before it is accepted: that has no inode yet. It holds 32 KiB of
// them at a time. An error ends it; see ErrInterrupted.
//
// The kernel hands its table out in parts and remembers its place in a hash bucket by counting. So a socket is missed
// when another one of its bucket is closed between two parts, or told twice when one is made, and the kernel does not
// say so: up to Linux 6.18 AF_UNIX sets no NLM_F_DUMP_INTR. Beside a busy maker of sockets, two dumps in a hundred
// missed one of 3,000 that were there all the time. Ask with Get for a socket that must not be missed.
//
// Other methods must not be called before the loop is over. Leaving the loop early reads and discards the rest of the
// dump.
func (c *Conn) Dump() iter.Seq2[Socket, error] {
	return func(yield func(Socket, error) bool) {
		if c.dumping {
			yield(Socket{}, errBusy)
			return
		}
		if err := c.request(unix.NLM_F_DUMP, 0); err != nil {
			yield(Socket{}, err)
			return
		}
		c.dumping = true
		complete := false
		// Deferred, for a loop body that panics. The kernel refuses the next dump with EBUSY while one is under way.
		defer func() {
			if !complete {
				c.drain()
			}
			c.dumping = false
		}()

		d := dump{seq: c.seq}
		for !d.done {
			b, err := c.receive(0)
			if err != nil {
				yield(Socket{}, fmt.Errorf("sock_diag dump: %w", err))
				return
			}
			if !d.part(b, yield) {
				return
			}
		}
		complete = true
		if d.interrupted {
			yield(Socket{}, ErrInterrupted)
		}
	}
}

// dump is the reading side of one dump.
type dump struct {
	seq         uint32
	interrupted bool
	done        bool
}

// part yields the sockets of one datagram. It returns false after an error was yielded or when yield returned false.
func (d *dump) part(b []byte, yield func(Socket, error) bool) bool {
	fail := func(err error) bool {
		yield(Socket{}, fmt.Errorf("sock_diag dump: %w", err))
		return false
	}
	for len(b) > 0 && !d.done {
		m, rest, err := cutMessage(b)
		if err != nil {
			return fail(err)
		}
		b = rest
		if m.seq != d.seq {
			continue // an answer to a request that was given up
		}
		if m.flags&unix.NLM_F_DUMP_INTR != 0 {
			d.interrupted = true
		}
		switch m.kind {
		case unix.SOCK_DIAG_BY_FAMILY:
			s, err := parseSocket(m.data)
			if err != nil {
				return fail(err)
			}
			if !yield(s, nil) {
				return false
			}
		case unix.NLMSG_ERROR, unix.NLMSG_DONE:
			// NLMSG_DONE carries the error of a dump that failed half way.
			if err := parseErrno(m.data); err != nil {
				return fail(err)
			}
			d.done = true
		}
	}
	return true
}

// drain discards what is left of a dump. It cannot block, and needs no parsing: the kernel queues the next part before
// it returns one, so an empty queue is the end.
func (c *Conn) drain() {
	for {
		if _, err := c.receive(unix.MSG_DONTWAIT); err != nil {
			return
		}
	}
}

func (c *Conn) request(flags uint16, inode uint32) error {
	c.seq++
	b := appendRequest(c.buf[:0], flags, c.seq, inode)
	return call("sendto", func() error {
		return unix.Sendto(c.fd, b, 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK})
	})
}

// receive returns the next datagram from the kernel, valid until the next call of any method.
func (c *Conn) receive(flags int) ([]byte, error) {
	for {
		var n int
		var from unix.Sockaddr
		err := call("recvfrom", func() (err error) {
			// With MSG_TRUNC n is the datagram's length, also where the buffer is shorter.
			n, from, err = unix.Recvfrom(c.fd, c.buf, flags|unix.MSG_TRUNC)
			return err
		})
		if err != nil {
			return nil, err
		}
		if nl, ok := from.(*unix.SockaddrNetlink); !ok || nl.Pid != 0 {
			continue // not the kernel: a process with CAP_NET_ADMIN can send to this socket
		}
		if n > len(c.buf) {
			return nil, fmt.Errorf("%w: %d bytes cut to %d", errMalformed, n, len(c.buf))
		}
		return c.buf[:n], nil
	}
}

// call makes the system call of that name by f until it is not interrupted by a signal. Go's handlers are installed with
// SA_RESTART, but a foreign one may not be, and a stopped and continued process sees EINTR also with it (signal(7)).
func call(name string, f func() error) error {
	if err := failpoint.Hit(name); err != nil {
		return os.NewSyscallError(name, err)
	}
	for {
		if err := f(); !errors.Is(err, unix.EINTR) {
			return os.NewSyscallError(name, err)
		}
	}
}

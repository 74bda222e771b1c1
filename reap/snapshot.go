package reap

import (
	"errors"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sockdiag"
	"github.com/sockwatch/sockwatch/pidfd"
)

// snapshot collects the files that one process holds.
type snapshot struct {
	p     *pidfd.Process
	pid   int
	dirs  []string
	names *names         // of the thread by whose table it has its sockets
	conn  *sockdiag.Conn // nil until needed

	files []*File
	known map[ID]bool // those in files, and those that were found dead or without a name
	errs  []error

	// Files of which only connected sockets were found yet, each with a way to find it.
	connected []connected
	noted     map[ID]bool // those with an id there
}

// connected is a file that the process may have accepted sockets of, and no more.
type connected struct {
	entry
	id   ID // zero where only the entry is known
	find func() (*File, error)
}

// end gives up what taking the snapshot needed.
func (s *snapshot) end() {
	if s.conn != nil {
		_ = s.conn.Close()
	}
}

// take fails when the process's descriptors cannot be read. Whatever else goes wrong is in errs.
func (s *snapshot) take() error {
	sockets, err := unixSockets(s.pid)
	if err != nil || len(sockets) == 0 {
		return err
	}
	s.names = newNames(sockets[0].table, s.dirs)
	var left []descriptor
	var refusal error
	for _, d := range sockets {
		if d.table != s.pid { // pidfd_getfd(2) goes by the table of the main thread, which has none any more
			left = append(left, d)
			continue
		}
		switch err := s.ask(d); {
		case err == nil, errors.Is(err, errNoFile):
		case errors.Is(err, unix.ESRCH):
			return nil // it is ending, and has no sockets any more
		default:
			left, refusal = append(left, d), err
		}
	}
	if len(left) > 0 {
		s.askTable(left, refusal)
	}
	s.addConnected()
	return nil
}

// ask asks a socket itself for its file. The error is that of borrow.
func (s *snapshot) ask(d descriptor) error {
	b, err := borrow(s.p, d.fd)
	if err != nil {
		return err
	}
	defer b.unpin()
	switch {
	case s.known[b.id]:
	case b.connected && s.noted[b.id]:
	case b.connected:
		s.noted[b.id] = true
		// It is asked again then: pins for all of them can be more descriptors than we may have.
		s.connected = append(s.connected, connected{entryOf(b.pin, b.id), b.id, func() (*File, error) { return s.askAgain(d) }})
	default:
		s.add(s.names.ofPin(b.pin, b.id))
		s.known[b.id] = true
	}
	return nil
}

func (s *snapshot) askAgain(d descriptor) (*File, error) {
	b, err := borrow(s.p, d.fd)
	if errors.Is(err, errNoFile) {
		return nil, nil //nolint:nilnil // closed meanwhile: no file, and nothing went wrong
	}
	if err != nil {
		return nil, err
	}
	defer b.unpin()
	return s.names.ofPin(b.pin, b.id)
}

// add takes what a search for a file ended in.
func (s *snapshot) add(f *File, err error) {
	switch {
	case err != nil:
		s.errs = append(s.errs, fmt.Errorf("a socket of process %d: %w", s.pid, err))
		return
	case f == nil:
		return
	case s.known[f.id]:
		_ = f.Close()
		return
	}
	s.known[f.id] = true
	// The kernel names the file of a socket a moment before connect(2) finds the socket by it. So only the probe makes a
	// file one that was seen alive. A dead one was closed meanwhile.
	if state, _ := f.Probe(); state == StateDead {
		_ = f.Close()
		return
	}
	s.files = append(s.files, f)
}

// addConnected adds those files of connected sockets that nobody else is known to have bound.
func (s *snapshot) addConnected() {
	wanted := entries{}
	for i, c := range s.connected {
		if !s.known[c.id] {
			wanted.add(c.entry, i)
		}
	}
	if len(wanted) == 0 {
		return
	}
	bound := map[int]bool{}
	if conn, err := s.table(); err == nil {
		for socket, err := range conn.Dump() {
			if err == nil && isBound(socket) {
				wanted.find(socket, func(i int) { bound[i] = true })
			}
		}
	}
	for i, c := range s.connected {
		if bound[i] || s.known[c.id] {
			continue
		}
		// Most likely the listener is gone, and its file with it: nothing to complain of.
		if f, err := c.find(); !errors.Is(err, fs.ErrNotExist) {
			s.add(f, err)
		}
	}
}

// table is the kernel's table of the sockets in our network namespace.
func (s *snapshot) table() (*sockdiag.Conn, error) {
	if s.conn == nil {
		conn, err := sockdiag.Dial()
		if err != nil {
			return nil, err
		}
		s.conn = conn
	}
	return s.conn, nil
}

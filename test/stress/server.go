package main

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

const (
	// rebindPatience is how long a server waits for the remover before it unlinks what its last life has left.
	rebindPatience = 5 * time.Millisecond
	// claimPatience is how long a server waits for the remover to have seen it alive.
	claimPatience = 5 * time.Millisecond
	// lifeSpan is the longest that a server lives then.
	lifeSpan = 20 * time.Microsecond
	// lossPatience is how long a sock-file may be away from its name before it counts as lost, where the name is all
	// that there is to go by.
	lossPatience = 10 * time.Second
)

// server lives on a lane, again and again.
type server struct {
	lane *lane
	addr unix.SockaddrUnix
}

// serve lives one life after the other until ended. If claimed, a life lasts until the remover has claimed it.
func (l *lane) serve(claimed bool, ended func() bool) error {
	s := server{lane: l, addr: unix.SockaddrUnix{Name: l.path}}
	for life := uint64(1); !l.over.Load() && !ended(); life++ {
		if err := s.live(life, claimed); err != nil {
			return fmt.Errorf("server: %s: %w", l.path, err)
		}
	}
	return nil
}

// live is one life: bind, listen, be there for a moment, end in one of the ways in which servers end. The next life
// binds the path anew at once.
func (s *server) live(life uint64, claimed bool) error {
	sock, err := s.bind()
	if err != nil {
		return err
	}
	pin, err := s.pin(sock)
	if err != nil {
		return err
	}
	if err := unix.Listen(sock, 1); err != nil {
		return os.NewSyscallError("listen", err)
	}
	s.lane.bound.Store(life)
	if claimed {
		s.lane.await(&s.lane.claimed, life, claimPatience)
	}
	spin(lifeSpan)
	lost, err := lost(pin)
	if err != nil {
		return err
	}
	s.lane.lives.Add(1)
	if lost {
		s.lane.losses.Add(1)
	}
	return s.end(sock, life)
}

// bind takes the path. What is there is dead, left by the last life for the remover, who may be slow.
func (s *server) bind() (int, error) {
	sock, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return -1, os.NewSyscallError("socket", err)
	}
	for w := newWait(); ; w.pause() {
		err := unix.Bind(sock, &s.addr)
		switch {
		case err == nil:
			return sock, nil
		case !errors.Is(err, unix.EADDRINUSE):
			return -1, os.NewSyscallError("bind", err)
		case w.elapsed() > rebindPatience:
			if err := s.unlink(); err != nil {
				return -1, err
			}
		}
	}
}

// nowhere is the pin of a sock-file that could not be found.
const nowhere = -1

// pin pins the sock-file of the server's socket, whatever its name is at this moment. Where the kernel does not tell us
// the file, it is the one with the server's name, as soon as a socket is bound to that: a removal may have put it under
// a private name for a moment, and the dead one of the last life back.
func (s *server) pin(sock int) (int, error) {
	pin, err := sys.SockFile(sock)
	if !errors.Is(err, unix.EPERM) {
		return pin, err
	}
	for w := newWait(); w.elapsed() < lossPatience; w.pause() {
		pin, err := sys.OpenPin(unix.AT_FDCWD, s.lane.path)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return -1, err
		}
		if alive, err := probe(pin); err != nil || alive {
			return pin, err
		}
		unix.Close(pin)
	}
	return nowhere, nil
}

// lost tells whether the pinned sock-file was removed, and closes the pin. The socket is still open and its server has
// unlinked nothing: without a link no client can ever reach it again, by whatever name.
func lost(pin int) (bool, error) {
	if pin == nowhere {
		return true, nil
	}
	defer unix.Close(pin)
	st, err := sys.Fstat(pin)
	return st.Nlink == 0, err
}

// end ends a life.
func (s *server) end(sock int, life uint64) error {
	unlinkBefore, unlinkAfter := false, false
	switch rand.N(4) {
	case 0: // a server that cleans up
		unlinkBefore = true
	case 1: // one that was killed, and removes what is in its way when it starts
		unlinkAfter = true
	default: // one that was killed, and relies on the remover
	}
	if unlinkBefore {
		if err := s.unlink(); err != nil {
			return err
		}
	}
	unix.Close(sock)
	s.lane.dead.Store(life)
	if unlinkAfter {
		return s.unlink()
	}
	return nil
}

// unlink removes what has the path, which is always the server's own: nobody else binds it.
func (s *server) unlink() error {
	if err := unix.Unlink(s.lane.path); err != nil && !errors.Is(err, unix.ENOENT) {
		return os.NewSyscallError("unlink", err)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// startPatience is how long a server may take to listen.
	startPatience = 30 * time.Second
	// gonePatience is how long a sock-file may stay after the kill.
	gonePatience = 10 * time.Second
)

// stage is where servers of server.c live and die, one after the other: all that one peer has to do with.
type stage struct {
	server  string // the program
	path    string // the sock-file, alone in its directory
	address string // where servers say that they listen
	// state is a directory for what the peer itself needs.
	state string

	listener, conn int
	gone           *deletions
}

// newStage makes a stage with its sock-file below dir and all else below state.
func newStage(server, dir, state, name string) (s *stage, err error) {
	own := filepath.Join(dir, name)
	s = &stage{
		server: server, path: filepath.Join(own, "server.sock"), state: filepath.Join(state, name), listener: -1, conn: -1,
	}
	s.address = filepath.Join(s.state, "listens")
	for _, d := range []string{own, s.state} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return nil, err
		}
	}
	if s.gone, err = seeDeletions(own); err != nil {
		return nil, err
	}
	// Not package net's: the runtime would be woken by the connection's end at each kill.
	if s.listener, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0); err != nil {
		return nil, errors.Join(err, s.close())
	}
	if err = errors.Join(unix.Bind(s.listener, &unix.SockaddrUnix{Name: s.address}), unix.Listen(s.listener, 16)); err != nil {
		return nil, errors.Join(fmt.Errorf("listen at %s: %w", s.address, err), s.close())
	}
	return s, nil
}

// argv is the server's command.
func (s *stage) argv() []string { return []string{s.server, s.path, s.address} }

// start starts the server as a child of this process.
func (s *stage) start(ctx context.Context) (*exec.Cmd, error) {
	cmd := exec.CommandContext(ctx, s.server, s.argv()[1:]...)
	cmd.Stderr = os.Stderr
	return cmd, cmd.Start()
}

// await returns when the next server listens, whoever has started it.
func (s *stage) await() (pid int, err error) {
	deadline := time.Now().Add(startPatience)
	for {
		left := time.Until(deadline)
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(s.listener), Events: unix.POLLIN}}, max(0, int(left.Milliseconds())))
		if err == nil && ready > 0 {
			break
		}
		if err == nil {
			err = errors.New("no server has come to listen")
		}
		if !errors.Is(err, unix.EINTR) {
			return 0, err
		}
	}
	if s.conn, _, err = unix.Accept4(s.listener, unix.SOCK_CLOEXEC); err != nil {
		return 0, os.NewSyscallError("accept4", err)
	}
	u, err := unix.GetsockoptUcred(s.conn, unix.SOL_SOCKET, unix.SO_PEERCRED)
	if err != nil {
		return 0, os.NewSyscallError("SO_PEERCRED", err)
	}
	return int(u.Pid), nil
}

// kill kills the server and returns when its sock-file is gone: how long that took.
func (s *stage) kill(pid int) (took time.Duration, err error) {
	killed := time.Now()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil { // nobody reaps it before it is dead: the number is still its own
		return 0, os.NewSyscallError("kill", err)
	}
	seen, err := s.gone.await(1, gonePatience)
	return seen.Sub(killed), err
}

// clear ends what is left of a server's life.
func (s *stage) clear() error {
	if s.conn < 0 {
		return nil
	}
	err := unix.Close(s.conn)
	s.conn = -1
	return err
}

func (s *stage) close() error {
	err := errors.Join(s.clear(), s.gone.close())
	if s.listener >= 0 {
		err = errors.Join(err, unix.Close(s.listener))
	}
	return err
}

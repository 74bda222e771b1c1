package main

import (
	"errors"
	"math/rand/v2"
	"path/filepath"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// checkThenUnlink is what everybody writes first: nobody answers, so unlink. Meanwhile the name can have become a live
// server's.
var checkThenUnlink = strategy{name: "check-then-unlink", control: true, claim: func(path string) (claim, error) {
	_, err := sys.Lstatat(unix.AT_FDCWD, path)
	return pathClaim(path), err
}}

type pathClaim string

func (pathClaim) alive() bool { return true }

func (c pathClaim) remove() (bool, error) {
	sock, err := probeSocket()
	if err != nil {
		return false, err
	}
	if err := unix.Connect(sock, &unix.SockaddrUnix{Name: string(c)}); !errors.Is(err, unix.ECONNREFUSED) {
		return false, nil
	}
	if err := unix.Unlink(string(c)); err != nil {
		return false, unlessGone(err)
	}
	return true, nil
}

func (pathClaim) close() {}

// noBarrier is sockwatch's protocol for a sock-file that nobody saw alive, as it could be if bind(2) made the file and
// bound the socket in one step: "dead" is believed at once. So it does without the barrier, and without any probe
// after one. The probe at the private name is one of these: the rename waits for the lock of the directory, too.
var noBarrier = strategy{name: "no-barrier", control: true, claim: func(path string) (claim, error) {
	pin, err := sys.OpenPin(unix.AT_FDCWD, path)
	if err != nil {
		return nil, err
	}
	return pinClaim{path, pin}, nil
}}

// pinClaim is told from others by its inode number, which the pin keeps from being given out again.
type pinClaim struct {
	path string
	pin  int
}

func (c pinClaim) alive() bool {
	alive, err := probe(c.pin)
	return alive && err == nil
}

func (c pinClaim) remove() (bool, error) {
	if alive, err := probe(c.pin); alive || err != nil {
		return false, err
	}
	if same, err := c.is(c.path); !same || err != nil {
		return false, err
	}
	private := filepath.Join(filepath.Dir(c.path), ".sockwatch-"+strconv.FormatUint(rand.Uint64(), 36))
	if err := sys.RenameNoReplace(unix.AT_FDCWD, c.path, private); err != nil {
		return false, unlessGone(err)
	}
	if same, err := c.is(private); !same || err != nil {
		return false, errors.Join(err, unlessTaken(sys.RenameNoReplace(unix.AT_FDCWD, private, c.path)))
	}
	return true, sys.Unlink(unix.AT_FDCWD, private)
}

func (c pinClaim) close() { unix.Close(c.pin) }

// is tells whether path is the pinned inode.
func (c pinClaim) is(path string) (bool, error) {
	pinned, err := sys.Fstat(c.pin)
	if err != nil {
		return false, err
	}
	named, err := sys.Lstatat(unix.AT_FDCWD, path)
	if err != nil {
		return false, unlessGone(err)
	}
	return named.SameInode(pinned), nil
}

// unlessGone is err, unless that says that the name is not there any more.
func unlessGone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

// unlessTaken is err, unless that says that the server has the name again.
func unlessTaken(err error) error {
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

// probeSocket makes the socket that all probes here are made with. That they are made at the same time does no harm:
// the servers are stream sockets, to which it never connects.
var probeSocket = sync.OnceValues(sys.ProbeSocket)

// probe tells whether a socket is bound to the pinned inode, which is a stream socket's.
func probe(pin int) (alive bool, err error) {
	sock, err := probeSocket()
	if err != nil {
		return false, err
	}
	err = sys.ConnectFD(sock, pin)
	switch {
	case errors.Is(err, unix.EPROTOTYPE):
		return true, nil
	case errors.Is(err, unix.ECONNREFUSED):
		return false, nil
	}
	return false, err
}

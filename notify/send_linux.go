package notify

import (
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"
)

const supported = true

// patience is how long a full receive queue is waited for.
const patience = 100 * time.Millisecond

// send sends one datagram. The kernel adds who we are. The socket is connected, since poll(2) knows of room in the peer's
// queue for such a one only.
func send(address, message string) error {
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		return cause(err)
	}
	defer conn.Close()
	// On a busy machine the patience may be over before package net has tried once: it is for a queue that was seen to be full.
	if err := try(conn, message); !errors.Is(err, syscall.EAGAIN) {
		return err
	}
	if err := conn.SetWriteDeadline(time.Now().Add(patience)); err != nil {
		return cause(err)
	}
	_, err = conn.Write([]byte(message))
	if errors.Is(err, os.ErrDeadlineExceeded) {
		err = try(conn, message)
	}
	if errors.Is(err, syscall.EAGAIN) {
		return fmt.Errorf("%w for %v", ErrQueueFull, patience)
	}
	return cause(err)
}

// try sends if there is room.
func try(conn *net.UnixConn, message string) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var sendErr error
	err = raw.Control(func(fd uintptr) {
		_, sendErr = syscall.Write(int(fd), []byte(message))
	})
	return errors.Join(err, os.NewSyscallError("write", sendErr))
}

// cause is what the kernel said, without the addresses that package net puts before it: the caller names the one that counts.
func cause(err error) error {
	var op *net.OpError
	if errors.As(err, &op) {
		return op.Err
	}
	return err
}

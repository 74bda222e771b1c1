package sys

import (
	"encoding/binary"
	"errors"
	"time"

	"golang.org/x/sys/unix"
)

// Sender is what the kernel tells of who sent a datagram: unix(7).
type Sender struct {
	Known    bool // SCM_CREDENTIALS was there
	PID      int32
	UID, GID uint32
	HasPidfd bool // SCM_PIDFD was there, Linux 6.5
	Pidfd    int  // -1 without; other negative numbers are errnos, for a process that was reaped
	Time     time.Time
}

// SenderSpace is room for the control messages that AskForSender leads to, and for some descriptors that a sender may
// add; more of them the kernel closes.
const SenderSpace = 512

// AskForSender has the kernel add credentials, pidfd and time to each datagram, as far as it can.
func AskForSender(fd int) error {
	if err := PassCredentials(fd); err != nil {
		return err
	}
	err := call("setsockopt SO_PASSPIDFD", func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSPIDFD, 1) })
	if err != nil && !errors.Is(err, unix.ENOPROTOOPT) { // before Linux 6.5
		return err
	}
	return call("setsockopt SO_TIMESTAMPNS", func() error { return unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1) })
}

// ReceiveMessage reads one datagram and its control messages and does not wait for it: recvmsg(2). EAGAIN when there is none.
// Descriptors in it are closed on exec.
func ReceiveMessage(fd int, b, control []byte) (n, cn, flags int, err error) {
	err = call("recvmsg", func() error {
		n, cn, flags, _, err = unix.Recvmsg(fd, b, control, unix.MSG_DONTWAIT|unix.MSG_CMSG_CLOEXEC)
		return err
	})
	return n, cn, flags, err
}

// ParseSender reads the control messages of a datagram. Descriptors that the sender added are closed.
func ParseSender(control []byte) (Sender, error) {
	s := Sender{Pidfd: -1}
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return s, wrap("parse control messages", err)
	}
	order := binary.NativeEndian
	for _, m := range messages {
		if m.Header.Level != unix.SOL_SOCKET {
			continue
		}
		switch m.Header.Type {
		case unix.SCM_RIGHTS:
			for b := m.Data; len(b) >= 4; b = b[4:] {
				_ = Close(int(int32(order.Uint32(b))))
			}
		case unix.SCM_CREDENTIALS:
			if len(m.Data) >= unix.SizeofUcred {
				s.Known, s.PID, s.UID, s.GID = true, int32(order.Uint32(m.Data)), order.Uint32(m.Data[4:]), order.Uint32(m.Data[8:])
			}
		case scmPidfd:
			if len(m.Data) >= 4 {
				s.HasPidfd, s.Pidfd = true, int(int32(order.Uint32(m.Data)))
			}
		case unix.SCM_TIMESTAMPNS:
			if len(m.Data) >= 16 {
				s.Time = time.Unix(int64(order.Uint64(m.Data)), int64(order.Uint64(m.Data[8:])))
			}
		}
	}
	return s, nil
}

// scmPidfd is SCM_PIDFD of linux/socket.h.
const scmPidfd = 4

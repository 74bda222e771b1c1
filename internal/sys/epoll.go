package sys

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// EpollEvent is what epoll reports: the events, and the token that the descriptor was added with.
type EpollEvent struct {
	Events uint32
	Token  uint64
}

// EpollCreate is epoll_create1(2).
func EpollCreate() (int, error) {
	return callInt("epoll_create1", func() (int, error) { return unix.EpollCreate1(unix.EPOLL_CLOEXEC) })
}

// EpollAdd begins to watch a descriptor. A token tells the watched apart where a descriptor's number cannot: it may
// be another file by the time that the event is read.
func EpollAdd(epfd, fd int, events uint32, token uint64) error {
	return epollCtl(epfd, unix.EPOLL_CTL_ADD, fd, events, token)
}

// EpollMod changes what is watched of a descriptor. EPOLLHUP and EPOLLERR are always reported.
func EpollMod(epfd, fd int, events uint32, token uint64) error {
	return epollCtl(epfd, unix.EPOLL_CTL_MOD, fd, events, token)
}

// EpollDel ends watching a descriptor. Closing it does not do that while a duplicate is open elsewhere.
func EpollDel(epfd, fd int) error {
	return epollCtl(epfd, unix.EPOLL_CTL_DEL, fd, 0, 0)
}

func epollCtl(epfd, op, fd int, events uint32, token uint64) error {
	var data [8]byte
	binary.NativeEndian.PutUint64(data[:], token)
	ev := unix.EpollEvent{
		Events: events,
		Fd:     int32(binary.NativeEndian.Uint32(data[:4])),
		Pad:    int32(binary.NativeEndian.Uint32(data[4:])),
	}
	return call("epoll_ctl", func() error { return unix.EpollCtl(epfd, op, fd, &ev) })
}

// Epoll waits for events.
type Epoll struct{ buf [256]unix.EpollEvent }

// Wait is epoll_wait(2): it returns when there are events or after timeout milliseconds, -1 for never. It returns early and
// with nothing when a signal interrupts it, so that the caller counts the time anew. The events are valid until the
// next call.
func (e *Epoll) Wait(epfd, timeout int, yield func(EpollEvent)) error {
	n, err := unix.EpollWait(epfd, e.buf[:], timeout)
	if err == unix.EINTR {
		return nil
	}
	if err != nil {
		return wrap("epoll_wait", err)
	}
	for _, ev := range e.buf[:n] {
		var data [8]byte
		binary.NativeEndian.PutUint32(data[:4], uint32(ev.Fd))
		binary.NativeEndian.PutUint32(data[4:], uint32(ev.Pad))
		yield(EpollEvent{Events: ev.Events, Token: binary.NativeEndian.Uint64(data[:])})
	}
	return nil
}

// Eventfd is eventfd(2), not blocking.
func Eventfd() (int, error) {
	return callInt("eventfd2", func() (int, error) { return unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK) })
}

// EventfdSet makes an eventfd readable.
func EventfdSet(fd int) error {
	one := make([]byte, 8)
	binary.NativeEndian.PutUint64(one, 1)
	err := ignoringEINTR(func() error { _, err := unix.Write(fd, one); return err })
	if errors.Is(err, unix.EAGAIN) { // the counter is full, so it is readable
		return nil
	}
	return wrap("write", err)
}

// EventfdReset makes an eventfd unreadable again.
func EventfdReset(fd int) error {
	buf := make([]byte, 8)
	err := ignoringEINTR(func() error { _, err := unix.Read(fd, buf); return err })
	if errors.Is(err, unix.EAGAIN) { // it was not set
		return nil
	}
	return wrap("read", err)
}

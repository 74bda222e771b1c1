package sys

import (
	"context"
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Readable tells whether fd has POLLIN, POLLHUP or POLLERR at this moment: poll(2). EBADF when it is not open.
func Readable(fd int) (bool, error) {
	fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
	n, err := callInt("poll", func() (int, error) { return unix.Poll(fds, 0) })
	if err == nil && n > 0 && fds[0].Revents&unix.POLLNVAL != 0 {
		err = unix.EBADF
	}
	return err == nil && n > 0, err
}

// WaitReadable waits until fd is Readable, or returns what ctx.Err says. fd must stay open until it returns.
//
// It parks the goroutine, blocks no thread, and leaves fd as it is. Go's poller wants O_NONBLOCK, which belongs to the
// open file description and thereby to everybody who shares it; so what goes to the poller is an epoll(7) descriptor
// of our own that holds fd. The kernel allows 500 of these for one open file description and says EINVAL to more
// (path_limits in fs/eventpoll.c).
func WaitReadable(ctx context.Context, fd int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	ep, err := newPollable(fd)
	if err != nil {
		return err
	}
	defer ep.Close()
	conn, err := ep.SyscallConn()
	if err != nil {
		return err
	}
	// A deadline in the past is how a goroutine is called back from the poller.
	stop := context.AfterFunc(ctx, func() { _ = ep.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var pollErr error
	err = conn.Read(func(uintptr) (done bool) {
		done, pollErr = Readable(fd)
		return done || pollErr != nil
	})
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return ctx.Err()
	}
	return errors.Join(err, pollErr)
}

// newPollable makes an epoll descriptor that is readable when fd is, and known to Go's poller.
func newPollable(fd int) (*os.File, error) {
	epfd, err := EpollCreate()
	if err != nil {
		return nil, err
	}
	if err := EpollAdd(epfd, fd, unix.EPOLLIN, 0); err != nil {
		return nil, errors.Join(err, Close(epfd))
	}
	if err := unix.SetNonblock(epfd, true); err != nil {
		return nil, errors.Join(wrap("fcntl", err), Close(epfd))
	}
	ep := os.NewFile(uintptr(epfd), "epoll")
	// NewFile keeps to itself that the poller refused the file; then it has no deadlines.
	if err := ep.SetReadDeadline(time.Time{}); err != nil {
		return nil, errors.Join(wrap("epoll_ctl", unix.EINVAL), ep.Close())
	}
	return ep, nil
}

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// errNotGone is that no file went away in the time that there was.
var errNotGone = errors.New("no file has gone from there")

// deletions sees files go from one directory, inotify(7). A rename within it is none: sockwatch renames a file before it unlinks it.
type deletions struct {
	fd     int
	buffer [4096]byte
}

func seeDeletions(dir string) (*deletions, error) {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		return nil, err
	}
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_DELETE); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("inotify of %s: %w", dir, err)
	}
	return &deletions{fd: fd}, nil
}

// await returns when n more files are gone: when that was seen.
func (d *deletions) await(n int, patience time.Duration) (seen time.Time, err error) {
	for n > 0 {
		ready, err := unix.Poll([]unix.PollFd{{Fd: int32(d.fd), Events: unix.POLLIN}}, int(patience.Milliseconds()))
		seen = time.Now()
		switch {
		case errors.Is(err, unix.EINTR):
			continue
		case err != nil:
			return seen, err
		case ready == 0:
			return seen, errNotGone
		}
		length, err := unix.Read(d.fd, d.buffer[:])
		if err != nil {
			return seen, err
		}
		for rest := d.buffer[:length]; len(rest) > 0; n-- {
			name := binary.NativeEndian.Uint32(rest[unsafe.Offsetof(unix.InotifyEvent{}.Len):])
			rest = rest[unix.SizeofInotifyEvent+name:]
		}
	}
	return seen, nil
}

func (d *deletions) close() error { return unix.Close(d.fd) }

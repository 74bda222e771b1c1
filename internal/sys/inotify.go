package sys

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// InotifyEvent is one struct inotify_event. Name is "" for events of the directory itself.
type InotifyEvent struct {
	Watch int32 // watch descriptor, -1 for IN_Q_OVERFLOW
	Mask  uint32
	Name  string
	Size  int // what it took of the queue, in the bytes that InotifyQueued counts
}

// InotifyInit is inotify_init1(2), not blocking. EMFILE is said, too, where the user has as many instances as he may have, in all
// processes together: 128 on most machines.
func InotifyInit() (int, error) {
	fd, err := callInt("inotify_init1", func() (int, error) { return unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK) })
	if errors.Is(err, unix.EMFILE) {
		err = fmt.Errorf("%w, or too many inotify instances of this user (sysctl fs.inotify.max_user_instances)", err)
	}
	return fd, err
}

// InotifyAdd watches a directory, for mask and what it is watched for already: the same directory, under whatever path, gives
// the same watch descriptor.
func InotifyAdd(fd int, dir string, mask uint32) (int32, error) {
	wd, err := callInt("inotify_add_watch", func() (int, error) { return unix.InotifyAddWatch(fd, dir, mask|unix.IN_ONLYDIR|unix.IN_MASK_ADD) })
	return int32(wd), err
}

// InotifyRemove ends a watch. Events that are queued already are still read.
func InotifyRemove(fd int, wd int32) error {
	_, err := callInt("inotify_rm_watch", func() (int, error) { return unix.InotifyRmWatch(fd, uint32(wd)) })
	return err
}

// InotifyQueued is how many bytes of events are queued: FIONREAD, inotify(7).
func InotifyQueued(fd int) (int, error) {
	return callInt("ioctl FIONREAD", func() (int, error) { return unix.IoctlGetInt(fd, unix.TIOCINQ) }) // its other name
}

// InotifyRead appends what is queued, up to one buffer full, and tells whether there may be more.
func InotifyRead(fd int, buf []byte, events []InotifyEvent) (_ []InotifyEvent, more bool, err error) {
	n, err := callInt("read", func() (int, error) { return unix.Read(fd, buf) })
	if errors.Is(err, unix.EAGAIN) { // nothing is queued
		return events, false, nil
	}
	if err != nil {
		return events, false, err
	}
	for b := buf[:n]; len(b) >= unix.SizeofInotifyEvent; {
		size := unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(b[12:]))
		if size > len(b) {
			break
		}
		events = append(events, InotifyEvent{
			Watch: int32(binary.NativeEndian.Uint32(b)),
			Mask:  binary.NativeEndian.Uint32(b[4:]),
			Name:  cString(b[unix.SizeofInotifyEvent:size]),
			Size:  size,
		})
		b = b[size:]
	}
	return events, true, nil
}

// cString is what is before the first NUL.
func cString(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

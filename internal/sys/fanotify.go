package sys

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// FanotifyEvent is one event of a directory: what name, who did it.
type FanotifyEvent struct {
	Mask uint64
	Dir  string // the directory: file system id and file handle, as DirHandle gives them; "" for FAN_Q_OVERFLOW
	Name string
	PID  int // in our pid namespace; 0 for a process outside it
	// Pidfd is the process's, the receiver's to close; FAN_NOPIDFD when it was reaped, FAN_EPIDFD when none could be made.
	Pidfd int
	Size  int // in the bytes that reading it took
}

// FanotifyInit is fanotify_init(2) for events that name the directory, the name in it and, by a pidfd, the process: Linux
// 5.17, CAP_SYS_ADMIN. Not blocking.
func FanotifyInit() (int, error) {
	return callInt("fanotify_init", func() (int, error) {
		return unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_CLOEXEC|unix.FAN_NONBLOCK|
			unix.FAN_REPORT_DFID_NAME|unix.FAN_REPORT_PIDFD, unix.O_RDONLY|unix.O_CLOEXEC)
	})
}

// FanotifyAdd marks the directory that dirfd stands for.
func FanotifyAdd(fd int, mask uint64, dirfd int) error {
	return fanotifyMark(fd, unix.FAN_MARK_ADD, mask, dirfd)
}

// FanotifyRemove takes the mark away.
func FanotifyRemove(fd int, mask uint64, dirfd int) error {
	return fanotifyMark(fd, unix.FAN_MARK_REMOVE, mask, dirfd)
}

func fanotifyMark(fd int, op uint, mask uint64, dirfd int) error {
	return call("fanotify_mark", func() error {
		return unix.FanotifyMark(fd, op|unix.FAN_MARK_ONLYDIR, mask, dirfd, ".")
	})
}

// DirHandle gives what FanotifyEvent.Dir is of a directory.
func DirHandle(dirfd int) (string, error) {
	var st unix.Statfs_t
	if err := call("fstatfs", func() error { return unix.Fstatfs(dirfd, &st) }); err != nil {
		return "", err
	}
	handle, err := FileHandle(dirfd, 0)
	if err != nil {
		return "", err
	}
	id := binary.NativeEndian.AppendUint32(nil, uint32(st.Fsid.Val[0]))
	id = binary.NativeEndian.AppendUint32(id, uint32(st.Fsid.Val[1]))
	return string(id) + handle, nil
}

var errFanotify = errors.New("malformed fanotify event")

// FanotifyQueued is how much is queued: FIONREAD. Some kernels count the bytes of each event (seen on Linux 6.1 and 6.12), some
// FanotifyMetadata bytes for each (6.18).
func FanotifyQueued(fd int) (int, error) {
	return callInt("ioctl FIONREAD", func() (int, error) { return unix.IoctlGetInt(fd, unix.TIOCINQ) }) // its other name
}

// FanotifyRead appends what is queued, up to one buffer full, and tells whether there may be more. Also with an error there can
// be events, with descriptors.
func FanotifyRead(fd int, buf []byte, events []FanotifyEvent) (_ []FanotifyEvent, more bool, err error) {
	n, err := callInt("read", func() (int, error) { return unix.Read(fd, buf) })
	if errors.Is(err, unix.EAGAIN) { // nothing is queued
		return events, false, nil
	}
	if err != nil {
		return events, false, err
	}
	events, err = parseFanotify(buf[:n], events)
	return events, err == nil, err
}

// FanotifyMetadata is the size of struct fanotify_event_metadata, the least that an event takes.
const FanotifyMetadata = 24

// Layout of fanotify(7)'s structures.
const (
	fanMetadata   = FanotifyMetadata
	fanInfoHeader = 4 // struct fanotify_event_info_header
	fanFSID       = 8
	fanHandle     = 8 // struct file_handle without its bytes
)

// parseFanotify appends what is in b. An event with something malformed in it is appended, too, for its descriptor.
func parseFanotify(b []byte, events []FanotifyEvent) (_ []FanotifyEvent, err error) {
	order := binary.NativeEndian
	for len(b) > 0 {
		if len(b) < fanMetadata {
			return events, errFanotify
		}
		size, head := int(order.Uint32(b)), int(order.Uint16(b[6:]))
		if size < head || head < fanMetadata || size > len(b) {
			return events, errFanotify
		}
		e := FanotifyEvent{Mask: order.Uint64(b[8:]), PID: int(int32(order.Uint32(b[20:]))), Pidfd: unix.FAN_EPIDFD, Size: size}
		for info := b[head:size]; len(info) > 0; {
			if len(info) < fanInfoHeader {
				err = errFanotify
				break
			}
			n := int(order.Uint16(info[2:]))
			if n < fanInfoHeader || n > len(info) {
				err = errFanotify
				break
			}
			if infoErr := e.info(info[0], info[fanInfoHeader:n]); infoErr != nil {
				err = infoErr
			}
			info = info[n:]
		}
		events = append(events, e)
		b = b[size:]
	}
	return events, err
}

// info takes one information record into the event.
func (e *FanotifyEvent) info(kind uint8, b []byte) error {
	order := binary.NativeEndian
	switch kind {
	case unix.FAN_EVENT_INFO_TYPE_PIDFD:
		if len(b) < 4 {
			return errFanotify
		}
		e.Pidfd = max(int(int32(order.Uint32(b))), unix.FAN_EPIDFD)
	case unix.FAN_EVENT_INFO_TYPE_DFID_NAME:
		if len(b) < fanFSID+fanHandle {
			return errFanotify
		}
		end := fanFSID + fanHandle + int(order.Uint32(b[fanFSID:]))
		if end > len(b) || end < fanFSID+fanHandle {
			return errFanotify
		}
		// Type and bytes of the handle, as FileHandle gives them; its length is told by the string's.
		e.Dir = string(b[:fanFSID]) + string(binary.LittleEndian.AppendUint32(nil, order.Uint32(b[fanFSID+4:]))) +
			string(b[fanFSID+fanHandle:end])
		e.Name = cString(b[end:])
	}
	return nil
}

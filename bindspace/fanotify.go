package bindspace

import (
	"errors"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/pidfd"
)

const fanotifyMask = unix.FAN_CREATE | unix.FAN_MOVED_TO

// mark has fanotify tell who makes names in d. Where it cannot, inotify tells the names.
func (d *Dir) mark() {
	if d.w.fanotify < 0 {
		return
	}
	fd, err := sys.OpenDir(unix.AT_FDCWD, d.path)
	if err != nil {
		return
	}
	handle, err := sys.DirHandle(fd)
	if err == nil {
		err = sys.FanotifyAdd(d.w.fanotify, fanotifyMask, fd)
	}
	if err != nil { // a filesystem without handles or without an id
		_ = sys.Close(fd)
		return
	}
	d.fd, d.handle = fd, handle
	d.w.marks[handle] = append(d.w.marks[handle], d)
}

// closeMark takes the mark away, unless another Dir is the same directory.
func (d *Dir) closeMark() {
	if d.fd < 0 {
		return
	}
	if rest := without(d.w.marks[d.handle], d); len(rest) > 0 {
		d.w.marks[d.handle] = rest
	} else {
		delete(d.w.marks, d.handle)
		_ = sys.FanotifyRemove(d.w.fanotify, fanotifyMask, d.fd) // ENOENT: it went with the directory
	}
	_ = sys.Close(d.fd)
	d.fd, d.handle = -1, ""
}

// answerFanotify takes an event over, with its descriptor.
func (w *Watcher) answerFanotify(e sys.FanotifyEvent) {
	if e.Mask&unix.FAN_Q_OVERFLOW != 0 {
		for _, marked := range w.marks {
			for _, d := range marked {
				d.askRescan()
			}
		}
	}
	for _, d := range w.marks[e.Dir] {
		event := Event{Dir: d, Op: Appeared, Name: e.Name}
		if e.Mask&unix.FAN_CREATE != 0 { // who moves a name has not made the file
			known := e.Pidfd == unix.FAN_NOPIDFD
			if e.Pidfd >= 0 {
				event.Process, known = process(e.Pidfd)
			}
			if known {
				event.PID = e.PID
			}
		}
		w.reader.events = append(w.reader.events, event)
	}
	if e.Pidfd >= 0 {
		_ = sys.Close(e.Pidfd)
	}
}

// process gives a Process of its own for an event's descriptor, since several Dirs can be one directory. Nil but known is one that was
// reaped: Linux 6.18 has a descriptor of the dead.
func process(fd int) (p *pidfd.Process, known bool) {
	dup, err := sys.Duplicate(fd)
	if err != nil { // the limit on descriptors
		return nil, false
	}
	if p, err = pidfd.FromFD(dup); err != nil {
		_ = sys.Close(dup)
		return nil, errors.Is(err, pidfd.ErrExited)
	}
	if p.PID() <= 0 {
		_ = p.Close()
		return nil, true
	}
	return p, true
}

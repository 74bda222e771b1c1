package bindspace

import (
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
	fd, err := sys.OpenDir(unix.AT_FDCWD, d.key.path)
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

// readFanotify yields what fanotify has queued.
func (w *Watcher) readFanotify(yield func(Event)) error {
	for more := w.fanotify >= 0; more; {
		var err error
		w.fanotifed, more, err = sys.FanotifyRead(w.fanotify, w.buf, w.fanotifed[:0])
		for _, e := range w.fanotifed {
			w.answerFanotify(e, yield)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (w *Watcher) answerFanotify(e sys.FanotifyEvent, yield func(Event)) {
	dirs := w.marks[e.Dir]
	if e.Mask&unix.FAN_Q_OVERFLOW != 0 {
		for _, marked := range w.marks {
			for _, d := range marked {
				yield(Event{Dir: d, Op: Rescan})
			}
		}
	}
	for _, d := range dirs {
		event := Event{Dir: d, Op: Appeared, Name: e.Name, Gone: e.Pidfd < 0}
		if e.Pidfd >= 0 {
			event.Process, event.Gone = process(e.Pidfd)
		}
		yield(event)
	}
	if e.Pidfd >= 0 {
		_ = sys.Close(e.Pidfd)
	}
}

// process gives a Process of its own for an event's descriptor.
func process(fd int) (p *pidfd.Process, gone bool) {
	dup, err := sys.Duplicate(fd)
	if err != nil {
		return nil, false
	}
	if p, err = pidfd.FromFD(dup); err != nil {
		_ = sys.Close(dup)
		return nil, true
	}
	return p, false
}

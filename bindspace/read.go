package bindspace

import (
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

// Read yields all that has happened since the last time. In a directory where fanotify tells the binders, Appeared is its
// word, else that of inotify.
func (w *Watcher) Read(yield func(Event)) error {
	if err := w.readFanotify(yield); err != nil {
		return err
	}
	for more := true; more; {
		var err error
		w.inotified, more, err = sys.InotifyRead(w.inotify, w.buf, w.inotified[:0])
		if err != nil {
			return err
		}
		for _, e := range w.inotified {
			w.answerInotify(e, yield)
		}
	}
	for _, d := range w.rescans {
		if w.dirs[d.key] == d {
			yield(Event{Dir: d, Op: Rescan})
		}
	}
	w.rescans = w.rescans[:0]
	return nil
}

func (w *Watcher) answerInotify(e sys.InotifyEvent, yield func(Event)) {
	if e.Mask&unix.IN_Q_OVERFLOW != 0 {
		for _, d := range w.dirs {
			w.rearm(d) // what is watched may be gone, too
		}
		return
	}
	n := w.nodes[e.Watch]
	if n == nil {
		return
	}
	if e.Mask&unix.IN_IGNORED != 0 { // the directory is gone, and the watch with it
		delete(w.nodes, e.Watch)
		for _, d := range slices.Concat(n.dirs, n.parents) {
			w.rearm(d)
		}
		return
	}
	for _, d := range n.parents {
		if d.next == e.Name {
			w.rearm(d)
		}
	}
	for _, d := range n.dirs {
		switch {
		case e.Mask&unix.IN_ISDIR != 0:
		case e.Mask&(unix.IN_CREATE|unix.IN_MOVED_TO) != 0 && d.fd < 0:
			yield(Event{Dir: d, Op: Appeared, Name: e.Name})
		case e.Mask&unix.IN_DELETE != 0:
			yield(Event{Dir: d, Op: Vanished, Name: e.Name})
		}
	}
}

// rearm looks anew at what d is, and asks for a Rescan.
func (w *Watcher) rearm(d *Dir) {
	d.disarm()
	// An error here is the limit on watches, or of memory: the directory is not seen until something above it changes.
	_ = d.arm()
	if !slices.Contains(w.rescans, d) {
		w.rescans = append(w.rescans, d)
	}
}

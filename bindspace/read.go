package bindspace

import (
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
)

const (
	// batchMost is how many Events are yielded at once: each may hold a descriptor.
	batchMost = 256
	// bufferSize has room for about as many: an event of fanotify takes 64 bytes or more here, each with a descriptor that
	// is made when it is read. It is more than any one event takes.
	bufferSize = batchMost * 64
)

// reader is what Read works with, and only Read.
type reader struct {
	buf       []byte
	inotified []sys.InotifyEvent
	fanotifed []sys.FanotifyEvent
	events    []Event
	// whole tells that fanotify's count of what is queued is of whole events, and not of their metadata alone.
	whole bool
}

// Read yields what was queued when it was called, in batches of at most 256 Events. What is queued meanwhile is left for the
// next call, most of it; so Read ends, however fast names are made. It is for one goroutine at a time. The slice is valid
// during the call of yield only; each Event's Process is the receiver's to Close.
//
// In a directory where fanotify tells who makes names, Appeared is its word, else that of inotify. These are two queues: a
// Vanished comes after every Appeared that preceded it, but the name may have been made again since, and that have been told
// already. A Rescan comes last. A Dir may have been released when its Event is yielded.
//
// os.ErrClosed after Close. After any other error what was read has been yielded, and Read may be called again.
func (w *Watcher) Read(yield func([]Event)) error {
	inotified, fanotified, err := w.begin()
	if err != nil {
		return err
	}
	defer w.end()
	r := &w.reader
	for fanotified > 0 {
		var more bool
		r.fanotifed, more, err = sys.FanotifyRead(w.fanotify, r.buf, r.fanotifed[:0])
		fanotified -= w.counted(fanotified)
		if !w.answer(yield, func() {
			for _, e := range r.fanotifed {
				w.answerFanotify(e)
			}
		}) {
			return os.ErrClosed
		}
		if err != nil {
			return err
		}
		if !more {
			break
		}
	}
	// Exactly what was counted, never more: a removal queued after that may be of a name whose making is not read yet.
	for inotified > 0 {
		var more bool
		r.inotified, more, err = sys.InotifyRead(w.inotify, r.buf[:min(len(r.buf), inotified)], r.inotified[:0])
		if err != nil {
			return err
		}
		if !w.answer(yield, func() {
			for _, e := range r.inotified {
				inotified -= e.Size
				w.answerInotify(e)
			}
		}) {
			return os.ErrClosed
		}
		if !more {
			break
		}
	}
	if !w.answer(yield, w.takeRescans) {
		return os.ErrClosed
	}
	return nil
}

// counted tells how much of what fanotify had counted was read just now. Until it knows what is counted it takes it for the
// least, so that rather too much is read than too little.
func (w *Watcher) counted(before int) int {
	r := &w.reader
	least, all := len(r.fanotifed)*sys.FanotifyMetadata, 0
	for _, e := range r.fanotifed {
		all += e.Size
	}
	if !r.whole && before > least {
		// What came meanwhile can only have made it more; one event that could not be read may be missing.
		now, err := sys.FanotifyQueued(w.fanotify)
		r.whole = err == nil && now < before-least-sys.FanotifyMetadata
	}
	if r.whole {
		return all
	}
	return least
}

// begin counts what is queued: bytes of inotify, and of fanotify as sys.FanotifyQueued has it. inotify is first, so that the
// making of a name is counted when its removal is.
func (w *Watcher) begin() (inotified, fanotified int, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return 0, 0, os.ErrClosed
	}
	if inotified, err = sys.InotifyQueued(w.inotify); err != nil {
		return 0, 0, err
	}
	if w.fanotify >= 0 {
		if fanotified, err = sys.FanotifyQueued(w.fanotify); err != nil {
			return 0, 0, err
		}
	}
	w.reading, w.busy = true, inotified+fanotified+len(w.rescans) > 0
	return inotified, fanotified, nil
}

// end gives the descriptors back.
func (w *Watcher) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.reading, w.busy = false, false
	if w.closed {
		_ = w.closeFds()
	}
}

// answer has fill make Events of what was read, and yields them. It returns false when the Watcher was closed meanwhile.
func (w *Watcher) answer(yield func([]Event), fill func()) bool {
	r := &w.reader
	r.events = r.events[:0]
	w.mu.Lock()
	closed := w.closed
	fill() // without a Dir to tell it to, it still closes what there is to close
	w.mu.Unlock()
	for batch := range slices.Chunk(r.events, batchMost) {
		yield(batch)
	}
	clear(r.events)
	return !closed
}

func (w *Watcher) answerInotify(e sys.InotifyEvent) {
	if e.Mask&unix.IN_Q_OVERFLOW != 0 {
		for _, d := range w.dirs {
			d.rearm() // what is watched may be gone, too
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
			d.rearm()
		}
		return
	}
	for _, d := range n.parents {
		if d.next == e.Name {
			d.rearm()
		}
	}
	for _, d := range n.dirs {
		event := Event{Dir: d, Name: e.Name}
		switch {
		case e.Mask&unix.IN_ISDIR != 0:
			continue
		case e.Mask&maskMade != 0 && d.fd < 0:
			event.Op = Appeared
		case e.Mask&unix.IN_DELETE != 0:
			event.Op = Vanished
		default:
			continue
		}
		w.reader.events = append(w.reader.events, event)
	}
}

// takeRescans has the Rescans yielded that were asked for.
func (w *Watcher) takeRescans() {
	for _, d := range w.rescans {
		d.rescan = false
		if w.dirs[d.path] == d {
			w.reader.events = append(w.reader.events, Event{Dir: d, Op: Rescan})
		}
	}
	clear(w.rescans)
	w.rescans = w.rescans[:0]
}

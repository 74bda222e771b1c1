package watch

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/reap"
)

// inotify tells when the file of a pending claim appears, and what appears in a bindspace. It is one descriptor in the
// watcher's epoll. Guarded by the Watcher's mu.
type inotify struct {
	fd   int
	dirs map[int32]*watchedDir // by watch descriptor
}

// watchedDir is a directory that is watched for new names. The kernel gives one watch descriptor to one directory,
// under whatever path, so all that look at it share it.
type watchedDir struct {
	wd     int32
	path   string // by which it was watched first
	refs   int
	names  map[string][]*Claim // claims on a name in it
	spaces []*Owner            // owners of which it is a bindspace
}

// A socket file that is bound is created; one that is renamed into place is moved to.
const inotifyMask = unix.IN_CREATE | unix.IN_MOVED_TO

// watchDir begins to watch a directory, or counts one use more. The caller holds w.mu.
func (w *Watcher) watchDir(path string) (*watchedDir, error) {
	wd, err := sys.InotifyAdd(w.ino.fd, path, inotifyMask)
	if err != nil {
		return nil, err
	}
	d := w.ino.dirs[wd]
	if d == nil {
		d = &watchedDir{wd: wd, path: path, names: map[string][]*Claim{}}
		w.ino.dirs[wd] = d
	}
	d.refs++
	return d, nil
}

// unwatchDir gives up one use of a directory. The caller holds w.mu.
func (w *Watcher) unwatchDir(d *watchedDir) {
	if d.refs--; d.refs > 0 || w.ino.dirs[d.wd] != d {
		return
	}
	delete(w.ino.dirs, d.wd)
	_ = sys.InotifyRemove(w.ino.fd, d.wd) // EINVAL: the directory itself is gone
}

// longestEvent is the size of an event with a name of NAME_MAX bytes.
const longestEvent = unix.SizeofInotifyEvent + unix.NAME_MAX + 1

// inotifyBufSize is how much is read at once.
const inotifyBufSize = 64 << 10

// drainInotify reads and answers what is queued by now. What is queued meanwhile is left: whoever makes names faster than
// they can be looked at must not keep the loop from anything else. The loop calls it.
func (w *Watcher) drainInotify() {
	queued, err := sys.InotifyQueued(w.ino.fd)
	if err != nil {
		w.log.Error().Err(err).Msg("look at the queue of inotify")
	}
	for ; queued > 0; queued -= inotifyBufSize - longestEvent { // so much is read at the least
		w.readInotify()
	}
}

// readInotify reads and answers one buffer full of what is queued. The loop calls it.
func (w *Watcher) readInotify() {
	if w.inotifyBuf == nil {
		w.inotifyBuf = make([]byte, inotifyBufSize)
	}
	var err error
	if w.inotifyEvents, _, err = sys.InotifyRead(w.ino.fd, w.inotifyBuf, w.inotifyEvents[:0]); err != nil {
		w.log.Error().Err(err).Msg("read inotify")
		return
	}
	w.answer(w.inotifyEvents)
}

// answer answers inotify events.
func (w *Watcher) answer(events []sys.InotifyEvent) {
	type entry struct {
		watch int32
		name  string
	}
	looked := map[entry]bool{}             // all these events have happened: one look at a name is enough
	appeared := map[*watchedDir][]string{} // in bindspaces
	for _, e := range events {
		if e.Mask&unix.IN_Q_OVERFLOW != 0 {
			w.log.Warn().Msg("inotify queue overflow: looking at all watched directories anew")
			w.rescan()
			continue
		}
		w.mu.Lock()
		d := w.ino.dirs[e.Watch]
		if d == nil {
			w.mu.Unlock()
			continue
		}
		if e.Mask&unix.IN_IGNORED != 0 { // the directory is gone; its claims are looked up by path at their owner's end
			delete(w.ino.dirs, e.Watch)
			w.mu.Unlock()
			continue
		}
		if e.Mask&unix.IN_ISDIR != 0 || reap.IsPrivate(e.Name) || looked[entry{e.Watch, e.Name}] {
			w.mu.Unlock()
			continue
		}
		looked[entry{e.Watch, e.Name}] = true
		claims := slices.Clone(d.names[e.Name])
		if len(d.spaces) > 0 {
			appeared[d] = append(appeared[d], e.Name)
		}
		w.mu.Unlock()
		for _, c := range claims {
			w.identify(c)
		}
	}
	for d, names := range appeared {
		w.mu.Lock()
		owners := slices.Clone(d.spaces)
		w.mu.Unlock()
		for names := range slices.Chunk(names, matchMost) {
			paths := make([]string, 0, len(names))
			for _, name := range names {
				paths = append(paths, strings.TrimSuffix(d.path, "/")+"/"+name)
			}
			w.matchPaths(paths, owners)
		}
	}
}

// rescan does what events that were lost would have led to.
func (w *Watcher) rescan() {
	w.mu.Lock()
	dirs := make([]*watchedDir, 0, len(w.ino.dirs))
	for _, d := range w.ino.dirs {
		dirs = append(dirs, d)
	}
	w.mu.Unlock()
	for _, d := range dirs {
		w.mu.Lock()
		owners := slices.Clone(d.spaces)
		var claims []*Claim
		for _, c := range d.names {
			claims = append(claims, c...)
		}
		w.mu.Unlock()
		for _, c := range claims {
			w.identify(c)
		}
		if len(owners) == 0 {
			continue
		}
		var files []*reap.File
		for f, err := range reap.List(d.path) {
			if err != nil {
				w.log.Warn().Err(err).Str("bindspace", d.path).Msg("rescan")
				continue
			}
			if files = append(files, f); len(files) == matchMost {
				w.match(files, owners, SourceBindspace)
				files = nil
			}
		}
		w.match(files, owners, SourceBindspace)
	}
}

// identify looks at what has the name of a claim now, and makes it the claim's file if it is to be.
func (w *Watcher) identify(c *Claim) {
	f, err := reap.Open(c.path)
	if err != nil { // not there, or not a sock-file: pending
		if exhausted(err) {
			w.remember(c.path, []*Owner{c.owner})
		}
		return
	}
	// A file that is dead is what an earlier life left behind, and the owner is about to replace it: still pending.
	// One that cannot be probed is looked at again at the end.
	state, _ := f.Probe()

	w.mu.Lock()
	o := c.owner
	switch {
	case c.state != armed, o.phase > watching, c.is(f.ID()), c.file == nil && state != reap.StateAlive:
		w.mu.Unlock()
		_ = f.Close()
		return
	case c.file == nil:
		o.setFile(c, f)
		w.mu.Unlock()
		return
	}
	s := c.source
	w.mu.Unlock()
	// Another inode has the name of an identified claim. Only the same owner's supersedes it.
	w.match([]*reap.File{f}, []*Owner{o}, s)
}

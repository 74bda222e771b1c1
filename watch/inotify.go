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

// readInotify reads and answers all that is queued. The loop calls it.
func (w *Watcher) readInotify() {
	if w.inotifyBuf == nil {
		w.inotifyBuf = make([]byte, 64<<10)
	}
	for more := true; more; {
		var err error
		w.inotifyEvents, more, err = sys.InotifyRead(w.ino.fd, w.inotifyBuf, w.inotifyEvents[:0])
		if err != nil {
			w.log.Error().Err(err).Msg("read inotify")
			return
		}
		for _, e := range w.inotifyEvents {
			w.appeared(e)
		}
	}
}

// appeared answers one inotify event.
func (w *Watcher) appeared(e sys.InotifyEvent) {
	if e.Mask&unix.IN_Q_OVERFLOW != 0 {
		w.log.Warn().Msg("inotify queue overflow: looking at all watched directories anew")
		w.rescan()
		return
	}
	w.mu.Lock()
	d := w.ino.dirs[e.Watch]
	if d == nil {
		w.mu.Unlock()
		return
	}
	if e.Mask&unix.IN_IGNORED != 0 { // the directory is gone; its claims are looked up by path at their owner's end
		delete(w.ino.dirs, e.Watch)
		w.mu.Unlock()
		return
	}
	claims, owners := slices.Clone(d.names[e.Name]), slices.Clone(d.spaces)
	path := strings.TrimSuffix(d.path, "/") + "/" + e.Name
	w.mu.Unlock()

	for _, c := range claims {
		w.identify(c)
	}
	if len(owners) > 0 && e.Mask&unix.IN_ISDIR == 0 && !reap.IsPrivate(e.Name) {
		w.matchBindspace(path, owners)
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
		for f, err := range reap.List(d.path) {
			if err != nil {
				w.log.Warn().Err(err).Str("bindspace", d.path).Msg("rescan")
				break
			}
			path := f.Path()
			_ = f.Close()
			w.matchBindspace(path, owners)
		}
	}
}

// identify looks at what has the name of a claim now, and makes it the claim's file if it is to be.
func (w *Watcher) identify(c *Claim) {
	f, err := reap.Open(c.path)
	if err != nil {
		return // not there, or not a sock-file: pending
	}
	// A file that is dead is what an earlier life left behind, and the owner is about to replace it: still pending.
	// One that cannot be probed is looked at again at the end.
	state, _ := f.Probe()

	w.mu.Lock()
	o, process := c.owner, c.owner.process
	switch {
	case state != reap.StateAlive, c.state != armed, o.phase > watching, c.is(f.ID()):
		w.mu.Unlock()
		_ = f.Close()
		return
	case c.file == nil:
		o.setFile(c, f)
		w.mu.Unlock()
		return
	}
	w.mu.Unlock()

	// Another inode has the name of an identified claim. Only the same owner's supersedes it.
	if process == nil {
		_ = f.Close()
		return
	}
	if holds, err := reap.Holds(process, f); err != nil || !holds {
		_ = f.Close()
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if c.state != armed || o.phase > watching {
		_ = f.Close()
		return
	}
	old := c.file
	o.setFile(c, f)
	_ = old.Close()
}

// matchBindspace finds the owner of a sock-file that appeared in a bindspace of some, and claims it for it.
func (w *Watcher) matchBindspace(path string, owners []*Owner) {
	f, err := reap.Open(path)
	if err != nil {
		return // gone again, or not a sock-file
	}
	state, _ := f.Probe()
	o := w.binder(f, owners)
	if o == nil && state == reap.StateAlive {
		state, _ = f.Probe() // its owner may have died since, and that ends its descriptors before it is reported
	}
	if o == nil && state == reap.StateDead {
		o = w.deadBinder(f, owners)
	}
	if o == nil {
		_ = f.Close()
		return
	}
	if _, err := o.ClaimFile(f, SourceBindspace); err != nil {
		_ = f.Close()
	}
}

// binder finds the owner that holds f's socket, the youngest first: it is the most likely to bind something new.
func (w *Watcher) binder(f *reap.File, owners []*Owner) *Owner {
	for _, o := range slices.Backward(owners) {
		w.mu.Lock()
		process, phase := o.process, o.phase
		if phase == prepared && len(o.early) < earlyMost {
			o.early = append(o.early, f.Path())
		}
		w.mu.Unlock()
		if phase != watching || process == nil {
			continue
		}
		if holds, err := reap.Holds(process, f); err == nil && holds {
			return o
		}
	}
	return nil
}

// earlyMost bounds what is remembered of a bindspace for an owner that has no process yet.
const earlyMost = 4096

// deadBinder finds the owner of a sock-file that died before anybody could look. It is the one that is dead by now and
// not yet settled; of several the one whose convention fits. In doubt it is nobody.
func (w *Watcher) deadBinder(f *reap.File, owners []*Owner) *Owner {
	var dying []*Owner
	for _, o := range owners {
		w.mu.Lock()
		process, phase := o.process, o.phase
		w.mu.Unlock()
		if phase != watching || process == nil {
			continue
		}
		if exited, err := process.Exited(); err == nil && exited {
			if o.fits(base(f.Path())) {
				return o
			}
			dying = append(dying, o)
		}
	}
	if len(dying) == 1 {
		return dying[0]
	}
	return nil
}

// fits tells whether the owner's conventions build this name.
func (o *Owner) fits(base string) bool {
	return slices.ContainsFunc(o.opts.Conventions, func(c reap.Convention) bool {
		_, pid, ok := c.Parse(base)
		return ok && pid == o.id.PID
	})
}

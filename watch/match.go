package watch

import (
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

const (
	matchMost     = 512  // files that are matched together: each may hold a descriptor
	unmatchedMost = 4096 // paths that are remembered of one owner
)

// matchPaths finds the owners of sock-files that appeared, and claims them for these.
func (w *Watcher) matchPaths(paths []string, owners []*Owner) {
	var files []*reap.File
	for _, path := range paths {
		f, err := reap.Open(path)
		switch {
		case err == nil:
			files = append(files, f)
		case exhausted(err):
			w.remember(path, owners)
		default: // gone again, or not a sock-file
		}
	}
	w.match(files, owners, SourceBindspace)
}

// match finds out which of the owners bound each of some files, and claims it for that one. It takes the files over.
func (w *Watcher) match(files []*reap.File, owners []*Owner, s Source) {
	var live, lost []*reap.File
	for _, f := range files {
		if state, _ := f.Probe(); state == reap.StateDead {
			lost = append(lost, f)
		} else {
			live = append(live, f)
		}
	}
	// The youngest first: it is the most likely to bind something new.
	var asked, later []*Owner
	var processes []*pidfd.Process
	w.mu.Lock()
	for _, o := range slices.Backward(owners) {
		switch o.phase {
		case prepared:
			later = append(later, o)
		case watching:
			asked, processes = append(asked, o), append(processes, o.process)
		case dead, finished: // what it bound was seen before
		}
	}
	w.mu.Unlock()

	var unmatched []*reap.File
	whose, err := reap.Whose(live, processes)
	for i, f := range live {
		if whose[i] >= 0 {
			asked[whose[i]].take(f, s)
		} else if state, _ := f.Probe(); state == reap.StateDead {
			lost = append(lost, f) // its owner may have died since
		} else {
			unmatched = append(unmatched, f)
		}
	}
	if len(lost)+len(unmatched) == 0 {
		return
	}
	var dying []*Owner
	for i, o := range asked {
		if ending(processes[i], o.id.PID) {
			dying = append(dying, o)
		}
	}
	for _, f := range lost {
		if o := deadBinder(f, dying); o != nil {
			o.take(f, s)
		} else {
			unmatched = append(unmatched, f)
		}
	}
	// Of an owner that is ending the descriptors go before the sockets.
	later = append(later, dying...)
	if err != nil {
		w.log.Warn().Err(err).Msg("look for the owner of a new sock-file; it is looked for again at the owners' end")
		later = append(later, asked...)
	}
	for _, f := range unmatched {
		w.remember(f.Path(), later)
		_ = f.Close()
	}
}

// take claims a file that was found to be the owner's. It takes the file over.
func (o *Owner) take(f *reap.File, s Source) {
	if _, err := o.ClaimFile(f, s); err != nil {
		_ = f.Close()
	}
}

// deadBinder finds the owner of a sock-file that was dead before anybody could look: one of those that are ending, and of these
// the one whose convention fits, or else any. Whichever it was, the file is dead and so is its owner.
func deadBinder(f *reap.File, dying []*Owner) *Owner {
	if i := slices.IndexFunc(dying, func(o *Owner) bool { return o.fits(base(f.Path())) }); i >= 0 {
		return dying[i]
	}
	if len(dying) > 0 {
		return dying[0]
	}
	return nil
}

// ending tells whether a process has ended, or is about to: its sockets are dead before the kernel reports its end.
func ending(p *pidfd.Process, pid int) bool {
	if exiting, err := proc.FS("").Exiting(pid); err == nil && exiting {
		return true // the number is not another's: p is watched, so it was not reaped before it had ended
	}
	exited, err := p.Exited()
	return err == nil && exited
}

// fits tells whether the owner's conventions build this name.
func (o *Owner) fits(base string) bool {
	return o.opts != nil && slices.ContainsFunc(o.opts.Conventions, func(c reap.Convention) bool {
		name, pid, ok := c.Parse(base)
		return ok && (pid == o.id.PID || pid == 0 && name == o.opts.Name)
	})
}

// remember keeps the path of a sock-file that cannot be matched yet, for owners that have no process yet or that are ending.
func (w *Watcher) remember(path string, owners []*Owner) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range owners {
		if o.phase <= watching && len(o.unmatched) < unmatchedMost && !slices.Contains(o.unmatched, path) {
			o.unmatched = append(o.unmatched, path)
		}
	}
}

// matchUnmatched tries again what could not be matched with the owner before. The loop calls it.
func (o *Owner) matchUnmatched() {
	o.w.mu.Lock()
	paths, owners := o.unmatched, []*Owner{o}
	o.unmatched = nil
	if len(paths) > 0 {
		for _, d := range o.spaces { // it may still be another's
			owners = append(owners, d.spaces...)
		}
	}
	o.w.mu.Unlock()
	for paths := range slices.Chunk(paths, matchMost) {
		o.w.matchPaths(paths, owners)
	}
}

// exhausted tells whether an error is for want of something that others may give back.
func exhausted(err error) bool {
	return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM)
}

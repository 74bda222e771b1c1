package watch

import (
	"fmt"
	"os"
	"slices"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// ownerOf gives the Owner of a process that was found to bind something, and makes one if there is none. root is the owner on whose account it
// was found; kin is whether it descends from that. The error is ErrReleased where that was released meanwhile: nothing is to be done for it
// any more.
func (w *Watcher) ownerOf(id pidfd.Identity, root *Owner, kin bool) (*Owner, error) {
	w.deriving.Lock() // two ways to the same process may lead here at the same time
	defer w.deriving.Unlock()
	w.mu.Lock()
	o := w.byPID[id.PID]
	found, over := o != nil && o.id == id && !o.released, root != nil && root.released
	w.mu.Unlock()
	switch {
	case over:
		return nil, ErrReleased
	case found:
		return o, nil
	}
	p, err := id.Open()
	if err != nil {
		return nil, err
	}
	if o, err = w.Prepare(OwnerOptions{}); err == nil {
		if root != nil {
			w.mu.Lock()
			o.opener = root.opener
			if kin {
				o.root = root.top()
				o.released = o.root.released // else its release will be this one's, too
			}
			w.mu.Unlock()
		}
		if err = o.Attach(p); err != nil {
			_ = o.Release()
		}
	}
	if err != nil {
		_ = p.Close()
		return nil, err
	}
	return o, nil
}

// AddEnded makes an Owner of a process that has ended and was reaped, of which nothing more is to be learnt, as after a restart of the
// program that watched it: its name and its user are what that knew. What is claimed for it is settled at once; its Bindspaces serve the
// Conventions alone.
func (w *Watcher) AddEnded(id pidfd.Identity, comm string, uid uint32, o OwnerOptions) (*Owner, error) {
	owner, err := w.prepareDead(id, uid, nil, o.Tag)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	owner.opener, owner.comm = o.Open, comm
	if len(o.Bindspaces) > 0 {
		owner.opts = &OwnerOptions{Name: o.Name, Bindspaces: o.Bindspaces, Conventions: o.Conventions}
	}
	w.mu.Unlock()
	for _, path := range o.Paths {
		if _, err := owner.Claim(path, SourceExplicit); err != nil {
			_ = owner.Release()
			return nil, err
		}
	}
	w.post(func() { w.settle(owner, owner.guess(), owner.end.at) })
	return owner, nil
}

// addDead is AddEnded without options: something is about to be claimed for it.
func (w *Watcher) addDead(id pidfd.Identity, uid uint32, root *Owner) (*Owner, error) {
	return w.prepareDead(id, uid, root, nil)
}

func (w *Watcher) prepareDead(id pidfd.Identity, uid uint32, root *Owner, tag any) (*Owner, error) {
	o, err := w.Prepare(OwnerOptions{Tag: tag})
	if err != nil {
		return nil, fmt.Errorf("process %d, which is gone: %w", id.PID, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	o.id, o.uid, o.phase, o.root = id, uid, dead, root
	o.end = &death{at: now(), exit: pidfd.Exit{Reason: "it was gone before it was watched"}}
	o.exited.fire()
	return o, nil
}

// AddBindspace watches a directory for sock-files of whoever makes them, of any user: each is claimed for the process that made it or that
// has its socket open, those included that are there already. What is dead and nobody's is removed; what was so before, if sweep says so.
// The Owner has no process; Release ends it. open is as in OwnerOptions.
func (w *Watcher) AddBindspace(dir string, sweep bool, open func(path string) (*reap.File, error)) (*Owner, error) {
	o, err := w.Prepare(OwnerOptions{Bindspaces: []string{dir}, Open: open})
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	o.everyone, o.sweeps, o.phase = true, sweep, watching
	w.mu.Unlock()
	o.Rescan()
	return o, nil
}

// top is the owner that somebody asked to be watched, in whose tree o was found. The caller holds w.mu.
func (o *Owner) top() *Owner {
	if o.root != nil {
		return o.root
	}
	return o
}

// rootOf tells on which owner's account a process is watched: of that which it is or descends from (kin), else of one of the same user.
// nil is none; this process itself is watched by nobody, for it cannot act when it is dead. The error is that the process is gone.
func (w *Watcher) rootOf(p *pidfd.Process, id pidfd.Identity, owners []*Owner) (root *Owner, kin bool, err error) {
	if id.PID == os.Getpid() {
		return nil, false, nil
	}
	w.mu.Lock()
	if o := w.byPID[id.PID]; o != nil && o.id == id && slices.Contains(owners, o.top()) {
		root = o.top()
	}
	w.mu.Unlock()
	if root != nil {
		return root, true, nil
	}
	info, err := p.Info()
	if err != nil {
		return nil, false, err
	}
	if root := w.above(info.PPID, owners); root != nil {
		return root, true, nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range slices.Backward(owners) {
		if o.expects() && !o.everyone && o.uid == info.EUID {
			return o, false, nil
		}
	}
	for _, o := range owners {
		if o.everyone && !o.released {
			return o, false, nil
		}
	}
	return nil, false, nil
}

// deepest bounds the way up a tree that changes while it is climbed.
const deepest = 256

// above finds the one of some owners that the process with a pid is or descends from.
func (w *Watcher) above(pid int, owners []*Owner) *Owner {
	for range deepest {
		if pid <= 0 {
			return nil
		}
		w.mu.Lock()
		if o := w.byPID[pid]; o != nil && o.phase <= ending {
			if top := o.top(); slices.Contains(owners, top) {
				w.mu.Unlock()
				return top
			}
		}
		w.mu.Unlock()
		if pid == os.Getpid() {
			return w.adopter(owners)
		}
		stat, err := proc.FS("").Stat(pid)
		if err != nil {
			return nil
		}
		pid = stat.PPID
	}
	return nil
}

// adopter is the one of some owners whose tree an orphan counts to that has become a child of this process: the youngest. Where this
// process adopts no orphans its children are its own.
func (w *Watcher) adopter(owners []*Owner) *Owner {
	if !sys.IsSubreaper() {
		return nil
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, o := range slices.Backward(owners) {
		if o.expects() && !o.everyone {
			return o
		}
	}
	return nil
}

// roots are the owners that somebody asked to be watched.
func (w *Watcher) roots() []*Owner {
	w.mu.Lock()
	defer w.mu.Unlock()
	var roots []*Owner
	for o := range w.owners {
		if o.root == nil {
			roots = append(roots, o)
		}
	}
	return roots
}

// SettleEnded waits until all is settled that can be by now: the claims of every owner whose process has ended, those included that nobody
// added and that were found to have made or reported a sock-file; and what was handed on to a holder that has ended. It waits for no
// process that lives, and for a socket that lives on no longer than reap.Ladder goes.
func (w *Watcher) SettleEnded() {
	w.catchUp()
	done := make(chan struct{})
	if w.post(func() { w.settling = append(w.settling, done) }) {
		<-done
	}
}

// tellSettled answers SettleEnded. The loop calls it when it has answered all that has happened.
func (w *Watcher) tellSettled() {
	if len(w.settling) == 0 || !w.quiet() {
		return
	}
	w.retryAll(w.unseen.all()) // who was about to end as it was looked for, and is watched by nobody, may have ended
	for _, done := range w.settling {
		close(done)
	}
	w.settling = nil
}

// quiet tells whether nothing more is to be settled before another process ends.
func (w *Watcher) quiet() bool {
	if len(w.holders.searching)+len(w.holders.waiting) > 0 || !w.elsewhere.quiet() {
		return false
	}
	for _, c := range w.retries {
		if c.later.step <= len(reap.Ladder) {
			return false
		}
	}
	for _, h := range w.holders.byIdentity {
		if exited, err := h.process.Exited(); exited && err == nil {
			return false
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	for o := range w.owners {
		ended := o.phase == ending || o.phase == dead && o.open > 0
		if !ended && o.phase == watching && o.process != nil {
			ended, _ = o.process.Exited()
		}
		if ended {
			return false
		}
	}
	return true
}

// descends tells whether a process is below this one.
func descends(pid int) bool {
	for range deepest {
		stat, err := proc.FS("").Stat(pid)
		if err != nil || stat.PPID <= 0 {
			return false
		}
		if pid = stat.PPID; pid == os.Getpid() {
			return true
		}
	}
	return false
}

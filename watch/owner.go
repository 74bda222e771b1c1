package watch

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sockwatch/sockwatch/internal/proc"
	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// OwnerOptions says what an owner is expected to bind. The zero value expects nothing: claims can be made later.
type OwnerOptions struct {
	// Name is what Conventions build their {name} from.
	Name string
	// Paths are claimed as if by Owner.Claim with SourceExplicit. They need not exist.
	Paths []string
	// Bindspaces are directories in which every new sock-file is claimed for the process that made it, when that descends from
	// the owner, or else is of the owner's user: such a process becomes an Owner itself. They are created (mode 0700)
	// when missing, and watched again when they are removed and made anew.
	Bindspaces []string
	// Conventions are tried in the Bindspaces when the owner is dead, after everything that is known better.
	Conventions []reap.Convention
	// Open opens the sock-files of this owner and of its tree, where that is not reap.Open: with another user's rights, or below
	// another root directory. It must give an absolute path's File that path. Then Bindspaces are not created.
	Open func(path string) (*reap.File, error)
	// Linger keeps the Bindspaces after the owner's end, for descendants that outlive it: until Release or Close.
	Linger bool
	// Tag is the caller's own, for Owner.Tag.
	Tag any
}

// Owner is a process whose sock-files are removed at its end. Safe for concurrent use.
type Owner struct {
	w    *Watcher
	tag  any
	opts *OwnerOptions // nil when there is nothing but claims

	// Guarded by w.mu. process and token are written before the loop knows the owner and by the loop.
	id        pidfd.Identity
	comm      string
	process   *pidfd.Process // nil before Attach and once there is nothing more to learn from it
	token     uint64
	phase     phase
	end       *death // nil while it lives
	claims    []*Claim
	index     *claimIndex // for owners with many claims
	open      int         // claims without an outcome
	uid       uint32      // effective, when it was attached
	checked   int32       // which of the claims checkOld has looked at
	spaces    []*place
	released  bool
	linger    bool  // keeps them after its end
	everyone  bool  // it has no process: its bindspaces are everybody's
	sweeps    bool  // and what was dead there before is removed
	rematch   bool  // what is unmatched is about to be tried again, for there will be no end at which it would be
	rematches uint8 // how often that was in vain
	opener    func(path string) (*reap.File, error)
	since     time.Time // when it was prepared, by the clock of files
	cgroup    string    // for the Policy
	// Sock-files that appeared and could not be matched with the owner yet: before Attach, or for want of descriptors.
	unmatched []string

	root *Owner                 // in whose tree it was found; nil for one that was added
	kept map[string]reap.Result // latest outcomes of those found in its tree whose files are still there, by path

	exited  latch
	settled latch
}

// phase is how far an owner has come.
type phase uint8

const (
	prepared phase = iota // no process yet
	watching
	ending   // its process has ended; what was made before that is still being looked at
	dead     // claims are being settled
	finished // nothing is left to do
)

// death is the end of a process.
type death struct {
	at   time.Time
	exit pidfd.Exit // as far as it is known
}

// itsEnd is the process's end, or nothing as long as it lives. The caller holds w.mu, or is the loop.
func (o *Owner) itsEnd() death {
	if o.end == nil {
		return death{}
	}
	return *o.end
}

// openFile opens a path as it is opened for the owner.
func (o *Owner) openFile(path string) (*reap.File, error) {
	if o.opener != nil {
		return o.opener(path)
	}
	return reap.Open(path)
}

// expects tells whether something may still be made on the owner's account. The caller holds w.mu.
func (o *Owner) expects() bool {
	return o.phase == watching || o.phase == ending || o.phase == dead && o.linger && !o.released
}

// Add watches a process. It takes p over on success and leaves it with the caller on error. A process that has ended
// already is treated like one that ends now.
//
// Sock-files that the process has bound before are not looked for: see [Owner.Snapshot]. What descendants of it have in the Bindspaces
// already is.
//
// Errors: ErrLimit, ErrClosed; pidfd.ErrExited for a handle made after the process was reaped, of which nothing is known.
func (w *Watcher) Add(p *pidfd.Process, o OwnerOptions) (*Owner, error) {
	owner, err := w.Prepare(o)
	if err != nil {
		return nil, err
	}
	pid := p.PID()
	if err := owner.Attach(p); err != nil {
		_ = owner.Release()
		return nil, err
	}
	// Whoever it starts from here on is seen to bind.
	if len(o.Bindspaces) > 0 {
		if children, err := proc.FS("").Children(pid); err != nil || len(children) > 0 {
			owner.Rescan()
		}
	}
	return owner, nil
}

// Rescan has all looked at that is in the owner's Bindspaces, and does not wait for that: for whoever adds a process that was watched before,
// and may have bound something since.
func (o *Owner) Rescan() {
	w := o.w
	w.mu.Lock()
	var places []*place
	for _, p := range o.spaces {
		if !p.rescan { // else it is about to be
			p.rescan = true
			places = append(places, p)
		}
	}
	w.mu.Unlock()
	w.intake.wake(func() {
		for _, p := range places {
			w.rescan(p)
		}
	})
}

// Prepare makes an Owner whose process does not exist yet, for whoever is about to start it: its claims and bindspaces
// are armed, so that nothing is missed between the start of the process and Attach. Release it if the start fails.
func (w *Watcher) Prepare(o OwnerOptions) (*Owner, error) {
	owner := &Owner{w: w, tag: o.Tag, since: sys.FileTime()}
	if len(o.Bindspaces) > 0 {
		owner.opts = &OwnerOptions{Name: o.Name, Conventions: slices.Clone(o.Conventions)}
		owner.linger = o.Linger
	}
	owner.opener = o.Open
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil, ErrClosed
	}
	w.owners[owner] = struct{}{}
	w.mu.Unlock()

	for _, dir := range o.Bindspaces {
		if err := owner.watchBindspace(dir); err != nil {
			_ = owner.Release()
			return nil, err
		}
	}
	for _, path := range o.Paths {
		if _, err := owner.Claim(path, SourceExplicit); err != nil {
			_ = owner.Release()
			return nil, err
		}
	}
	return owner, nil
}

func (o *Owner) watchBindspace(dir string) error {
	dir, err := absolute(dir)
	if err != nil {
		return fmt.Errorf("bindspace %s: %w", dir, err)
	}
	w := o.w
	watch := w.spaces.WatchSpace
	if o.opener != nil { // whoever it is opened for may not be lent our right to make it
		watch = w.spaces.WatchParent
	}
	d, err := watch(dir)
	if err != nil {
		return limit(fmt.Errorf("bindspace: %w", err))
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		d.Release()
		return ErrClosed
	}
	p := w.use(d)
	if slices.Contains(o.spaces, p) {
		w.leave(p)
		return nil
	}
	p.owners = append(p.owners, o)
	o.spaces = append(o.spaces, p)
	o.opts.Bindspaces = append(o.opts.Bindspaces, dir)
	return nil
}

// Attach gives a prepared Owner its process. It takes p over on success and leaves it with the caller on error.
func (o *Owner) Attach(p *pidfd.Process) error {
	id, err := p.Identity()
	if err != nil {
		return fmt.Errorf("identify the owner: %w", err)
	}
	info, _ := p.Info() // a process that is reaped by now has no name any more

	w := o.w
	var cgroup string
	if ask := w.policy.Cgroup; ask != nil {
		cgroup = ask(id.PID)
		if exited, err := p.Exited(); exited || err != nil { // the number may have been another's
			cgroup = ""
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.closed:
		return ErrClosed
	case o.released:
		return ErrReleased
	case o.phase != prepared:
		return errors.New("owner has a process already")
	}
	o.process, o.id, o.comm, o.uid, o.cgroup, o.phase = p, id, info.Comm, info.EUID, cgroup, watching
	if o.token, err = w.watchTarget(p.Fd(), o); err != nil {
		o.process, o.id, o.phase = nil, pidfd.Identity{}, prepared // nothing is said of the process by the end of this owner
		return limit(fmt.Errorf("watch process %s: %w", id, err))
	}
	w.byPID[id.PID] = o
	for _, c := range o.claims {
		w.decide(c)
		w.emitClaim(c)
	}
	o.changed()
	if len(o.unmatched)+len(o.spaces) > 0 { // and what is being looked at just now may be remembered for it
		w.intake.wake(o.matchUnmatched)
	}
	return nil
}

// Snapshot claims every sock-file whose socket the owner holds at this moment: see reap.Held for what that needs and
// for its errors. It tells how many claims are new.
func (o *Owner) Snapshot() (added int, err error) {
	o.w.mu.Lock()
	p, dirs := o.process, []string(nil)
	if o.opts != nil {
		dirs = o.opts.Bindspaces
	}
	o.w.mu.Unlock()
	if p == nil {
		return 0, pidfd.ErrExited
	}
	files, err := reap.Held(p, dirs...)
	for _, f := range files {
		c, isNew, claimErr := o.claimFile(f, SourceSnapshot, evidenceSeen)
		if claimErr != nil {
			_ = f.Close()
			err = errors.Join(err, claimErr)
		} else if c != nil && isNew {
			added++
		}
	}
	return added, err
}

// Owners are all that are watched at this moment, in no order: those that were added, and those that were found to have bound
// something in a bindspace or reported so.
func (w *Watcher) Owners() []*Owner {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.owners))
}

// Root is the owner in whose process tree this one was found; nil for one that was added, or is not below any.
func (o *Owner) Root() *Owner {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	return o.root
}

// Tag is that of the OwnerOptions; nil for one that was found.
func (o *Owner) Tag() any { return o.tag }

// Ended tells whether the process has ended and there is nothing left to settle, or the owner was released.
func (o *Owner) Ended() bool {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	return o.phase == finished || o.released
}

// UID is the process's effective user when it was attached.
func (o *Owner) UID() uint32 {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	return o.uid
}

// Comm is the process's name when it was last looked at: at its start, and at its end.
func (o *Owner) Comm() string {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	return o.comm
}

// Claims are the owner's claims, in the order in which they were made.
func (o *Owner) Claims() []*Claim {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(o.claims), func(c *Claim) bool { return c.state == withdrawn })
}

// Identity is the identity of the process; zero before Attach.
func (o *Owner) Identity() pidfd.Identity {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	return o.id
}

// Exited is closed when the process has ended.
func (o *Owner) Exited() <-chan struct{} {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	return o.exited.wait()
}

// Settled is closed when the process has ended and every claim has its first outcome. A claim that is handed on to a
// holder has one (alive, holder) and lives on under the holder; a second Event tells its end. It is closed, too, when
// the Owner is released or the Watcher closed. A claim made after all that is settled at once; ask for the channel
// again to wait for it.
func (o *Owner) Settled() <-chan struct{} {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	return o.settled.wait()
}

// Exit tells how the process ended, as far as it is known by now.
func (o *Owner) Exit() pidfd.Exit {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	return o.itsEnd().exit
}

// Results gives the latest outcome of each claim that has one, in the order in which the claims were made; then, by path, what is kept
// of the processes that were found in the owner's tree.
func (o *Owner) Results() []reap.Result {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	var results []reap.Result
	for _, c := range o.claims {
		if c.result != nil {
			results = append(results, c.result.Result)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(o.kept)) {
		results = append(results, o.kept[path])
	}
	return results
}

// Release ends watching the owner, and those found in its tree, and keeps their files, as far as removal has not begun. It
// returns nil; a second call does nothing.
func (o *Owner) Release() error {
	w := o.w
	w.mu.Lock()
	defer w.mu.Unlock()
	released := []*Owner{o}
	for other := range w.owners {
		if other.root == o {
			released = append(released, other)
		}
	}
	for _, o := range released {
		o.released = true
		for _, c := range o.claims {
			c.withdraw()
		}
	}
	if !w.closed {
		w.tasks = append(w.tasks, func() {
			w.mu.Lock()
			defer w.mu.Unlock()
			for _, o := range released {
				o.finish()
			}
		})
		w.wakeLoop()
	}
	return nil
}

// finish gives up everything the owner has but its record. The caller holds w.mu and is the loop, or the loop has ended.
func (o *Owner) finish() {
	if o.phase == finished {
		return
	}
	o.phase = finished
	for _, c := range o.claims {
		c.discard()
	}
	o.leaveSpaces()
	o.forget()
	o.leavePID()
	o.exited.fire()
	o.settled.fire()
	delete(o.w.owners, o)
	o.changed()
}

// leavePID leaves the process, if it lives on, to another owner that it had before this one was added. The caller holds w.mu.
func (o *Owner) leavePID() {
	w := o.w
	if w.byPID[o.id.PID] != o {
		return
	}
	delete(w.byPID, o.id.PID)
	if !o.released {
		return
	}
	for other := range w.owners {
		if other.id == o.id && other.phase == watching && !other.released {
			w.byPID[o.id.PID] = other
			return
		}
	}
}

// leaveSpaces ends watching the owner's bindspaces. The caller holds w.mu.
func (o *Owner) leaveSpaces() {
	for _, p := range o.spaces {
		p.owners = slices.DeleteFunc(p.owners, func(other *Owner) bool { return other == o })
		o.w.leave(p)
	}
	o.spaces, o.unmatched = nil, nil
}

// forget gives up the process. The caller holds w.mu.
func (o *Owner) forget() {
	if o.process == nil {
		return
	}
	o.w.unwatchTarget(o.process.Fd(), o.token)
	_ = o.process.Close()
	o.process = nil
}

// latch is a channel that is closed once something has happened, and that is not made before somebody waits. Guarded by w.mu.
type latch struct {
	c     chan struct{}
	fired bool
}

func (l *latch) wait() <-chan struct{} {
	if l.c == nil {
		l.c = make(chan struct{})
		if l.fired {
			close(l.c)
		}
	}
	return l.c
}

func (l *latch) fire() {
	if !l.fired && l.c != nil {
		close(l.c)
	}
	l.fired = true
}

// rearm is for something that is to happen once more.
func (l *latch) rearm() {
	if l.fired {
		*l = latch{}
	}
}

package watch

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// OwnerOptions says what an owner is expected to bind. The zero value expects nothing: claims can be made later.
type OwnerOptions struct {
	// Name is what Conventions build their {name} from.
	Name string
	// Paths are claimed as if by Owner.Claim with SourceExplicit. They need not exist.
	Paths []string
	// Bindspaces are directories in which every new sock-file is claimed that the owner is found to hold, or that is dead
	// before anybody could look while the owner is ending. They are created (mode 0700) when missing.
	Bindspaces []string
	// Conventions are tried in the Bindspaces when the owner is dead, after everything that is known better.
	Conventions []reap.Convention
}

// Owner is a process whose sock-files are removed at its end. Safe for concurrent use.
type Owner struct {
	w    *Watcher
	opts *OwnerOptions // nil when there is nothing but claims

	// Guarded by w.mu. process and token are written before the loop knows the owner and by the loop.
	id      pidfd.Identity
	comm    string
	process *pidfd.Process // nil before Attach and once there is nothing more to learn from it
	token   uint64
	phase   phase
	exit    pidfd.Exit
	exitAt  time.Time
	claims  []*Claim
	index   *claimIndex // for owners with many claims
	open    int         // claims without an outcome
	spaces  []*watchedDir
	// Sock-files that appeared and could not be matched with the owner yet: before Attach, or for want of descriptors.
	unmatched []string

	released bool
	exited   latch
	settled  latch
}

// phase is how far an owner has come.
type phase uint8

const (
	prepared phase = iota // no process yet
	watching
	dead     // its process has ended; claims are being settled
	finished // nothing is left to do
)

// Add watches a process. It takes p over on success and leaves it with the caller on error. A process that has ended
// already is treated like one that ends now.
//
// Sock-files that the process has bound before are not looked for: see [Owner.Snapshot].
//
// Errors: ErrLimit, ErrClosed; pidfd.ErrExited for a handle made after the process was reaped, of which nothing is known.
func (w *Watcher) Add(p *pidfd.Process, o OwnerOptions) (*Owner, error) {
	owner, err := w.Prepare(o)
	if err != nil {
		return nil, err
	}
	if err := owner.Attach(p); err != nil {
		_ = owner.Release()
		return nil, err
	}
	return owner, nil
}

// Prepare makes an Owner whose process does not exist yet, for whoever is about to start it: its claims and bindspaces
// are armed, so that nothing is missed between the start of the process and Attach. Release it if the start fails.
func (w *Watcher) Prepare(o OwnerOptions) (*Owner, error) {
	owner := &Owner{w: w}
	if len(o.Bindspaces) > 0 {
		owner.opts = &OwnerOptions{Name: o.Name, Conventions: slices.Clone(o.Conventions)}
	}
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
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("bindspace: %w", err)
	}
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	if o.w.closed {
		return ErrClosed
	}
	d, err := o.w.watchDir(dir)
	if err != nil {
		return limit(fmt.Errorf("watch bindspace %s: %w", dir, err))
	}
	if slices.Contains(o.spaces, d) {
		o.w.unwatchDir(d)
		return nil
	}
	d.spaces = append(d.spaces, o)
	o.spaces = append(o.spaces, d)
	o.opts.Bindspaces = append(o.opts.Bindspaces, dir)
	return nil
}

// Attach gives a prepared Owner its process. It takes p over on success and leaves it with the caller on error.
func (o *Owner) Attach(p *pidfd.Process) error {
	id, err := p.Identity()
	if err != nil {
		return fmt.Errorf("identify the owner: %w", err)
	}
	var comm string
	if info, err := p.Info(); err == nil { // a process that is reaped by now has no name any more
		comm = info.Comm
	}

	w := o.w
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
	o.process, o.id, o.comm, o.phase = p, id, comm, watching
	if o.token, err = w.watchTarget(p.Fd(), o); err != nil {
		o.process, o.phase = nil, prepared
		return limit(fmt.Errorf("watch process %s: %w", id, err))
	}
	for _, c := range o.claims {
		w.emitClaim(c)
	}
	if len(o.unmatched) > 0 {
		w.tasks = append(w.tasks, o.matchUnmatched)
		w.wakeLoop()
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
		c, isNew, claimErr := o.claimFile(f, SourceSnapshot)
		if claimErr != nil {
			_ = f.Close()
			err = errors.Join(err, claimErr)
		} else if c != nil && isNew {
			added++
		}
	}
	return added, err
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
	return o.exit
}

// Results gives the latest outcome of each claim that has one, in the order in which the claims were made.
func (o *Owner) Results() []reap.Result {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	var results []reap.Result
	for _, c := range o.claims {
		if c.result != nil {
			results = append(results, *c.result)
		}
	}
	return results
}

// Release ends watching the owner and keeps its files, as far as their removal has not begun. It returns nil; a second
// call does nothing.
func (o *Owner) Release() error {
	o.w.mu.Lock()
	defer o.w.mu.Unlock()
	o.released = true
	for _, c := range o.claims {
		c.withdraw()
	}
	if !o.w.closed {
		o.w.tasks = append(o.w.tasks, func() {
			o.w.mu.Lock()
			defer o.w.mu.Unlock()
			o.finish()
		})
		o.w.wakeLoop()
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
	o.exited.fire()
	o.settled.fire()
	delete(o.w.owners, o)
}

// leaveSpaces ends watching the owner's bindspaces. The caller holds w.mu.
func (o *Owner) leaveSpaces() {
	for _, d := range o.spaces {
		d.spaces = slices.DeleteFunc(d.spaces, func(other *Owner) bool { return other == o })
		o.w.unwatchDir(d)
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

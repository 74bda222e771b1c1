package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/records"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// restore takes up the records of the daemon before. Nothing may be found or reported before that is done: a process whose record is still
// to come would be an owner twice, and each would write its record over the other's. For the same reason those that were found
// come first: registered ones have bindspaces, in which more is found.
//
// All are read before the first one is taken up, which costs descriptors. An error is that there are none even for that, or no memory, or that
// it cannot be seen which records there are: to be started again is better than to work without them.
func (d *Daemon) restore() error {
	var found, registered []records.Entry
	entries, err := d.store.All()
	if err != nil {
		return err
	}
	for entry, err := range entries {
		switch {
		case exhausted(err), errors.Is(err, unix.ENOMEM):
			return err
		case errors.Is(err, records.ErrOtherBoot):
			d.log.Debug().Err(err).Msg("a record of an earlier boot")
		case err != nil:
			d.log.Warn().Err(err).Msg("a record is not taken up")
		case entry.Claimant != nil:
			registered = append(registered, entry)
		default:
			found = append(found, entry)
		}
	}
	for _, entry := range append(found, registered...) {
		u := claimantOf(entry.Record)
		for _, dir := range entry.Bindspaces {
			d.leftovers.in(dir, u)
		}
		for _, c := range entry.Claims {
			if c.Root == "" {
				d.leftovers.in(parent(c.Path), u)
			}
		}
		rest := &remainder{Entry: entry}
		if err := d.takeUp(rest); err != nil {
			if !wanting(err) { // else one word for all is enough
				d.log.Error().Err(err).Str("owner", entry.ID).Msg("take up a record; it is kept, and tried again")
			}
			d.untaken.add(rest, err)
		}
	}
	for _, r := range d.owners { // nobody else has them yet
		r.owner.Rescan() // what it has bound while there was no daemon, or one that has not come to keep it
	}
	return nil
}

// claimantOf is with whose rights the files of a record are opened and removed.
func claimantOf(rec records.Record) asuser.User {
	if rec.Claimant != nil {
		return *rec.Claimant
	}
	return userOf(rec.UID)
}

// takeUp takes up what is left of a record. It stops at what it cannot take up now; with a claim that it never will it goes on.
func (d *Daemon) takeUp(rest *remainder) error {
	if rest.r == nil {
		if err := d.takeUpOwner(rest); err != nil {
			return err
		}
	}
	for len(rest.Claims) > 0 {
		c := rest.Claims[0]
		err := d.reserve()
		if err == nil {
			err = rest.r.restoreClaim(d, c, rest.UID, hasExited(rest.r.owner))
		}
		if wanting(err) {
			return err
		}
		if err != nil {
			d.log.Warn().Err(err).Str("path", c.Path).Msg("take up a claim")
		}
		d.untaken.took(rest)
		d.keeper.changed(rest.r.owner) // its record may have the claim twice
	}
	if rest.Claimant == nil && rest.r.ownRoot { // nobody forgets what was found
		d.roots.Go(func() {
			<-rest.r.owner.Settled()
			rest.r.endRoot()
		})
	}
	return nil
}

// takeUpOwner has the process of a record watched.
func (d *Daemon) takeUpOwner(rest *remainder) error {
	rec := rest.Record
	r := &registered{
		id: rest.ID, claimant: claimantOf(rec), name: rec.Name, bindspaces: rec.Bindspaces, root: d.root, lostRoot: true,
	}
	for _, text := range rec.Conventions {
		c, err := reap.ParseConvention(text)
		if err != nil {
			return err
		}
		r.conventions = append(r.conventions, c)
	}
	if err := d.reserve(); err != nil {
		return err
	}
	p, err := rec.Process.Open()
	dead := errors.Is(err, pidfd.ErrExited)
	if err != nil && !dead {
		return err
	}
	options := r.options(d)
	if rec.Claimant == nil {
		options.Tag = nil // it was found
	}
	if r.owner = d.foundMeanwhile(rest); r.owner != nil {
		if p != nil {
			_ = p.Close()
		}
	} else if dead {
		if r.owner, err = d.watcher.AddEnded(rec.Process, rec.Comm, rec.UID, options); err != nil {
			return err
		}
	} else {
		own, is, err := d.rootOf(p)
		if err == nil {
			r.root, r.ownRoot, r.lostRoot = own, is, false
		}
		if err == nil || errors.Is(err, pidfd.ErrExited) {
			r.owner, err = d.watcher.Add(p, options)
		}
		if err != nil {
			r.endRoot()
			_ = p.Close()
			return err
		}
	}
	if rec.Claimant != nil {
		d.mu.Lock()
		d.owners[rest.ID] = r
		d.byUID[r.claimant.UID]++
		d.mu.Unlock()
	}
	d.untaken.watched(rest, r)
	return nil
}

func hasExited(o *watch.Owner) bool {
	select {
	case <-o.Exited():
		return true
	default:
		return false
	}
}

// foundMeanwhile is the owner of a record of what was found, if the process was found once more before the record could be taken up.
func (d *Daemon) foundMeanwhile(rest *remainder) *watch.Owner {
	if rest.Claimant != nil || !d.untaken.has(rest.ID) {
		return nil
	}
	for _, o := range d.watcher.Owners() {
		if o.Identity() != rest.Process || o.Ended() {
			continue
		}
		if id, _ := d.find(o); id == rest.ID {
			return o
		}
	}
	return nil
}

// restoreClaim takes up a claim: the file, whatever its name is by now; and the name, for what the owner binds there next or, with
// the daemon away, has bound. uid is the owner's.
func (r *registered) restoreClaim(d *Daemon, c records.Claim, uid uint32, dead bool) error {
	var source watch.Source
	if err := source.UnmarshalText([]byte(c.Source)); err != nil {
		return err
	}
	if c.Root != "" && r.lostRoot {
		return errOtherWay
	}
	var f *reap.File
	at := absent
	if c.File != "" {
		var err error
		if f, at, err = r.recall(d, c, uid); err != nil {
			return err
		}
	}
	// The claim is on the name, too. Of the dead that means what has it now, unless that is known: as with any claim that is pending at
	// its owner's end.
	if c.Named && (!dead || c.File == "" || at == taken) {
		if _, err := r.owner.Claim(c.Path, source); err != nil {
			closeFile(f)
			return err
		}
		if at == taken {
			closeFile(f)
			return nil
		}
	}
	if f == nil {
		return nil
	}
	if c.Alive {
		f.RememberAlive()
	}
	if _, err := r.owner.ClaimFile(f, source); err != nil {
		_ = f.Close()
		return fmt.Errorf("claim: %w", err)
	}
	return nil
}

// at is what has become of the name of a claim's file.
type at int

const (
	absent at = iota // it may have another one
	there
	taken // by another file
)

// recall finds the file of a claim. It may have another name, or none any more; one that lives under the private name that it had when
// the daemon was killed gets its own back. It is nil when its directory is gone.
func (r *registered) recall(d *Daemon, c records.Claim, uid uint32) (*reap.File, at, error) {
	f, name, err := r.recallName(d, c, uid)
	if err != nil || f == nil || name != absent {
		return f, name, err
	}
	unhidden, err := f.Unhide()
	if wanting(err) {
		_ = f.Close()
		return nil, name, err
	}
	if err != nil {
		d.log.Warn().Err(err).Str("path", c.Path).Msg("look for a file under a private name")
	}
	if !unhidden {
		return f, name, nil
	}
	d.log.Info().Str("path", c.Path).Msg("a live file has its name back")
	_ = f.Close()
	return r.recallName(d, c, uid)
}

func (r *registered) recallName(d *Daemon, c records.Claim, uid uint32) (f *reap.File, name at, err error) {
	f, err = d.openAs(r.claimant, r.root, c.Path)
	switch {
	case err == nil && f.ID().String() == c.File:
		return f, there, nil
	case err == nil:
		_ = f.Close()
		name = taken
	case errors.Is(err, fs.ErrNotExist):
	case errors.Is(err, reap.ErrNotSocket), errors.Is(err, errNotOwn):
		name = taken
	default:
		return nil, absent, err
	}
	var id reap.ID
	if err := id.UnmarshalText([]byte(c.File)); err != nil {
		return nil, name, err
	}
	f, err = r.root.recall(d.as(r.claimant), c.Path, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, name, nil
	}
	if err != nil {
		return nil, name, err
	}
	f.RememberUID(uid) // rules may ask for it
	return f, name, nil
}

func closeFile(f *reap.File) {
	if f != nil {
		_ = f.Close()
	}
}

// leftDir is a directory, and who claims in it.
type leftDir struct {
	dir  string
	user string
}

// leftovers settles what the daemon before has left under private names, when it was killed in the middle of a removal. What a claim
// knows is found by that; the rest is what nothing is known of but the directory.
type leftovers struct {
	d      *Daemon
	places map[leftDir]asuser.User
	done   sync.WaitGroup
}

// open notes the bindspaces of the configuration.
func (l *leftovers) open(d *Daemon) {
	l.d, l.places = d, map[leftDir]asuser.User{}
	for _, b := range d.config.Load().Bindspaces {
		if u, err := dirUser("", b.Path); err == nil {
			l.in(b.Path, u)
		}
	}
}

// in notes a directory.
func (l *leftovers) in(dir string, u asuser.User) {
	l.places[leftDir{dir, fmt.Sprint(u)}] = u
}

// start settles what there is, in a goroutine that ends with that. With a dry run there is nothing that the daemon has left.
func (l *leftovers) start() {
	if len(l.places) == 0 || l.d.config.Load().DryRun {
		return
	}
	l.done.Go(func() {
		if l.settle() {
			<-time.After(reap.LeftoverAge)
			l.settle()
		}
	})
}

// settle goes through the directories once. It tells whether there is something that is too young.
func (l *leftovers) settle() (young bool) {
	fd, err := l.d.root.use()
	if err != nil {
		return false
	}
	defer l.d.root.done()
	for p, u := range l.places {
		results, more, err := reap.Settle(l.d.as(u), fd, p.dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			l.d.log.Warn().Err(err).Msg("what a daemon that was killed has left under private names")
		}
		for _, r := range results {
			l.d.log.Info().Err(r.Err).Str("path", r.Path).Stringer("outcome", r.Outcome).Msg("left under a private name by a daemon that was killed")
		}
		young = young || more
	}
	return young
}

// close waits until it is done, which takes little more than a second: the next daemon may not know of these directories. One that is killed
// within that second leaves what it has not settled to a sweep.
func (l *leftovers) close() { l.done.Wait() }

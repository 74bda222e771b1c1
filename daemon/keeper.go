package daemon

import (
	"errors"
	"maps"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/sockwatch/sockwatch/internal/records"
	"github.com/sockwatch/sockwatch/internal/varlink"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/watch"
)

// keeper keeps the records of owners as these change. What a client is told to be done is kept before; this is for what
// the daemon finds out by itself, and for what has come to its end.
type keeper struct {
	d *Daemon

	mu     sync.Mutex
	due    *sync.Cond
	dirty  map[*watch.Owner]struct{}
	held   map[*watch.Owner]int      // not to be kept now, by how many want that
	failed map[*watch.Owner]struct{} // the kernel could not, and may when something has come to its end
	closed bool
	done   sync.WaitGroup
	said   varlink.PerUser // of records that could not be kept

	again *time.Timer // for those that failed; nil when there are none
	step  int

	writing sync.Mutex // a record is written by one at a time
	// found are the owners that the daemon has found by itself and that have not ended, by the name of their record: it is that of the
	// process, of which there can be several, as one for each bind that was seen when it was gone. Guarded by writing.
	found map[string][]*watch.Owner
}

func newKeeper(d *Daemon) *keeper {
	k := &keeper{d: d, dirty: map[*watch.Owner]struct{}{}, held: map[*watch.Owner]int{}, failed: map[*watch.Owner]struct{}{}, found: map[string][]*watch.Owner{}}
	k.due = sync.NewCond(&k.mu)
	return k
}

// changed is the watcher's word that an owner is not what it was. It is called with the watcher's locks held.
func (k *keeper) changed(o *watch.Owner) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.dirty[o] = struct{}{}
	if k.held[o] == 0 {
		k.due.Signal()
	}
}

// hold puts off what changed does until it is released: who makes several claims keeps them together.
func (k *keeper) hold(o *watch.Owner) (release func()) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.held[o]++
	return func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		if k.held[o]--; k.held[o] == 0 {
			delete(k.held, o)
		}
		k.due.Signal()
	}
}

func (k *keeper) start() { k.done.Go(k.run) }

func (k *keeper) run() {
	for {
		batch := k.await()
		if batch == nil {
			return
		}
		for _, o := range batch {
			if !k.isDue(o) {
				continue // somebody has kept it since, or is about to
			}
			if err := k.keep(o); err != nil {
				k.tell(o, err)
			}
		}
	}
}

// await waits until there are owners whose records are to be kept. Those that failed before are among them then. Nil is that the keeper is
// closed.
func (k *keeper) await() (batch []*watch.Owner) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for !k.closed {
		if len(k.ready()) > 0 {
			k.retry()
			return k.ready()
		}
		k.due.Wait()
	}
	return nil
}

// ready gives those that are to be kept now. The caller holds k.mu.
func (k *keeper) ready() (owners []*watch.Owner) {
	for o := range k.dirty {
		if k.held[o] == 0 {
			owners = append(owners, o)
		}
	}
	return owners
}

// retry has those kept that failed. The caller holds k.mu.
func (k *keeper) retry() {
	maps.Copy(k.dirty, k.failed)
	clear(k.failed)
}

// fails notes that a record could not be kept: it is tried again with the next one that is to be kept, and with back-off.
func (k *keeper) fails(o *watch.Owner) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.failed[o] = struct{}{}
	if k.again != nil || k.closed {
		return
	}
	k.again = time.AfterFunc(backoff(k.step), func() {
		k.mu.Lock()
		defer k.mu.Unlock()
		k.again = nil
		k.step++
		k.retry()
		k.due.Signal()
	})
}

// kept notes that a record was kept. The next one that fails is tried again soon.
func (k *keeper) kept() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.failed) == 0 {
		k.step = 0
	}
}

func (k *keeper) isDue(o *watch.Owner) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, dirty := k.dirty[o]
	return dirty && k.held[o] == 0
}

// tell logs that a record could not be kept.
func (k *keeper) tell(o *watch.Owner, err error) {
	ok, leftOut := k.said.Say(o.UID())
	if leftOut > 0 {
		k.d.log.Error().Int("records", leftOut).Msg("more records could not be kept than the log is told of")
	}
	if ok {
		k.d.log.Error().Err(err).Stringer("process", o.Identity()).Msg("keep the record of an owner: its claims would be lost with the daemon")
	}
}

// close ends the keeping: what is not settled is kept as it is.
func (k *keeper) close() {
	k.mu.Lock()
	if k.closed {
		k.mu.Unlock()
		return
	}
	k.closed = true
	if k.again != nil {
		k.again.Stop()
	}
	k.due.Signal()
	k.mu.Unlock()
	k.done.Wait()
	k.mu.Lock()
	dirty := k.dirty // the watcher goes on telling of changes
	maps.Copy(dirty, k.failed)
	k.dirty = map[*watch.Owner]struct{}{}
	k.mu.Unlock()
	for o := range dirty {
		_ = k.keep(o)
	}
}

// keep writes the record of an owner, or removes it when there is nothing left to do for it. What is still to be taken up of the
// record that there was stays in it.
func (k *keeper) keep(o *watch.Owner) error {
	k.writing.Lock()
	defer k.writing.Unlock()
	k.mu.Lock()
	delete(k.dirty, o) // as it is now is how it is kept
	k.mu.Unlock()
	err := k.write(o)
	switch {
	case err == nil:
		k.kept()
	case !errors.Is(err, records.ErrTooLarge):
		k.fails(o)
	}
	return err
}

func (k *keeper) write(o *watch.Owner) error {
	id := o.Identity()
	if id == (pidfd.Identity{}) || id.BootID == "" { // without a process, or of one that was gone when it was found: it is settled at once
		return nil
	}
	name, reg := k.d.find(o)
	defer k.d.untaken.wake() // after the record: this may have been the end of something
	if reg != nil && !k.d.has(reg) {
		return nil // who registers it keeps it, and who has ended that has deleted it
	}
	left := k.d.untaken.claims(name)
	owners := k.sharing(name, o, reg == nil)
	if len(owners) == 0 && len(left) == 0 {
		k.d.forget(name, o)
		return k.d.store.Delete(name)
	}
	r := records.Record{Process: id, Comm: o.Comm(), UID: o.UID()}
	if reg != nil {
		u := reg.claimant
		r.Claimant, r.Name, r.Bindspaces, r.Conventions = &u, reg.name, reg.bindspaces, reg.conventionTexts()
	}
	for _, c := range claimsOf(owners) {
		s := c.State()
		if !s.Open {
			continue
		}
		if s.Source == watch.SourceTrace && !s.Traced {
			s.Source = watch.SourceBindspace // tracing alone is not consent to a removal, and there was more
		}
		claim := records.Claim{Path: s.Path, Source: s.Source.String(), Named: s.Named, Alive: s.SeenAlive}
		if s.Identified {
			claim.File = s.File.String()
		}
		if reg != nil && reg.ownRoot {
			claim.Root = "/proc/" + strconv.Itoa(id.PID) + "/root"
		}
		r.Claims = append(r.Claims, claim)
	}
	r.Claims = append(r.Claims, left...)
	if reg == nil && len(r.Claims) == 0 {
		return k.d.store.Delete(name)
	}
	err := k.d.store.Put(name, r)
	if errors.Is(err, records.ErrOtherBoot) {
		return nil
	}
	return err
}

// sharing gives the owners whose claims are in the record of o that have not ended. The caller holds k.writing.
func (k *keeper) sharing(name string, o *watch.Owner, found bool) []*watch.Owner {
	var owners []*watch.Owner
	if found {
		owners = slices.DeleteFunc(k.found[name], func(other *watch.Owner) bool { return other == o || other.Ended() })
	}
	if !o.Ended() {
		owners = append(owners, o)
	}
	switch {
	case found && len(owners) > 0:
		k.found[name] = owners
	case found:
		delete(k.found, name)
	}
	return owners
}

func claimsOf(owners []*watch.Owner) (claims []*watch.Claim) {
	for _, o := range owners {
		claims = append(claims, o.Claims()...)
	}
	return claims
}

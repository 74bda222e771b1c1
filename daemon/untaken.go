package daemon

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/records"
	"github.com/sockwatch/sockwatch/watch"
)

// untaken are the records of the daemon before, and claims of them, that could not be taken up, most likely for want of descriptors. They
// stay in the records, whatever else is kept of these processes, and are tried again when there may be descriptors: whenever something has come
// to its end, and with back-off. A daemon that has taken up all has no part of this running.
type untaken struct {
	d      *Daemon
	freed  chan struct{} // something has come to its end
	cancel chan struct{}
	done   sync.WaitGroup

	mu    sync.Mutex
	rests map[string]*remainder // by the owner's id
	why   error                 // of the first one
}

// remainder is what is left of a record. Its claims are those that are left. It is changed by who holds Daemon.registering of its claimant, or by
// New, and with untaken.mu held for those who read it.
type remainder struct {
	records.Entry
	r *registered // nil: the process is not watched yet either
}

// A try costs a few system calls where there still are no descriptors.
const (
	backoffFirst = time.Second
	backoffLast  = time.Minute
)

// backoff is how long to wait before something is tried once more that failed.
func backoff(step int) time.Duration { return min(backoffFirst<<min(step, 6), backoffLast) }

// reserved is how many descriptors are not for what is taken up: the daemon needs some to listen, to answer and to remove.
const reserved = 32

// wanting tells whether it may go well another time.
func wanting(err error) bool {
	return failing(err) || errors.Is(err, watch.ErrLimit)
}

// reserve tells whether something more can be taken up: it is wanting where not.
func (d *Daemon) reserve() error {
	taken, limit, err := d.descriptors()
	if err == nil && taken+min(reserved, limit/shares) >= limit {
		err = fmt.Errorf("%w: of %d descriptors the last ones are for the daemon itself", unix.EMFILE, limit)
	}
	return err
}

func (t *untaken) open(d *Daemon) {
	t.d, t.rests = d, map[string]*remainder{}
	t.freed, t.cancel = make(chan struct{}, 1), make(chan struct{})
}

// add is told what could not be taken up.
func (t *untaken) add(rest *remainder, err error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.rests[rest.ID] = rest
	if t.why == nil {
		t.why = err
	}
}

// start tries again, in a goroutine that ends when all is taken up.
func (t *untaken) start() {
	processes, claims := t.count(asuser.User{})
	t.mu.Lock()
	left, why := len(t.rests), t.why
	t.mu.Unlock()
	if left == 0 {
		return
	}
	t.d.log.Warn().Err(why).Int("records", left).Int("processes", processes).Int("claims", claims).
		Msg("not all records can be taken up: the rest is kept and tried again; these processes are not watched until then")
	t.done.Go(t.run)
}

func (t *untaken) run() {
	for step := 0; ; {
		again := time.NewTimer(backoff(step))
		select {
		case <-again.C:
			step++
		case <-t.freed:
		case <-t.cancel:
			again.Stop()
			return
		}
		again.Stop()
		if t.takeUp() {
			t.d.log.Info().Msg("all records are taken up")
			return
		}
	}
}

// takeUp tries all once, and tells whether none is left.
func (t *untaken) takeUp() (all bool) {
	t.mu.Lock()
	ids := slices.Sorted(maps.Keys(t.rests))
	t.mu.Unlock()
	all = true
	for _, id := range ids {
		err := t.takeUpOne(id)
		if exhausted(err) {
			return false // the others would find none either
		}
		all = all && err == nil
	}
	return all
}

// takeUpOne tries one.
func (t *untaken) takeUpOne(id string) error {
	unlock, there := t.lock(id)
	defer unlock()
	t.mu.Lock()
	rest := t.rests[id]
	t.mu.Unlock()
	if !there || rest == nil { // it was dropped meanwhile
		return nil
	}
	err := t.d.takeUp(rest)
	if err != nil {
		return err
	}
	t.d.log.Info().Str("owner", id).Msg("a record is taken up after all")
	t.drop(id)
	if rest.r != nil {
		t.d.keeper.changed(rest.r.owner) // its record may have been kept for this alone
		rest.r.owner.Rescan()
	}
	return nil
}

// lock holds Daemon.registering of the claimant of a record, if there is something left of it. An id is always of the same claimant's.
func (t *untaken) lock(id string) (unlock func(), there bool) {
	t.mu.Lock()
	rest := t.rests[id]
	var rec records.Record
	if rest != nil {
		rec = rest.Record
	}
	t.mu.Unlock()
	if rest == nil {
		return func() {}, false
	}
	return t.d.registering.lock(claimantOf(rec).UID), true
}

// took notes that the first of the claims that were left is taken up.
func (t *untaken) took(rest *remainder) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rest.Claims = rest.Claims[1:]
}

// watched notes that the process is watched from now on, or known to be dead.
func (t *untaken) watched(rest *remainder, r *registered) {
	t.mu.Lock()
	defer t.mu.Unlock()
	rest.r = r
}

// drop forgets what is left of an owner's record.
func (t *untaken) drop(id string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.rests, id)
}

// release forgets a claim.
func (t *untaken) release(id, path string) (released bool) {
	unlock, there := t.lock(id)
	defer unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	rest := t.rests[id]
	if !there || rest == nil {
		return false
	}
	left := slices.DeleteFunc(slices.Clone(rest.Claims), func(c records.Claim) bool { return c.Path == path })
	released = len(left) < len(rest.Claims)
	rest.Claims = left
	return released
}

func (t *untaken) has(id string) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.rests[id] != nil
}

// claims are those that are left of an owner's record.
func (t *untaken) claims(id string) []records.Claim {
	t.mu.Lock()
	defer t.mu.Unlock()
	if rest := t.rests[id]; rest != nil {
		return rest.Claims
	}
	return nil
}

// unwatched are the records, of those that a user may know of, whose process is not watched yet.
func (t *untaken) unwatched(u asuser.User) (left []records.Entry) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, rest := range t.rests {
		if rest.r == nil && (u.UID == 0 || rest.UID == u.UID || rest.Claimant != nil && rest.Claimant.UID == u.UID) {
			left = append(left, rest.Entry)
		}
	}
	return left
}

// await is an error, which is wanting, while what a user has registered is not watched again.
func (t *untaken) await(id string, u asuser.User) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	rest := t.rests[id]
	if rest == nil || rest.r != nil || rest.Claimant == nil || u.UID != 0 && rest.Claimant.UID != u.UID {
		return nil
	}
	return fmt.Errorf("its record is still to be taken up: %w", t.why)
}

// count is how many processes are not watched yet of which a user may know, and how many claims are left of those.
func (t *untaken) count(u asuser.User) (processes, claims int) {
	left := t.unwatched(u)
	for _, e := range left {
		claims += len(e.Claims)
	}
	return len(left), claims
}

// describeEntry tells of a process that is not watched yet.
func describeEntry(e records.Entry) client.Owner {
	owner := client.Owner{
		ID: e.ID, Process: e.Process.String(), PID: e.Process.PID, Comm: validText(e.Comm), UID: e.UID, Claims: describeUntaken(e.Claims),
	}
	if e.Claimant != nil {
		owner.RegisteredBy, owner.Name, owner.Bindspaces, owner.Conventions = &e.Claimant.UID, e.Name, e.Bindspaces, e.Conventions
	}
	return owner
}

// describeUntaken tells of claims that are still to be taken up: pending, whatever they were to the daemon before.
func describeUntaken(claims []records.Claim) []client.Claim {
	told := make([]client.Claim, len(claims))
	for i, c := range claims {
		told[i] = client.Claim{Path: newPath(c.Path), Source: c.Source, Pending: true}
	}
	return told
}

// wake has it tried again: something has come to its end.
func (t *untaken) wake() {
	select {
	case t.freed <- struct{}{}:
	default:
	}
}

func (t *untaken) close() {
	if t.cancel != nil {
		close(t.cancel)
	}
	t.done.Wait()
}

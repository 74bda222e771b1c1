package watch

import (
	"errors"
	"fmt"

	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// ClaimFor claims a sock-file for the process that bound it, as somebody has found out who sees more than the watcher does, and watches
// that process if it is not watched. When it is gone, and comm is the name that it had, its file is settled at once. It takes f over on
// success, and tells whether the file was not claimed before.
//
// Errors: ErrLimit, ErrClosed.
func (w *Watcher) ClaimFor(id pidfd.Identity, comm string, f *reap.File, s Source) (c *Claim, added bool, err error) {
	o, err := w.foundOwner(id)
	if errors.Is(err, pidfd.ErrExited) {
		if o, err = w.addDead(id, f.UID(), nil); err == nil {
			w.mu.Lock()
			o.comm = comm
			w.mu.Unlock()
		}
	}
	if err != nil {
		return nil, false, fmt.Errorf("claim %s: %w", f.Path(), err)
	}
	c, added, err = o.claimFile(f, s, s.evidence())
	if added {
		w.post(o.checkOld)
	}
	return c, added, err
}

// foundOwner is the Owner of a process, in whose tree it is, if it is in one.
func (w *Watcher) foundOwner(id pidfd.Identity) (*Owner, error) {
	w.mu.Lock()
	o := w.byPID[id.PID]
	known := o != nil && o.id == id && !o.released
	w.mu.Unlock()
	if known {
		return o, nil
	}
	p, err := id.Open()
	if err != nil {
		return nil, err
	}
	defer p.Close()
	root, kin, err := w.rootOf(p, id, w.roots())
	if err != nil {
		return nil, err
	}
	if !kin {
		root = nil
	}
	return w.ownerOf(id, root, kin)
}

// checkOld looks at two of the owner's claims whether their files are there: nobody tells when a name is removed in a directory that is not
// watched, and who binds and unlinks all the time would have more and more claims. The loop calls it.
func (o *Owner) checkOld() {
	const few = 32 // so many may be out of date
	w := o.w
	type look struct {
		claim *Claim
		file  *reap.File // which the loop alone closes
	}
	var due []look
	w.mu.Lock()
	for range 2 {
		if len(o.claims) < few || o.phase != watching {
			break
		}
		o.checked = (o.checked + 1) % int32(len(o.claims))
		if c := o.claims[o.checked]; c.state == armed && !c.named && c.place == nil && c.file != nil && c.later == nil {
			due = append(due, look{c, c.file})
		}
	}
	w.mu.Unlock()
	for _, l := range due {
		options := reap.RemoveOptions{DryRun: true, NameOnly: true}
		r := l.file.Remove(options)
		if r.Outcome != reap.OutcomeGone {
			continue
		}
		w.lookElsewhere(l.claim, reap.Unfinished{
			File: l.file, Options: func(string) reap.RemoveOptions { return options }, Result: r,
		}, func(r reap.Result) {
			c := l.claim
			w.mu.Lock()
			defer w.mu.Unlock()
			if r.Outcome == reap.OutcomeGone && c.state == armed && o.phase == watching && !c.named && c.later == nil &&
				c.file == l.file { // else it has been found under another name
				c.tell(r)
				c.withdraw()
				c.discard()
			}
		})
	}
}

// SocketClosed says that the socket of a file has died, as somebody has seen, while the claim's owner may live on: what becomes of the file
// is settled now, if it still is the claim's. It does not wait for that.
func (c *Claim) SocketClosed(id reap.ID) {
	w := c.owner.w
	w.post(func() {
		w.mu.Lock()
		due := c.state == armed && c.owner.phase == watching && c.is(id) && c.later == nil
		w.mu.Unlock()
		if due {
			w.settle(c.owner, []*Claim{c}, now())
		}
	})
}

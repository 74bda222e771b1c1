package daemon

import (
	"strconv"

	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// registered is an owner that a client has registered.
type registered struct {
	id          string
	owner       *watch.Owner
	claimant    asuser.User
	name        string
	bindspaces  []string
	conventions []reap.Convention
	root        *root // the process's
	ownRoot     bool  // and not ours
	lostRoot    bool  // the process had ended before that was seen: it is ours, whatever it was
}

// ownerID is how clients call an owner: what one user has registered of a process is apart from what another one has.
func ownerID(id pidfd.Identity, u asuser.User) string {
	return id.String() + "@" + strconv.FormatUint(uint64(u.UID), 10)
}

// foundID is the id of an owner that the daemon has found by itself.
func foundID(id pidfd.Identity) string { return id.String() + "@found" }

func (r *registered) conventionTexts() []string {
	var texts []string
	for _, c := range r.conventions {
		texts = append(texts, c.String())
	}
	return texts
}

// endRoot ends the root directory that is the process's own.
func (r *registered) endRoot() {
	if r.ownRoot {
		r.root.end()
	}
}

// find gives the id of an owner, and what was registered of it, if it was: also before that is done, and when it is over.
func (d *Daemon) find(o *watch.Owner) (string, *registered) {
	if r, ok := o.Tag().(*registered); ok {
		return r.id, r
	}
	return foundID(o.Identity()), nil
}

// has tells whether it is registered: its record is to be kept.
func (d *Daemon) has(r *registered) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.owners[r.id] == r
}

// forget drops an owner that has come to its end.
func (d *Daemon) forget(id string, o *watch.Owner) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.owners[id]; r != nil && r.owner == o {
		delete(d.owners, id)
		d.byUID[r.claimant.UID]--
		r.endRoot()
	}
}

// get finds what a user has registered.
func (d *Daemon) get(id string, u asuser.User) *registered {
	d.mu.Lock()
	defer d.mu.Unlock()
	r := d.owners[id]
	if r == nil || u.UID != 0 && r.claimant.UID != u.UID {
		return nil
	}
	return r
}

// options are those by which the watcher watches it.
func (r *registered) options(d *Daemon) watch.OwnerOptions {
	return watch.OwnerOptions{
		Name: r.name, Bindspaces: r.bindspaces, Conventions: r.conventions, Tag: r,
		Open: func(path string) (*reap.File, error) { return d.openAs(r.claimant, r.root, path) },
	}
}

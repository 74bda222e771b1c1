package daemon

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"

	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/records"
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
	root        int // descriptor of the process's root directory
	ownRoot     bool
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

func (r *registered) closeRoot() {
	if r.ownRoot {
		closeRoot(r.root)
		r.ownRoot = false
	}
}

// find gives the id of an owner, and what was registered of it, if it was.
func (d *Daemon) find(o *watch.Owner) (string, *registered) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.byOwner[o]; r != nil {
		return r.id, r
	}
	return foundID(o.Identity()), nil
}

// forget drops an owner that has come to its end.
func (d *Daemon) forget(id string, o *watch.Owner) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if r := d.owners[id]; r != nil && r.owner == o {
		delete(d.owners, id)
		delete(d.byOwner, o)
		d.byUID[r.claimant.UID]--
		r.closeRoot()
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
		Name: r.name, Bindspaces: r.bindspaces, Conventions: r.conventions,
		Open: func(path string) (*reap.File, error) { return d.openAs(r.claimant, r.root, path) },
	}
}

// restore takes up the records of the daemon before.
func (d *Daemon) restore() {
	for entry, err := range d.store.All() {
		if errors.Is(err, records.ErrOtherBoot) {
			d.log.Debug().Err(err).Msg("a record of an earlier boot")
			continue
		}
		if err != nil {
			d.log.Warn().Err(err).Msg("a record is not taken up")
			continue
		}
		if err := d.restoreOne(entry.ID, entry.Record); err != nil {
			d.log.Error().Err(err).Str("owner", entry.ID).Msg("take up a record; it is kept for the next start")
		}
	}
}

func (d *Daemon) restoreOne(id string, rec records.Record) error {
	r := &registered{id: id, claimant: userOf(rec.UID), name: rec.Name, bindspaces: rec.Bindspaces, root: d.root}
	if rec.Claimant != nil {
		r.claimant = *rec.Claimant
	}
	for _, text := range rec.Conventions {
		c, err := reap.ParseConvention(text)
		if err != nil {
			return err
		}
		r.conventions = append(r.conventions, c)
	}
	p, err := rec.Process.Open()
	dead := errors.Is(err, pidfd.ErrExited)
	if err != nil && !dead {
		return err
	}
	if !dead {
		if r.root, r.ownRoot, err = d.rootOf(p); errors.Is(err, pidfd.ErrExited) {
			r.root, err = d.root, nil
		}
		if err == nil {
			r.owner, err = d.watcher.Add(p, r.options(d))
		}
		if err != nil {
			_ = p.Close()
			return err
		}
	} else if r.owner, err = d.watcher.AddEnded(rec.Process, rec.Comm, rec.UID, r.options(d)); err != nil {
		return err
	}
	if rec.Claimant != nil {
		d.mu.Lock()
		d.owners[id], d.byOwner[r.owner] = r, r
		d.byUID[r.claimant.UID]++
		d.mu.Unlock()
	}
	for _, c := range rec.Claims {
		if err := r.restoreClaim(d, c, dead); err != nil {
			d.log.Warn().Err(err).Str("path", c.Path).Msg("take up a claim")
		}
	}
	return nil
}

var (
	errOther    = errors.New("another file has the name by now: it is not what was claimed")
	errOtherWay = errors.New("it was below a root directory that went with its process")
)

// restoreClaim takes up a claim: the file, if it is still the same inode under that name; and the name, for what the owner binds there next.
func (r *registered) restoreClaim(d *Daemon, c records.Claim, dead bool) error {
	var source watch.Source
	if err := source.UnmarshalText([]byte(c.Source)); err != nil {
		return err
	}
	if dead && c.Root != "" {
		return errOtherWay
	}
	if c.Named && (!dead || c.File == "") {
		if _, err := r.owner.Claim(c.Path, source); err != nil {
			return err
		}
	}
	if c.File == "" {
		return nil
	}
	f, err := d.openAs(r.claimant, r.root, c.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && dead:
		// Gone, mostly; or under the private name that it had when the daemon was killed.
		var id reap.ID
		if err := id.UnmarshalText([]byte(c.File)); err != nil {
			return err
		}
		if f, err = reap.RecallAs(d.as(r.claimant), r.root, c.Path, id); errors.Is(err, fs.ErrNotExist) {
			return nil // with its directory
		}
		if err != nil {
			return err
		}
	case err != nil:
		return err
	case f.ID().String() != c.File:
		_ = f.Close()
		return errOther
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

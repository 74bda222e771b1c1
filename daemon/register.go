package daemon

import (
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/varlink"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// Limits on what one user other than root may have registered.
const (
	mostOwners      = 4096
	mostClaims      = 4096 // of one owner
	mostBindspaces  = 16
	mostConventions = 16
)

// register watches a process for a user, or adds to what there is, and keeps the record: all of it or nothing.
func (d *Daemon) register(u asuser.User, q client.WatchRequest) (*registered, error) {
	if err := checkRequest(u, q); err != nil {
		return nil, err
	}
	var conventions []reap.Convention
	for _, text := range q.Conventions {
		c, err := reap.ParseConvention(text)
		if err != nil {
			return nil, invalid(text, err)
		}
		conventions = append(conventions, c)
	}
	p, err := identify(q.Process)
	switch {
	case errors.Is(err, pidfd.ErrExited):
		return nil, &varlink.Error{Name: client.Interface + ".NoSuchProcess", Parameters: map[string]any{"process": q.Process}}
	case failing(err):
		return nil, err
	case err != nil:
		return nil, invalid(q.Process, err)
	}
	keep := false
	defer func() {
		if !keep {
			_ = p.Close()
		}
	}()
	if err := mayWatch(u, p, q.Process); err != nil {
		return nil, err
	}
	identity, err := p.Identity()
	if err != nil {
		return nil, err
	}
	id := ownerID(identity, u)
	defer d.registering.lock(u.UID)() // two requests for one process make one owner
	if r := d.get(id, u); r != nil {
		if !r.has(q) {
			return nil, invalid(q.Process, errWatched)
		}
		return r, d.orWithdrawn(r, func() ([]*watch.Claim, error) { return d.claimAll(r, q.Paths, p) })
	}
	if err := d.untaken.await(id, u); err != nil {
		return nil, err
	}
	d.mu.Lock()
	full := u.UID != 0 && d.byUID[u.UID] >= mostOwners
	d.mu.Unlock()
	if full {
		return nil, limitReached("registered processes of a user", mostOwners)
	}
	if err := d.room(u); err != nil {
		return nil, err
	}
	r := &registered{id: id, claimant: u, name: q.Name, conventions: conventions}
	if r.root, r.ownRoot, err = d.rootOf(p); err != nil {
		return nil, err
	}
	for _, dir := range q.Bindspaces {
		if err := d.maySearch(r, dir); err != nil {
			r.closeRoot()
			return nil, err
		}
	}
	r.bindspaces = q.Bindspaces
	if r.owner, err = d.watcher.Add(p, r.options(d)); err != nil {
		r.closeRoot()
		return nil, err
	}
	keep = true // the watcher has it
	defer d.keeper.hold(r.owner)()
	d.mu.Lock()
	d.owners[id] = r
	d.byUID[u.UID]++
	d.mu.Unlock()
	again, err := identity.Open() // to look at what it holds: the other one is the watcher's, and may be closed
	if err == nil {
		defer again.Close()
	} else if errors.Is(err, pidfd.ErrExited) {
		err = nil
	}
	if err == nil {
		_, err = d.claimAll(r, q.Paths, again)
	}
	if err == nil {
		err = d.keeper.keep(r.owner) // before the client is told that it is done
	}
	if err != nil {
		d.keeper.writing.Lock()
		defer d.keeper.writing.Unlock()
		d.drop(r)
		return nil, errors.Join(err, d.store.Delete(id))
	}
	return r, nil
}

// orWithdrawn makes claims of an owner that is registered, and keeps its record. With an error none of them is there, but for those that
// were: what is refused is not done after all, and what does not fit into the record would be lost with the daemon.
func (d *Daemon) orWithdrawn(r *registered, claim func() ([]*watch.Claim, error)) error {
	defer d.keeper.hold(r.owner)()
	before := r.owner.Claims()
	claims, err := claim()
	if err == nil {
		err = d.keeper.keep(r.owner)
	}
	if err == nil {
		return nil
	}
	for _, c := range claims {
		if !slices.Contains(before, c) {
			c.Release()
		}
	}
	return err
}

var errWatched = errors.New("it is watched already, with another name, or without these bindspaces or conventions: unwatch it before")

// has tells whether all that a request says of a process, but paths, is what was said of it before.
func (r *registered) has(q client.WatchRequest) bool {
	texts := r.conventionTexts()
	other := func(of []string) func(string) bool { return func(s string) bool { return !slices.Contains(of, s) } }
	return (q.Name == "" || q.Name == r.name) &&
		!slices.ContainsFunc(q.Bindspaces, other(r.bindspaces)) && !slices.ContainsFunc(q.Conventions, other(texts))
}

// checkRequest refuses what need not be looked at more closely.
func checkRequest(u asuser.User, q client.WatchRequest) error {
	for _, path := range slices.Concat(q.Paths, q.Bindspaces) {
		if !strings.HasPrefix(path, "/") || strings.IndexByte(path, 0) >= 0 {
			return invalid(path, errRelative)
		}
	}
	if err := checkName(q.Name); err != nil {
		return invalid(q.Name, err)
	}
	if u.UID == 0 {
		return nil
	}
	switch {
	case len(q.Paths) > mostClaims:
		return limitReached("paths of one request", mostClaims)
	case len(q.Bindspaces) > mostBindspaces:
		return limitReached("bindspaces of a process", mostBindspaces)
	case len(q.Conventions) > mostConventions:
		return limitReached("conventions of a process", mostConventions)
	}
	return nil
}

// maySearch tells whether the claimant can use a directory as a bindspace: one in our own root directory that he may search.
func (d *Daemon) maySearch(r *registered, dir string) error {
	if r.ownRoot {
		return notPermitted(dir, "bindspaces of processes with another root directory are not watched")
	}
	if r.claimant.UID == 0 || os.Geteuid() != 0 {
		return nil
	}
	var err error
	denied := asuser.Do(r.claimant, func() {
		var f *os.File
		if f, err = os.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0); err == nil { // and not read: it may be as long as he likes
			err = f.Close()
		}
	})
	switch {
	case denied != nil:
		return denied
	case failing(err):
		return err
	case err != nil:
		return notPermitted(dir, err.Error())
	}
	return nil
}

// claimAll claims what the process holds now, and paths. With an error it gives the claims that it had come to.
func (d *Daemon) claimAll(r *registered, paths []string, p *pidfd.Process) (claims []*watch.Claim, err error) {
	if p != nil {
		held, err := reap.Held(p, r.bindspaces...)
		if err != nil && !errors.Is(err, pidfd.ErrExited) {
			d.log.Info().Err(err).Str("owner", r.id).Msg("look at what a process holds")
		}
		if !failing(err) {
			err = nil // what may not be seen is not claimed
		}
		for _, f := range held {
			if err != nil {
				_ = f.Close()
				continue
			}
			var c *watch.Claim
			if c, err = d.claimHeld(r, f); c != nil {
				claims = append(claims, c)
			}
		}
		if err != nil {
			return claims, err
		}
	}
	for _, path := range paths {
		c, err := d.claimPath(r, path)
		if err != nil {
			return claims, err
		}
		claims = append(claims, c)
	}
	return claims, nil
}

// claimHeld claims a file that the process has open, if the claimant may reach it; else the claim is nil. An error is that there is no room, or
// that the kernel fails.
func (d *Daemon) claimHeld(r *registered, held *reap.File) (*watch.Claim, error) {
	defer held.Close()
	if err := d.roomForClaim(r); err != nil {
		return nil, err
	}
	path := held.Path()
	if r.ownRoot { // as the process sees it
		dir := "/proc/" + strconv.Itoa(r.owner.Identity().PID) + "/root"
		if link, err := os.Readlink(dir); err == nil && link != "/" && strings.HasPrefix(path, link+"/") {
			dir = link
		}
		path = strings.TrimPrefix(path, dir)
	}
	f, err := d.openAs(r.claimant, r.root, path)
	if failing(err) {
		return nil, err
	}
	if err != nil {
		d.log.Info().Err(err).Str("owner", r.id).Msg("a sock-file that a process holds is not claimed")
		return nil, nil
	}
	if f.ID() != held.ID() {
		_ = f.Close()
		return nil, nil
	}
	if held.SeenAlive() {
		f.RememberAlive()
	}
	c, err := r.owner.ClaimFile(f, watch.SourceSnapshot)
	if err != nil {
		_ = f.Close()
		return nil, nil
	}
	return c, nil
}

// claimPath claims a path, whose file may be still to come; one that is there must be the claimant's.
func (d *Daemon) claimPath(r *registered, path string) (*watch.Claim, error) {
	if err := d.roomForClaim(r); err != nil {
		return nil, err
	}
	if len(path) >= unix.PathMax {
		return nil, invalid(path, unix.ENAMETOOLONG)
	}
	f, err := d.openAs(r.claimant, r.root, path)
	switch {
	case err == nil:
		_ = f.Close()
	case errors.Is(err, fs.ErrPermission):
		return nil, notPermitted(path, err.Error())
	case errors.Is(err, reap.ErrNotSocket), errors.Is(err, fs.ErrInvalid), errors.Is(err, unix.ENAMETOOLONG):
		return nil, invalid(path, err)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, err
	}
	return r.owner.Claim(path, watch.SourceExplicit)
}

// unwatch ends the watching of what was registered, if its record can be deleted.
func (d *Daemon) unwatch(r *registered) error {
	d.keeper.writing.Lock() // a record that is being written is there before it is removed
	defer d.keeper.writing.Unlock()
	if err := d.store.Delete(r.id); err != nil {
		return err
	}
	d.drop(r)
	return nil
}

// drop ends the watching of what was registered. The caller holds the keeper's writing, for its record is to go, too.
func (d *Daemon) drop(r *registered) {
	d.untaken.drop(r.id)
	_ = r.owner.Release()
	d.forget(r.id, r.owner)
}

func limitReached(what string, limit int) *varlink.Error {
	return &varlink.Error{Name: client.Interface + ".LimitReached", Parameters: map[string]any{"what": what, "limit": limit}}
}

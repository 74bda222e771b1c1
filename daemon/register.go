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
	mostOwners     = 4096
	mostClaims     = 4096 // of one owner
	mostBindspaces = 16
)

// register watches a process for a user, or adds to what there is.
func (d *Daemon) register(u asuser.User, q client.WatchRequest) (*registered, error) {
	var conventions []reap.Convention
	for _, text := range q.Conventions {
		c, err := reap.ParseConvention(text)
		if err != nil {
			return nil, invalid(text, err)
		}
		conventions = append(conventions, c)
	}
	for _, path := range slices.Concat(q.Paths, q.Bindspaces) {
		if !strings.HasPrefix(path, "/") || strings.IndexByte(path, 0) >= 0 {
			return nil, invalid(path, errRelative)
		}
	}
	if u.UID != 0 && (len(q.Bindspaces) > mostBindspaces || len(q.Paths) > mostClaims) {
		return nil, limitReached("paths and bindspaces of one request", mostClaims)
	}
	p, err := identify(q.Process)
	switch {
	case errors.Is(err, pidfd.ErrExited):
		return nil, &varlink.Error{Name: client.Interface + ".NoSuchProcess", Parameters: map[string]any{"process": q.Process}}
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
	d.registering.Lock() // two requests for one process make one owner
	defer d.registering.Unlock()
	if r := d.get(id, u); r != nil {
		if q.Name != "" || len(q.Bindspaces)+len(q.Conventions) > 0 {
			return nil, invalid(q.Process, errors.New("it is watched already: name, bindspaces and conventions are for the first time; unwatch it before"))
		}
		return r, d.claimAll(r, q.Paths, p)
	}
	d.mu.Lock()
	full := u.UID != 0 && d.byUID[u.UID] >= mostOwners
	d.mu.Unlock()
	if full {
		return nil, limitReached("registered processes of a user", mostOwners)
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
	d.mu.Lock()
	d.owners[id], d.byOwner[r.owner] = r, r
	d.byUID[u.UID]++
	d.mu.Unlock()
	again, err := identity.Open() // to look at what it holds: the other one is the watcher's, and may be closed
	if err == nil {
		defer again.Close()
	} else if errors.Is(err, pidfd.ErrExited) {
		err = nil
	}
	if err == nil {
		err = d.claimAll(r, q.Paths, again)
	}
	if err != nil { // all of it or nothing
		return nil, errors.Join(err, d.drop(r))
	}
	return r, nil
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
	if denied := d.users.Do(r.claimant, func() { _, err = os.ReadDir(dir) }); denied != nil {
		return denied
	}
	if err != nil {
		return notPermitted(dir, err.Error())
	}
	return nil
}

// claimAll claims what the process holds now, and paths.
func (d *Daemon) claimAll(r *registered, paths []string, p *pidfd.Process) error {
	if p != nil {
		held, err := reap.Held(p, r.bindspaces...)
		if err != nil && !errors.Is(err, pidfd.ErrExited) {
			d.log.Info().Err(err).Str("owner", r.id).Msg("look at what a process holds")
		}
		for _, f := range held {
			d.claimHeld(r, f)
		}
	}
	for _, path := range paths {
		if err := d.claimPath(r, path); err != nil {
			return err
		}
	}
	return nil
}

// claimHeld claims a file that the process has open, if the claimant may reach it.
func (d *Daemon) claimHeld(r *registered, held *reap.File) {
	defer held.Close()
	path := held.Path()
	if r.ownRoot { // as the process sees it
		dir := "/proc/" + strconv.Itoa(r.owner.Identity().PID) + "/root"
		if link, err := os.Readlink(dir); err == nil && link != "/" && strings.HasPrefix(path, link+"/") {
			dir = link
		}
		path = strings.TrimPrefix(path, dir)
	}
	f, err := d.openAs(r.claimant, r.root, path)
	if err != nil {
		d.log.Info().Err(err).Str("owner", r.id).Msg("a sock-file that a process holds is not claimed")
		return
	}
	if f.ID() != held.ID() {
		_ = f.Close()
		return
	}
	if held.SeenAlive() {
		f.RememberAlive()
	}
	if _, err := r.owner.ClaimFile(f, watch.SourceSnapshot); err != nil {
		_ = f.Close()
	}
}

// claimPath claims a path, whose file may be still to come; one that is there must be the claimant's.
func (d *Daemon) claimPath(r *registered, path string) error {
	if r.claimant.UID != 0 && len(r.owner.Claims()) >= mostClaims {
		return limitReached("claims of a process", mostClaims)
	}
	if len(path) >= unix.PathMax {
		return invalid(path, unix.ENAMETOOLONG)
	}
	f, err := d.openAs(r.claimant, r.root, path)
	switch {
	case err == nil:
		_ = f.Close()
	case errors.Is(err, fs.ErrPermission):
		return notPermitted(path, err.Error())
	case errors.Is(err, reap.ErrNotSocket), errors.Is(err, fs.ErrInvalid), errors.Is(err, unix.ENAMETOOLONG):
		return invalid(path, err)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	_, err = r.owner.Claim(path, watch.SourceExplicit)
	return err
}

// drop ends the watching of what was registered, and its record.
func (d *Daemon) drop(r *registered) error {
	d.keeper.writing.Lock() // a record that is being written is there before it is removed
	defer d.keeper.writing.Unlock()
	_ = r.owner.Release()
	d.forget(r.id, r.owner)
	return d.store.Delete(r.id)
}

func limitReached(what string, limit int) *varlink.Error {
	return &varlink.Error{Name: client.Interface + ".LimitReached", Parameters: map[string]any{"what": what, "limit": limit}}
}

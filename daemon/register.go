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
		if err := d.claimMore(r, p, q.Paths); err == nil || d.has(r) {
			return r, err
		}
		// Its watching has ended meanwhile: it is registered anew, if it lives.
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
		if err == nil {
			err = d.maySearch(r, dir)
		}
	}
	if err == nil {
		err = d.mayClaim(r, q.Paths)
	}
	if err == nil {
		r.bindspaces = q.Bindspaces
		r.owner, err = d.watcher.Add(p, r.options(d))
	}
	if err != nil {
		r.endRoot()
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
	var done claimed
	if err == nil {
		done, err = d.claimAll(r, again, q.Paths)
	}
	if err == nil {
		err = d.keeper.keep(r.owner) // before the client is told that it is done
	}
	if err != nil {
		return nil, errors.Join(err, d.undo(r, done.told))
	}
	return r, nil
}

// claimMore claims paths for an owner that is registered, and what its process holds now where that is given, and keeps its record. With an
// error none of these claims is there, but for those that were: what is refused is not done after all, and what does not fit into the record,
// or has none, would be lost with the daemon. The caller holds d.registering of its claimant.
func (d *Daemon) claimMore(r *registered, p *pidfd.Process, paths []string) error {
	if !d.has(r) {
		return noSuchOwner(r.id)
	}
	defer d.keeper.hold(r.owner)()
	before := r.owner.Claims()
	var done claimed
	err := d.mayClaim(r, paths)
	if err == nil {
		done, err = d.claimAll(r, p, paths)
	}
	if err == nil {
		err = d.keeper.keep(r.owner)
	}
	if !d.has(r) { // it has come to its end meanwhile, and its record with it
		err = noSuchOwner(r.id)
	}
	if err == nil {
		return nil
	}
	for _, c := range done.own {
		if _, told := done.told[c]; !told && !slices.Contains(before, c) {
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

// mayClaim tells whether paths can be claimed, of a process that is registered or about to be: there is room, and what is there is the
// claimant's.
func (d *Daemon) mayClaim(r *registered, paths []string) error {
	if err := d.roomForClaims(r, paths); err != nil {
		return err
	}
	if err := d.room(r.claimant, paths[:max(0, len(paths)-1)]...); err != nil {
		return err
	}
	for _, path := range paths {
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
	}
	return nil
}

// claimed are the claims that a request has come to.
type claimed struct {
	own  []*watch.Claim
	told map[*watch.Claim]watch.Source // of files of which somebody else had told before, as the process itself by a report
}

// claimAll claims what the process holds now, if that is asked for, and paths, which mayClaim has looked at. With an error it gives the claims
// that it had come to. What can be refused is refused before the first of them, as far as that is known: a claim of what a process holds ends
// what was claimed of it on a weaker word.
func (d *Daemon) claimAll(r *registered, p *pidfd.Process, paths []string) (done claimed, err error) {
	done.told = map[*watch.Claim]watch.Source{}
	var held []*reap.File
	if p != nil {
		if held, err = d.openHeld(r, p); err != nil {
			return done, err
		}
	}
	all := slices.Clone(paths)
	for _, f := range held {
		all = append(all, f.Path())
	}
	if err = d.roomForClaims(r, all); err != nil {
		closeFiles(held)
		return done, err
	}
	for _, f := range held {
		c, err := r.owner.ClaimFile(f, watch.SourceSnapshot)
		switch {
		case err != nil:
			_ = f.Close()
		case c.Source() < watch.SourceSnapshot:
			done.told[c] = c.Source()
		default:
			done.own = append(done.own, c)
		}
	}
	for _, path := range paths {
		if err := d.room(r.claimant); err != nil {
			return done, err
		}
		c, err := r.owner.Claim(path, watch.SourceExplicit)
		if err != nil {
			return done, err
		}
		done.own = append(done.own, c)
	}
	return done, nil
}

// openHeld opens the sock-files that the process has open, those of them that the claimant may reach. An error is that there is no room, or
// that the kernel fails.
func (d *Daemon) openHeld(r *registered, p *pidfd.Process) (files []*reap.File, err error) {
	held, err := reap.Held(p, r.bindspaces...)
	defer closeFiles(held)
	if err != nil && !errors.Is(err, pidfd.ErrExited) {
		d.log.Info().Err(err).Str("owner", r.id).Msg("look at what a process holds")
	}
	if failing(err) { // else it is what may not be seen, and is not claimed
		return nil, err
	}
	var paths []string
	for _, h := range held {
		var f *reap.File
		err := d.room(r.claimant, paths...)
		if err == nil {
			f, err = d.openOne(r, h)
		}
		if err != nil {
			closeFiles(files)
			return nil, err
		}
		if f != nil {
			files, paths = append(files, f), append(paths, f.Path())
		}
	}
	return files, nil
}

// openOne opens one of them; nil where the claimant does not come to it.
func (d *Daemon) openOne(r *registered, held *reap.File) (*reap.File, error) {
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
	return f, nil
}

func closeFiles(files []*reap.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// undo ends the watching of what could not be registered after all. What others had told of is claimed once more, as what the daemon has
// found by itself.
func (d *Daemon) undo(r *registered, told map[*watch.Claim]watch.Source) error {
	files := map[*reap.File]watch.Source{}
	for c, source := range told {
		if s := c.State(); s.Open { // else it was released meanwhile, or is settled
			if f := d.reopen(r, s); f != nil {
				files[f] = source
			}
		}
	}
	d.keeper.writing.Lock()
	d.drop(r)
	err := d.store.Delete(r.id)
	d.keeper.writing.Unlock()
	if len(files) > 0 {
		<-r.owner.Settled() // until then it is the one that what the process has bound is claimed for
	}
	for f, source := range files {
		if _, _, err := d.watcher.ClaimFor(r.owner.Identity(), r.owner.Comm(), f, source); err != nil {
			_ = f.Close()
			d.log.Warn().Err(err).Str("owner", r.id).Msg("claim a sock-file once more that was claimed before a request that is refused")
		}
	}
	return err
}

// reopen opens the file of a claim with the rights of the process's own user; nil when it is another one by now.
func (d *Daemon) reopen(r *registered, s watch.ClaimState) *reap.File {
	f, err := d.openAs(userOf(r.owner.UID()), r.root, s.Path)
	if err != nil {
		return nil
	}
	if f.ID() != s.File {
		_ = f.Close()
		return nil
	}
	if s.SeenAlive {
		f.RememberAlive()
	}
	return f
}

// unwatch ends the watching of what was registered, if its record can be deleted. It waits for no filesystem, as one that holds up another
// request of the same user may never answer.
func (d *Daemon) unwatch(r *registered) error {
	d.keeper.writing.Lock() // a record that is being written is there before it is removed
	defer d.keeper.writing.Unlock()
	if !d.has(r) { // the record may be that of who was registered since
		return noSuchOwner(r.id)
	}
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

func noSuchOwner(id string) *varlink.Error {
	return &varlink.Error{Name: client.Interface + ".NoSuchOwner", Parameters: map[string]any{"id": id}}
}

func limitReached(what string, limit int) *varlink.Error {
	return &varlink.Error{Name: client.Interface + ".LimitReached", Parameters: map[string]any{"what": what, "limit": limit}}
}

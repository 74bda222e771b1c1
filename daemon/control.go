package daemon

import (
	"context"
	"encoding/base64"
	"errors"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/records"
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

// iface is the varlink interface.
func (d *Daemon) iface() varlink.Interface {
	return varlink.Interface{
		Name: client.Interface, Description: client.Description,
		Methods: map[string]varlink.Method{
			"Watch": d.serveWatch, "Unwatch": d.serveUnwatch, "Claim": d.serveClaim, "Release": d.serveRelease,
			"List": d.serveList, "Status": d.serveStatus, "History": d.serveHistory, "Monitor": d.serveMonitor,
		},
	}
}

func (d *Daemon) serveWatch(_ context.Context, call *varlink.Call) error {
	var q client.WatchRequest
	if err := call.Decode(&q); err != nil {
		return err
	}
	u, err := d.claimant(call.Peer)
	if err != nil {
		return d.refuse(call, err)
	}
	r, err := d.register(u, q)
	if err != nil {
		return d.refuse(call, err)
	}
	if err := d.keeper.keep(r.owner); err != nil { // before the client is told that it is done
		return d.refuse(call, err)
	}
	return call.Reply(client.Watched{ID: r.id, Claims: len(r.owner.Claims())})
}

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

type idRequest struct {
	ID string `json:"id"`
}

type claimRequest struct {
	ID   string `json:"id"`
	Path string `json:"path"`
}

// find finds what the caller means by an id.
func (d *Daemon) lookup(call *varlink.Call, id string) (*registered, error) {
	u, err := d.claimant(call.Peer)
	if err != nil {
		return nil, err
	}
	r := d.get(id, u)
	if r == nil {
		return nil, &varlink.Error{Name: client.Interface + ".NoSuchOwner", Parameters: map[string]any{"id": id}}
	}
	return r, nil
}

func (d *Daemon) serveUnwatch(_ context.Context, call *varlink.Call) error {
	var q idRequest
	if err := call.Decode(&q); err != nil {
		return err
	}
	r, err := d.lookup(call, q.ID)
	if err != nil {
		return d.refuse(call, err)
	}
	if err := d.drop(r); err != nil {
		return d.refuse(call, err)
	}
	return nil
}

// drop ends the watching of what was registered, and its record.
func (d *Daemon) drop(r *registered) error {
	d.keeper.writing.Lock() // a record that is being written is there before it is removed
	defer d.keeper.writing.Unlock()
	_ = r.owner.Release()
	d.forget(r.id, r.owner)
	return d.store.Delete(r.id)
}

func (d *Daemon) serveClaim(_ context.Context, call *varlink.Call) error {
	var q claimRequest
	if err := call.Decode(&q); err != nil {
		return err
	}
	r, err := d.lookup(call, q.ID)
	if err == nil {
		if !strings.HasPrefix(q.Path, "/") || strings.IndexByte(q.Path, 0) >= 0 {
			err = invalid(q.Path, errRelative)
		} else if err = d.claimPath(r, q.Path); err == nil {
			err = d.keeper.keep(r.owner)
		}
	}
	if err != nil {
		return d.refuse(call, err)
	}
	return nil
}

func (d *Daemon) serveRelease(_ context.Context, call *varlink.Call) error {
	var q claimRequest
	if err := call.Decode(&q); err != nil {
		return err
	}
	r, err := d.lookup(call, q.ID)
	if err != nil {
		return d.refuse(call, err)
	}
	for _, c := range r.owner.Claims() {
		if c.Path() != q.Path {
			continue
		}
		released := c.Release()
		if err := d.keeper.keep(r.owner); err != nil {
			return d.refuse(call, err)
		}
		return call.Reply(map[string]bool{"released": released})
	}
	return d.refuse(call, &varlink.Error{Name: client.Interface + ".NoSuchClaim", Parameters: map[string]any{"path": q.Path}})
}

// refuse logs why a call is refused, and gives the error for the peer.
func (d *Daemon) refuse(call *varlink.Call, err error) error {
	d.log.Warn().Err(err).Int32("pid", call.Peer.PID).Uint32("uid", call.Peer.UID).Msg("a request is refused")
	named := namedError(err)
	d.metrics.refuse(named.Name)
	return named
}

// namedError is an error for the peer.
func namedError(err error) *varlink.Error {
	var named *varlink.Error
	switch {
	case errors.As(err, &named):
	case errors.Is(err, watch.ErrLimit):
		named = limitReached("descriptors of the daemon", 0)
	case errors.Is(err, records.ErrTooLarge):
		named = limitReached("bytes of an owner's record", 1<<20)
	case errors.Is(err, fs.ErrPermission):
		named = notPermitted("the request", err.Error())
	default:
		named = &varlink.Error{Name: client.Interface + ".Failed", Parameters: map[string]any{"why": validText(err.Error())}}
	}
	return named
}

func limitReached(what string, limit int) *varlink.Error {
	return &varlink.Error{Name: client.Interface + ".LimitReached", Parameters: map[string]any{"what": what, "limit": limit}}
}

// listDrain is after how many owners the peer is waited for.
const listDrain = 64

func (d *Daemon) serveList(_ context.Context, call *varlink.Call) error {
	u, err := d.claimant(call.Peer)
	if err != nil {
		return d.refuse(call, err)
	}
	owners := []client.Owner{}
	sent := 0
	for _, o := range d.watcher.Owners() {
		owner, visible := d.describe(o, u)
		if !visible {
			continue
		}
		if !call.More {
			owners = append(owners, owner)
			continue
		}
		if err := call.ReplyContinues(map[string]any{"owners": []client.Owner{owner}}); err != nil {
			return err
		}
		if sent++; sent%listDrain == 0 {
			if err := call.Drain(); err != nil {
				return err
			}
		}
	}
	return call.Reply(map[string]any{"owners": owners})
}

// describe tells of an owner, if the user may know: of the own processes, and of what he has registered.
func (d *Daemon) describe(o *watch.Owner, u asuser.User) (client.Owner, bool) {
	identity := o.Identity()
	if identity.PID == 0 || o.Ended() { // a bindspace of the configuration; or released just now
		return client.Owner{}, false
	}
	id, r := d.find(o)
	if u.UID != 0 && o.UID() != u.UID && (r == nil || r.claimant.UID != u.UID) {
		return client.Owner{}, false
	}
	owner := client.Owner{
		ID: id, Process: identity.String(), PID: identity.PID, Comm: validText(o.Comm()), UID: o.UID(), Claims: []client.Claim{},
	}
	if r != nil {
		uid := r.claimant.UID
		owner.RegisteredBy, owner.Name, owner.Bindspaces, owner.Conventions = &uid, r.name, r.bindspaces, r.conventionTexts()
	}
	select {
	case <-o.Exited():
		owner.Ended, owner.Exit = true, o.Exit().String()
	default:
	}
	for _, c := range o.Claims() {
		s := c.State()
		claim := client.Claim{Path: newPath(s.Path), Source: s.Source.String(), Pending: !s.Identified}
		if res, ok := c.Result(); ok {
			claim.Outcome, claim.Reason = res.Outcome.String(), string(res.Reason)
		}
		owner.Claims = append(owner.Claims, claim)
	}
	return owner, true
}

func (d *Daemon) serveStatus(_ context.Context, call *varlink.Call) error {
	if _, err := d.claimant(call.Peer); err != nil {
		return d.refuse(call, err)
	}
	s := client.Status{
		PID: os.Getpid(), Version: d.o.Version, Started: d.started.UTC().Format(time.RFC3339Nano),
		RuntimeDir: d.o.RuntimeDir, Notify: d.receiver.Path(), DryRun: d.config.Load().DryRun,
		EventsDropped: d.history.sub.Dropped(), ReportsDropped: d.receiver.Dropped(),
	}
	for _, o := range d.watcher.Owners() {
		if o.Identity().PID != 0 {
			s.Owners++
			s.Claims += len(o.Claims())
		}
	}
	return call.Reply(s)
}

type historyRequest struct {
	Path *string `json:"path"`
}

func (d *Daemon) serveHistory(_ context.Context, call *varlink.Call) error {
	var q historyRequest
	if err := call.Decode(&q); err != nil {
		return err
	}
	u, err := d.claimant(call.Peer)
	if err != nil {
		return d.refuse(call, err)
	}
	events := []client.Event{}
	for _, e := range d.history.list(func(e watch.Event) bool {
		return (u.UID == 0 || e.UID == u.UID) && (q.Path == nil || e.Result.Path == *q.Path)
	}) {
		events = append(events, newEvent(e))
	}
	return call.Reply(map[string]any{"events": events})
}

func (d *Daemon) serveMonitor(ctx context.Context, call *varlink.Call) error {
	u, err := d.claimant(call.Peer)
	if err != nil {
		return d.refuse(call, err)
	}
	if !call.More {
		return &varlink.Error{Name: varlink.ExpectedMore}
	}
	sub := d.watcher.Subscribe(1 << 10)
	defer sub.Close()
	if err := call.ReplyContinues(map[string]any{"dropped": 0}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case e, ok := <-sub.C():
			if !ok {
				return ctx.Err()
			}
			if u.UID != 0 && e.UID != u.UID {
				continue
			}
			reply := map[string]any{"event": newEvent(e), "dropped": sub.Dropped()}
			if err := call.ReplyContinues(reply); err != nil {
				return err
			}
		}
	}
}

// newEvent is an Event for the wire.
func newEvent(e watch.Event) client.Event {
	uid := e.UID
	w := client.Event{
		Type: e.Kind.String(), Time: e.Time.UTC().Format(time.RFC3339Nano), Process: e.Owner.String(), PID: e.Owner.PID,
		Comm: validText(e.Comm), UID: &uid,
	}
	if e.Kind != watch.KindClaimed {
		w.Exit = e.Exit.String()
	}
	if e.Kind == watch.KindExited {
		return w
	}
	w.Path, w.Source = newPath(e.Result.Path), e.Source.String()
	if e.Kind == watch.KindOutcome {
		us := e.AfterExit.Microseconds()
		w.Outcome, w.Reason, w.DryRun, w.AfterExitUS = e.Result.Outcome.String(), string(e.Result.Reason), e.Result.DryRun, &us
		if e.Result.Err != nil {
			w.Error = validText(e.Result.Err.Error())
		}
	}
	return w
}

func newPath(path string) client.Path {
	if utf8.ValidString(path) {
		return client.Path{Path: path}
	}
	return client.Path{Path: validText(path), PathB64: base64Of(path)}
}

func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func base64Of(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

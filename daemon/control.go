package daemon

import (
	"context"
	"errors"
	"io/fs"
	"slices"
	"strings"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/records"
	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/varlink"
	"github.com/sockwatch/sockwatch/watch"
)

// control serves the control socket.
type control struct {
	*Daemon
	said varlink.PerUser // of refusals
}

// iface is the varlink interface.
func (d *Daemon) iface() varlink.Interface {
	c := &control{Daemon: d}
	return varlink.Interface{
		Name: client.Interface, Description: client.Description,
		Methods: map[string]varlink.Method{
			"Watch": c.serveWatch, "Unwatch": c.serveUnwatch, "Claim": c.serveClaim, "Release": c.serveRelease,
			"List": c.serveList, "Status": c.serveStatus, "History": c.serveHistory, "Monitor": c.serveMonitor,
		},
	}
}

func (d *control) serveWatch(_ context.Context, call *varlink.Call) error {
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
	return call.Reply(client.Watched{ID: r.id, Claims: len(r.owner.Claims())})
}

type idRequest struct {
	ID string `json:"id"`
}

type claimRequest struct {
	ID   string `json:"id"`
	Path string `json:"path"`
}

// lookup finds what the caller means by an id.
func (d *control) lookup(call *varlink.Call, id string) (*registered, error) {
	u, err := d.claimant(call.Peer)
	if err != nil {
		return nil, err
	}
	r := d.get(id, u)
	if r == nil {
		if err := d.untaken.await(id, u); err != nil {
			return nil, err
		}
		r = d.get(id, u) // it may have been taken up just now
	}
	if r == nil {
		return nil, noSuchOwner(id)
	}
	return r, nil
}

func (d *control) serveUnwatch(_ context.Context, call *varlink.Call) error {
	var q idRequest
	if err := call.Decode(&q); err != nil {
		return err
	}
	r, err := d.lookup(call, q.ID)
	if err != nil {
		return d.refuse(call, err)
	}
	if err := d.unwatch(r); err != nil {
		return d.refuse(call, err)
	}
	return nil
}

func (d *control) serveClaim(_ context.Context, call *varlink.Call) error {
	var q claimRequest
	if err := call.Decode(&q); err != nil {
		return err
	}
	r, err := d.lookup(call, q.ID)
	if err == nil {
		err = d.claim(r, q.Path)
	}
	if err != nil {
		return d.refuse(call, err)
	}
	return nil
}

// claim claims one more path, if it can be kept. It waits for the other requests of who has registered the process: one that fails withdraws
// what it has claimed, and that must not be what another was told is done.
func (d *control) claim(r *registered, path string) error {
	if !strings.HasPrefix(path, "/") || strings.IndexByte(path, 0) >= 0 {
		return invalid(path, errRelative)
	}
	defer d.registering.lock(r.claimant.UID)()
	return d.claimMore(r, nil, []string{path})
}

func (d *control) serveRelease(_ context.Context, call *varlink.Call) error {
	var q claimRequest
	if err := call.Decode(&q); err != nil {
		return err
	}
	r, err := d.lookup(call, q.ID)
	if err != nil {
		return d.refuse(call, err)
	}
	released, err := d.release(r, q.Path)
	if err != nil {
		return d.refuse(call, err)
	}
	return call.Reply(map[string]bool{"released": released})
}

// release withdraws a claim. What is left of the record of the daemon before comes first: until it is out of that, it may be taken up.
func (d *control) release(r *registered, path string) (released bool, err error) {
	released = d.untaken.release(r.id, path)
	claims := r.owner.Claims()
	i := slices.IndexFunc(claims, func(c *watch.Claim) bool { return c.Path() == path })
	switch {
	case i >= 0:
		released = claims[i].Release()
	case !released:
		return false, &varlink.Error{Name: client.Interface + ".NoSuchClaim", Parameters: map[string]any{"path": path}}
	}
	return released, d.keeper.keep(r.owner)
}

// refuse logs why a call is refused, and gives the error for the peer.
func (d *control) refuse(call *varlink.Call, err error) error {
	ok, leftOut := d.said.Say(call.Peer.UID)
	if leftOut > 0 {
		d.log.Warn().Int("requests", leftOut).Msg("more requests were refused than the log is told of")
	}
	if ok {
		d.log.Warn().Str("error", clip(err.Error())).Int32("pid", call.Peer.PID).Uint32("uid", call.Peer.UID).Msg("a request is refused")
	}
	named := namedError(err)
	d.metrics.refuse(named.Name)
	return named
}

// clip bounds what a peer has put into an error: a path that is none can be as long as a message.
func clip(s string) string {
	const most = 8 << 10 // two paths
	if len(s) > most {
		return s[:most] + "..."
	}
	return s
}

// namedError is an error for the peer.
func namedError(err error) *varlink.Error {
	var named *varlink.Error
	switch {
	case errors.As(err, &named):
	case errors.Is(err, watch.ErrLimit), exhausted(err):
		limit, _, _ := sys.MaxDescriptors()
		named = limitReached("descriptors of the daemon", int(limit))
	case errors.Is(err, records.ErrTooLarge):
		named = limitReached("bytes of an owner's record", 1<<20)
	case errors.Is(err, fs.ErrPermission):
		named = notPermitted("the request", err.Error())
	default:
		named = &varlink.Error{Name: client.Interface + ".Failed", Parameters: map[string]any{"why": validText(err.Error())}}
	}
	return named
}

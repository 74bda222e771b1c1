package daemon

import (
	"context"
	"errors"
	"io/fs"
	"strings"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/records"
	"github.com/sockwatch/sockwatch/internal/varlink"
	"github.com/sockwatch/sockwatch/watch"
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

type idRequest struct {
	ID string `json:"id"`
}

type claimRequest struct {
	ID   string `json:"id"`
	Path string `json:"path"`
}

// lookup finds what the caller means by an id.
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

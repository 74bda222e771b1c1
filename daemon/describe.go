package daemon

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"iter"
	"os"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/varlink"
	"github.com/sockwatch/sockwatch/watch"
)

func (d *control) serveList(_ context.Context, call *varlink.Call) error {
	u, err := d.claimant(call.Peer)
	if err != nil {
		return d.refuse(call, err)
	}
	all := listing{items: []json.RawMessage{}}
	for owner := range d.known(u) {
		if !call.More {
			if !all.add(owner) {
				return d.refuse(call, limitReached(`bytes of a reply to List without "more": use "more"`, listingMost))
			}
			continue
		}
		if err := call.ReplyContinues(map[string]any{"owners": []client.Owner{owner}}); err != nil {
			return err
		}
		if err := call.Drain(); err != nil {
			return err
		}
	}
	return call.Reply(map[string]any{"owners": all.items})
}

// known gives the owners that a user may know of.
func (d *Daemon) known(u asuser.User) iter.Seq[client.Owner] {
	return func(yield func(client.Owner) bool) {
		for _, o := range d.watcher.Owners() {
			if owner, visible := d.describe(o, u); visible && !yield(owner) {
				return
			}
		}
		for _, e := range d.untaken.unwatched(u) {
			if !yield(describeEntry(e)) {
				return
			}
		}
	}
}

// visible tells whether a user may know of an owner: of the own processes, and of what he has registered.
func (d *Daemon) visible(o *watch.Owner, u asuser.User) bool {
	if o.Identity().PID == 0 || o.Ended() { // a bindspace of the configuration; or released just now
		return false
	}
	_, r := d.find(o)
	return u.UID == 0 || o.UID() == u.UID || r != nil && r.claimant.UID == u.UID
}

// describe tells of an owner, if the user may know.
func (d *Daemon) describe(o *watch.Owner, u asuser.User) (client.Owner, bool) {
	if !d.visible(o, u) {
		return client.Owner{}, false
	}
	identity := o.Identity()
	id, r := d.find(o)
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
	owner.Claims = append(owner.Claims, describeUntaken(d.untaken.claims(id))...)
	return owner, true
}

func (d *control) serveStatus(_ context.Context, call *varlink.Call) error {
	u, err := d.claimant(call.Peer)
	if err != nil {
		return d.refuse(call, err)
	}
	s := client.Status{
		PID: os.Getpid(), Version: d.o.Version, Started: newTime(d.started),
		RuntimeDir: d.o.RuntimeDir, Notify: d.receiver.Path(), DryRun: d.config.Load().DryRun,
		EventsDropped: d.history.sub.Dropped(), ReportsDropped: d.receiver.Dropped(),
	}
	s.TraceHooks, s.TraceLost = d.trace.state()
	for _, o := range d.watcher.Owners() {
		if d.visible(o, u) {
			s.Owners++
			s.Claims += len(o.Claims())
		}
	}
	processes, claims := d.untaken.count(u)
	s.Owners += processes
	s.Claims += claims
	return call.Reply(s)
}

type historyRequest struct {
	Path *string `json:"path"`
}

func (d *control) serveHistory(_ context.Context, call *varlink.Call) error {
	var q historyRequest
	if err := call.Decode(&q); err != nil {
		return err
	}
	u, err := d.claimant(call.Peer)
	if err != nil {
		return d.refuse(call, err)
	}
	events := d.history.list(func(e watch.Event) bool {
		return (u.UID == 0 || e.UID == u.UID) && (q.Path == nil || e.Result.Path == *q.Path)
	})
	latest := listing{items: []json.RawMessage{}}
	for _, e := range slices.Backward(events) {
		if !latest.add(newEvent(e)) {
			break
		}
	}
	slices.Reverse(latest.items)
	return call.Reply(map[string]any{"events": latest.items})
}

func (d *control) serveMonitor(ctx context.Context, call *varlink.Call) error {
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
		Type: e.Kind.String(), Time: newTime(e.Time), Process: e.Owner.String(), PID: e.Owner.PID,
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

// newTime is a time for the wire, which sorts as text: time.RFC3339Nano leaves zeros out.
func newTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000000000Z07:00") }

func newPath(path string) client.Path {
	if utf8.ValidString(path) {
		return client.Path{Path: path}
	}
	return client.Path{Path: validText(path), PathB64: base64Of(path)}
}

func validText(s string) string { return strings.ToValidUTF8(s, "\uFFFD") }

func base64Of(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

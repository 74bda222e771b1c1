package daemon

import (
	"context"
	"errors"
	"os"
	"strconv"
	"testing"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// TestWatch: what a process holds and what is named goes with it.
func TestWatch(t *testing.T) {
	p := newPlace(t)
	p.serve(config.Default())
	c := p.dial()
	for name, process := range map[string]func(*puppetOf) string{
		"pid":      (*puppetOf).pid,
		"identity": func(o *puppetOf) string { return o.identity().String() },
	} {
		t.Run(name, func(t *testing.T) {
			o := startPuppet(t)
			held, named, later := p.path(name+".held"), p.path(name+".named"), p.path(name+".later")
			o.do("bind", held)
			o.do("bind", named)
			w := c.watch(process(o), named, later)
			if want := o.identity().String() + "@" + strconv.Itoa(os.Geteuid()); w.ID != want || w.Claims != 3 {
				t.Errorf("%+v, want id %s and 3 claims", w, want)
			}
			for path, source := range map[string]string{held: "snapshot", named: "explicit"} {
				if claim := c.claimed(o.child.PID(), path); claim.Source != source {
					t.Errorf("%+v, want %s", claim, source)
				}
			}
			owner, _ := c.owner(o.child.PID())
			if owner.ID != w.ID || owner.RegisteredBy == nil || int(*owner.RegisteredBy) != os.Geteuid() || owner.Ended {
				t.Errorf("%+v", owner)
			}
			o.do("bind", later)
			c.claimed(o.child.PID(), later)
			o.kill()
			for _, path := range []string{held, named, later} {
				e := c.wantOutcome(path, "removed")
				if e.Process != o.identityWas(w) || e.AfterExitUS == nil {
					t.Errorf("%+v", e)
				}
			}
			c.gone(held, named, later)
			c.until("the owner is forgotten", func() bool {
				_, there := c.owner(o.child.PID())
				return !there && errors.Is(c.c.Unwatch(t.Context(), w.ID), client.ErrNoSuchOwner)
			})
		})
	}
}

// identityWas is the process of what was registered.
func (p *puppetOf) identityWas(w client.Watched) string {
	return w.ID[:len(w.ID)-len("@"+strconv.Itoa(os.Geteuid()))]
}

// TestWatchOfTheDead: a number that is nobody's, or another one's by now.
func TestWatchOfTheDead(t *testing.T) {
	testutil.Require(t, testutil.Pidfs)
	p := newPlace(t)
	p.serve(config.Default())
	c := p.dial()
	o := startPuppet(t)
	path := p.path("s")
	o.do("bind", path)
	other := o.identity()
	other.Inode++
	if _, err := c.c.Watch(t.Context(), client.WatchRequest{Process: other.String(), Paths: []string{path}}); !errors.Is(err, client.ErrNoSuchProcess) {
		t.Errorf("%s: %v", other, err)
	}
	for tries := 1; ; tries++ { // the number may be somebody else's by then
		dead := startPuppet(t)
		dead.kill()
		w, err := c.c.Watch(t.Context(), client.WatchRequest{Process: dead.pid()})
		if errors.Is(err, client.ErrNoSuchProcess) {
			break
		}
		if tries == 20 {
			t.Fatalf("%s: %+v, %v", dead.pid(), w, err)
		}
		if err == nil {
			must(t, c.c.Unwatch(t.Context(), w.ID))
		}
	}
	for _, process := range []string{"", "x", "0", "-1", "1:", "99999999999999999999", o.pid() + ":x"} {
		if _, err := c.c.Watch(t.Context(), client.WatchRequest{Process: process}); !errors.Is(err, client.ErrInvalid) {
			t.Errorf("%q: %v", process, err)
		}
	}
	self := strconv.Itoa(os.Getpid()) // which is the daemon here
	if _, err := c.c.Watch(t.Context(), client.WatchRequest{Process: self}); !errors.Is(err, client.ErrNotPermitted) {
		t.Error(err)
	}
	if s, err := c.c.Status(t.Context()); err != nil || s.Owners != 0 || s.Claims != 0 {
		t.Error(s, err)
	}
	o.kill()
	kept(t, path)
}

// TestClaimAndRelease: one path more, one less, and none any more.
func TestClaimAndRelease(t *testing.T) {
	p := newPlace(t)
	p.serve(config.Default())
	c := p.dial()
	o := startPuppet(t)
	w := c.watch(o.pid())
	claimed, released, renewed := p.path("claimed"), p.path("released"), p.path("renewed")
	for _, path := range []string{claimed, released, renewed} {
		o.do("bind", path)
		must(t, c.c.Claim(t.Context(), w.ID, path))
	}
	for _, path := range []string{released, renewed} {
		if ok, err := c.c.Release(t.Context(), w.ID, path); !ok || err != nil {
			t.Error(path, ok, err)
		}
	}
	if _, err := c.c.Release(t.Context(), w.ID, released); !errors.Is(err, client.ErrNoSuchClaim) {
		t.Error(err)
	}
	must(t, c.c.Claim(t.Context(), w.ID, renewed))
	o.kill()
	c.gone(claimed, renewed)
	kept(t, released)

	o = startPuppet(t)
	path := p.path("unwatched")
	o.do("bind", path)
	w = c.watch(o.pid())
	must(t, c.c.Unwatch(t.Context(), w.ID))
	for _, err := range []error{c.c.Unwatch(t.Context(), w.ID), c.c.Claim(t.Context(), w.ID, path)} {
		if !errors.Is(err, client.ErrNoSuchOwner) {
			t.Error(err)
		}
	}
	// Watched once more it is as any other, and unwatched again it is kept.
	w = c.watch(o.pid())
	must(t, c.c.Unwatch(t.Context(), w.ID))
	o.kill()
	flush(t, p, c)
	kept(t, path)
}

// flush waits until the daemon has answered what happened before: the end of a process that is watched from now on.
func flush(t *testing.T, p *place, c *caller) {
	t.Helper()
	o := startPuppet(t)
	path := p.path("flush" + o.pid())
	o.do("bind", path)
	c.watch(o.pid())
	o.kill()
	c.gone(path)
}

// TestWatchAgain adds to what there is.
func TestWatchAgain(t *testing.T) {
	p := newPlace(t)
	p.serve(config.Default())
	c := p.dial()
	o := startPuppet(t)
	first := c.watch(o.pid(), p.path("a"))
	o.do("bind", p.path("b"))
	second := c.watch(o.identity().String(), p.path("c"))
	if first.ID != second.ID || first.Claims != 1 || second.Claims != 3 {
		t.Error(first, second)
	}
	o.do("bind", p.path("a"))
	o.do("bind", p.path("c"))
	o.kill()
	c.gone(p.path("a"), p.path("b"), p.path("c"))
	if s, err := c.c.Status(t.Context()); err != nil || s.PID != os.Getpid() || s.RuntimeDir != p.dir {
		t.Error(s, err)
	}
}

// TestMonitor: what happens is streamed, in its order.
func TestMonitor(t *testing.T) {
	p := newPlace(t)
	p.serve(config.Default())
	c, m := p.dial(), p.dial()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var o *puppetOf
	path := p.path("s")
	var seen []string
	for msg, err := range m.c.Monitor(ctx) {
		must(t, err)
		e := msg.Event
		if o == nil { // the first message says that the stream has begun
			if e.Type != "" || msg.Dropped != 0 {
				t.Errorf("%+v", msg)
			}
			o = startPuppet(t)
			o.do("bind", path)
			c.watch(o.pid(), path)
			o.kill()
			continue
		}
		if e.PID != o.child.PID() {
			t.Errorf("%+v", e)
		}
		seen = append(seen, e.Type)
		if e.Type == "outcome" {
			if e.Path.Path != path || e.Outcome != "removed" {
				t.Errorf("%+v", e)
			}
			break
		}
	}
	if len(seen) < 3 || seen[0] != "claim" {
		t.Error(seen)
	}
}

// TestOtherUser: nobody but root registers another user's process.
func TestOtherUser(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	p.start()
	must(t, os.Mkdir(p.path("d"), 0o777))
	must(t, os.Chmod(p.path("d"), 0o777))
	own, other := startPuppet(t, as(hostile)), startPuppet(t, as(victim))
	path := p.path("d/s")
	other.do("bind", path)
	own.do("dial", p.control())
	for _, process := range []string{other.pid(), other.identity().String(), strconv.Itoa(os.Getpid()), "1"} {
		if _, err := own.watch(process, path); !errors.Is(err, client.ErrNotPermitted) {
			t.Errorf("%s: %v", process, err)
		}
	}
	c := p.dial()
	c.watch(other.pid())
	other.kill()
	c.gone(path)
	p.stop()
}

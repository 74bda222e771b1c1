package daemon

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sockwatch/sockwatch/client"
	"github.com/sockwatch/sockwatch/internal/asuser"
	"github.com/sockwatch/sockwatch/internal/config"
	"github.com/sockwatch/sockwatch/internal/records"
	"github.com/sockwatch/sockwatch/internal/testutil"
)

// What happens beside a request: other requests, reports, and the end of the process or of the daemon.

// waitsIn waits until some goroutine waits for a mutex within a function, and tells whether it came to that: not when there is a result first.
func waitsIn(t *testing.T, result <-chan error, function string) bool {
	t.Helper()
	stacks := make([]byte, 1<<20)
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); runtime.Gosched() {
		if len(result) > 0 {
			return false
		}
		all := string(stacks[:runtime.Stack(stacks, true)])
		for stack := range strings.SplitSeq(all, "\n\n") {
			if strings.Contains(stack, function+"(") && strings.Contains(stack, ".lockSlow(") {
				return true
			}
		}
	}
	t.Fatal("waited in vain in " + function)
	return false
}

// beside has something done beside the test.
func beside(f func() error) <-chan error {
	result := make(chan error, 1)
	go func() { result <- f() }()
	return result
}

// tooMuch are paths that do not fit into a record, and neither into a message.
func tooMuch(p *place) []string {
	long := strings.Repeat("/"+strings.Repeat("n", 250), 15)
	return many(300, p.path("none")+"%d"+long)
}

// wantName fails the test unless an error is this one to a client.
func wantName(t *testing.T, err error, name string) {
	t.Helper()
	if err == nil || namedError(err).Name != client.Interface+"."+name {
		t.Errorf("%v, want %s", err, name)
	}
}

// watchOf watches a process for the test's own user.
func watchOf(d *Daemon, o *puppetOf, paths []string) error {
	_, err := d.register(asuser.User{UID: uint32(os.Geteuid())}, client.WatchRequest{Process: o.pid(), Paths: paths})
	return err
}

// TestRefusedWatchOfReported: what a process has reported is claimed as before when a request to watch that process is refused, early or late.
func TestRefusedWatchOfReported(t *testing.T) {
	p := newPlace(t)
	d := p.serve(config.Default())
	c := p.dial()
	must(t, os.WriteFile(p.path("regular"), nil, 0o600))
	for name, refused := range map[string]struct {
		paths []string
		by    string
	}{
		"plain":  {[]string{p.path("regular")}, "Invalid"},
		"record": {tooMuch(p), "LimitReached"},
	} {
		t.Run(name, func(t *testing.T) {
			o := startPuppet(t)
			path, named := p.path(name), p.path(name+".named")
			for _, path := range []string{path, named} {
				o.do("bind", path)
				o.do("bound", filepath.Join(p.dir, NotifyName), path)
				c.claimed(o.child.PID(), path)
			}
			wantName(t, watchOf(d, o, append([]string{named}, refused.paths...)), refused.by)
			owner, _ := c.owner(o.child.PID())
			if owner.RegisteredBy != nil || len(owner.Claims) != 2 {
				t.Fatalf("%+v", owner)
			}
			for _, claim := range owner.Claims {
				if claim.Source != "notify" {
					t.Errorf("%+v", claim)
				}
			}
			c.recorded(p, o, path)
			if n := len(p.recordsOf(o)); n != 1 {
				t.Errorf("%d records", n)
			}
			o.kill()
			c.gone(path, named)
		})
	}
	p.noRecords()
}

// TestRefusedWatchOfReportedByAnother: what another process has reported, and the watched one turns out to hold, stays claimed when the
// request that has found that out is refused.
func TestRefusedWatchOfReportedByAnother(t *testing.T) {
	p := newPlace(t)
	d := p.serve(config.Default())
	c := p.dial()
	o, other := startPuppet(t), startPuppet(t)
	c.watch(o.pid())
	path, own := p.path("s"), p.path("own")
	o.do("bind", path)
	o.do("bind", own)
	other.do("bound", filepath.Join(p.dir, NotifyName), path)
	c.claimed(other.child.PID(), path)
	wantName(t, watchOf(d, o, tooMuch(p)), "LimitReached")
	if owner, _ := c.owner(o.child.PID()); len(owner.Claims) != 1 {
		t.Fatalf("%+v", owner)
	}
	other.kill()
	flush(t, p, c)
	o.answers(path)
	o.kill()
	c.gone(path)
	kept(t, own) // nobody but the refused request has spoken of it
}

// TestRefusedClaims: where one path is refused, those before it are not claimed for a moment either.
func TestRefusedClaims(t *testing.T) {
	p := newPlace(t)
	d := p.serve(config.Default())
	c, o := p.dial(), startPuppet(t)
	sub := d.watcher.Subscribe(1 << 10)
	defer sub.Close()
	c.watch(o.pid())
	must(t, os.WriteFile(p.path("plain"), nil, 0o600))
	for _, process := range []string{o.pid(), startPuppet(t).pid()} {
		q := client.WatchRequest{Process: process, Paths: []string{p.path("s"), p.path("plain")}}
		if _, err := c.c.Watch(t.Context(), q); !errors.Is(err, client.ErrInvalid) {
			t.Error(err)
		}
	}
	if n := len(sub.C()); n != 0 {
		t.Errorf("%d events of what was refused", n)
	}
}

// TestClaimBesideWatch: a claim waits for the same user's other requests, so that none of those can withdraw it again with what it has claimed
// itself. To release one and to end the watching wait for no filesystem that another request is waiting for.
func TestClaimBesideWatch(t *testing.T) {
	p := newPlace(t)
	d := p.serve(config.Default())
	c, other, o := p.dial(), p.dial(), startPuppet(t)
	w := c.watch(o.pid(), p.path("a"), p.path("b"))
	unlock := d.registering.lock(uint32(os.Geteuid())) // as Watch does
	claimed := beside(func() error { return other.c.Claim(t.Context(), w.ID, p.path("s")) })
	waited := waitsIn(t, claimed, "(*control).claim")
	if released, err := c.c.Release(t.Context(), w.ID, p.path("a")); !released || err != nil {
		t.Error(released, err)
	}
	unlock()
	must(t, <-claimed)
	if !waited {
		t.Error("it is claimed beside another request")
	}
	if owner, _ := c.owner(o.child.PID()); len(owner.Claims) != 2 {
		t.Errorf("%+v", owner)
	}
	unlock = d.registering.lock(uint32(os.Geteuid()))
	defer unlock()
	must(t, c.c.Unwatch(t.Context(), w.ID))
}

// TestClaimOfTheForgotten: what is claimed for a process that has come to its end has no record: it is refused, before the claim and after.
func TestClaimOfTheForgotten(t *testing.T) {
	p := newPlace(t)
	d := p.serve(config.Default())
	c, o := p.dial(), startPuppet(t)
	r := d.get(c.watch(o.pid()).ID, asuser.User{})
	d.keeper.writing.Lock()
	result := beside(func() error { return (&control{Daemon: d}).claim(r, p.path("s")) })
	c.until("it is claimed", func() bool { return len(r.owner.Claims()) == 1 })
	d.forget(r.id, r.owner) // as the keeper does that has seen its end before
	d.keeper.writing.Unlock()
	wantName(t, <-result, "NoSuchOwner")
	if n := len(r.owner.Claims()); n != 0 {
		t.Errorf("%d claims are left", n)
	}
	must(t, r.owner.Release())

	o = startPuppet(t)
	r = d.get(c.watch(o.pid()).ID, asuser.User{})
	o.kill()
	c.until("the process is forgotten", func() bool { return !d.has(r) })
	later := startPuppet(t)
	later.do("bind", p.path("later"))
	later.kill()
	wantName(t, (&control{Daemon: d}).claim(r, p.path("later")), "NoSuchOwner")
	flush(t, p, c)
	kept(t, p.path("later"))
}

// TestUnwatchOfTheForgotten: who ends the watching of what was registered before has not ended that of what is registered now.
func TestUnwatchOfTheForgotten(t *testing.T) {
	p := newPlace(t)
	d := p.serve(config.Default())
	c, o := p.dial(), startPuppet(t)
	w := c.watch(o.pid())
	r := d.get(w.ID, asuser.User{})
	must(t, c.c.Unwatch(t.Context(), w.ID))
	c.watch(o.pid(), p.path("s"))
	wantName(t, d.unwatch(r), "NoSuchOwner")
	if n := p.inRecords([]string{p.path("s")}); n != 1 {
		t.Error("the record is gone")
	}
}

// TestReleaseBesideTakeUp: a claim that is about to be taken up when it is to be released is released, and not there after all.
func TestReleaseBesideTakeUp(t *testing.T) {
	p := newPlace(t)
	d := p.serve(config.Default())
	c, o := p.dial(), startPuppet(t)
	path := p.path("s")
	rest, id := untakenOf(t, d, c, o)
	rest.Claims = []records.Claim{{Path: path, Source: "explicit", Named: true}}
	d.untaken.add(rest, nil)
	unlock, _ := d.untaken.lock(id) // a try has begun
	released := false
	result := beside(func() (err error) {
		released, err = c.c.Release(t.Context(), id, path)
		return err
	})
	waitsIn(t, result, "(*untaken).release")
	must(t, d.takeUp(rest))
	d.untaken.drop(id)
	unlock()
	if err := <-result; err != nil || !released {
		t.Error(released, err)
	}
	if owner, _ := p.dial().owner(o.child.PID()); len(owner.Claims) != 0 {
		t.Errorf("%+v", owner)
	}
}

// untakenOf is the rest of a record of a process that is watched.
func untakenOf(t *testing.T, d *Daemon, c *caller, o *puppetOf) (rest *remainder, id string) {
	t.Helper()
	id = c.watch(o.pid()).ID
	rest = &remainder{r: d.get(id, asuser.User{})}
	rest.ID, rest.Process, rest.Claimant = id, o.identity(), &rest.r.claimant
	return rest, id
}

// TestLookupBesideTakeUp: a process that is taken up while it is looked for is found.
func TestLookupBesideTakeUp(t *testing.T) {
	p := newPlace(t)
	d := p.serve(config.Default())
	c, o := p.dial(), startPuppet(t)
	rest, id := untakenOf(t, d, c, o)
	d.mu.Lock()
	delete(d.owners, id) // not yet
	d.mu.Unlock()
	d.untaken.mu.Lock()
	result := beside(func() error { return c.c.Claim(t.Context(), id, p.path("s")) })
	waitsIn(t, result, "(*untaken).await")
	d.mu.Lock()
	d.owners[id] = rest.r
	d.mu.Unlock()
	d.untaken.mu.Unlock()
	must(t, <-result)
}

// TestCostBesideUnwatch is for the race detector: what a process with a root directory of its own costs is counted while that ends.
func TestCostBesideUnwatch(t *testing.T) {
	testutil.Require(t, testutil.Root)
	p := newPlace(t)
	d := p.serve(config.Default())
	c, o := p.dial(), startPuppet(t)
	must(t, os.Mkdir(p.path("jail"), 0o755))
	o.do("chroot", p.path("jail"))
	w := c.watch(o.pid())
	stop := make(chan struct{})
	counted := beside(func() error {
		for {
			select {
			case <-stop:
				return nil
			default:
				d.cost(asuser.User{})
			}
		}
	})
	must(t, c.c.Unwatch(t.Context(), w.ID))
	close(stop)
	must(t, <-counted)
}

// TestCloseTwice: the second one does nothing.
func TestCloseTwice(t *testing.T) {
	p := newPlace(t)
	d, err := New(Options{RuntimeDir: p.dir, Log: zerolog.Nop()})
	must(t, err)
	must(t, d.Close())
	must(t, d.Close())
}

// TestCloseBesideForget: the end of a process may be kept while the daemon ends.
func TestCloseBesideForget(t *testing.T) {
	p := newPlace(t)
	d, err := New(Options{RuntimeDir: p.dir, Log: zerolog.Nop()})
	must(t, err)
	d.mu.Lock() // as forget does
	closed := beside(d.Close)
	if !waitsIn(t, closed, "(*Daemon).close") {
		t.Error("it goes through what is registered while that changes")
	}
	d.mu.Unlock()
	must(t, <-closed)
}

// TestReloadAfterClose: what nobody would end is not begun any more.
func TestReloadAfterClose(t *testing.T) {
	p := newPlace(t)
	traced := p.traced("")
	d, err := New(Options{RuntimeDir: p.dir, Log: zerolog.Nop()})
	must(t, err)
	must(t, d.Close())
	d.Reload(traced)
	if hooks, _ := d.trace.state(); hooks != "" {
		t.Error("binds are traced by", hooks)
		d.trace.close()
	}
}

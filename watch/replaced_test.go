package watch

import (
	"os"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/reap"
)

// mustClaimFile claims what has a path as tracing does, and gives its identity.
func mustClaimFile(t *testing.T, o *Owner, path string) (*Claim, reap.ID) {
	t.Helper()
	f, err := reap.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	_, _ = f.Probe()
	id := f.ID()
	c, err := o.ClaimFile(f, SourceTrace)
	if err != nil {
		t.Fatal(err)
	}
	return c, id
}

// wantArmed fails the test unless a claim waits for nothing but its owner's end.
func (w *watched) wantArmed(c *Claim) {
	w.t.Helper()
	w.onLoop(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if c.state != armed || c.later != nil || c.result != nil {
			w.t.Errorf("state %d, later %+v, result %+v", c.state, c.later, c.result)
		}
	})
}

// TestReplacedElsewhere has a claim get another file while the first one, whose socket was closed, is looked for under other names.
func TestReplacedElsewhere(t *testing.T) {
	for name, away := range map[string]func(path string) error{
		"moved":    func(path string) error { return os.Rename(path, path+".old") },
		"unlinked": os.Remove,
	} {
		t.Run(name, func(t *testing.T) {
			w, path := newWatched(t), testutil.TempDir(t)+"/s"
			p := startPuppet(t)
			o := w.add(p.pid(), OwnerOptions{})
			p.do("bind", path)
			first, id := mustClaimFile(t, o, path)
			if err := away(path); err != nil {
				t.Fatal(err)
			}
			p.do("close")
			p.do("bind", path)
			w.onLoop(func() { w.elsewhere.busy = []search{{}} }) // nothing is begun
			first.SocketClosed(id)
			w.onLoop(func() {})
			second, _ := mustClaimFile(t, o, path)
			if second != first {
				t.Fatal("it is another claim")
			}
			w.onLoop(func() {
				w.elsewhere.busy = nil
				w.nextElsewhere()
			})
			w.elsewhereDone()
			w.wantArmed(second)
			wantGone(t, path+".old")
			p.child.Kill()
			waitSettled(t, o)
			wantGone(t, path)
			w.settleLoop()
			w.empty()
		})
	}
}

// elsewhereDone waits until nothing is looked for under other names.
func (w *watched) elsewhereDone() {
	w.t.Helper()
	for quiet := false; !quiet; {
		w.onLoop(func() { quiet = w.elsewhere.quiet() })
	}
}

// TestReplacedWaiting has a claim get another file while the first one, whose socket was about to be closed, is found alive again and again.
func TestReplacedWaiting(t *testing.T) {
	w, path := newWatched(t), testutil.TempDir(t)+"/s"
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{})
	p.do("bind", path)
	c, id := mustClaimFile(t, o, path)
	held, release := make(chan struct{}), make(chan struct{})
	w.post(func() {
		w.settle(o, []*Claim{c}, now()) // as SocketClosed does
		if c.later == nil {
			t.Error("it waits for nothing")
		}
		close(held)
		<-release
	})
	<-held
	p.do("rebind", path)
	other, _ := mustClaimFile(t, o, path)
	close(release)
	if other != c {
		t.Fatal("it is another claim")
	}
	w.wantArmed(c)
	c.SocketClosed(id) // late: it is another file
	w.wantArmed(c)
	p.child.Kill()
	waitSettled(t, o)
	w.wantOutcome(path, reap.OutcomeRemoved, "")
	w.settleLoop()
	w.empty()
}

// TestMovedFromPlace has a file with another name than that by which it is known, in a directory that is watched on.
func TestMovedFromPlace(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p, other := startPuppet(t), startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}})
	w.add(other.pid(), OwnerOptions{Bindspaces: []string{dir}})
	p.do("bind", dir+"/a")
	w.bound(dir+"/a", p.pid())
	release := w.hold()
	p.do("rename", dir+"/a", dir+"/b")
	p.child.Kill()
	wait(t, o.Exited())
	release()
	waitSettled(t, o)
	w.settleLoop()
	w.onLoop(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		for _, place := range w.places {
			for name, claims := range place.names {
				t.Errorf("%d claims are left on %s", len(claims), name)
			}
		}
	})
	wantGone(t, dir+"/b")
}

// TestNamedMeanwhile has a path claimed by its name just as the claim that was found there is about to end with its file.
func TestNamedMeanwhile(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}})
	p.do("bind", dir+"/a")
	w.bound(dir+"/a", p.pid())
	held, release := make(chan struct{}), make(chan struct{})
	w.post(func() { close(held); <-release })
	<-held
	p.do("remove", dir+"/a")
	w.catchUp()
	c := mustClaim(t, o, dir+"/a")
	close(release)
	w.settleLoop()
	w.wantArmed(c)
	p.do("bind", dir+"/a")
	w.mustIdentify(c)
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, dir+"/a")
}

// dying has an owner whose claim lives with another process, and that has ended; but what it did last is not known yet.
func (w *watched) dying(path string) (o *Owner, c *Claim, release func()) {
	w.t.Helper()
	p := startPuppet(w.t)
	o = w.add(p.pid(), OwnerOptions{})
	c = mustClaim(w.t, o, path)
	server := startPuppet(w.t)
	server.do("bind", path)
	w.mustIdentify(c)
	release = w.hold()
	w.mu.Lock()
	o.unmatched = append(o.unmatched, path+".unknown")
	w.mu.Unlock()
	p.child.Kill()
	wait(w.t, o.Exited())
	return o, c, release
}

// TestLeftWhileSearched has the claim of a dying owner left to another process while its holders are looked for.
func TestLeftWhileSearched(t *testing.T) {
	w := newWatched(t)
	o, c, release := w.dying(testutil.TempDir(t) + "/s")
	var f *reap.File
	w.onLoop(func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		f = c.file
		w.retries.remove(c)
		c.later.searched = true
		c.giveWay()
	})
	w.onLoop(func() { w.handOn(c, f, &candidates{holders: make([][]reap.Holder, 1)}, 0) })
	release()
	waitSettled(t, o)
}

// TestLeftBeforeSearch has it left to another process while the search for its holders waits for another one.
func TestLeftBeforeSearch(t *testing.T) {
	w := newWatched(t)
	o, c, release := w.dying(testutil.TempDir(t) + "/s")
	w.onLoop(func() {
		w.mu.Lock()
		w.retries.remove(c)
		w.mu.Unlock()
		w.holders.searching = []*Claim{c} // any
		w.search(c)
		w.mu.Lock()
		c.giveWay()
		w.mu.Unlock()
		w.holders.searching = nil
		w.searchNext()
	})
	release()
	waitSettled(t, o)
}

// TestReplacedAtTheEnd has the claim of a dying owner get another file when the first one was handed on already: before it is known what the
// owner did last, or together with that.
func TestReplacedAtTheEnd(t *testing.T) {
	for name, last := range map[string]func(o *Owner){"before": func(*Owner) {}, "together": (*Owner).ended} {
		t.Run(name, func(t *testing.T) {
			w, path := newWatched(t), testutil.TempDir(t)+"/s"
			o, c, release := w.dying(path)
			if err := os.Rename(path, path+".old"); err != nil {
				t.Fatal(err)
			}
			leaveDead(t, path)
			f, err := reap.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			f.RememberAlive()
			w.onLoop(func() {
				w.Watcher.outcome(c, reap.Result{Path: path, Outcome: reap.OutcomeAlive, Reason: reap.ReasonHolder})
				w.mu.Lock()
				w.retries.remove(c)
				c.accept(f, path, evidenceTold)
				w.mu.Unlock()
				last(o)
			})
			release()
			w.wantOutcome(path, reap.OutcomeAlive, reap.ReasonHolder)
			w.wantOutcome(path, reap.OutcomeRemoved, "")
			waitSettled(t, o)
			wantGone(t, path)
			wantKept(t, path+".old")
			w.settleLoop()
			w.empty()
		})
	}
}

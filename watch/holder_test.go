package watch

import (
	"context"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// orphan starts a puppet that owns path and dies while the socket is held elsewhere, as between, called before, has seen to.
func (w *watched) orphan(path string, between func(p *puppetProcess)) *Owner {
	w.t.Helper()
	p := startPuppet(w.t)
	o := w.add(p.pid(), OwnerOptions{Paths: []string{path}, Bindspaces: []string{filepath.Dir(path)}})
	p.do("bind", path)
	w.mustIdentify(o.claims[0])
	between(p)
	p.child.Kill()
	return o
}

// TestHolder has a listener that a forked child inherited: kept while that child lives, removed at its death.
func TestHolder(t *testing.T) {
	w, path := newWatched(t), testutil.TempDir(t)+"/a"
	var child *pidfd.Process
	o := w.orphan(path, func(p *puppetProcess) { child = p.fork() })
	first := w.wantOutcome(path, reap.OutcomeAlive, reap.ReasonHolder)
	if first.Owner != o.Identity() {
		t.Errorf("first outcome of %s, owner is %s", first.Owner, o.Identity())
	}
	waitSettled(t, o)
	w.idle() // the holder's end is an event, not a timer
	w.mu.Lock()
	if n := len(w.places); n > 0 {
		t.Errorf("%d directories are watched for an owner that is dead", n)
	}
	w.mu.Unlock()
	wantKept(t, path)
	wantResults(t, o, map[string]short{"a": {reap.OutcomeAlive, reap.ReasonHolder}})

	id, err := child.Identity()
	if err != nil {
		t.Fatal(err)
	}
	before := now()
	kill(t, child)
	second := w.wantOutcome(path, reap.OutcomeRemoved, "")
	wantGone(t, path)
	if second.Owner != id || second.Source != SourceExplicit || second.Comm != first.Comm {
		t.Errorf("second outcome: %s; the holder is %s", describe([]Event{second}), id)
	}
	// Since the holder's end, not the owner's.
	if latest := second.Time.Sub(before); second.AfterExit < 0 || second.AfterExit > latest {
		t.Errorf("%v after the exit, which was %v ago at the most", second.AfterExit, latest)
	}
	wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}})
	w.settleLoop()
	w.empty()
}

// TestHolders has several of them, which die one after the other, and one that forks while it is held responsible.
func TestHolders(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	paths := []string{dir + "/a", dir + "/b"}
	o := w.add(p.pid(), OwnerOptions{Paths: paths})
	var children []*pidfd.Process
	p.do("bind", paths[0])
	children = append(children, p.fork()) // holds a
	p.do("bind", paths[1])
	children = append(children, p.fork(), p.fork()) // hold a and b
	w.settleLoop()
	p.child.Kill()
	waitSettled(t, o)
	held := short{reap.OutcomeAlive, reap.ReasonHolder}
	wantResults(t, o, map[string]short{"a": held, "b": held})
	w.onLoop(func() {
		if n := len(w.holders.byIdentity); n != 3 {
			t.Errorf("%d holders", n)
		}
	})
	for i, child := range children {
		w.idle()
		wantKept(t, paths...)
		kill(t, child)
		if i < len(children)-1 {
			w.searched()
		}
	}
	w.outcome(paths[0])
	for _, path := range paths {
		w.untilGone(path)
	}
	waitSettled(t, o)
	w.settleLoop()
	w.empty()
}

// untilGone reads Events until a path is removed.
func (w *watched) untilGone(path string) Event {
	w.t.Helper()
	for {
		for _, e := range w.seen {
			if e.Kind == KindOutcome && e.Result.Path == path && e.Result.Outcome == reap.OutcomeRemoved {
				wantGone(w.t, path)
				return e
			}
		}
		w.next(func(Event) bool { return true })
	}
}

// searched waits until no claim is on the ladder and no search is under way.
func (w *watched) searched() {
	w.t.Helper()
	w.settleLoop()
	for {
		busy := false
		w.onLoop(func() {
			for _, c := range w.retries {
				busy = busy || c.later.step <= len(reap.Ladder)
			}
			busy = busy || len(w.holders.searching) > 0 || len(w.holders.waiting) > 0
		})
		if !busy {
			return
		}
		// The loop sleeps until the next step of the ladder, and so do we.
		ctx, cancel := context.WithTimeout(context.Background(), reap.Ladder[0])
		<-ctx.Done()
		cancel()
	}
}

// TestHolderChain has the socket pass through a chain of processes, each of which forks the next one and ends, while they are looked for.
func TestHolderChain(t *testing.T) {
	for _, links := range []int{1, 10, 300, 2000} {
		t.Run(strconv.Itoa(links), func(t *testing.T) {
			w, path := newWatched(t), testutil.TempDir(t)+"/a"
			o := w.orphan(path, func(p *puppetProcess) { p.do("chain", strconv.Itoa(links)) })
			e := w.outcome(path)
			for e.Result.Reason != reap.ReasonHolder {
				if e.Result.Outcome != reap.OutcomeAlive {
					t.Fatalf("outcome %s", describe(w.seen))
				}
				e = w.outcome(path) // the chain was faster than five scans; by back-off
			}
			f := mustOpen(t, path)
			defer f.Close()
			// The last link may be a new one, and that it is held by another is no news: kill until it was the last.
			for exists(t, path) {
				for _, h := range holdersOf(t, f) {
					p, err := pidfd.Open(h.PID)
					if err != nil {
						continue
					}
					kill(t, p)
					p.Close()
				}
				w.searched()
			}
			w.untilGone(path)
			waitSettled(t, o)
			w.settleLoop()
			w.empty()
		})
	}
}

func holdersOf(t testing.TB, f *reap.File) []reap.Holder {
	t.Helper()
	holders, err := f.Holders(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	return holders
}

// TestHolderIsOwner has a holder that is watched itself, and has claims of its own.
func TestHolderIsOwner(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	path, own := dir+"/a", dir+"/own"
	mail := dir + "/mail"
	holder := startPuppet(t)
	holder.do("bind", own)
	holder.do("bind", mail, "dgram")
	h := w.add(holder.pid(), OwnerOptions{Paths: []string{own}})
	w.orphan(path, func(p *puppetProcess) {
		p.do("send", mail)
		holder.do("receive")
	})
	w.wantOutcome(path, reap.OutcomeAlive, reap.ReasonHolder)
	holder.child.Kill()
	waitSettled(t, h)
	e := w.untilGone(path)
	if e.Owner != h.Identity() {
		t.Errorf("outcome of %s, the holder is %s", e.Owner, h.Identity())
	}
	w.untilGone(own)
	w.settleLoop()
	w.empty()
}

// TestHolderReleased withdraws claims that were handed on: one, and those of an owner.
func TestHolderReleased(t *testing.T) {
	for _, whole := range []bool{true, false} {
		w, path := newWatched(t), testutil.TempDir(t)+"/a"
		var child *pidfd.Process
		o := w.orphan(path, func(p *puppetProcess) { child = p.fork() })
		w.wantOutcome(path, reap.OutcomeAlive, reap.ReasonHolder)
		if whole {
			_ = o.Release()
		} else if !o.claims[0].Release() {
			t.Error("not released")
		}
		w.settleLoop()
		w.empty()
		kill(t, child)
		w.settleLoop()
		wantKept(t, path)
	}
}

// TestQueued has the descriptor in a message that nobody has received, when its owner dies.
func TestQueued(t *testing.T) {
	queue := func(t *testing.T) (w *watched, o *Owner, path string, box int) {
		w = newWatched(t)
		dir := testutil.TempDir(t)
		mail := dir + "/mail"
		path = dir + "/a"
		box, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		if err := unix.Bind(box, &unix.SockaddrUnix{Name: mail}); err != nil {
			t.Fatal(err)
		}
		o = w.orphan(path, func(p *puppetProcess) { p.do("send", mail) })
		w.wantOutcome(path, reap.OutcomeAlive, reap.ReasonHolderNotVisible)
		waitSettled(t, o)
		wantKept(t, path)
		return w, o, path, box
	}
	t.Run("closed, removed by back-off", func(t *testing.T) {
		w, _, path, box := queue(t)
		unix.Close(box)
		w.wantOutcome(path, reap.OutcomeRemoved, "")
		wantGone(t, path)
		w.settleLoop()
		w.empty()
	})
	t.Run("closed, removed at a later exit", func(t *testing.T) {
		w, _, path, box := queue(t)
		unix.Close(box)
		p := startPuppet(t)
		later := w.add(p.pid(), OwnerOptions{})
		p.child.Kill()
		waitSettled(t, later)
		w.settleLoop()
		wantGone(t, path)
		w.empty()
	})
	t.Run("received and handed on", func(t *testing.T) {
		w, dir := newWatched(t), testutil.TempDir(t)
		path, mail := dir+"/a", dir+"/mail"
		receiver := startPuppet(t)
		receiver.do("bind", mail, "dgram")
		o := w.orphan(path, func(p *puppetProcess) { p.do("send", mail) })
		w.wantOutcome(path, reap.OutcomeAlive, reap.ReasonHolderNotVisible)
		waitSettled(t, o)
		receiver.do("receive")
		w.wantOutcome(path, reap.OutcomeAlive, reap.ReasonHolder) // by back-off
		w.searched()
		w.idle()
		receiver.child.Kill()
		w.wantOutcome(path, reap.OutcomeRemoved, "")
		w.settleLoop()
		w.empty()
	})
	t.Run("released", func(t *testing.T) {
		w, o, path, box := queue(t)
		if !o.claims[0].Release() {
			t.Error("not released")
		}
		unix.Close(box)
		w.settleLoop()
		w.empty()
		wantKept(t, path)
	})
}

// TestHolderIsUs has the socket open in our own process, whose end nobody could answer.
func TestHolderIsUs(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	path, mail := dir+"/a", dir+"/mail"
	box, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(box)
	if err := unix.Bind(box, &unix.SockaddrUnix{Name: mail}); err != nil {
		t.Fatal(err)
	}
	fd := -1
	o := w.orphan(path, func(p *puppetProcess) {
		p.do("send", mail)
		if fd, err = receive(box); err != nil {
			t.Fatal(err)
		}
	})
	w.wantOutcome(path, reap.OutcomeAlive, reap.ReasonHolder)
	waitSettled(t, o)
	wantKept(t, path)
	unix.Close(fd)
	w.wantOutcome(path, reap.OutcomeRemoved, "") // by back-off
	wantGone(t, path)
	w.settleLoop()
	w.empty()
}

// TestLadder has the socket let go of while nobody holds it visibly, before holders are looked for.
func TestLadder(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	path, mail := dir+"/a", dir+"/mail"
	box, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Bind(box, &unix.SockaddrUnix{Name: mail}); err != nil {
		t.Fatal(err)
	}
	o := w.orphan(path, func(p *puppetProcess) { p.do("send", mail) })
	wait(t, o.Exited())
	unix.Close(box)
	w.untilGone(path)
	waitSettled(t, o)
	w.settleLoop()
	w.empty()
}

// TestSearchReleased releases claims while their holders are looked for, and closes the watcher then.
func TestSearchReleased(t *testing.T) {
	for name, release := range map[string]func(w *watched, o *Owner){
		"claim":             func(_ *watched, o *Owner) { o.claims[0].Release() },
		"owner":             func(_ *watched, o *Owner) { _ = o.Release() },
		"watcher":           func(w *watched, _ *Owner) { w.Close() },
		"claim and watcher": func(w *watched, o *Owner) { o.claims[0].Release(); w.Close() },
		"owner and watcher": func(w *watched, o *Owner) { _ = o.Release(); w.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			w, path := newWatched(t), testutil.TempDir(t)+"/a"
			var child *pidfd.Process
			o := w.orphan(path, func(p *puppetProcess) { child = p.fork() })
			// The search's end comes after the release: the loop is kept busy, and then sees them in this order.
			wait(t, o.Exited())
			released := make(chan struct{})
			w.post(func() {
				c := o.claims[0]
				w.retries.remove(c)
				w.search(c)
				go func() {
					defer close(released)
					release(w, o)
				}()
				for over := false; !over; {
					w.mu.Lock()
					over = c.state == withdrawn || w.closed
					w.mu.Unlock()
				}
				if strings.HasSuffix(name, "and watcher") {
					for closed := false; !closed; {
						w.mu.Lock()
						closed = w.closed
						w.mu.Unlock()
					}
				}
			})
			wait(t, released)
			wantKept(t, path)
			kill(t, child)
		})
	}
}

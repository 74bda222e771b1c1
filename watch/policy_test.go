package watch

import (
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/reap"
)

// asked keeps what a Policy was asked about.
type asked struct {
	mu         sync.Mutex
	candidates []Candidate
}

func (a *asked) decide(c Candidate) Action {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.candidates = append(a.candidates, c)
	return ActionReap
}

// paths gives those it was asked about since the last time.
func (a *asked) paths() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	var paths []string
	for _, c := range a.candidates {
		paths = append(paths, c.Path)
	}
	a.candidates = nil
	return slices.Compact(paths)
}

// TestDecideWhere: the Policy is told where the file is, which is asked of the file that was opened and not looked up by the path, and as
// long as there is none the path as it stands.
func TestDecideWhere(t *testing.T) {
	var a asked
	w, dir := newWatched(t, Options{Policy: Policy{Decide: a.decide}}), testutil.TempDir(t)
	for _, name := range []string{"/real", "/other"} {
		if err := os.Mkdir(dir+name, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	link := func(to string) {
		t.Helper()
		_ = os.Remove(dir + "/link")
		if err := os.Symlink(to, dir+"/link"); err != nil {
			t.Fatal(err)
		}
	}
	want := func(paths ...string) {
		t.Helper()
		if got := a.paths(); !slices.Equal(got, paths) {
			t.Errorf("asked about %q, want %q", got, paths)
		}
	}
	link("real")
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{})

	pending := mustClaim(t, o, dir+"/other/.././/link/a")
	want(dir + "/link/a")
	p.do("bind", dir+"/link/a")
	w.mustIdentify(pending)
	want(dir + "/real/a")

	// Opened, and then the way that led to it leads elsewhere, to something that is there as well.
	p.do("bind", dir+"/real/b")
	p.do("bind", dir+"/other/b")
	f, err := reap.Open(dir + "/link/b")
	if err != nil {
		t.Fatal(err)
	}
	link("other")
	if _, err := o.ClaimFile(f, SourceNotify); err != nil {
		f.Close()
		t.Fatal(err)
	}
	want(dir+"/link/b", dir+"/real/b")

	// Found at the owner's end only.
	late := mustClaim(t, o, dir+"/link/late")
	want(dir + "/link/late")
	release := w.hold()
	p.do("bind", dir+"/link/late")
	p.child.Kill()
	<-o.Exited()
	release()
	waitSettled(t, o)
	if r, ok := late.Result(); !ok || r.Outcome != reap.OutcomeRemoved {
		t.Errorf("%+v", r)
	}
	if got := a.paths(); !slices.Contains(got, dir+"/other/late") {
		t.Errorf("asked about %q", got)
	}
	wantGone(t, dir+"/real/a", dir+"/real/b", dir+"/other/late")
	wantKept(t, dir+"/other/b")
}

// TestIgnoredWhere: what is to be ignored where it is, and was found at its owner's end only, is kept without a word, whatever way was claimed.
func TestIgnoredWhere(t *testing.T) {
	dir := testutil.TempDir(t)
	ignore := func(c Candidate) Action {
		if c.Path == dir+"/real/a" {
			return ActionIgnore
		}
		return ActionReap
	}
	w := newWatched(t, Options{Policy: Policy{Decide: ignore}})
	if err := os.Mkdir(dir+"/real", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("real", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	leaveDead(t, dir+"/link/a") // it is not known before the end
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Paths: []string{dir + "/link/a", dir + "/link/none"}})
	p.child.Kill()
	waitSettled(t, o)
	w.settleLoop()
	wantKept(t, dir+"/real/a")
	wantResults(t, o, map[string]short{"none": {reap.OutcomeGone, ""}})
	w.empty()
}

// TestDecideIsNoWait: nobody waits for what a Policy looks up of a process, for no lock is held.
func TestDecideIsNoWait(t *testing.T) {
	asking, answer := make(chan struct{}), make(chan struct{})
	var a asked
	w := newWatched(t, Options{Policy: Policy{Decide: a.decide, Cgroup: func(int) string {
		asking <- struct{}{}
		<-answer
		return "/some"
	}}})
	p := startPuppet(t)
	process := open(t, p.pid())
	var o *Owner
	var adding sync.WaitGroup
	adding.Go(func() { o = w.addProcess(process, OwnerOptions{Paths: []string{testutil.TempDir(t) + "/a"}}) })
	<-asking
	w.onLoop(func() {}) // takes the lock, and the loop runs
	if n := len(w.Owners()); n != 1 {
		t.Errorf("%d owners", n)
	}
	answer <- struct{}{}
	adding.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	if last := a.candidates[len(a.candidates)-1]; last.Cgroup != "/some" || last.PID != o.Identity().PID {
		t.Errorf("%+v", last)
	}
}

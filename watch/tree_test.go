package watch

import (
	"maps"
	"os"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// rootOf gives the root of the owner with a pid.
func (w *watched) rootOf(pid int) *Owner {
	w.t.Helper()
	for _, o := range w.Owners() {
		if o.Identity().PID == pid {
			return o.Root()
		}
	}
	w.t.Errorf("process %d is no owner", pid)
	return nil
}

// bound waits until a path is claimed for a process.
func (w *watched) bound(path string, pid int) {
	w.t.Helper()
	if e := w.claimed(path); e.Owner.PID != pid {
		w.t.Errorf("%s is of process %d: %s", path, pid, describe([]Event{e}))
	}
}

// TestTreeOfEachKind has descendants of all kinds bind in the root's bindspace. Each is the owner of its own, in the root's tree, and its
// file goes when it dies, though the root lives.
func TestTreeOfEachKind(t *testing.T) {
	for name, kind := range map[string]struct {
		how   []string
		needs []testutil.Feature
	}{
		"child":         {},
		"session":       {how: []string{"session"}},
		"other user":    {how: []string{"user"}, needs: []testutil.Feature{testutil.Root}},
		"in namespaces": {how: []string{"namespaces"}, needs: []testutil.Feature{testutil.UserNS}},
	} {
		t.Run(name, func(t *testing.T) {
			testutil.Require(t, kind.needs...)
			eachWay(t, func(t *testing.T, options Options) {
				w, dir := newWatched(t, options), testutil.TempDir(t)
				if err := os.Chmod(dir, 0o777); err != nil {
					t.Fatal(err)
				}
				p := startPuppet(t)
				root := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}})
				p.do("bind", dir+"/root")
				w.bound(dir+"/root", p.pid())
				child := p.spawn(kind.how...)
				below := child.spawn()
				for i, d := range []*descendant{child, below} {
					path := dir + "/" + strconv.Itoa(i)
					d.do("bind", path)
					w.bound(path, d.pid())
					if got := w.rootOf(d.pid()); got != root {
						t.Errorf("%d is in the tree of %v", i, got)
					}
				}
				kill(t, child.process)
				w.wantOutcome(dir+"/0", reap.OutcomeRemoved, "")
				child.reap(p)
				w.settleLoop()
				wantKept(t, dir+"/root", dir+"/1")
				p.child.Kill()
				waitSettled(t, root)
				wantGone(t, dir+"/root")
				wantKept(t, dir+"/1")
				kill(t, below.process)
				w.wantOutcome(dir+"/1", reap.OutcomeRemoved, "")
				wantGone(t, dir+"/0", dir+"/1")
				if kept := root.Results(); len(kept) != 1 {
					t.Errorf("the root's results: %v", kept)
				}
			})
		})
	}
}

// TestTreeThere has descendants that have bound in the bindspace before the root is watched, and a stranger that has.
func TestTreeThere(t *testing.T) {
	eachWay(t, func(t *testing.T, options Options) {
		w, dir := newWatched(t, options), testutil.TempDir(t)
		p, stranger := startPuppet(t), startPuppet(t)
		stranger.do("bind", dir+"/stranger")
		nextFileTime() // what is older than the root is not its own
		child := p.spawn()
		child.do("bind", dir+"/child")
		below := child.spawn()
		below.do("bind", dir+"/below")
		root := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}})
		claimed := map[string]int{}
		for range 2 {
			e := w.next(func(e Event) bool { return e.Kind == KindClaimed })
			claimed[e.Result.Path] = e.Owner.PID
		}
		if want := map[string]int{dir + "/child": child.pid(), dir + "/below": below.pid()}; !maps.Equal(claimed, want) {
			t.Errorf("claimed: %v, want %v", claimed, want)
		}
		if got := w.rootOf(below.pid()); got != root {
			t.Errorf("it is in the tree of %v", got)
		}
		kill(t, below.process)
		w.wantOutcome(dir+"/below", reap.OutcomeRemoved, "")
		stranger.child.Kill()
		w.settleLoop()
		wantKept(t, dir+"/child", dir+"/stranger")
	})
}

// TestTreeOrphan has a process bind whose parent is dead. It is in the root's tree where the root has adopted it, or we have; else it
// is one of the same user, and its file goes at its end all the same.
func TestTreeOrphan(t *testing.T) {
	for _, adopter := range []string{"root", "us", "init"} {
		t.Run(adopter, func(t *testing.T) {
			eachWay(t, func(t *testing.T, options Options) {
				w, dir := newWatched(t, options), testutil.TempDir(t)
				p := startPuppet(t)
				switch adopter {
				case "root":
					p.do("subreaper")
				case "us":
					becomeSubreaper(t)
				}
				root := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}})
				parent := p.spawn()
				orphan := parent.spawn("session")
				kill(t, parent.process)
				parent.reap(p)
				orphan.do("bind", dir+"/a")
				w.bound(dir+"/a", orphan.pid())
				if got := w.rootOf(orphan.pid()); (got == root) != (adopter != "init") {
					t.Errorf("it is in the tree of %v", got)
				}
				p.child.Kill()
				waitSettled(t, root)
				wantKept(t, dir+"/a")
				kill(t, orphan.process)
				w.wantOutcome(dir+"/a", reap.OutcomeRemoved, "")
				if adopter == "us" {
					if _, err := unix.Wait4(orphan.pid(), nil, 0, nil); err != nil {
						t.Error(err)
					}
				}
			})
		})
	}
}

// becomeSubreaper has this process adopt orphans until the end of the test.
func becomeSubreaper(t *testing.T) {
	t.Helper()
	if err := sys.BecomeSubreaper(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0); err != nil {
			t.Error(err)
		}
	})
}

// TestTreePidUsedAgain has a process bind whose pid was that of another one of the tree.
func TestTreePidUsedAgain(t *testing.T) {
	testutil.Require(t, testutil.Root)
	eachWay(t, func(t *testing.T, options Options) {
		w, dir := newWatched(t, options), testutil.TempDir(t)
		p := startPuppet(t)
		root := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}})
		end := func(hatched *pidfd.Process, path string) {
			goOn(t, hatched)
			pid := hatched.PID()
			w.bound(path, pid)
			if got := w.rootOf(pid); got != root {
				t.Errorf("it is in the tree of %v", got)
			}
			kill(t, hatched)
			w.wantOutcome(path, reap.OutcomeRemoved, "")
			p.do("reap", strconv.Itoa(pid))
		}
		for i := 0; ; i++ {
			prefix := dir + "/" + strconv.Itoa(i)
			first := p.hatch(1, prefix+"first", "stay")[0]
			pid := strconv.Itoa(first.PID())
			end(first, prefix+"first0")
			again := p.do("hatch", "1", prefix+"again", "stay", pid)
			if again == "taken" { // by somebody else of the machine, for as long as he likes
				continue
			}
			if again != pid {
				t.Fatalf("process %s, want %s", again, pid)
			}
			end(adopt(t, again), prefix+"again0")
			break
		}
		p.child.Kill()
		waitSettled(t, root)
		w.settleLoop()
		w.empty()
	})
}

// TestTreesShareBindspace has two trees bind in one directory.
func TestTreesShareBindspace(t *testing.T) {
	eachWay(t, func(t *testing.T, options Options) {
		w, dir := newWatched(t, options), testutil.TempDir(t)
		var parents []*puppetProcess
		var children []*descendant
		var roots []*Owner
		for range 2 {
			p := startPuppet(t)
			parents = append(parents, p)
			children = append(children, p.spawn())
			roots = append(roots, w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}}))
		}
		for i := range 2 {
			n := strconv.Itoa(i)
			children[i].do("bind", dir+"/child"+n)
			w.bound(dir+"/child"+n, children[i].pid())
			parents[i].do("bind", dir+"/root"+n)
			w.bound(dir+"/root"+n, parents[i].pid())
			if got := w.rootOf(children[i].pid()); got != roots[i] {
				t.Errorf("child %d is in the tree of %v", i, got)
			}
		}
		parents[0].child.Kill()
		w.wantOutcome(dir+"/root0", reap.OutcomeRemoved, "")
		w.settleLoop()
		wantKept(t, dir+"/child0", dir+"/root1", dir+"/child1")
		kill(t, children[1].process)
		w.wantOutcome(dir+"/child1", reap.OutcomeRemoved, "")
		children[1].reap(parents[1])
		w.settleLoop()
		wantKept(t, dir+"/child0", dir+"/root1")
		parents[1].child.Kill()
		w.wantOutcome(dir+"/root1", reap.OutcomeRemoved, "")
		w.settleLoop()
		wantKept(t, dir+"/child0")
		kill(t, children[0].process)
		w.wantOutcome(dir+"/child0", reap.OutcomeRemoved, "")
		wantGone(t, dir+"/root0", dir+"/root1", dir+"/child0", dir+"/child1")
	})
}

// TestTreeRelease releases a root: nothing of its tree is removed.
func TestTreeRelease(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	child, reporting := p.spawn(), p.spawn()
	reporting.do("notify", w.notifyAddress())
	root := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir + "/space"}})
	p.do("bind", dir+"/space/root")
	child.do("bind", dir+"/space/child")
	reporting.do("bind", dir+"/reported")
	reporting.do("report", "BIND="+dir+"/reported")
	w.settleLoop()
	if n := len(w.Owners()); n != 3 {
		t.Errorf("%d owners", n)
	}
	if err := root.Release(); err != nil {
		t.Error(err)
	}
	wait(t, root.Settled())
	kill(t, child.process)
	kill(t, reporting.process)
	child.reap(p)
	reporting.reap(p)
	p.child.Kill()
	w.settleLoop()
	wantKept(t, dir+"/space/root", dir+"/space/child", dir+"/reported")
	w.empty()
}

// TestTreeResults has something kept of a process in the tree: the root tells it, as long as it is there.
func TestTreeResults(t *testing.T) {
	eachWay(t, func(t *testing.T, options Options) {
		w, dir := newWatched(t, options), testutil.TempDir(t)
		p := startPuppet(t)
		root := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}})
		child := p.spawn()
		child.do("bind", dir+"/a")
		w.bound(dir+"/a", child.pid())
		holder := adopt(t, child.do("fork"))
		kill(t, child.process)
		w.wantOutcome(dir+"/a", reap.OutcomeAlive, reap.ReasonHolder)
		wantResults(t, root, map[string]short{"a": {reap.OutcomeAlive, reap.ReasonHolder}})
		kill(t, holder)
		w.wantOutcome(dir+"/a", reap.OutcomeRemoved, "")
		wantResults(t, root, nil)
	})
}

// TestReleasedBindspace: what is bound in a bindspace of everybody's that was just given up is nobody's, also before the loop has answered.
func TestReleasedBindspace(t *testing.T) {
	eachWay(t, func(t *testing.T, options Options) {
		w, dir := newWatched(t, options), testutil.TempDir(t)
		space, err := w.AddBindspace(dir, false, nil)
		if err != nil {
			t.Fatal(err)
		}
		w.settleLoop()
		p := startPuppet(t)
		w.onLoop(func() {
			_ = space.Release()
			p.do("bind", dir+"/a")
			w.catchUp() // here, the loop cannot have answered the release
		})
		w.settleLoop()
		w.empty()
		if claims := about(w.drain(), KindClaimed, dir+"/a"); len(claims) > 0 {
			t.Errorf("claimed: %s", describe(claims))
		}
		p.child.Kill()
		w.settleLoop()
		wantKept(t, dir+"/a")
	})
}

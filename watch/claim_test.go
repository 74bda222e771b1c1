package watch

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// mustClaim claims a path that the caller names.
func mustClaim(t testing.TB, o *Owner, path string) *Claim {
	t.Helper()
	c, err := o.Claim(path, SourceExplicit)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func mustOpen(t testing.TB, path string) *reap.File {
	t.Helper()
	f, err := reap.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	return f
}

// TestClaimBeforeFile claims a path of which nothing is there yet. The file's identity is taken when it appears, whatever way
// it does.
func TestClaimBeforeFile(t *testing.T) {
	for name, test := range map[string]struct {
		appear   func(p *puppetProcess, dir, path string)
		observed bool // so that the file is known before the owner's end
	}{
		"bind": {func(p *puppetProcess, _, path string) { p.do("bind", path) }, true},
		"datagram": {func(p *puppetProcess, _, path string) {
			p.do("bind", path, "dgram")
		}, true},
		"renamed into place": {func(p *puppetProcess, dir, path string) {
			p.do("bind", dir+"/other")
			p.do("rename", dir+"/other", path)
		}, true},
		"linked": {func(p *puppetProcess, dir, path string) { // as ssh's ControlMaster does
			p.do("bind", dir+"/other")
			p.do("link", dir+"/other", path)
			p.do("remove", dir+"/other")
		}, true},
		"in a directory that is made later": {func(p *puppetProcess, _, path string) {
			if err := os.Remove(filepath.Dir(path)); err != nil {
				p.t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
				p.t.Fatal(err)
			}
			p.do("bind", path)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			w, dir := newWatched(t), testutil.TempDir(t)
			if err := os.Mkdir(dir+"/sub", 0o700); err != nil {
				t.Fatal(err)
			}
			p := startPuppet(t)
			path := dir + "/sub/a"
			o := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
			c := mustClaim(t, o, path)
			if w.identified(c) {
				t.Error("identified before there is a file")
			}
			test.appear(p, dir, path)
			w.settleLoop()
			if w.identified(c) != test.observed {
				t.Errorf("identified: %v, want %v", !test.observed, test.observed)
			}
			p.child.Kill()
			waitSettled(t, o)
			wantGone(t, path, dir+"/other")
			wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}})
			w.empty()
		})
	}
}

// TestClaimInMissingDirectory claims a path whose directory is not there yet, nor the one above.
func TestClaimInMissingDirectory(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	path, never := dir+"/b/c/a", dir+"/x/y/z"
	o := w.add(p.pid(), OwnerOptions{Paths: []string{path, never}})
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	p.do("bind", path)
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, path)
	wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}, "z": {reap.OutcomeGone, ""}})
	w.empty()
}

// TestClaimAgainAfterDirectory claims a path once more when its directory is there: now it is watched.
func TestClaimAgainAfterDirectory(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	path := dir + "/sub/a"
	o := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
	if err := os.Mkdir(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	c := mustClaim(t, o, path)
	p.do("bind", path)
	w.settleLoop()
	if !w.identified(c) {
		t.Error("not identified")
	}
	p.child.Kill()
	waitSettled(t, o)
	wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}})
}

// TestClaimOverStaleFile claims a path where a dead file of an earlier life is.
func TestClaimOverStaleFile(t *testing.T) {
	t.Run("replaced by the owner", func(t *testing.T) {
		w, path := newWatched(t), testutil.TempDir(t)+"/a"
		leaveDead(t, path)
		p := startPuppet(t)
		o := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
		p.do("rebind", path)
		child := p.fork() // only of what is known at the owner's end is the holder looked for
		w.settleLoop()
		p.child.Kill()
		w.wantOutcome(path, reap.OutcomeAlive, reap.ReasonHolder)
		wantKept(t, path)
		kill(t, child)
		w.wantOutcome(path, reap.OutcomeRemoved, "")
		waitSettled(t, o)
		wantGone(t, path)
	})
	t.Run("never replaced", func(t *testing.T) {
		w, path := newWatched(t), testutil.TempDir(t)+"/a"
		leaveDead(t, path)
		p := startPuppet(t)
		o := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
		p.child.Kill()
		waitSettled(t, o)
		wantGone(t, path)
		wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}})
	})
}

// TestClaimSuperseded has a new inode under a claimed name. Only that of the owner is the claim's.
func TestClaimSuperseded(t *testing.T) {
	replace := map[string]func(p *puppetProcess, dir, path string){
		"bound anew": func(p *puppetProcess, _, path string) { p.do("rebind", path) },
		"renamed over": func(p *puppetProcess, dir, path string) {
			p.do("bind", dir+"/new")
			p.do("rename", dir+"/new", path)
		},
	}
	for name, replace := range replace {
		t.Run(name+" by the owner", func(t *testing.T) {
			w, dir := newWatched(t), testutil.TempDir(t)
			path := dir + "/a"
			p := startPuppet(t)
			o := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
			p.do("bind", path)
			w.settleLoop()
			for range 3 {
				replace(p, dir, path)
				w.settleLoop()
			}
			p.child.Kill()
			waitSettled(t, o)
			wantGone(t, path)
			wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}})
			w.empty()
		})
		t.Run(name+" by another process", func(t *testing.T) {
			w, dir := newWatched(t), testutil.TempDir(t)
			path := dir + "/a"
			p, other := startPuppet(t), startPuppet(t)
			o := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
			p.do("bind", path)
			w.settleLoop()
			replace(other, dir, path)
			w.settleLoop()
			p.child.Kill()
			waitSettled(t, o)
			wantKept(t, path)
			wantResults(t, o, map[string]short{"a": {reap.OutcomeReplaced, ""}})
			w.empty()
		})
		t.Run(name+" by another process that died", func(t *testing.T) {
			w, dir := newWatched(t), testutil.TempDir(t)
			path := dir + "/a"
			p, other := startPuppet(t), startPuppet(t)
			o := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
			p.do("bind", path)
			w.settleLoop()
			replace(other, dir, path)
			other.child.Kill()
			w.settleLoop()
			p.child.Kill()
			waitSettled(t, o)
			wantKept(t, path) // dead, and not the inode that was claimed
			wantResults(t, o, map[string]short{"a": {reap.OutcomeReplaced, ""}})
		})
	}
}

// TestClaimReplacedByOtherType has something at the claimed path that is no socket.
func TestClaimReplacedByOtherType(t *testing.T) {
	for name, replace := range map[string]func(path string) error{
		"regular file": func(path string) error { return os.WriteFile(path, nil, 0o600) },
		"directory":    func(path string) error { return os.Mkdir(path, 0o700) },
		"fifo":         func(path string) error { return unix.Mkfifo(path, 0o600) },
		"symlink":      func(path string) error { return os.Symlink(path+".target", path) },
	} {
		for _, known := range []bool{true, false} {
			t.Run(name+", file known: "+strconv.FormatBool(known), func(t *testing.T) {
				w, path := newWatched(t), testutil.TempDir(t)+"/a"
				leaveDead(t, path+".target")
				p := startPuppet(t)
				o := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
				if known {
					p.do("bind", path)
					w.settleLoop()
					p.do("remove", path)
				}
				if err := replace(path); err != nil {
					t.Fatal(err)
				}
				p.child.Kill()
				waitSettled(t, o)
				wantKept(t, path, path+".target")
				wantResults(t, o, map[string]short{"a": {reap.OutcomeReplaced, reap.ReasonNotSocket}})
			})
		}
	}
}

// TestClaimRebindAndDie has owners that replace their file and are dead before anybody can have looked at the new one.
func TestClaimRebindAndDie(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	const n = 200
	for i, child := range p.hatch(n, dir+"/", "rebind") {
		path := dir + "/" + strconv.Itoa(i)
		o := w.addProcess(duplicate(t, child), OwnerOptions{})
		goOn(t, child)
		p.do("stopped", strconv.Itoa(child.PID())) // it has bound a first time
		w.mustIdentify(mustClaim(t, o, path))
		goOn(t, child)
		waitSettled(t, o)
		if exists(t, path) {
			t.Fatalf("round %d: %v", i, o.Results())
		}
	}
	p.do("reapall")
	w.settleLoop()
	w.empty()
}

// TestClaimReplacedBeforeAttach has the server of an earlier life at the path while the new one starts, which replaces
// the file before it is attached.
func TestClaimReplacedBeforeAttach(t *testing.T) {
	w, path := newWatched(t), testutil.TempDir(t)+"/a"
	old := startPuppet(t)
	old.do("bind", path)
	o, err := w.Prepare(OwnerOptions{Paths: []string{path}})
	if err != nil {
		t.Fatal(err)
	}
	p := startPuppet(t)
	p.do("rebind", path)
	w.settleLoop()
	if err := o.Attach(open(t, p.pid())); err != nil {
		t.Fatal(err)
	}
	w.settleLoop()
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, path)
	wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}})
}

// TestClaimDirectoryMadeAnew has an owner that removes its directory with the file in it, and makes both anew.
func TestClaimDirectoryMadeAnew(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	path := dir + "/sub/a"
	if err := os.Mkdir(dir+"/sub", 0o700); err != nil {
		t.Fatal(err)
	}
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
	p.do("bind", path)
	w.settleLoop()
	p.do("remove", path)
	if err := os.Remove(dir + "/sub"); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(dir+"/sub", 0o700); err != nil {
		t.Fatal(err)
	}
	p.do("bind", path)
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, path)
	wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}})
	w.empty()
}

// TestClaimDirectoryRemoved removes a claim's directory for good.
func TestClaimDirectoryRemoved(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	for _, sub := range []string{"/pending", "/known"} {
		if err := os.Mkdir(dir+sub, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Paths: []string{dir + "/pending/a", dir + "/known/b"}})
	p.do("bind", dir+"/known/b")
	w.settleLoop()
	p.do("remove", dir+"/known/b")
	for _, sub := range []string{"/pending", "/known"} {
		if err := os.Remove(dir + sub); err != nil {
			t.Fatal(err)
		}
	}
	w.settleLoop()
	p.child.Kill()
	waitSettled(t, o)
	wantResults(t, o, map[string]short{"a": {reap.OutcomeGone, ""}, "b": {reap.OutcomeGone, ""}})
	w.empty()
}

// TestClaimMovedDirectory has the directory of a claim renamed: the inode is what is removed.
func TestClaimMovedDirectory(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	if err := os.Mkdir(dir+"/sub", 0o700); err != nil {
		t.Fatal(err)
	}
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Paths: []string{dir + "/sub/a"}})
	p.do("bind", dir+"/sub/a")
	w.settleLoop()
	if err := os.Rename(dir+"/sub", dir+"/moved"); err != nil {
		t.Fatal(err)
	}
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, dir+"/moved/a")
	wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}})
}

// TestClaimRenamedFile has the file itself renamed in its directory.
func TestClaimRenamedFile(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Paths: []string{dir + "/a"}})
	p.do("bind", dir+"/a")
	w.settleLoop()
	p.do("rename", dir+"/a", dir+"/b")
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, dir+"/a", dir+"/b")
	wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}})
}

// TestClaimAlreadyGone is the graceful path: the owner removed the file itself.
func TestClaimAlreadyGone(t *testing.T) {
	w, path := newWatched(t), testutil.TempDir(t)+"/a"
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
	p.do("bind", path)
	w.settleLoop()
	p.do("remove", path)
	p.child.Say(`exit "0"`)
	waitSettled(t, o)
	wantResults(t, o, map[string]short{"a": {reap.OutcomeGone, ""}})
}

// TestClaimPaths claims paths that are no plain absolute ones.
func TestClaimPaths(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	t.Chdir(dir)
	long := dir + "/" + strings.Repeat("l", 120)
	if err := os.Mkdir(long, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(long, dir+"/link"); err != nil {
		t.Fatal(err)
	}
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Paths: []string{
		"relative", dir + "/link/../up", dir + "/link/a b\n\xff", long + "/over108", dir + "/./dot",
	}})
	// Seen from the directory behind the link, ".." is this one: filepath.Clean would agree by chance only.
	p.do("bind", dir+"/relative")
	p.do("bind", dir+"/up")
	p.do("bind", dir+"/link/a b\n\xff")
	p.do("bind", dir+"/link/over108")
	p.do("bind", dir+"/dot")
	w.settleLoop()
	for _, c := range o.claims {
		if !w.identified(c) {
			t.Errorf("%q is not identified", c.Path())
		}
		if !filepath.IsAbs(c.Path()) {
			t.Errorf("%q is not absolute", c.Path())
		}
	}
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, dir+"/relative", dir+"/up", long+"/a b\n\xff", long+"/over108", dir+"/dot")
	for _, r := range o.Results() {
		if r.Outcome != reap.OutcomeRemoved {
			t.Errorf("%q: %s %s %v", r.Path, r.Outcome, r.Reason, r.Err)
		}
	}
}

// TestClaimTwice claims the same thing in several ways: it is one claim, of the most authoritative source.
func TestClaimTwice(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	path := dir + "/a"
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{})
	c, err := o.Claim(path, SourceConvention)
	if err != nil {
		t.Fatal(err)
	}
	p.do("bind", path)
	claim := func(again *Claim, err error) {
		t.Helper()
		if err != nil || again != c {
			t.Errorf("another claim: %v", err)
		}
	}
	claim(o.ClaimFile(mustOpen(t, path), SourceSnapshot))
	if s := c.Source(); s != SourceSnapshot {
		t.Errorf("source %s", s)
	}
	claim(o.ClaimFile(mustOpen(t, path), SourceConvention))
	claim(o.ClaimFile(mustOpen(t, dir+"/../"+filepath.Base(dir)+"/a"), SourceConvention))
	claim(o.Claim(path, SourceNotify))
	if n, err := o.Snapshot(); n != 0 || err != nil {
		t.Errorf("snapshot: %d new, %v", n, err)
	}
	if s := c.Source(); s != SourceNotify {
		t.Errorf("source %s", s)
	}
	p.child.Kill()
	e := w.wantOutcome(path, reap.OutcomeRemoved, "")
	if e.Source != SourceNotify {
		t.Errorf("source %s", e.Source)
	}
	waitSettled(t, o)
	wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}})
	w.empty()
}

// TestClaimFileReplaced claims, as a file, what the owner has at a path of which another inode was claimed before.
func TestClaimFileReplaced(t *testing.T) {
	w, path := newWatched(t), testutil.TempDir(t)+"/a"
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{})
	for i := range 50 {
		if i == 0 {
			p.do("bind", path)
		} else {
			p.do("rebind", path)
		}
		if _, err := o.ClaimFile(mustOpen(t, path), SourceNotify); err != nil {
			t.Fatal(err)
		}
	}
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, path)
	wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}})
}

// TestTwoOwnersOnePath has two generations of a server, which both claim their path.
func TestTwoOwnersOnePath(t *testing.T) {
	t.Run("the first one dies first", func(t *testing.T) {
		w, path := newWatched(t), testutil.TempDir(t)+"/a"
		first, second := startPuppet(t), startPuppet(t)
		o1 := w.add(first.pid(), OwnerOptions{Paths: []string{path}})
		first.do("bind", path)
		w.settleLoop()
		o2 := w.add(second.pid(), OwnerOptions{Paths: []string{path}})
		second.do("rebind", path)
		w.settleLoop()
		first.child.Kill()
		waitSettled(t, o1)
		wantKept(t, path)
		wantResults(t, o1, map[string]short{"a": {reap.OutcomeReplaced, ""}})
		second.child.Kill()
		waitSettled(t, o2)
		wantGone(t, path)
		wantResults(t, o2, map[string]short{"a": {reap.OutcomeRemoved, ""}})
		w.empty()
	})
	t.Run("the second one never binds", func(t *testing.T) {
		w, path := newWatched(t), testutil.TempDir(t)+"/a"
		first, second := startPuppet(t), startPuppet(t)
		o1 := w.add(first.pid(), OwnerOptions{Paths: []string{path}})
		first.do("bind", path)
		w.settleLoop()
		o2 := w.add(second.pid(), OwnerOptions{Paths: []string{path}})
		second.child.Kill()
		waitSettled(t, o2)
		wantKept(t, path)
		wantResults(t, o2, map[string]short{"a": {reap.OutcomeAlive, reap.ReasonHolder}})
		first.child.Kill()
		waitSettled(t, o1)
		wantGone(t, path)
		w.settleLoop()
		w.empty()
	})
}

// TestSnapshot claims what the owner holds and nobody told.
func TestSnapshot(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p, other := startPuppet(t), startPuppet(t)
	for kind := range socketTypes {
		p.do("bind", dir+"/"+kind, kind)
	}
	p.do("bind", dir+"/told")
	p.do("bind", dir+"/moved")
	p.do("rename", dir+"/moved", dir+"/there")
	other.do("bind", dir+"/other")
	o := w.add(p.pid(), OwnerOptions{Paths: []string{dir + "/told"}})
	for _, want := range []int{4, 0} { // the second time nothing is new
		if n, err := o.Snapshot(); n != want || err != nil {
			t.Errorf("%d new, %v; want %d", n, err, want)
		}
	}
	p.child.Kill()
	waitSettled(t, o)
	if left := names(t, dir); !slices.Equal(left, []string{"other"}) {
		t.Errorf("left: %q", left)
	}
	if _, err := o.Snapshot(); !errors.Is(err, pidfd.ErrExited) {
		t.Errorf("of the dead: %v", err)
	}
	w.empty()
}

// TestClaimLate claims what a dead owner has bound: after its exit, after all was settled, and once more.
func TestClaimLate(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	for _, name := range []string{"a", "b", "c", "d"} {
		p.do("bind", dir+"/"+name)
	}
	o := w.add(p.pid(), OwnerOptions{Paths: []string{dir + "/a"}})
	b, d := mustOpen(t, dir+"/b"), mustOpen(t, dir+"/d")
	p.child.Kill()
	wait(t, o.Exited())
	if _, err := o.ClaimFile(b, SourceSnapshot); err != nil {
		t.Fatal(err)
	}
	wait(t, o.Settled())
	wantGone(t, dir+"/a", dir+"/b")

	w.empty()
	mustClaim(t, o, dir+"/c")
	wait(t, o.Settled())
	wantGone(t, dir+"/c")
	if _, err := o.ClaimFile(d, SourceSnapshot); err != nil {
		t.Fatal(err)
	}
	wait(t, o.Settled())
	wantGone(t, dir+"/d")
	removed := short{reap.OutcomeRemoved, ""}
	wantResults(t, o, map[string]short{"a": removed, "b": removed, "c": removed, "d": removed})

	// What came to its end is the claim that there is, also when something new has the name.
	leaveDead(t, dir+"/a")
	if c := mustClaim(t, o, dir+"/a"); c != o.claims[0] {
		t.Error("another claim")
	}
	w.settleLoop()
	wantKept(t, dir+"/a")
	w.empty()
}

// TestClaimFileLate claims a file that is gone with its owner: it was one claim before, and is not another one now.
func TestClaimFileLate(t *testing.T) {
	w, path := newWatched(t), testutil.TempDir(t)+"/a"
	p := startPuppet(t)
	p.do("bind", path)
	o := w.add(p.pid(), OwnerOptions{})
	early, late := mustOpen(t, path), mustOpen(t, path)
	c, err := o.ClaimFile(early, SourceSnapshot)
	if err != nil {
		t.Fatal(err)
	}
	p.child.Kill()
	waitSettled(t, o)
	if again, err := o.ClaimFile(late, SourceSnapshot); err != nil || again != c {
		t.Errorf("another claim: %v", err)
	}
	wait(t, o.Settled())
	wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}})
	w.empty()
}

// TestClaimLateAlive claims, for a dead owner, the file of a living process: it is somebody else's server, by a path, and a
// holder's, by a file that the caller says the owner bound.
func TestClaimLateAlive(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p, other := startPuppet(t), startPuppet(t)
	other.do("bind", dir+"/path")
	other.do("bind", dir+"/file")
	o := w.add(p.pid(), OwnerOptions{})
	p.child.Kill()
	waitSettled(t, o)

	mustClaim(t, o, dir+"/path")
	if _, err := o.ClaimFile(mustOpen(t, dir+"/file"), SourceSnapshot); err != nil {
		t.Fatal(err)
	}
	wait(t, o.Settled())
	kept := short{reap.OutcomeAlive, reap.ReasonHolder}
	wantResults(t, o, map[string]short{"path": kept, "file": kept})
	w.wantOutcome(dir+"/file", reap.OutcomeAlive, reap.ReasonHolder)
	other.child.Kill()
	w.wantOutcome(dir+"/file", reap.OutcomeRemoved, "")
	wantGone(t, dir+"/file")
	wantKept(t, dir+"/path")
	w.empty()
}

// TestPendingAliveAtExit is the rule that a file which was not known before the owner's end, and lives, is somebody else's:
// kept for good, and its holder is not watched.
func TestPendingAliveAtExit(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	path := dir + "/sub/in/a"
	for _, sub := range []string{"one", "two"} {
		if err := os.MkdirAll(dir+"/"+sub+"/in", 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("one", dir+"/sub"); err != nil {
		t.Fatal(err)
	}
	p, other := startPuppet(t), startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
	// It is the directory "one/in" that is watched.
	if err := os.Remove(dir + "/sub"); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("two", dir+"/sub"); err != nil {
		t.Fatal(err)
	}
	other.do("bind", path)
	p.child.Kill()
	w.wantOutcome(path, reap.OutcomeAlive, reap.ReasonHolder)
	waitSettled(t, o)
	w.empty()
	other.child.Kill()
	w.settleLoop()
	wantKept(t, path)
}

// TestClaimRelease withdraws claims at all the quiet moments.
func TestClaimRelease(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	for _, name := range []string{"known", "stays", "owner"} {
		p.do("bind", dir+"/"+name)
	}
	o := w.add(p.pid(), OwnerOptions{})
	pending, known, stays := mustClaim(t, o, dir+"/pending"), mustClaim(t, o, dir+"/known"), mustClaim(t, o, dir+"/stays")
	for _, c := range []*Claim{pending, known} {
		if !c.Release() {
			t.Errorf("%s was not released", c.Path())
		}
		if c.Release() {
			t.Errorf("%s was released twice", c.Path())
		}
	}
	p.do("bind", dir+"/pending")
	w.settleLoop()
	p.child.Kill()
	waitSettled(t, o)
	if stays.Release() {
		t.Error("released after it was removed")
	}
	wantKept(t, dir+"/pending", dir+"/known")
	wantGone(t, dir+"/stays")
	wantResults(t, o, map[string]short{"stays": {reap.OutcomeRemoved, ""}})
	w.empty()
}

// TestClaimReleaseAndClaim claims a path again that was released.
func TestClaimReleaseAndClaim(t *testing.T) {
	for _, others := range []int{0, indexFrom} {
		t.Run(strconv.Itoa(others)+" others", func(t *testing.T) {
			w, dir := newWatched(t), testutil.TempDir(t)
			p := startPuppet(t)
			o := w.add(p.pid(), OwnerOptions{})
			for i := range others {
				mustClaim(t, o, dir+"/other"+strconv.Itoa(i))
			}
			p.do("bind", dir+"/a")
			for range 3 {
				c := mustClaim(t, o, dir+"/a")
				if !c.Release() {
					t.Fatal("not released")
				}
			}
			c := mustClaim(t, o, dir+"/a")
			if again := mustClaim(t, o, dir+"/a"); again != c {
				t.Error("another claim")
			}
			p.child.Kill()
			waitSettled(t, o)
			wantGone(t, dir+"/a")
			w.empty()
		})
	}
}

// TestOwnerRelease keeps all files and frees everything.
func TestOwnerRelease(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	p.do("bind", dir+"/a")
	o := w.add(p.pid(), OwnerOptions{Paths: []string{dir + "/a", dir + "/b"}, Bindspaces: []string{dir}})
	if err := o.Release(); err != nil {
		t.Fatal(err)
	}
	if err := o.Release(); err != nil {
		t.Fatal(err)
	}
	wait(t, o.Exited())
	wait(t, o.Settled())
	w.empty()
	p.do("bind", dir+"/b")
	p.do("bind", dir+"/c")
	f := mustOpen(t, dir+"/c")
	if _, err := o.ClaimFile(f, SourceExplicit); !errors.Is(err, ErrReleased) {
		t.Errorf("ClaimFile: %v", err)
	}
	f.Close()
	if _, err := o.Claim(dir+"/c", SourceExplicit); !errors.Is(err, ErrReleased) {
		t.Errorf("Claim: %v", err)
	}
	p.child.Kill()
	w.settleLoop()
	wantKept(t, dir+"/a", dir+"/b", dir+"/c")
}

// TestPrepareReleased is for whoever fails to start the process.
func TestPrepareReleased(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	leaveDead(t, dir+"/a")
	o, err := w.Prepare(OwnerOptions{Paths: []string{dir + "/a"}, Bindspaces: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	if id := o.Identity(); id != (pidfd.Identity{}) {
		t.Errorf("identity %s before Attach", id)
	}
	_ = o.Release()
	wait(t, o.Settled())
	p := open(t, os.Getpid())
	defer p.Close()
	if err := o.Attach(p); !errors.Is(err, ErrReleased) {
		t.Errorf("Attach: %v", err)
	}
	wantKept(t, dir+"/a")
	w.empty()
}

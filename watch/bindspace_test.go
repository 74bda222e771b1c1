package watch

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/sys"
	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/reap"
)

// TestBindspace claims what the owner binds in it, and what other processes of its user do, for these.
func TestBindspace(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p, other := startPuppet(t), startPuppet(t)
	space := dir + "/made/for/it"
	o := w.add(p.pid(), OwnerOptions{Bindspaces: []string{space, space + "/", space + "/../it"}})
	if st, err := os.Stat(space); err != nil || st.Mode().Perm() != 0o700 {
		t.Fatalf("the bindspace: %v %v", st, err)
	}
	var mine []string
	for kind := range socketTypes {
		p.do("bind", space+"/"+kind, kind)
		mine = append(mine, space+"/"+kind)
	}
	p.do("bind", dir+"/outside")
	p.do("rename", dir+"/outside", space+"/moved")
	p.do("bind", space+"/unlinked")
	p.do("remove", space+"/unlinked")
	p.do("bind", space+"/.sockwatch-0123456789") // looks as if somebody is removing it
	other.do("bind", space+"/other")
	if err := os.WriteFile(space+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(space+"/directory", 0o700); err != nil {
		t.Fatal(err)
	}
	claims := map[string]Event{} // in whatever order they come: whose a moved one is, is looked for
	for _, path := range append(mine, space+"/moved", space+"/other") {
		for claims[path].Kind != KindClaimed {
			e := w.next(func(e Event) bool { return e.Kind == KindClaimed })
			claims[e.Result.Path] = e
		}
		owner := p.pid()
		if path == space+"/other" {
			owner = other.pid()
		}
		if e := claims[path]; e.Source != SourceBindspace || e.Owner.PID != owner {
			t.Errorf("claim: %s", describe([]Event{e}))
		}
	}
	w.seen = nil
	w.settleLoop()
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, append(mine, space+"/moved")...)
	wantKept(t, space+"/other", space+"/file", space+"/directory")
	other.child.Kill()
	w.wantOutcome(space+"/other", reap.OutcomeRemoved, "")
	wantGone(t, space+"/other")
	wantKept(t, space+"/file", space+"/directory")
	w.settleLoop()
	w.empty()
}

// TestBindspaceAndPath has a path claimed that is in a bindspace: one claim.
func TestBindspaceAndPath(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}, Paths: []string{dir + "/a"}})
	p.do("bind", dir+"/a")
	w.settleLoop()
	p.child.Kill()
	w.wantOutcome(dir+"/a", reap.OutcomeRemoved, "")
	waitSettled(t, o)
	wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}})
	claims := 0
	for _, e := range w.seen {
		if e.Kind == KindClaimed {
			claims++
		}
	}
	if claims != 1 {
		t.Errorf("events: %s", describe(w.seen))
	}
	w.empty()
}

// TestBindspaceRebind has an owner that binds the same name again and again. The claims do not add up.
func TestBindspaceRebind(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}})
	p.do("bind", dir+"/a")
	for range 50 {
		p.do("rebind", dir+"/a")
		w.settleLoop()
	}
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, dir+"/a")
	wantResults(t, o, map[string]short{"a": {reap.OutcomeRemoved, ""}})
	w.empty()
}

// TestBindspaceKilledAfterBind has owners that are dead before anybody can have looked at what they bound.
func TestBindspaceKilledAfterBind(t *testing.T) {
	for _, end := range []string{"kill", "exit"} {
		t.Run(end, func(t *testing.T) {
			w, dir := newWatched(t), testutil.TempDir(t)
			p := startPuppet(t)
			for i, child := range p.hatch(150, dir+"/", end) {
				o := w.addProcess(duplicate(t, child), OwnerOptions{Bindspaces: []string{dir}})
				goOn(t, child)
				waitSettled(t, o)
				if path := dir + "/" + strconv.Itoa(i); exists(t, path) {
					t.Fatalf("round %d: %s is still there: %v", i, path, o.Results())
				}
			}
			p.do("reapall")
			w.settleLoop()
			w.empty()
		})
	}
}

// TestBindspaceDieTogether has owners of one bindspace that bind and die all at once. Whose file is whose, only a convention can
// tell then; gone they are all.
func TestBindspaceDieTogether(t *testing.T) {
	convention, err := reap.ParseConvention("{name}")
	if err != nil {
		t.Fatal(err)
	}
	for _, conventions := range [][]reap.Convention{nil, {convention}} {
		t.Run(strconv.Itoa(len(conventions))+" conventions", func(t *testing.T) {
			const n = 8
			p := startPuppet(t)
			for round := range 20 {
				w, dir := newWatched(t), testutil.TempDir(t)
				children := p.hatch(n, dir+"/", "kill")
				var owners []*Owner
				for i, child := range children {
					owners = append(owners, w.addProcess(duplicate(t, child), OwnerOptions{
						Name: strconv.Itoa(i), Bindspaces: []string{dir}, Conventions: conventions,
					}))
				}
				goOn(t, children...)
				for i, o := range owners {
					waitSettled(t, o)
					if removed := (short{reap.OutcomeRemoved, ""}); conventions != nil {
						wantResults(t, o, map[string]short{strconv.Itoa(i): removed})
					}
				}
				w.settleLoop() // what was claimed for one that had settled
				if left := names(t, dir); len(left) > 0 {
					t.Fatalf("round %d: %q of %d are left", round, left, n)
				}
				w.Close()
			}
			p.do("reapall")
		})
	}
}

// TestBindspaceBusyLoop has two owners bind and die while the loop is busy: it finds two files and two dead processes.
func TestBindspaceBusyLoop(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	var owners []*Owner
	children := p.hatch(2, dir+"/", "kill")
	for _, child := range children {
		owners = append(owners, w.addProcess(duplicate(t, child), OwnerOptions{Bindspaces: []string{dir}}))
	}
	w.busy(func() {
		goOn(t, children...)
		for _, child := range children {
			waitProcess(t, child)
		}
	})
	for _, o := range owners {
		waitSettled(t, o)
	}
	w.settleLoop() // what was claimed for one that had settled
	wantGone(t, dir+"/0", dir+"/1")
	p.do("reapall")
	w.settleLoop()
	w.empty()
}

// TestBindspaceExitFirst has the end of an owner told before anything of what it did before.
func TestBindspaceExitFirst(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	space, told := dir+"/space", dir+"/told"
	o := w.add(p.pid(), OwnerOptions{Bindspaces: []string{space}, Paths: []string{told}})
	p.do("bind", told)
	w.mustIdentify(o.claims[0])
	w.busy(func() {
		p.do("bind", space+"/a")
		p.do("rebind", told)
		p.child.Kill()
		o.ready(false)
	})
	waitSettled(t, o)
	wantGone(t, space+"/a", told)
	w.settleLoop()
	w.empty()
}

// TestBindspaceForeignDeath has a process that nobody watches bind and die, while the loop is busy and an owner of that
// bindspace lives: it goes with that one at the latest.
func TestBindspaceForeignDeath(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	owner, p := startPuppet(t), startPuppet(t)
	o := w.add(owner.pid(), OwnerOptions{Bindspaces: []string{dir}})
	child := p.hatch(1, dir+"/", "kill")[0]
	goOn(t, child)
	waitProcess(t, child)
	w.settleLoop()
	owner.child.Kill()
	waitSettled(t, o)
	wantGone(t, dir+"/0")
	p.do("reapall")
	w.settleLoop()
	w.empty()
}

// TestBindspaceEarly has a process bind between Prepare and Attach, and another one that is dead by then.
func TestBindspaceEarly(t *testing.T) {
	for _, dies := range []bool{false, true} {
		for round := range 20 {
			w, dir := newWatched(t), testutil.TempDir(t)
			o, err := w.Prepare(OwnerOptions{Bindspaces: []string{dir}})
			if err != nil {
				t.Fatal(err)
			}
			p := startPuppet(t)
			end := "stay"
			if dies {
				end = "kill"
			}
			child := p.hatch(1, dir+"/", end)[0]
			mine := duplicate(t, child)
			if dies {
				goOn(t, child)
				waitProcess(t, child)
			} else {
				goOn(t, child)
				for !exists(t, dir+"/0") {
					w.settleLoop()
				}
			}
			w.settleLoop()
			if err := o.Attach(mine); err != nil {
				t.Fatal(err)
			}
			if !dies {
				w.claimed(dir + "/0")
				kill(t, child)
			}
			waitSettled(t, o)
			if exists(t, dir+"/0") {
				t.Fatalf("dead before Attach: %v, round %d: the file is still there", dies, round)
			}
			p.do("reapall")
			w.settleLoop()
			w.empty()
			w.Close()
		}
	}
}

// TestConvention tries what the conventions build, when nothing better is known.
func TestConvention(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	space := dir + "/space"
	if err := os.Mkdir(space, 0o700); err != nil {
		t.Fatal(err)
	}
	p, other := startPuppet(t), startPuppet(t)
	pid := strconv.Itoa(p.pid())
	p.do("bind", space+"/srv@"+pid+".sock") // before it is watched
	p.do("bind", space+"/srv.socket")
	p.do("bind", dir+"/srv@"+pid+".sock")    // in no bindspace of it
	other.do("bind", space+"/srv@1616.sock") // a number that is no pid
	other.do("bind", space+"/"+pid)          // somebody else's that fits
	var conventions []reap.Convention
	for _, pattern := range []string{"{name}@{pid}.sock", "{name}.socket", "{pid}", "{name}-none"} {
		c, err := reap.ParseConvention(pattern)
		if err != nil {
			t.Fatal(err)
		}
		conventions = append(conventions, c)
	}
	o := w.add(p.pid(), OwnerOptions{Name: "srv", Bindspaces: []string{space}, Conventions: conventions})
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, space+"/srv@"+pid+".sock", space+"/srv.socket")
	wantKept(t, dir+"/srv@"+pid+".sock", space+"/srv@1616.sock", space+"/"+pid)
	removed := short{reap.OutcomeRemoved, ""}
	wantResults(t, o, map[string]short{
		"srv@" + pid + ".sock": removed, "srv.socket": removed, pid: {reap.OutcomeAlive, reap.ReasonHolder},
	})
	if e := w.outcome(space + "/" + pid); e.Source != SourceConvention {
		t.Errorf("source %s", e.Source)
	}
	w.empty() // a guess is never handed on
}

// TestConventionThroughLink has a bindspace whose path is another one when it is cleaned.
func TestConventionThroughLink(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	if err := os.MkdirAll(dir+"/real/sub", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(dir+"/real/sub", dir+"/link"); err != nil {
		t.Fatal(err)
	}
	c, err := reap.ParseConvention("{name}.sock")
	if err != nil {
		t.Fatal(err)
	}
	p := startPuppet(t)
	p.do("bind", dir+"/srv.sock")
	p.do("bind", dir+"/real/srv.sock")
	o := w.add(p.pid(), OwnerOptions{Name: "srv", Bindspaces: []string{dir + "/link/.."}, Conventions: []reap.Convention{c}})
	p.do("bind", dir+"/real/other")
	w.claimed(dir + "/link/../other")
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, dir+"/real/srv.sock", dir+"/real/other")
	wantKept(t, dir+"/srv.sock")
	w.empty()
}

// TestConventionReleased releases an owner right before its end is answered: nothing is guessed then.
func TestConventionReleased(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	c, err := reap.ParseConvention("{name}.sock")
	if err != nil {
		t.Fatal(err)
	}
	p := startPuppet(t)
	p.do("bind", dir+"/srv.sock")
	o := w.add(p.pid(), OwnerOptions{Name: "srv", Bindspaces: []string{dir}, Conventions: []reap.Convention{c}})
	w.busy(func() {
		p.child.Kill()
		_ = o.Release()
		o.ready(false) // as if epoll had told of the end before the release, in one batch
		if guessed := o.guess(); guessed != nil {
			t.Errorf("%d guesses", len(guessed))
		}
	})
	wait(t, o.Settled())
	wantKept(t, dir+"/srv.sock")
	w.settleLoop()
	w.empty()
}

// TestBindspaceNondumpable has an owner that hides what it holds: what appears in its bindspace and is nobody else's is taken for its.
func TestBindspaceNondumpable(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	p.do("nondumpable")
	o := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}, Paths: []string{dir + "/told"}})
	p.do("bind", dir+"/told")
	p.do("bind", dir+"/untold")
	w.settleLoop()
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, dir+"/told", dir+"/untold")
}

// TestBindspaceRemoved removes the bindspace under the watch.
func TestBindspaceRemoved(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	space := dir + "/space"
	o := w.add(p.pid(), OwnerOptions{Bindspaces: []string{space}})
	p.do("bind", space+"/a")
	w.claimed(space + "/a")
	p.do("remove", space+"/a")
	if err := os.Remove(space); err != nil {
		t.Fatal(err)
	}
	w.settleLoop()
	p.child.Kill()
	waitSettled(t, o)
	wantResults(t, o, map[string]short{})
	w.wantOutcome(space+"/a", reap.OutcomeGone, "")
	w.settleLoop()
	w.empty()
}

// TestOverflow has more happen in a directory than the kernel remembers, while the loop is busy.
func TestOverflow(t *testing.T) {
	b, err := os.ReadFile("/proc/sys/fs/inotify/max_queued_events")
	if err != nil {
		t.Fatal(err)
	}
	most, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		t.Fatal(err)
	}
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	leaveDead(t, dir+"/other")
	nextFileTime() // what is older than the owner is not its own
	o := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}, Paths: []string{dir + "/told"}})
	p.do("bind", dir+"/short")
	w.claimed(dir + "/short")
	w.busy(func() {
		for i := 0; i <= most; i++ {
			// The kernel merges equal events that follow each other.
			path := dir + "/" + strconv.Itoa(i%2)
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Remove(path); err != nil {
				t.Fatal(err)
			}
		}
		p.do("bind", dir+"/told")
		p.do("bind", dir+"/seen")
		p.do("remove", dir+"/short")
	})
	w.claimed(dir + "/seen")
	w.settleLoop()
	if of := about(w.drain(), KindOutcome, dir+"/short"); len(of) != 1 || of[0].Result.Outcome != reap.OutcomeGone {
		t.Errorf("outcomes of what was removed meanwhile: %s", describe(of))
	}
	if !w.identified(o.claims[0]) {
		t.Error("the pending claim is not identified")
	}
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, dir+"/told", dir+"/seen")
	wantKept(t, dir+"/other")
	w.empty()
}

// nextFileTime waits until what is made from now on is younger than what is there: the clock of files is coarse.
func nextFileTime() {
	for at := sys.FileTime(); !sys.FileTime().After(at); {
	}
}

// TestStorm has names made and removed in a bindspace without an end, faster than they can be looked at. The end of an
// owner is answered all the same.
func TestStorm(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}, Paths: []string{dir + "/told"}})
	p.do("bind", dir+"/told")
	storms := make(chan struct{})
	stop := make(chan struct{})
	for i := range 2 {
		go func() {
			defer func() { storms <- struct{}{} }()
			for n := 0; ; n++ {
				select {
				case <-stop:
					return
				default:
				}
				path := dir + "/storm" + strconv.Itoa(i) + strconv.Itoa(n%2)
				if fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0); err == nil {
					_ = unix.Bind(fd, &unix.SockaddrUnix{Name: path})
					unix.Close(fd)
				}
				_ = unix.Unlink(path)
			}
		}()
	}
	defer func() {
		close(stop)
		<-storms
		<-storms
	}()
	// Let it come about first.
	for range 3 {
		w.onLoop(func() {})
	}
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, dir+"/told")
}

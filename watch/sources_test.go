package watch

import (
	"slices"
	"strconv"
	"testing"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/reap"
)

// notifyAddress makes the watcher's socket.
func (w *watched) notifyAddress() string {
	w.t.Helper()
	address, err := w.Notify()
	if err != nil {
		w.t.Fatal(err)
	}
	return address
}

func mustParseConvention(t testing.TB, pattern string) reap.Convention {
	t.Helper()
	c, err := reap.ParseConvention(pattern)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// one fails the test unless the claims of all owners that have a file are a single one, of this process and from this source.
func (w *watched) one(path string, pid int, s Source) {
	w.t.Helper()
	var of []*Owner
	for _, o := range w.Owners() {
		for _, c := range o.Claims() {
			if w.identified(c) && base(c.Path()) == base(path) {
				of = append(of, o)
				if c.Source() != s {
					w.t.Errorf("%s is claimed from source %s, want %s", path, c.Source(), s)
				}
			}
		}
	}
	if len(of) != 1 || of[0].Identity().PID != pid {
		w.t.Errorf("%s is claimed for %d owners, and is of process %d: %s", path, len(of), pid, describe(w.drain()))
	}
}

// removedOnce fails the test unless one outcome of a path is told to be removed, at the end of this process and from this source.
func (w *watched) removedOnce(path string, pid int, s Source) {
	w.t.Helper()
	removed := slices.DeleteFunc(about(w.drain(), KindOutcome, path), func(e Event) bool { return e.Result.Outcome != reap.OutcomeRemoved })
	if len(removed) != 1 || removed[0].Owner.PID != pid || removed[0].Source != s {
		w.t.Errorf("want %s removed once, at the end of %d, from source %s: %s", path, pid, s, describe(w.seen))
	}
	wantGone(w.t, path)
}

// TestSourcePairs has one file of one owner learnt from two sources, in both orders: one claim, and the more authoritative source is
// shown.
func TestSourcePairs(t *testing.T) {
	const pending = SourceSweep + 1 // explicit as well, but before there is a file
	sources := []Source{pending, SourceExplicit, SourceNotify, SourceBindspace, SourceSnapshot, SourceConvention}
	eachWay(t, func(t *testing.T, options Options) {
		for _, first := range sources[:5] { // what is guessed comes last
			for _, second := range sources[1:] { // what is pending comes first
				name := second.String()
				if first == pending {
					name = "pending " + name
				} else {
					name = first.String() + " " + name
				}
				t.Run(name, func(t *testing.T) {
					w, dir := newWatched(t, options), testutil.TempDir(t)
					p := startPuppet(t)
					p.do("notify", w.notifyAddress())
					path := dir + "/srv@" + strconv.Itoa(p.pid()) + ".sock"
					var o OwnerOptions
					if first == SourceBindspace || second == SourceBindspace || second == SourceConvention {
						o.Bindspaces = []string{dir}
					}
					if second == SourceConvention {
						o.Name, o.Conventions = "srv", []reap.Convention{mustParseConvention(t, "{name}@{pid}.sock")}
					}
					early := second == SourceConvention && first != SourceBindspace && first != pending
					if early { // the bindspace is not to see it
						p.do("bind", path)
					}
					owner := w.add(p.pid(), o)
					release := w.hold()
					learn := map[Source]func(){
						pending:          func() {},
						SourceExplicit:   func() { mustClaim(t, owner, path) },
						SourceNotify:     func() { p.do("report", "BIND="+path); w.reporter.catchUp() },
						SourceBindspace:  func() { release(); w.settleLoop() },
						SourceConvention: func() {},
						SourceSnapshot: func() {
							if _, err := owner.Snapshot(); err != nil {
								t.Error(err)
							}
						},
					}
					want := min(first, second)
					if first == pending {
						mustClaim(t, owner, path)
						want = SourceExplicit
					}
					if !early {
						p.do("bind", path)
					}
					learn[first]()
					learn[second]()
					release()
					w.settleLoop()
					w.one(path, p.pid(), want)
					p.child.Kill()
					waitSettled(t, owner)
					w.settleLoop()
					w.removedOnce(path, p.pid(), want)
					if n := len(owner.Claims()); n != 1 {
						t.Errorf("%d claims", n)
					}
					if len(about(w.seen, KindClaimed, path)) != 1 || len(about(w.seen, KindOutcome, path)) != 1 {
						t.Errorf("events: %s", describe(w.seen))
					}
					w.empty()
				})
			}
		}
	})
}

// TestSourceSpelling has a file reported by another spelling of its path than the one by which it is known.
func TestSourceSpelling(t *testing.T) {
	eachWay(t, func(t *testing.T, options Options) {
		w, dir := newWatched(t, options), testutil.TempDir(t)
		p := startPuppet(t)
		p.do("notify", w.notifyAddress())
		owner := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}})
		path := dir + "/a"
		p.do("bind", path)
		w.claimed(path)
		p.do("report", "BIND="+dir+"/./../"+base(dir)+"//a")
		w.settleLoop()
		w.one(path, p.pid(), SourceNotify)
		p.child.Kill()
		waitSettled(t, owner)
		w.removedOnce(path, p.pid(), SourceNotify)
		w.empty()
	})
}

// TestSourcesOfTwoOwners has a root that is told a path which one of its tree binds. The claim is that one's, from the root's source, and
// the file goes at that one's end, whoever dies first.
func TestSourcesOfTwoOwners(t *testing.T) {
	eachWay(t, func(t *testing.T, options Options) {
		for _, learnt := range []string{"notify", "bindspace", "both", "neither"} {
			for _, when := range []string{"before", "after"} {
				for _, dies := range []string{"root", "binder"} {
					if learnt == "neither" && when == "after" {
						continue // what is there and lives is taken for the one's who is told of it
					}
					t.Run(learnt+", told "+when+", "+dies+" dies first", func(t *testing.T) {
						testSourcesOfTwoOwners(t, options, learnt, when == "before", dies == "root")
					})
				}
			}
		}
	})
}

func testSourcesOfTwoOwners(t *testing.T, options Options, learnt string, before, rootFirst bool) {
	w, dir := newWatched(t, options), testutil.TempDir(t)
	p := startPuppet(t)
	binder := p.spawn()
	binder.do("notify", w.notifyAddress())
	path := dir + "/a"
	var o OwnerOptions
	if learnt == "bindspace" || learnt == "both" {
		o.Bindspaces = []string{dir}
	}
	root := w.add(p.pid(), o)
	if before {
		mustClaim(t, root, path)
	}
	binder.do("bind", path)
	if learnt == "notify" || learnt == "both" {
		binder.do("report", "BIND="+path)
	}
	w.settleLoop()
	if !before {
		mustClaim(t, root, path)
		w.settleLoop()
	}
	w.one(path, binder.pid(), SourceExplicit)
	if rootFirst {
		p.child.Kill()
		waitSettled(t, root)
		w.settleLoop()
		wantKept(t, path)
		w.one(path, binder.pid(), SourceExplicit)
		kill(t, binder.process)
		w.wantOutcome(path, reap.OutcomeRemoved, "")
	} else {
		kill(t, binder.process)
		w.wantOutcome(path, reap.OutcomeRemoved, "")
		binder.reap(p)
		w.settleLoop()
		p.child.Kill()
		waitSettled(t, root)
	}
	w.settleLoop()
	w.removedOnce(path, binder.pid(), SourceExplicit)
}

// TestToldAfterBind has a root told a path that one of its tree has bound, of which nothing else says so. The file is gone when both are
// dead, and not before the one who holds the socket is.
func TestToldAfterBind(t *testing.T) {
	for _, rootFirst := range []bool{true, false} {
		w, path := newWatched(t), testutil.TempDir(t)+"/a"
		p := startPuppet(t)
		binder := p.spawn()
		binder.do("bind", path)
		root := w.add(p.pid(), OwnerOptions{Paths: []string{path}})
		if rootFirst {
			p.child.Kill()
			w.wantOutcome(path, reap.OutcomeAlive, reap.ReasonHolder)
			wantKept(t, path)
			kill(t, binder.process)
		} else {
			kill(t, binder.process)
			p.child.Kill()
		}
		w.wantOutcome(path, reap.OutcomeRemoved, "")
		waitSettled(t, root)
		wantGone(t, path)
	}
}

// TestReportedAndConvention has a process that reports one socket and makes another that only the convention tells. It loses neither.
func TestReportedAndConvention(t *testing.T) {
	eachWay(t, func(t *testing.T, options Options) {
		w, dir := newWatched(t, options), testutil.TempDir(t)
		p := startPuppet(t)
		p.do("notify", w.notifyAddress())
		reported, guessed := dir+"/reported", dir+"/srv@"+strconv.Itoa(p.pid())+".sock"
		p.do("bind", guessed) // before anybody watches the bindspace
		o := w.add(p.pid(), OwnerOptions{
			Name: "srv", Bindspaces: []string{dir},
			Conventions: []reap.Convention{mustParseConvention(t, "{name}@{pid}.sock")},
		})
		p.do("bind", reported)
		p.do("report", "BIND="+reported)
		w.settleLoop() // else what the bindspace tells may be enough
		p.child.Kill()
		waitSettled(t, o)
		w.removedOnce(reported, p.pid(), SourceNotify)
		w.removedOnce(guessed, p.pid(), SourceConvention)
		w.settleLoop()
		w.empty()
	})
}

// TestWrongReport has a process report the socket of another one of the same user. It is kept while that one lives, and what was seen is
// believed before what was said.
func TestWrongReport(t *testing.T) {
	eachWay(t, func(t *testing.T, options Options) {
		for _, seen := range []bool{false, true} {
			t.Run("seen "+strconv.FormatBool(seen), func(t *testing.T) {
				w, dir := newWatched(t, options), testutil.TempDir(t)
				a, b := startPuppet(t), startPuppet(t)
				a.do("notify", w.notifyAddress())
				path := dir + "/b"
				var o OwnerOptions
				if seen {
					o.Bindspaces = []string{dir}
				}
				liar := w.add(a.pid(), OwnerOptions{})
				binder := w.add(b.pid(), o)
				b.do("bind", path)
				if seen {
					w.claimed(path)
				}
				a.do("report", "BIND="+path)
				w.settleLoop()
				if seen {
					w.one(path, b.pid(), SourceNotify)
				} else {
					w.one(path, a.pid(), SourceNotify)
				}
				a.child.Kill()
				if !seen {
					w.wantOutcome(path, reap.OutcomeAlive, reap.ReasonHolder)
				}
				waitSettled(t, liar)
				w.settleLoop()
				wantKept(t, path)
				b.child.Kill()
				w.wantOutcome(path, reap.OutcomeRemoved, "")
				waitSettled(t, binder)
				w.settleLoop()
				w.removedOnce(path, b.pid(), SourceNotify)
				w.empty()
			})
		}
	})
}

package tracing

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/ebpf"
	"github.com/sockwatch/sockwatch/reap"
	"github.com/sockwatch/sockwatch/watch"
)

// everyHooks are the sets that the program tries by itself.
var everyHooks = []ebpf.Hooks{ebpf.HooksFexit, ebpf.HooksTracepoint}

// seen are the tests of what is bound while it is traced. They share one Source: attaching takes long where the processor is emulated.
var seen = map[string]func(*testing.T, *world){
	"paths":                        testPaths,
	"chroot":                       testChroot,
	"thread with its own root":     testThread,
	"mount namespace":              testMountNamespace,
	"network and pid namespaces":   testOtherNamespaces,
	"renamed":                      testRenamed,
	"renamed and gone":             testRenamedGone,
	"renamed and passed on":        testPassedOn,
	"renamed, passed on and gone":  testPassedOnGone,
	"gone at once":                 testGoneAtOnce,
	"gone before its event":        testGone,
	"gone from a chroot":           testGoneFromChroot,
	"gone from outside a chroot":   testGoneFromOutside,
	"gone from a mount namespace":  testGoneFromMountNamespace,
	"gone with a mount namespace":  testGoneWithMountNamespace,
	"gone from a renamed place":    testGoneFromRenamed,
	"inherited listener":           testInherited,
	"not wanted":                   testNotWanted,
	"own process":                  testOwnProcess,
	"replaced before its event":    testReplaced,
	"socket closed, process lives": testClosed,
}

func TestSeen(t *testing.T) {
	for _, h := range everyHooks {
		t.Run(h.String(), func(t *testing.T) {
			w := newWorld(t)
			w.trace(ebpf.Options{Hooks: h})
			for name, test := range seen {
				t.Run(name, func(t *testing.T) { test(t, w.in(t)) })
			}
		})
	}
}

// testPaths: whatever the path is that the process gives, the claim is for the file.
func testPaths(t *testing.T, w *world) {
	dir := w.path("real")
	must(t, os.MkdirAll(dir+"/a/b", 0o755))
	must(t, os.Symlink("real", w.path("link")))
	for raw, path := range map[string]string{
		dir + "/s":                      dir + "/s",
		"relative":                      dir + "/a/b/relative",
		"../../up":                      dir + "/up",
		w.path("link/t"):                dir + "/t",
		"new\nline \xff":                dir + "/a/b/new\nline \xff",
		"./" + strings.Repeat("n", 106): dir + "/a/b/" + strings.Repeat("n", 106),
	} {
		p := start(t, 0)
		p.do("chdir", dir+"/a/b")
		p.do("bind", raw)
		w.claimed(p.PID(), path)
		p.Kill()
		w.removed(p.PID())
		absent(t, path)
	}
}

func testChroot(t *testing.T, w *world) {
	inside := w.path("root/run/s")
	p := start(t, 0)
	w.want(p)
	p.do("chroot", w.path("root"))
	p.do("bind", "/run/s")
	w.next(watch.KindClaimed, p.PID())
	present(t, inside)
	p.Kill()
	w.removed(p.PID())
	absent(t, inside)
}

// testThread: it has its own root directory and descriptors, of which the process's do not tell.
func testThread(t *testing.T, w *world) {
	inside := w.path("root/run/s")
	p := start(t, 0)
	w.want(p)
	p.do("thread", w.path("root"), "/run/s")
	w.next(watch.KindClaimed, p.PID())
	present(t, inside)
	p.Kill()
	w.removed(p.PID())
	absent(t, inside)
}

// testMountNamespace: the directory is one that only the process sees, and that nothing but an open descriptor keeps.
func testMountNamespace(t *testing.T, w *world) {
	path := w.path("tmpfs/s")
	p := start(t, unix.CLONE_NEWNS)
	p.do("tmpfs", filepath.Dir(path))
	p.do("bind", path)
	w.next(watch.KindClaimed, p.PID())
	absent(t, path)
	dir := openDir(t, rootOf(p.PID())+filepath.Dir(path))
	var st unix.Stat_t
	must(t, unix.Fstatat(dir, "s", &st, unix.AT_SYMLINK_NOFOLLOW))
	p.Kill()
	w.removed(p.PID())
	if err := unix.Fstatat(dir, "s", &st, unix.AT_SYMLINK_NOFOLLOW); err != unix.ENOENT {
		t.Errorf("the file is there: %v", err)
	}
}

func testOtherNamespaces(t *testing.T, w *world) {
	path := w.path("s")
	p := start(t, unix.CLONE_NEWNET|unix.CLONE_NEWPID)
	p.do("bind", path)
	w.claimed(p.PID(), path)
	p.Kill()
	w.removed(p.PID())
	absent(t, path)
}

// testRenamed: before the file is opened by its name, and after it.
func testRenamed(t *testing.T, w *world) {
	before, after := w.path("before"), w.path("after")
	w.hold(before)
	p := start(t, 0)
	p.do("bind", before)
	w.held(before)
	p.do("rename", before, w.path("sub/other"))
	w.release(before)
	w.claimed(p.PID(), w.path("sub/other"))
	p.Kill()
	w.removed(p.PID())
	absent(t, w.path("sub/other"))

	p = start(t, 0)
	p.do("bind", before)
	w.claimed(p.PID(), before)
	p.do("rename", before, after)
	p.Kill()
	w.removed(p.PID())
	absent(t, after)
}

// testGoneAtOnce: whichever is first, the end of the process or the look at what it has bound.
func testGoneAtOnce(t *testing.T, w *world) {
	const times = 20
	p := start(t, 0)
	for i := range times {
		path := w.path(strconv.Itoa(i))
		pid, err := strconv.Atoi(p.ask("brief", path))
		must(t, err)
		w.removed(pid)
		absent(t, path)
	}
}

func testGone(t *testing.T, w *world) {
	path := w.path("s")
	w.hold(path)
	p := start(t, 0)
	p.do("bind", path)
	w.held(path)
	p.Kill() // and it is reaped
	present(t, path)
	w.release(path)
	e := w.next(watch.KindOutcome, p.PID())
	if e.Result.Outcome != reap.OutcomeRemoved || e.Comm == "" {
		t.Errorf("%+v", e)
	}
	absent(t, path)
}

// testGoneFromChroot: nobody has that root directory any more, and what has the same path below ours is somebody else's.
func testGoneFromChroot(t *testing.T, w *world) {
	other := w.path("s")
	inside := w.path("root" + other)
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: other, Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
	w.hold(other)
	p := start(t, 0)
	p.do("chroot", w.path("root"))
	p.do("bind", other)
	w.held(other)
	p.Kill()
	present(t, inside)
	w.release(other)
	w.removed(p.PID())
	absent(t, inside)
	present(t, other)
}

// testGoneFromOutside: its path does not lead through its root directory.
func testGoneFromOutside(t *testing.T, w *world) {
	path := w.path("s")
	p := start(t, 0)
	w.want(p)
	p.do("chdir", filepath.Dir(path))
	p.do("stray", filepath.Dir(w.path("root/run")))
	w.hold(path[1:])
	p.do("bind", "s")
	w.held(path[1:])
	p.Kill()
	w.release(path[1:])
	w.removed(p.PID())
	absent(t, path)
}

// testGoneFromMountNamespace: somebody else is still there.
func testGoneFromMountNamespace(t *testing.T, w *world) {
	path := w.path("tmpfs/s")
	w.hold(path)
	p := start(t, unix.CLONE_NEWNS)
	p.do("tmpfs", filepath.Dir(path))
	pid, err := strconv.Atoi(p.ask("brief", path))
	must(t, err)
	w.held(path)
	dir := openDir(t, rootOf(p.PID())+filepath.Dir(path))
	w.release(path)
	w.removed(pid)
	var st unix.Stat_t
	if err := unix.Fstatat(dir, "s", &st, unix.AT_SYMLINK_NOFOLLOW); err != unix.ENOENT {
		t.Errorf("the file is there: %v", err)
	}
}

// testGoneWithMountNamespace: nobody is there any more who could reach the file, and nothing is told of it.
func testGoneWithMountNamespace(t *testing.T, w *world) {
	path := w.path("tmpfs/s")
	w.hold(path)
	p := start(t, unix.CLONE_NEWNS)
	p.do("tmpfs", filepath.Dir(path))
	p.do("bind", path)
	w.held(path)
	p.Kill()
	w.release(path)
	w.nothing(p.PID())
}

// testGoneFromRenamed: no path that the kernel saw leads to the file any more, which is kept, and nothing is told of it.
func testGoneFromRenamed(t *testing.T, w *world) {
	path := w.path("before/s")
	w.hold(path)
	p := start(t, 0)
	p.do("bind", path)
	w.held(path)
	p.do("rename", filepath.Dir(path), w.path("after"))
	p.Kill()
	w.release(path)
	w.nothing(p.PID())
	present(t, w.path("after/s"))
}

// testReplaced: the file that has the name now is another one, of somebody who is not traced here, and dead.
func testReplaced(t *testing.T, w *world) {
	path := w.path("s")
	w.hold(path)
	p := start(t, 0)
	p.do("bind", path)
	w.held(path)
	p.Kill()
	must(t, os.Rename(path, path+".away")) // its inode number is not used again
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	l.SetUnlinkOnClose(false)
	must(t, l.Close())
	w.release(path)
	w.removed(p.PID())
	present(t, path)
	absent(t, path+".away")
}

// testInherited: the file of a listener stays as long as somebody has it.
func testInherited(t *testing.T, w *world) {
	path := w.path("s")
	r, hold, err := os.Pipe()
	must(t, err)
	defer hold.Close()
	p := start(t, 0, r)
	must(t, r.Close())
	p.do("bind", path)
	w.claimed(p.PID(), path)
	holder, err := strconv.Atoi(p.ask("inherit"))
	must(t, err)
	p.Kill()
	e := w.outcomeOf(path)
	if e.Owner.PID != p.PID() || e.Result.Outcome != reap.OutcomeAlive || e.Result.Reason != reap.ReasonHolder {
		t.Errorf("%+v, its holder is %d", e, holder)
	}
	present(t, path)
	must(t, hold.Close())
	if e := w.outcomeOf(path); e.Owner.PID != holder || e.Result.Outcome != reap.OutcomeRemoved {
		t.Errorf("%+v, its holder was %d", e, holder)
	}
	absent(t, path)
}

func testNotWanted(t *testing.T, w *world) {
	path, other := w.path("s"), w.path("other")
	w.exclude(path)
	p := start(t, 0)
	p.do("bind", path)
	p.do("bind", other)
	w.claimed(p.PID(), other)
	p.Kill()
	w.removed(p.PID())
	absent(t, other)
	present(t, path)
	for len(w.bound) > 0 {
		if e := <-w.bound; e.Path == path {
			t.Errorf("told of %+v", e)
		}
	}
}

// testOwnProcess: there would be nobody to see our end.
func testOwnProcess(t *testing.T, w *world) {
	path := w.path("s")
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	must(t, err)
	defer l.Close()
	w.caughtUp()
	if claims := w.claims(os.Getpid()); len(claims) > 0 {
		t.Error(claims)
	}
}

// testClosed: by fexit the death of the socket is seen, by the others that of the process.
func testClosed(t *testing.T, w *world) {
	path := w.path("s")
	p := start(t, 0)
	p.do("bind", path)
	w.claimed(p.PID(), path)
	p.do("close")
	if w.source.Tracer().Hooks() != ebpf.HooksFexit {
		p.Kill()
	}
	w.removed(p.PID())
	absent(t, path)
}

// TestFinish: all is claimed that was bound before.
func TestFinish(t *testing.T) {
	for _, h := range everyHooks {
		t.Run(h.String(), func(t *testing.T) {
			const n = 50
			w := newWorld(t)
			w.trace(ebpf.Options{Hooks: h})
			p := start(t, 0)
			p.do("flood", w.path("s"), strconv.Itoa(n))
			must(t, w.source.Finish(t.Context()))
			if claims := w.claims(p.PID()); len(claims) != n {
				t.Errorf("%d of %d are claimed", len(claims), n)
			}
			p.do("bind", w.path("late"))
			if claims := w.claims(p.PID()); slices.Contains(claims, w.path("late")) {
				t.Error("claimed after the end")
			}
			if len(w.bound) != n {
				t.Errorf("told of %d of %d", len(w.bound), n)
			}
		})
	}
}

// TestFinishAtOnce: what was bound before is not looked for any longer, and what was lost no longer than wanted.
func TestFinishAtOnce(t *testing.T) {
	for _, lost := range []bool{false, true} {
		t.Run(fmt.Sprintf("lost=%t", lost), func(t *testing.T) {
			w := newWorld(t)
			const n = 3
			for i := range n {
				start(t, 0).do("bind", w.path(strconv.Itoa(i)))
			}
			tracer, err := ebpf.Open(ebpf.Options{RingSize: 16 << 20})
			must(t, err)
			var s *Source
			var asked atomic.Int32
			holding, looking := make(chan struct{}), make(chan context.Context, n)
			hold := sync.OnceFunc(func() { close(holding) })
			started := make(chan struct{})
			s = Start(w.w, tracer, Options{Wanted: func(e ebpf.Event) bool {
				if !w.wanted(e) {
					return false
				}
				<-started
				select {
				case ctx := <-looking:
					asked.Add(1)
					hold()
					<-ctx.Done()
				default:
				}
				return true
			}})
			defer s.Close()
			if lost {
				close(started)
				for range n {
					w.until("claim", func(e watch.Event) bool { return e.Kind == watch.KindClaimed })
				}
			}
			for range n {
				if lost {
					looking <- s.lost
				} else {
					looking <- s.before
				}
			}
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			if lost {
				s.backlog.addLost()
				s.wake()
			} else {
				close(started)
			}
			<-holding
			if lost {
				interrupt()
			}
			if err := s.Finish(ctx); errors.Is(err, context.Canceled) != lost || !lost && err != nil {
				t.Error(err)
			}
			// What was lost of others' is looked for to the end.
			if asked := asked.Load(); asked != 1 && (lost || tracer.Drops() == 0) {
				t.Errorf("it has gone on to look at %d of %d processes", asked, n)
			}
		})
	}
}

// TestScan: what was bound before is claimed for who has it, also in other namespaces, and nobody is told that it was bound.
func TestScan(t *testing.T) {
	w := newWorld(t)
	own, err := net.ListenUnix("unix", &net.UnixAddr{Name: w.path("own"), Net: "unix"})
	must(t, err)
	defer own.Close()
	there, netns, rooted, mountns := w.path("there"), w.path("netns"), w.path("root/run/s"), w.path("tmpfs/s")
	var all []process
	for _, test := range []struct {
		flags    uintptr
		commands [][]string
	}{
		{0, [][]string{{"bind", there}}},
		{unix.CLONE_NEWNET, [][]string{{"bind", netns}}},
		{0, [][]string{{"chroot", w.path("root")}, {"bind", "/run/s"}}},
		{unix.CLONE_NEWNS, [][]string{{"tmpfs", w.path("tmpfs")}, {"bind", mountns}}},
	} {
		p := start(t, test.flags)
		w.want(p)
		for _, c := range test.commands {
			p.do(c...)
		}
		all = append(all, p)
	}
	w.trace(ebpf.Options{Hooks: ebpf.HooksTracepoint})
	claims := map[int]string{}
	for len(claims) < len(all) {
		e := w.until("claims", func(e watch.Event) bool { return e.Kind == watch.KindClaimed })
		claims[e.Owner.PID] = e.Result.Path
	}
	if claims[all[0].PID()] != there || claims[all[1].PID()] != netns {
		t.Error(claims)
	}
	if len(w.bound) > 0 {
		t.Errorf("told of %+v", <-w.bound)
	}
	for _, want := range []string{there, netns, "/run/s", mountns} {
		if asked := w.asked(); !slices.Contains(asked, want) {
			t.Errorf("nobody was asked whether %s is wanted, but of %q", want, asked)
		}
	}
	for _, p := range all {
		p.Kill()
		w.removed(p.PID())
	}
	for _, path := range []string{there, netns, rooted} {
		absent(t, path)
	}
	if claims := w.claims(os.Getpid()); len(claims) > 0 {
		t.Errorf("claims of our own: %s", claims)
	}
}

// TestScanInherited: of those that have a socket the oldest is who has bound it.
func TestScanInherited(t *testing.T) {
	w := newWorld(t)
	r, hold, err := os.Pipe()
	must(t, err)
	defer hold.Close()
	p := start(t, 0, r)
	must(t, r.Close())
	p.do("bind", w.path("s"))
	p.ask("inherit")
	w.trace(ebpf.Options{Hooks: ebpf.HooksTracepoint})
	w.claimed(p.PID(), w.path("s"))
	must(t, hold.Close())
	p.Kill()
	if e := w.until("removal", func(e watch.Event) bool {
		return e.Kind == watch.KindOutcome && e.Result.Outcome != reap.OutcomeAlive
	}); e.Result.Outcome != reap.OutcomeRemoved {
		t.Errorf("%+v", e)
	}
	absent(t, w.path("s"))
}

// TestLost: what is there after events were lost is found.
func TestLost(t *testing.T) {
	for _, h := range everyHooks {
		t.Run(h.String(), func(t *testing.T) {
			const n = 200 // many times what a page holds
			w := newWorld(t)
			w.trace(ebpf.Options{Hooks: h, RingSize: 1})
			p := start(t, 0)
			binds, first := n+1, w.path("first")
			w.hold(first)
			p.do("bind", first)
			for !w.caught(first) { // a page is soon full of what others bind
				w.release(first)
				first = w.path("first" + strconv.Itoa(binds))
				w.hold(first)
				p.do("bind", first)
				binds++
			}
			p.do("flood", w.path("s"), strconv.Itoa(n))
			if w.source.Tracer().Drops() == 0 {
				t.Fatal("nothing was lost")
			}
			w.release(first)
			claims := map[string]bool{}
			for len(claims) < n+1 { // that of one which was lost has been seen
				claims[w.next(watch.KindClaimed, p.PID()).Result.Path] = true
			}
			p.Kill()
			for range binds {
				w.removed(p.PID())
			}
			if left, err := filepath.Glob(w.path("*")); len(left) > 0 || err != nil {
				t.Errorf("%d are left: %s", len(left), left)
			}
			if w.lost.Load() == 0 {
				t.Error("nobody was told")
			}
			must(t, w.source.Finish(t.Context()))
			scanned, told := 0, map[string]bool{}
			for len(w.bound) > 0 {
				e := <-w.bound
				if told[e.Path] {
					t.Errorf("told again of %s", e.Path)
				}
				told[e.Path] = true
				if e.Via == 0 {
					scanned++
				}
			}
			if len(told) != binds || scanned == 0 {
				t.Errorf("told of %d of %d, of which %d were looked for", len(told), binds, scanned)
			}
		})
	}
}

// TestClose: while it looks at what was bound before. That nothing is left of it testutil.Main sees.
func TestClose(t *testing.T) {
	w := newWorld(t)
	p := start(t, 0)
	p.do("flood", w.path("s"), "20")
	tracer, err := ebpf.Open(ebpf.Options{})
	must(t, err)
	s := Start(w.w, tracer, Options{Wanted: w.wanted})
	if s.Tracer() != tracer {
		t.Error("another Tracer")
	}
	must(t, s.Close())
	if err := s.Close(); !errors.Is(err, os.ErrClosed) {
		t.Errorf("closed again: %v", err)
	}
	if err := s.Finish(t.Context()); !errors.Is(err, os.ErrClosed) {
		t.Errorf("finished when closed: %v", err)
	}
	p.do("bind", w.path("late"))
	for _, path := range w.claims(p.PID()) {
		if path == w.path("late") {
			t.Error("claimed after the end")
		}
	}
}

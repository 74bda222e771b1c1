package watch

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// listings counts how often a directory is opened to be read, from now on.
func listings(t testing.TB, dir string) (count func() int) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	if _, err := unix.InotifyAddWatch(fd, dir, unix.IN_OPEN|unix.IN_ONLYDIR); err != nil {
		t.Fatal(err)
	}
	return func() (n int) {
		buf := make([]byte, 1<<16)
		for {
			size, err := unix.Read(fd, buf)
			if err != nil {
				return n
			}
			for at := 0; at < size; {
				// struct inotify_event: wd, mask, cookie, len, name
				mask, length := binary.NativeEndian.Uint32(buf[at+4:]), binary.NativeEndian.Uint32(buf[at+12:])
				if mask&unix.IN_ISDIR != 0 && mask&unix.IN_OPEN != 0 && length == 0 {
					n++
				}
				at += unix.SizeofInotifyEvent + int(length)
			}
		}
	}
}

// TestElsewhereOnce: the directory of many files that are not where they were claimed is listed for all of them together, and those that
// were moved or linked there are found.
func TestElsewhereOnce(t *testing.T) {
	const each = 40
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	o := w.add(p.pid(), OwnerOptions{})
	want := map[string]short{}
	claims := map[string]*Claim{}
	for i := range each {
		for _, kind := range []string{"gone", "moved", "linked"} {
			name := fmt.Sprint(kind, i)
			p.do("bind", dir+"/"+name)
			claims[name] = mustClaim(t, o, dir+"/"+name)
			w.mustIdentify(claims[name])
			want[name] = short{reap.OutcomeRemoved, ""}
			if kind == "gone" {
				want[name] = short{reap.OutcomeGone, ""}
			}
		}
	}
	for name := range claims {
		var err error
		switch path := dir + "/" + name; {
		case strings.HasPrefix(name, "gone"):
			err = os.Remove(path)
		case strings.HasPrefix(name, "moved"):
			err = os.Rename(path, path+".moved")
		default:
			err = os.Link(path, path+".link")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	w.settleLoop()
	count := listings(t, dir)
	var asking sync.WaitGroup
	asking.Go(func() { // as who keeps records does
		for !o.Ended() {
			for _, c := range claims {
				_ = c.State()
			}
		}
	})
	p.child.Kill()
	waitSettled(t, o)
	asking.Wait()
	// The first of them alone, and the rest, of which it is known by then. It would be one for each.
	if n := count(); n < 1 || n > 2 {
		t.Errorf("the directory was listed %d times", n)
	}
	wantResults(t, o, want)
	if left, err := os.ReadDir(dir); len(left) > 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
	w.settleLoop()
	w.empty()
}

// TestElsewhereAlive has a file that was moved and whose socket lives on: it is kept as any other, and goes with the holder.
func TestElsewhereAlive(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	p.do("bind", dir+"/a")
	holder := p.fork()
	o := w.add(p.pid(), OwnerOptions{Paths: []string{dir + "/a"}})
	w.mustIdentify(o.Claims()[0])
	if err := os.Rename(dir+"/a", dir+"/b"); err != nil {
		t.Fatal(err)
	}
	p.child.Kill()
	w.wantOutcome(dir+"/a", reap.OutcomeAlive, reap.ReasonHolder)
	waitSettled(t, o)
	wantKept(t, dir+"/b")
	kill(t, holder)
	w.wantOutcome(dir+"/a", reap.OutcomeRemoved, "")
	wantGone(t, dir+"/b")
	w.settleLoop()
	w.empty()
}

// TestElsewhereInTurn: who has many directories to be looked through has others wait for one of them.
func TestElsewhereInTurn(t *testing.T) {
	w, base := newWatched(t), testutil.TempDir(t)
	var order []uint32
	dryRun := func(string) reap.RemoveOptions { return reap.RemoveOptions{DryRun: true} }
	w.onLoop(func() {
		w.elsewhere.busy = []search{{}} // nothing is begun
		look := func(uid uint32, name string) {
			dir := base + "/" + name
			if err := os.Mkdir(dir, 0o700); err != nil {
				t.Error(err)
			}
			leaveDead(t, dir+"/s")
			f, err := reap.Open(dir + "/s")
			if err != nil {
				t.Error(err)
				return
			}
			c := newClaim(&Owner{w: w.Watcher, uid: uid, id: pidfd.Identity{}}, f.Path(), SourceNotify)
			c.file = f
			w.lookElsewhere(c, reap.Unfinished{File: f, Options: dryRun}, func(reap.Result) {
				order = append(order, uid)
				f.Close()
			})
		}
		for i := range 10 {
			look(1, fmt.Sprint("crowd", i))
		}
		look(2, "victim")
		w.elsewhere.busy = nil
		w.nextElsewhere()
	})
	w.SettleEnded()
	if len(order) != 11 || order[1] != 2 {
		t.Errorf("served: %v", order)
	}
}

// byExtension is a Policy.
func byExtension(c Candidate) Action {
	switch filepath.Ext(c.Path) {
	case ".reap":
		return ActionReap
	case ".ignore":
		return ActionIgnore
	default:
		return ActionReport
	}
}

// TestElsewherePolicy: what is to become of a file is decided by the name that it has in the end, and told of it by that unless somebody has
// named another one.
func TestElsewherePolicy(t *testing.T) {
	w, dir := newWatched(t, Options{Policy: Policy{Decide: byExtension}}), testutil.TempDir(t)
	for _, c := range []struct {
		from, to string
		dryRun   bool
	}{
		{"a.tmp", "a.reap", false},
		{"b.reap", "b.tmp", true},
		{"c.reap", "c.ignore", true},
		{"d.reap", "d.also.reap", false},
	} {
		for _, named := range []bool{false, true} {
			from, to := fmt.Sprint(dir, "/", named, c.from), fmt.Sprint(dir, "/", named, c.to)
			p := startPuppet(t)
			p.do("bind", from)
			o := w.add(p.pid(), OwnerOptions{})
			told := to
			if named {
				w.mustIdentify(mustClaim(t, o, from))
				told = from
			} else {
				f, err := reap.Open(from)
				if err != nil {
					t.Fatal(err)
				}
				if _, err := o.ClaimFile(f, SourceTrace); err != nil {
					t.Fatal(err)
				}
			}
			if err := os.Rename(from, to); err != nil {
				t.Fatal(err)
			}
			w.settleLoop()
			p.child.Kill()
			waitSettled(t, o)
			if c.dryRun {
				wantKept(t, to)
			} else {
				wantGone(t, to)
			}
			if filepath.Ext(to) == ".ignore" {
				if results := o.Results(); len(results) != 0 {
					t.Errorf("%s: told of %v", to, results)
				}
				continue
			}
			if e := w.wantOutcome(told, reap.OutcomeRemoved, ""); e.Result.DryRun != c.dryRun {
				t.Errorf("%s to %s: %+v", from, to, e.Result)
			}
		}
	}
	w.settleLoop()
	w.empty()
}

// TestElsewherePolicies has a file with two other names, of which one is to be removed, whichever is listed first.
func TestElsewherePolicies(t *testing.T) {
	for i := range 16 {
		w, dir := newWatched(t, Options{Policy: Policy{Decide: byExtension}}), testutil.TempDir(t)
		from, removed, kept := dir+"/a.tmp", fmt.Sprint(dir, "/x", i, ".reap"), fmt.Sprint(dir, "/y", i, []string{".ignore", ".tmp"}[i%2])
		p := startPuppet(t)
		p.do("bind", from)
		o := w.add(p.pid(), OwnerOptions{})
		mustClaimFile(t, o, from)
		if err := errors.Join(os.Link(from, removed), os.Rename(from, kept)); err != nil {
			t.Fatal(err)
		}
		p.child.Kill()
		waitSettled(t, o)
		wantGone(t, removed)
		wantKept(t, kept)
		if e := w.wantOutcome(removed, reap.OutcomeRemoved, ""); e.Result.DryRun {
			t.Errorf("%+v", e.Result)
		}
		w.settleLoop()
		w.empty()
	}
}

// TestElsewhereReused has another file of the same directory with the inode number of one that is gone.
func TestElsewhereReused(t *testing.T) {
	dir := testutil.Dir(t, testutil.Ext4)
	for i := range 64 {
		w := newWatched(t, Options{Policy: Policy{Decide: byExtension}})
		path, other := dir+"/a.reap", dir+"/b.ignore"
		p, server := startPuppet(t), startPuppet(t)
		p.do("bind", path)
		o := w.add(p.pid(), OwnerOptions{})
		_, id := mustClaimFile(t, o, path)
		p.do("close")
		p.do("remove", path)
		server.do("bind", other)
		f, err := reap.Open(other)
		if err != nil {
			t.Fatal(err)
		}
		reused := f.ID().Inode() == id.Inode()
		_ = f.Close()
		p.child.Kill()
		waitSettled(t, o)
		w.wantOutcome(path, reap.OutcomeGone, "")
		wantKept(t, other)
		server.do("remove", other)
		if reused {
			return
		}
		if i == 63 {
			t.Error("the number was not given out again")
		}
	}
}

// TestElsewherePrivate has a file under a private name, as a removal leaves it that was killed: it is judged by its own.
func TestElsewherePrivate(t *testing.T) {
	w, dir := newWatched(t, Options{Policy: Policy{Decide: byExtension}}), testutil.TempDir(t)
	path, private := dir+"/a.reap", dir+"/.sockwatch-abc"
	p := startPuppet(t)
	p.do("bind", path)
	o := w.add(p.pid(), OwnerOptions{})
	mustClaimFile(t, o, path)
	if err := os.Rename(path, private); err != nil {
		t.Fatal(err)
	}
	p.child.Kill()
	waitSettled(t, o)
	wantGone(t, private)
	if e := w.wantOutcome(path, reap.OutcomeRemoved, ""); e.Result.DryRun {
		t.Errorf("%+v", e.Result)
	}
	w.settleLoop()
	w.empty()
}

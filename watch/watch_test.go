package watch

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/rs/zerolog"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sockwatch/sockwatch/internal/testutil"
	"github.com/sockwatch/sockwatch/pidfd"
	"github.com/sockwatch/sockwatch/reap"
)

// TestClosed asks everything of a Watcher that is closed.
func TestClosed(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	p.do("bind", dir+"/a")
	p.do("bind", dir+"/b")
	o := w.add(p.pid(), OwnerOptions{Paths: []string{dir + "/a"}, Bindspaces: []string{dir}})
	early, err := w.Prepare(OwnerOptions{Paths: []string{dir + "/b"}, Bindspaces: []string{dir}})
	if err != nil {
		t.Fatal(err)
	}
	c := mustClaim(t, o, dir+"/b")
	for range 2 {
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	wait(t, o.Exited())
	wait(t, o.Settled())
	wait(t, early.Settled())

	process := open(t, p.pid())
	defer process.Close()
	f := mustOpen(t, dir+"/b")
	defer f.Close()
	for what, err := range map[string]error{
		"Add":       second(w.Add(process, OwnerOptions{})),
		"Prepare":   second(w.Prepare(OwnerOptions{})),
		"Attach":    early.Attach(process),
		"Claim":     second(o.Claim(dir+"/c", SourceExplicit)),
		"ClaimFile": second(o.ClaimFile(f, SourceExplicit)),
	} {
		if !errors.Is(err, ErrClosed) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := process.Exited(); err != nil {
		t.Errorf("the handle was taken over: %v", err)
	}
	if !c.Release() {
		t.Error("a claim of a closed watcher is not removed, so it can be released")
	}
	if _, err := o.Snapshot(); err == nil {
		t.Error("a snapshot of what is closed")
	}
	_ = o.Release()
	_ = o.Results()
	p.child.Kill()
	wantKept(t, dir+"/a", dir+"/b")
}

func second[T any](_ T, err error) error { return err }

// TestCloseAnytime closes a Watcher while everything else goes on. What was there when Close began, and was not removed before,
// stays; and nothing else does: see TestMain.
func TestCloseAnytime(t *testing.T) {
	for round := range 30 {
		w, dir := newWatched(t), testutil.TempDir(t)
		p := startPuppet(t)
		const n = 100
		p.do("many", strconv.Itoa(n), dir+"/")
		o := w.add(p.pid(), OwnerOptions{Bindspaces: []string{dir}})
		for i := range n {
			mustClaim(t, o, dir+"/"+strconv.Itoa(i))
		}
		var child *pidfd.Process
		if round%2 == 0 {
			child = p.fork() // so that there are retries and a search
		}
		if err := p.child.Cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		spin(rand.IntN(1 << 18))
		if round%4 == 0 {
			kill(t, child)
			spin(rand.IntN(1 << 18))
		}
		w.Close()
		left := count(t, dir)
		for i := range n {
			path := dir + "/" + strconv.Itoa(i)
			if f, err := reap.Open(path); err == nil {
				f.Close()
			} else if !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
		}
		if child != nil {
			kill(t, child)
		}
		if now := count(t, dir); now != left {
			t.Errorf("round %d: %d files, after Close %d", round, left, now)
		}
		for _, name := range names(t, dir) {
			if reap.IsPrivate(name) {
				t.Errorf("round %d: %s is left of a removal", round, name)
			}
		}
	}
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var ns []string
	for _, e := range entries {
		ns = append(ns, e.Name())
	}
	return ns
}

func count(t testing.TB, dir string) int { t.Helper(); return len(names(t, dir)) }

// spin lets some time pass, of which no test depends.
func spin(n int) {
	for i := 0; i < n; i++ {
		if i%1024 == 0 {
			runtime.Gosched()
		}
	}
}

// TestNothingRemovedOnceClosed closes a watcher in the middle of an owner's claims: the rest of them is kept.
func TestNothingRemovedOnceClosed(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	const n = 50
	p.do("many", strconv.Itoa(n), dir+"/")
	o := w.add(p.pid(), OwnerOptions{})
	for i := range n {
		mustClaim(t, o, dir+"/"+strconv.Itoa(i))
	}
	w.onLoopClosing(func() {
		p.child.Kill()
		go w.Close()
		for closed := false; !closed; {
			w.mu.Lock()
			closed = w.closed
			w.mu.Unlock()
		}
		o.ready(false) // as if epoll had told of both in one batch
	})
	wait(t, o.Settled())
	if left := count(t, dir); left != n {
		t.Errorf("%d files of %d are left", left, n)
	}
}

// onLoopClosing has the loop call f, in which the watcher is closed.
func (w *watched) onLoopClosing(f func()) {
	w.t.Helper()
	done := make(chan struct{})
	if !w.post(func() { f(); close(done) }) {
		w.t.Fatal("the watcher is closed")
	}
	wait(w.t, done)
}

// TestReleaseAnytime is a property of releases at all moments: what was released is kept, what was not is removed.
func TestReleaseAnytime(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	const most = 64
	round := 0
	rapid.Check(t, func(rt *rapid.T) {
		n := rapid.IntRange(1, most).Draw(rt, "claims")
		release := rapid.SliceOfN(rapid.IntRange(0, n-1), 0, n).Draw(rt, "release")
		delay := rapid.IntRange(0, 1<<16).Draw(rt, "delay")
		whole := rapid.IntRange(0, 3).Draw(rt, "whole owner") == 0
		identified := rapid.Bool().Draw(rt, "identified")
		round++
		sub := dir + "/" + strconv.Itoa(round)
		if err := os.Mkdir(sub, 0o700); err != nil {
			rt.Fatal(err)
		}
		child := p.hatch(1, sub+"/unused", "stay")[0]
		o := w.addProcess(duplicate(t, child), OwnerOptions{})
		claims := make([]*Claim, n)
		for i := range claims {
			path := sub + "/" + strconv.Itoa(i)
			l := listen(t, path)
			if identified {
				claims[i] = mustClaim(t, o, path)
			}
			l.Close()
			if !identified {
				claims[i] = mustClaim(t, o, path)
			}
		}
		if err := child.Signal(unix.SIGKILL); err != nil {
			rt.Fatal(err)
		}
		spin(delay)
		released := map[int]bool{}
		for _, i := range release {
			if claims[i].Release() {
				released[i] = true
			}
		}
		if whole {
			_ = o.Release()
			wait(t, o.Settled())
		} else {
			waitSettled(t, o)
		}
		w.settleLoop()
		for i, c := range claims {
			kept := exists(t, sub+"/"+strconv.Itoa(i))
			if released[i] && !kept {
				rt.Errorf("claim %d was released, and its file is gone", i)
			}
			if !released[i] && kept != whole && !whole {
				rt.Errorf("claim %d was not released, and its file is there", i)
			}
			if got := c.Release(); got && !whole && !released[i] {
				rt.Errorf("claim %d was released after the end", i)
			}
		}
		p.do("reap", strconv.Itoa(child.PID()))
		w.settleLoop()
	})
	w.empty()
}

// TestReleaseWhileRemoved releases right at the moment up to which a claim can be withdrawn.
func TestReleaseWhileRemoved(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	p.do("bind", dir+"/before")
	p.do("bind", dir+"/after")
	o := w.add(p.pid(), OwnerOptions{})
	before, after := mustClaim(t, o, dir+"/before"), mustClaim(t, o, dir+"/after")
	w.onLoop(func() {
		if !before.Release() || before.commit() {
			t.Error("a claim that was withdrawn can be committed")
		}
		if !after.commit() || after.Release() {
			t.Error("a claim that was committed can be withdrawn")
		}
		w.mu.Lock()
		after.state = armed // nothing has been done
		w.mu.Unlock()
	})
	p.child.Kill()
	waitSettled(t, o)
	wantKept(t, dir+"/before")
	wantGone(t, dir+"/after")
}

// TestConcurrent has many goroutines do everything with a few owners while these die. The race detector looks on.
func TestConcurrent(t *testing.T) {
	w, dir := newWatched(t), testutil.TempDir(t)
	p := startPuppet(t)
	var goroutines sync.WaitGroup
	children := p.hatch(12, dir+"/own", "stay")
	for i, child := range children {
		o := w.addProcess(duplicate(t, child), OwnerOptions{Bindspaces: []string{dir}, Paths: []string{dir + "/own" + strconv.Itoa(i)}})
		goOn(t, child)
		for g := range 4 {
			goroutines.Go(func() {
				for n := range 40 {
					path := fmt.Sprintf("%s/%d-%d", dir, i, n%5)
					switch (n + g) % 8 {
					case 0, 1, 2:
						if c, err := o.Claim(path, SourceNotify); err == nil && n%3 == 0 {
							c.Release()
						}
					case 3:
						if f, err := reap.Open(dir + "/own" + strconv.Itoa(i)); err == nil {
							if _, err := o.ClaimFile(f, SourceExplicit); err != nil {
								f.Close()
							}
						}
					case 4:
						_, _ = o.Snapshot()
					case 5:
						_, _, _, _ = o.Results(), o.Exit(), o.Identity(), o.Settled()
					case 6:
						w.Subscribe(n).Close()
					case 7:
						if g == 0 && n == 39 {
							_ = child.Signal(unix.SIGKILL)
						}
					}
				}
				if g == 1 && i%4 == 0 {
					_ = o.Release()
				}
				_ = child.Signal(unix.SIGKILL)
				wait(t, o.Exited())
				wait(t, o.Settled())
			})
		}
	}
	goroutines.Wait()
	p.do("reapall")
	for i := range children {
		if path := dir + "/own" + strconv.Itoa(i); i%4 != 0 {
			for exists(t, path) { // settled is before what was claimed last
				w.settleLoop()
			}
		}
	}
	w.settleLoop()
	w.empty()
}

// TestIdle watches owners of every kind, and the holder of a dead one's socket, and does nothing: not one system call.
func TestIdle(t *testing.T) {
	testutil.Require(t, testutil.Program("strace"))
	dir := testutil.TempDir(t)
	out := dir + "/strace"
	// Not the directory itself: what others make beside it would be seen.
	helper := testutil.Command(t, "idle", dir+"/in")
	// The one that starts it may trace it, whatever the system's rules for tracing are.
	cmd := exec.Command("strace", append([]string{"-f", "-o", out, helper.Path}, helper.Args[1:]...)...)
	cmd.Env = helper.Env
	child := testutil.Start(t, cmd)
	child.Expect("idle")

	// What is looked for is that nothing happens, which no event tells.
	said := func() string {
		b, err := os.ReadFile(out)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	second := time.NewTicker(time.Second)
	defer second.Stop()
	before, quiet := said(), 0
	for timeout := time.After(patience); quiet < 3; {
		select {
		case <-timeout:
			t.Fatalf("never quiet for 3 seconds; last of all: %s", before[max(0, len(before)-2000):])
		default:
		}
		<-second.C
		quiet++
		if now := said(); now != before {
			before, quiet = now, 0
		}
	}
	if !strings.Contains(before, "epoll_") {
		t.Errorf("strace saw no loop: %s", before)
	}
	child.Hangup()
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
}

func init() { helpers["idle"] = idle }

func idle() {
	runtime.LockOSThread() // it is the thread whose death kills
	dir := os.Args[1]
	must(os.Mkdir(dir, 0o700))
	w, err := New(Options{})
	must(err)
	defer w.Close()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/held", Net: "unix"})
	must(err)
	l.SetUnlinkOnClose(false)
	socket, err := l.File()
	must(err)
	start := func(files ...*os.File) *exec.Cmd {
		cmd := exec.Command("/bin/sleep", "infinity")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL} // should we fail
		cmd.ExtraFiles = files
		must(cmd.Start())
		return cmd
	}
	var sleepers []*exec.Cmd
	add := func(cmd *exec.Cmd, o OwnerOptions) *Owner {
		sleepers = append(sleepers, cmd)
		p, err := pidfd.Open(cmd.Process.Pid)
		must(err)
		owner, err := w.Add(p, o)
		must(err)
		return owner
	}
	add(start(socket), OwnerOptions{})
	for i := range 10 {
		add(start(), OwnerOptions{Bindspaces: []string{dir + "/space"}, Paths: []string{dir + "/" + strconv.Itoa(i)}})
	}
	o := add(start(), OwnerOptions{Paths: []string{dir + "/held"}})
	must(l.Close())
	must(socket.Close())
	must(sleepers[len(sleepers)-1].Process.Kill())
	<-o.Exited()
	<-o.Settled()
	if r := o.Results(); r[0].Reason != reap.ReasonHolder {
		panic(fmt.Sprint(r))
	}
	fmt.Println("idle")
	_, _ = io.Copy(io.Discard, os.Stdin)
	for _, cmd := range sleepers {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
}

// must is for processes that have no test.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// TestLimit has no descriptor left: nothing is lost, and all goes when there are some again.
func TestLimit(t *testing.T) {
	cmd := testutil.Command(t, "limit", testutil.TempDir(t))
	var said bytes.Buffer
	cmd.Stdout = &said
	if err := cmd.Run(); err != nil || said.Len() > 0 {
		t.Errorf("%v: %s", err, said.String())
	}
}

func init() { helpers["limit"] = limitedProcess }

func limitedProcess() {
	runtime.LockOSThread() // it is the thread whose death kills
	dir := os.Args[1]
	must(unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 80, Max: 80}))
	w, err := New(Options{Log: zerolog.New(os.Stderr)})
	must(err)
	defer w.Close()
	var events *Subscription
	removed := func(path string) {
		for timeout := time.After(patience); ; {
			select {
			case e := <-events.C():
				if e.Kind == KindOutcome && e.Result.Path == path && e.Result.Outcome == reap.OutcomeRemoved {
					return
				}
			case <-timeout:
				fmt.Println("not removed:", path)
				return
			}
		}
	}
	onLoop := func() {
		done := make(chan struct{})
		w.catchUp()
		w.post(func() { close(done) })
		<-done
	}
	start := func(o OwnerOptions) (*Owner, *exec.Cmd) {
		cmd := exec.Command("/bin/sleep", "infinity")
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL} // should we fail
		must(cmd.Start())
		p, err := pidfd.Open(cmd.Process.Pid)
		must(err)
		owner, err := w.Add(p, o)
		must(err)
		return owner, cmd
	}
	end := func(o *Owner, cmd *exec.Cmd) {
		must(cmd.Process.Kill())
		<-o.Exited()
		<-o.Settled()
		_ = cmd.Wait()
		onLoop()
	}
	socket := func() int {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
		must(err)
		return fd
	}
	bind := func(fd int, path string) { must(unix.Bind(fd, &unix.SockaddrUnix{Name: path})) }
	var taken []int
	takeAll := func() {
		for {
			fd, err := unix.Open("/dev/null", unix.O_RDONLY|unix.O_CLOEXEC, 0)
			if errors.Is(err, unix.EMFILE) {
				return
			}
			must(err)
			taken = append(taken, fd)
		}
	}
	giveBack := func() {
		for _, fd := range taken {
			must(unix.Close(fd))
		}
		taken = nil
	}
	gone := func(path string) {
		if _, err := os.Lstat(path); !errors.Is(err, fs.ErrNotExist) {
			fmt.Println("still there:", path, err)
		}
	}

	// At the limit while files appear. That it is not the owner that binds them changes nothing: they are dead when there are
	// descriptors again.
	space, known, told := dir+"/space", dir+"/known", dir+"/told"
	o, cmd := start(OwnerOptions{Bindspaces: []string{space}, Paths: []string{known, told}})
	appears, anew := socket(), socket()
	fd := socket()
	bind(fd, known)
	onLoop()
	takeAll()
	if _, err := New(Options{}); !errors.Is(err, ErrLimit) {
		fmt.Println("New:", err)
	}
	bind(appears, space+"/appears")
	must(os.Remove(known))
	bind(anew, known)
	onLoop()
	giveBack()
	for _, fd := range []int{appears, anew, fd} {
		must(unix.Close(fd))
	}
	end(o, cmd)
	gone(space + "/appears")
	gone(known)

	// At the limit when the owner ends.
	fd, fd2 := socket(), socket()
	bind(fd, known)
	o, cmd = start(OwnerOptions{Paths: []string{known, told}})
	must(unix.Close(fd))
	bind(fd2, told)
	must(unix.Close(fd2))
	later, laterCmd := start(OwnerOptions{})
	events = w.Subscribe(1 << 10)
	onLoop() // or it gives one back while they are taken
	takeAll()
	must(cmd.Process.Kill())
	<-o.Exited()
	<-o.Settled()
	for _, r := range o.Results() {
		if r.Outcome != reap.OutcomeFailed && r.Outcome != reap.OutcomeRemoved { // the last descriptor may have been enough
			fmt.Println("without descriptors:", r)
		}
	}
	giveBack()
	_ = cmd.Wait()
	// What waits is tried again at every exit, or by back-off: what could not be read of the mounts counts for a while.
	end(later, laterCmd)
	removed(known)
	removed(told)
	onLoop()
	for _, r := range o.Results() {
		if r.Outcome != reap.OutcomeRemoved {
			fmt.Println("with descriptors:", r)
		}
	}
	gone(known)
	gone(told)
	w.post(func() {
		if len(w.retries)+w.unseen.len() > 0 {
			fmt.Println("left to be tried again:", len(w.retries), len(w.unseen.all()))
		}
	})
}
